"""`WaitList`: tasks that wait in line. Public as `freerun.lowlevel.WaitList`.

Three things are easy to get wrong in a wait list, so here they are settled once:

* A wake-up must not fall between looking and waiting. One takes one's place first, and looks then.
* A wake-up must not be lost with the task that it was for. A waiter that leaves with a wake-up it has not used, because
  it was cancelled or found what it wanted by itself, passes it on to the next in line.
* Who is cancelled leaves the list at once: leaving is O(1), and so is waking.
* Who was woken and held back, since it was not the first, must not sleep on when it becomes the first: it is told.

The lock is reentrant because Python may run a finalizer between any two lines, those under this very lock included, and
a finalizer may give something back and wake the next. So whoever stood in a table one line ago may have been woken
since.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

from ._core._native import Waker, current_waker, park

__all__ = ["WaitList", "Waiter"]


class WaitList:
    """Tasks that wait in line, first in, first out. What they wait for is the business of who owns the list.

    `enlist()` gives the running task a place at the end, to be used as a context manager. Whoever has changed something
    calls `wake_one()` or `wake_all()`, after the change.

    Thread safety: every method, from any thread, also from a finalizer. Tokio: `sync::Notify`, and the wait lists
    inside.

    Example::

        import freerun
        from freerun.lowlevel import WaitList

        class Tickets:
            def __init__(self) -> None:
                self.left: list[int] = []
                self.waiters = WaitList()

            def put(self, ticket: int) -> None:
                self.left.append(ticket)
                self.waiters.wake_one()

            async def get(self) -> int:
                with self.waiters.enlist() as waiter:
                    while True:
                        try:
                            return self.left.pop(0)    # look after taking one's place
                        except IndexError:
                            await waiter               # and look again after each wake-up

        async def main() -> int:
            tickets = Tickets()
            taker = freerun.spawn(tickets.get)
            await freerun.yield_now()
            tickets.put(7)
            return await taker

        assert freerun.run(main) == 7
    """

    __slots__ = ("__weakref__", "_called", "_lock", "_waiting")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._called: OrderedDict[Waiter, None] = OrderedDict()  # woken, and not yet resumed or gone

    def __len__(self) -> int:
        """How many tasks stand in line, those included that were woken and have not gone yet."""
        with self._lock:
            return len(self._waiting) + len(self._called)

    def enlist(self) -> Waiter:
        """Put the running task at the end of the line. Errors: `RuntimeError` outside a task."""
        waiter = Waiter(self, current_waker())
        with self._lock:
            self._waiting[waiter] = None
        return waiter

    def wake_one(self) -> bool:
        """Wake the first in line that was not woken yet; `False` if there is none: the wake-up is not kept."""
        with self._lock:
            try:
                waiter, _ = self._waiting.popitem(last=False)
            except KeyError:
                return False
            self._called[waiter] = None
        waiter._waker.wake()
        return True

    def wake_all(self) -> int:
        """Wake everybody in line; how many."""
        with self._lock:
            woken, self._waiting = self._waiting, OrderedDict()
            self._called.update(woken)
        for waiter in woken:
            waiter._waker.wake()
        return len(woken)

    def _is_first(self, waiter: Waiter) -> bool:
        with self._lock:
            first = self._first() is waiter
            waiter._held_back = not first
        return first

    def _first(self) -> Waiter | None:
        for waiter in self._called or self._waiting:
            return waiter
        return None

    def _resume(self, waiter: Waiter) -> bool:
        """Use up its wake-up, if it has one: it then stands at the head of the line again."""
        with self._lock:
            if waiter not in self._called:
                return False
            del self._called[waiter]
            self._waiting[waiter] = None
            with contextlib.suppress(KeyError):  # woken again already
                self._waiting.move_to_end(waiter, last=False)
            return True

    def _leave(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiting.pop(waiter, None)
            unused = waiter in self._called
            self._called.pop(waiter, None)
            now_first = self._first()
            told = now_first is not None and now_first._held_back and now_first in self._waiting
        if unused or told:
            self.wake_one()


class Waiter:
    """A place in a `WaitList`. Made by `enlist()`; leaving `with` gives it up.

    `await waiter` waits until it is woken. Look again afterwards: somebody else may have been faster. The place stays
    the first in line meanwhile.

    Cancel safety: the place is given up by leaving `with`; a wake-up that was not used goes to the next in line.
    Thread safety: for the task that enlisted.
    """

    __slots__ = ("_held_back", "_list", "_waker")

    def __init__(self, list: WaitList, waker: Waker) -> None:
        self._list = list
        self._waker = waker
        self._held_back = False

    @property
    def is_first(self) -> bool:
        """Whether nobody stands before it. Who takes something only when it is first keeps the order strict.

        Who has asked is woken when it becomes the first.
        """
        return self._list._is_first(self)

    def __await__(self) -> Generator[Any, Any]:
        while not self._list._resume(self):
            yield from park().__await__()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._list._leave(self)
