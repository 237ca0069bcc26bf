"""What the tests of channels and locks share: tasks that are known to wait, or known to go on waiting."""

from __future__ import annotations

import random as rnd
from collections.abc import Callable
from typing import Any

import pytest
from support import is_parked, until

import freerun


async def waiting[T](fn: Callable[..., Any], *args: Any) -> freerun.JoinHandle[T]:
    """A task of its own, which has been polled and waits."""
    handle = freerun.spawn(fn, *args)
    await until(lambda: is_parked(handle), f"{fn} waits")
    return handle


async def still_waits(*handles: freerun.JoinHandle[Any]) -> None:
    """They do not go on, whatever they were woken by."""
    for _ in range(20):
        await freerun.yield_now()
    await until(lambda: all(map(is_parked, handles)), f"it goes on waiting: {handles}")


async def abort(handle: freerun.JoinHandle[Any]) -> None:
    """Abort a task that waits, and see it end by that."""
    handle.abort()
    with pytest.raises(freerun.JoinError):
        await handle


async def gives_way(work: Callable[[], Any]) -> None:
    """`await work()` in a loop lets other tasks run, though it is always ready. Tokio: `..._is_cooperative`."""

    async def loop() -> None:
        while True:
            await work()

    task = freerun.spawn(loop)
    others = [freerun.spawn(freerun.lowlevel.checkpoint) for _ in range(4)]
    for other in others:
        await other
    await freerun.time.sleep(0.01)
    await abort(task)


class Aborts:
    """Aborts some tasks at some time, by a seeded generator; `None` for those that were aborted."""

    def __init__(self, random: rnd.Random, often: float = 0.3) -> None:
        self._random = random
        self._often = often

    async def maybe(self, *handles: freerun.JoinHandle[Any]) -> None:
        for handle in handles:
            if self._random.random() < self._often:
                handle.abort()
            if self._random.random() < 0.2:
                await freerun.yield_now()

    async def result(self, handle: freerun.JoinHandle[Any]) -> Any:
        try:
            return await handle
        except freerun.JoinError as error:
            assert error.is_cancelled()
            return None
