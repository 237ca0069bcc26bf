"""`task.current()` and the low-level face."""

from __future__ import annotations

from typing import Any

import pytest
from support import every_flavor, until

import freerun
from freerun import lowlevel


@every_flavor
async def test_current() -> None:
    async def who() -> Any:
        me = freerun.task.current()
        assert not me.is_finished()
        return me

    handle = freerun.spawn(who, name="me")
    me = await handle
    assert (me.id, me.name) == (handle.id, "me")
    assert "test_current.py" in me.spawned_at
    assert "test_current" in me.spawned_at
    await until(me.is_finished)
    assert not me.abort()


@every_flavor
async def test_current_survives_a_change_of_worker() -> None:
    me = freerun.task.current().id
    for _ in range(50):
        await freerun.time.sleep(0.0002)
        assert freerun.task.current().id == me


@every_flavor
async def test_abort_oneself() -> None:
    log: list[str] = []

    async def gives_up() -> None:
        assert freerun.task.current().abort()
        log.append("to the next await")
        await freerun.yield_now()
        log.append("never here")

    with pytest.raises(freerun.JoinError):
        await freerun.spawn(gives_up)
    assert log == ["to the next await"]


@every_flavor
async def test_abort_oneself_and_return() -> None:
    """Tokio: what ends before the abort can be delivered ends as it does."""

    async def ends() -> str:
        freerun.task.current().abort()
        return "result"

    assert await freerun.spawn(ends) == "result"


@every_flavor
async def test_abort_arrives_at_yield_and_park() -> None:
    for leaf in (freerun.yield_now, lowlevel.park, lowlevel.checkpoint, lambda: freerun.time.sleep(3600)):

        async def waits(leaf: Any = leaf) -> None:
            freerun.task.current().abort()
            await leaf()
            raise AssertionError("went on")

        with pytest.raises(freerun.JoinError):
            await freerun.spawn(waits)


@every_flavor
async def test_park_and_wake() -> None:
    wakers: list[Any] = []

    async def parks() -> str:
        wakers.append(lowlevel.current_waker())
        await lowlevel.park()
        return "woken"

    task = freerun.spawn(parks)
    await until(lambda: "waiting" in repr(task))
    wakers[0].wake()
    wakers[0].wake()
    assert await task == "woken"


@every_flavor
async def test_a_wake_before_park_is_not_lost() -> None:
    lowlevel.current_waker().wake()
    await lowlevel.park()


@every_flavor
async def test_yield_now_after_an_abort_that_was_swallowed() -> None:
    """yield_now's state does not go wrong when Cancelled is thrown into it."""

    async def swallows() -> int:
        freerun.task.current().abort()
        try:
            await freerun.yield_now()
        except freerun.Cancelled:
            pass
        for _ in range(5):
            await freerun.yield_now()
        return 5

    assert await freerun.spawn(swallows) == 5
