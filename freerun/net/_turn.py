"""`Turn`: one task at a time, for a step that may wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

from freerun._core._native import Waker, current_waker, park

__all__ = ["Turn"]


class Turn:
    """Mutual exclusion of a few tasks. Any of those that wait may be the next one.

    Whoever waits makes its waker known, and looks again; whoever gives the turn back frees it first and then wakes
    all. So either the second look finds it free, or the waker is found.
    """

    __slots__ = ("_held", "_wakers")

    def __init__(self) -> None:
        self._held = threading.Lock()  # never waited for
        self._wakers: list[Waker] = []

    def try_take(self) -> bool:
        """Take it if nobody has it."""
        return self._held.acquire(blocking=False)

    async def take(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait for it, or until somebody who gave it back has made `unless()` true: whether it was taken. Cancel safe.

        `unless` is asked after the waker is known, so what becomes true before a turn is given back is not missed.
        """
        while not self.try_take():
            self._wakers.append(current_waker())
            if unless():
                return False
            if self.try_take():
                break
            await park()
        return True

    def give(self) -> None:
        """Give it back, from whichever thread."""
        self._held.release()
        while self._wakers:
            try:
                waker = self._wakers.pop()
            except IndexError:  # the next one was as quick
                return
            waker.wake()
