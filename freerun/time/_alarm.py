"""`Alarm`: waiting for an instant that others may move meanwhile."""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from typing import Any

from freerun._core._native import Waker, current_waker, sleep_until_ns

__all__ = ["Alarm"]


class Alarm:
    """What tasks wait on. It knows no instant itself: each of them looks again after every wake-up."""

    __slots__ = ("_wakers",)

    def __init__(self) -> None:
        self._wakers: set[Waker] = set()

    def ring(self) -> None:
        """Let every waiting task look again. Any thread, without a lock held."""
        for waker in self._wakers.copy():
            waker.wake()

    async def wait[T](self, look: Callable[[], T | int]) -> T:
        """Call `look` until it gives something else than an instant (in ns) to wait for.

        Whoever changes what `look` sees calls `ring()` afterwards.
        """
        waker = current_waker()
        self._wakers.add(waker)
        try:
            while isinstance(found := look(), int):
                await _sleep_once(found)
        finally:
            self._wakers.discard(waker)
        return found


@types.coroutine
def _sleep_once(deadline_ns: int) -> Generator[Any, Any]:
    """Wait until the deadline, or until the task is woken for whatever reason."""
    timer: Any = sleep_until_ns(deadline_ns).__await__()
    try:
        for token in timer:
            yield token
            return
    finally:
        timer.close()
