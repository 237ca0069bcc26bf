"""`sync.SetOnce`: Tokio's sync_set_once.rs, and what Python adds."""

from __future__ import annotations

import pickle
import weakref

import pytest
from support import every_flavor, in_threads, is_freed, seeded
from waiting_support import Aborts, abort, gives_way, waiting

import freerun
from freerun.sync import SetOnce, SetOnceError


class Thing:
    pass


@pytest.mark.parametrize("how", ["set", "new_with"])
def test_drop_cell(how: str) -> None:
    """drop_cell, drop_cell_new_with."""
    thing = Thing()
    ref = weakref.ref(thing)
    if how == "set":
        once: SetOnce[Thing] = SetOnce()
        once.set(thing)
    else:
        once = SetOnce(thing)
        assert once.initialized()
    del thing
    assert ref() is not None
    del once
    assert is_freed(ref)


def test_from() -> None:
    assert SetOnce(2).get() == 2
    assert SetOnce(None).get() is None


def test_set_and_get() -> None:
    once: SetOnce[int] = SetOnce()
    once.set(5)
    assert once.get() == 5


@every_flavor
async def test_set_and_wait() -> None:
    """set_and_wait, is_some_initializing."""
    once: SetOnce[int] = SetOnce()
    tasks = [await waiting(once.wait) for _ in range(10)]

    async def set_it() -> None:
        once.set(5)

    freerun.spawn(set_it)
    assert [await task for task in tasks] == [5] * 10
    assert await once.wait() == 5
    await gives_way(once.wait)


def test_set_and_wait_multiple_threads() -> None:
    once: SetOnce[int] = SetOnce()
    refused = []

    def set_it(i: int) -> None:
        try:
            once.set(i)
        except SetOnceError as error:
            refused.append(error.value)

    with in_threads(4, set_it):
        pass
    assert sorted([*refused, once.get()]) == [0, 1, 2, 3]


@every_flavor
async def test_set_and_wait_threads() -> None:
    once: SetOnce[int] = SetOnce()
    with in_threads(1, lambda _: once.set(4)):
        assert await once.wait() == 4


def test_get_uninit() -> None:
    """get_uninit, into_inner_int_empty_setonce."""
    once: SetOnce[int] = SetOnce()
    with pytest.raises(LookupError, match="no value was set"):
        once.get()
    assert once.get(None) is None
    assert not once.initialized()


def test_set_twice() -> None:
    """set_twice, is_none_initializing."""
    once: SetOnce[int] = SetOnce()
    once.set(5)
    with pytest.raises(SetOnceError, match="a value already") as caught:
        once.set(6)
    assert caught.value.value == 6
    assert pickle.loads(pickle.dumps(caught.value)).value == 6
    assert once.get() == 5


@every_flavor
async def test_cancelled_anywhere() -> None:
    random = seeded()
    aborts = Aborts(random, often=0.5)
    for i in range(40):
        once: SetOnce[int] = SetOnce()
        tasks = [freerun.spawn(once.wait) for _ in range(8)]
        if random.random() < 0.5:
            await freerun.yield_now()
        await aborts.maybe(*tasks[:4])
        once.set(i)
        await aborts.maybe(*tasks[4:])
        assert {await aborts.result(task) for task in tasks} <= {i, None}
        assert len(once._waiting) == 0
    once = SetOnce()
    await abort(await waiting(once.wait))
    assert len(once._waiting) == 0
