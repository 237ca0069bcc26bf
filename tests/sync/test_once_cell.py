"""`sync.OnceCell`: Tokio's sync_once_cell.rs, and what Python adds."""

from __future__ import annotations

import pickle
import weakref
from typing import Any

import pytest
from support import every_flavor, in_threads, is_freed, seeded
from waiting_support import Aborts, abort, waiting

import freerun
from freerun.sync import OnceCell, SetError, SetOnce


class Thing:
    pass


async def func1() -> int:
    return 5


async def func2() -> int:
    await freerun.time.sleep(0.001)
    return 10


async def func_err() -> int:
    await freerun.yield_now()
    raise ValueError("no value")


@pytest.mark.parametrize("how", ["set", "new_with"])
def test_drop_cell(how: str) -> None:
    """drop_cell, drop_cell_new_with: the cell's reference goes with the cell."""
    thing = Thing()
    ref = weakref.ref(thing)
    if how == "set":
        cell: OnceCell[Thing] = OnceCell()
        cell.set(thing)
    else:
        cell = OnceCell(thing)
        assert cell.initialized()
    del thing
    assert ref() is not None
    del cell
    assert is_freed(ref)


def test_from() -> None:
    assert OnceCell(2).get() == 2
    assert OnceCell(None).get() is None
    assert OnceCell(None).initialized()


@every_flavor
async def test_get_or_init() -> None:
    cell: OnceCell[int] = OnceCell()
    gate: SetOnce[int] = SetOnce()
    first = await waiting(cell.get_or_init, gate.wait)
    second = await waiting(cell.get_or_init, func1)
    gate.set(10)
    assert (await first, await second, cell.get()) == (10, 10, 10)
    assert await cell.get_or_init(func_err) == 10


@pytest.mark.parametrize("method", ["get_or_init", "get_or_try_init"])
@every_flavor
async def test_get_or_init_that_fails(method: str) -> None:
    """get_or_init_panic, get_or_try_init: the next one in line tries."""
    cell: OnceCell[int] = OnceCell()
    get = getattr(cell, method)
    first = freerun.spawn(get, func_err)
    others = [freerun.spawn(get, func2) for _ in range(3)]
    failed = 0
    for task in (first, *others):
        try:
            assert await task == 10
        except ValueError:
            failed += 1
    assert failed <= 1
    assert cell.get() == 10


@every_flavor
async def test_everybody_fails() -> None:
    cell: OnceCell[int] = OnceCell()
    tasks = [freerun.spawn(cell.get_or_try_init, func_err) for _ in range(10)]
    for task in tasks:
        with pytest.raises(ValueError, match="no value"):
            await task
    assert not cell.initialized()
    assert await cell.get_or_init(func1) == 5


@every_flavor
async def test_set_and_get() -> None:
    cell: OnceCell[int] = OnceCell()

    async def set_it() -> None:
        cell.set(5)

    await freerun.spawn(set_it)
    assert cell.get() == 5


def test_get_uninit() -> None:
    cell: OnceCell[int] = OnceCell()
    with pytest.raises(LookupError, match="no value yet"):
        cell.get()
    assert cell.get(None) is None
    assert not cell.initialized()


def test_set_twice() -> None:
    cell: OnceCell[int] = OnceCell()
    assert cell.set(5) is None
    with pytest.raises(SetError, match="has a value already") as caught:
        cell.set(6)
    assert (caught.value.is_already_init_err(), caught.value.is_initializing_err()) == (True, False)
    assert caught.value.value == 6
    assert cell.get() == 5
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.value, copy.is_already_init_err()) == (6, True)


@every_flavor
async def test_set_while_initializing() -> None:
    cell: OnceCell[int] = OnceCell()
    gate: SetOnce[int] = SetOnce()
    task = await waiting(cell.get_or_init, gate.wait)
    with pytest.raises(SetError, match="is being initialised") as caught:
        cell.set(10)
    assert (caught.value.is_already_init_err(), caught.value.is_initializing_err()) == (False, True)
    gate.set(5)
    assert await task == 5


# --- Python's part ---


@every_flavor
async def test_arguments_and_coroutines() -> None:
    async def add(a: int, b: int) -> int:
        await freerun.yield_now()
        return a + b

    assert await OnceCell[int]().get_or_init(add, 1, 2) == 3
    assert await OnceCell[int]().get_or_init(lambda: add(2, 3)) == 5
    assert await OnceCell[int]().get_or_init(add(3, 4)) == 7
    assert await OnceCell(1).get_or_init(add(3, 4)) == 1  # closed, without a warning
    for init, args in ((3, ()), (lambda: 3, ()), (add(1, 1), (2,))):
        cell: OnceCell[Any] = OnceCell()
        with pytest.raises(TypeError, match="'init'"):
            await cell.get_or_init(init, *args)  # type: ignore[arg-type]
        assert await cell.get_or_init(func1) == 5


@every_flavor
async def test_a_cancelled_init_lets_the_next_try() -> None:
    cell: OnceCell[int] = OnceCell()

    async def forever() -> int:
        await freerun.time.sleep(3600)
        return 1

    first = await waiting(cell.get_or_init, forever)
    others = [await waiting(cell.get_or_init, func2) for _ in range(3)]
    assert "initialising" in repr(cell)
    await abort(others[0])
    await abort(first)
    assert [await other for other in others[1:]] == [10, 10]


@every_flavor
async def test_cancelled_anywhere() -> None:
    """One init at a time, exactly one that succeeds, whoever is aborted when."""
    random = seeded()
    aborts = Aborts(random, often=0.5)
    for _ in range(40):
        cell: OnceCell[int] = OnceCell()
        running = succeeded = 0

        async def init(i: int) -> int:
            nonlocal running, succeeded
            running += 1
            assert running == 1
            try:
                for _ in range(i % 4):
                    await freerun.yield_now()
                if i % 3 == 0:
                    raise ValueError
                succeeded += 1
                return i
            finally:
                running -= 1

        async def get(i: int) -> int | None:
            try:
                return await cell.get_or_try_init(init, i)
            except ValueError:
                return None

        tasks = [freerun.spawn(get, i) for i in range(10)]
        if random.random() < 0.5:
            await freerun.yield_now()
        await aborts.maybe(*random.sample(tasks, 10))
        results = {await aborts.result(task) for task in tasks} - {None}
        assert len(results) == succeeded == cell.initialized()
        assert results in (set(), {cell.get(None)})
        assert len(cell._line) == 0


@every_flavor
async def test_set_from_threads() -> None:
    for _ in range(20):
        cell: OnceCell[int] = OnceCell()
        refused = []

        def set_it(i: int) -> None:
            try:
                cell.set(i)
            except SetError as error:
                refused.append(error.value)

        with in_threads(3, set_it):
            value = await cell.get_or_init(func2)
        assert cell.get() == value
        assert len(refused) == (3 if value == 10 else 2)
