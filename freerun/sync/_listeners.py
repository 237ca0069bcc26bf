"""`Listeners`: tasks and threads that all wait for the same news. Who wakes them wakes every one.

It is smaller than `freerun.lowlevel.WaitList`, since nobody is woken *instead* of somebody else: there is no wake-up to
pass on when a waiter is cancelled, and no order to keep.

Who waits makes its waker known, looks once more, and sleeps; woken, it does the same again. Who has news makes it
visible first, and calls `wake_all()` then. So one of the two sees the other, also when a finalizer does either of them
between any two lines.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Final, Literal, Protocol

from freerun.lowlevel import current_waker, park
from freerun.task import consume_budget

from ._blocking import Blocked

__all__ = ["NOTHING", "Listeners", "Nothing", "Wakes"]


class _Sentinel(enum.Enum):
    NOTHING = enum.auto()


type Nothing = Literal[_Sentinel.NOTHING]
"""What a look gives when there is nothing yet. (`None` is a value like any other.)"""

NOTHING: Final = _Sentinel.NOTHING


class Wakes(Protocol):
    """A `Waker` of a task, or a `Blocked` thread."""

    def wake(self) -> None:
        """Wake it; harmless if it is awake."""


class Listeners:
    """Everybody who waits for one kind of news. Any thread, and finalizers."""

    __slots__ = ("_lock", "_wakers")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # between those who wake; those who wait do not take it
        self._wakers: dict[Wakes, None] = {}  # in the order of their coming

    async def wait[T](self, look: Callable[[], T | Nothing]) -> T:
        """Wait until `look()` gives something, in a task. Cancelled, it has not looked since it last found nothing."""
        await consume_budget()
        if (found := look()) is not NOTHING:
            return found
        waker = current_waker()
        try:
            while True:
                self.add(waker)
                if (found := look()) is not NOTHING:
                    return found
                await park()
        finally:
            self.remove(waker)

    def block[T](self, look: Callable[[], T | Nothing]) -> T:
        """The same on a plain thread."""
        if (found := look()) is not NOTHING:
            return found
        blocked = Blocked()
        try:
            while True:
                self.add(blocked)
                if (found := look()) is not NOTHING:
                    return found
                blocked.wait()
        finally:
            self.remove(blocked)

    def add(self, waker: Wakes) -> None:
        """From now on the next `wake_all()` wakes it. Look after this."""
        while True:
            wakers = self._wakers
            wakers[waker] = None
            if wakers is self._wakers:  # and thus whoever takes them away later finds it among them
                return

    def remove(self, waker: Wakes) -> None:
        """It waits no longer."""
        self._wakers.pop(waker, None)

    def wake_all(self) -> None:
        """Wake everybody, in one pass. Call it after the change, and under no lock."""
        with self._lock:
            wakers, self._wakers = self._wakers, {}
        for waker in list(wakers):
            waker.wake()
