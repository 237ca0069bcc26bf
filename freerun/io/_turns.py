"""`Turns`: one task after another, in the order in which they came."""

from __future__ import annotations

import threading

from freerun.lowlevel import WaitList

__all__ = ["Turns"]


class Turns:
    """`async with turns:` around what one task at a time may do. For tasks of any runtime.

    Cancel safety: who is cancelled gives up its place.
    """

    __slots__ = ("_busy", "_line")

    def __init__(self) -> None:
        self._busy = threading.Lock()  # only ever tried, so it may be held across an await
        self._line = WaitList()

    async def __aenter__(self) -> None:
        with self._line.enlist() as waiter:
            while not (waiter.is_first and self._busy.acquire(blocking=False)):
                await waiter

    async def __aexit__(self, *error: object) -> None:
        self._busy.release()
        self._line.wake_one()
