"""What the tests of `sync` share: waiting tasks, polling by hand, a model of permits and the line before them.

A poll may come at the end of the task's budget, of polls or of time, and then it only gives way. So one poll by hand
says nothing; several, each in a turn of its own, do.
"""

from __future__ import annotations

from typing import Any

from hypothesis.stateful import RuleBasedStateMachine
from support import is_parked, until

import freerun

PENDING = object()


class Machine(RuleBasedStateMachine):
    """A machine whose rules run in tasks of one runtime, each rule in another one."""

    def __init__(self) -> None:
        super().__init__()
        self.rt = freerun.Builder.new_current_thread().build()

    def teardown(self) -> None:
        self.rt.shutdown()

    def poll(self, leaf: Any, ready: bool) -> Any:
        """What one poll gives: the result, `PENDING`, or an exception, raised."""
        return self.rt.block_on(poll, leaf, ready)


async def poll(leaf: Any, ready: bool) -> Any:
    """The result, or `PENDING`; `ready` is what it should be."""
    for _ in range(100 if ready else 3):
        await freerun.yield_now()
        try:
            next(leaf)
        except StopIteration as stop:
            return stop.value
    return PENDING


async def put_in_line(leaf: Any) -> None:
    """Poll it in this task, so that it waits, and leave it there."""
    assert await poll(leaf, False) is PENDING


async def parked(aw: Any) -> freerun.JoinHandle[Any]:
    """Start awaiting it in a task of its own, which must come to wait."""
    task = freerun.spawn(aw)
    await until(lambda: is_parked(task))
    return task


class Permits:
    """The batch semaphore, as it should be."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.closed = False
        self.line: dict[Any, int] = {}  # who waits, in order: how many it still needs
        self.asked: dict[Any, int] = {}  # everybody who was in the line and has not looked since

    def acquire(self, who: Any, n: int) -> bool:
        """Whether it gets them at once; else it is in the line. The semaphore is open."""
        taken = min(self.free, n)
        self.free -= taken
        if taken < n:
            self.line[who] = n - taken
            self.asked[who] = n
        return taken == n

    def give(self, n: int) -> None:
        for who in list(self.line):
            given = min(n, self.line[who])
            self.line[who] -= given
            n -= given
            if self.line[who]:
                return
            del self.line[who]
        self.free += n

    def close(self) -> None:
        """Who waits has what it was given until it looks."""
        self.closed = True
        for who, needed in self.line.items():
            self.asked[who] = -(self.asked[who] - needed)  # negative: it will hear of the close
        self.line.clear()

    def is_settled(self, who: Any) -> bool:
        """Whether a poll of one that waited will be ready."""
        return who not in self.line

    def look(self, who: Any) -> bool:
        """It is polled and was settled. Whether it has its permits; else the semaphore was closed."""
        asked = self.asked.pop(who)
        if asked <= 0:
            self.give(-asked)
        return asked > 0

    def leave(self, who: Any) -> None:
        """It gives up, with what it has."""
        asked = self.asked.pop(who)
        self.give(abs(asked) - self.line.pop(who, 0))
