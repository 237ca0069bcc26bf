"""Waiting, with a mutex, until its value has changed. Tokio has none; `std::sync::Condvar` is the model.

The order that matters: one takes one's place in line before one unlocks, so a notification that comes right after is
not missed; and one locks again before one leaves, by whatever way, since the end of the caller's block unlocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from freerun._arguments import function
from freerun._core._native import MutexGuard
from freerun._errors import Cancelled
from freerun.lowlevel import WaitList

__all__ = ["Condvar"]


class Condvar:
    """Lets tasks that hold a `Mutex` wait until others have changed what it protects.

    Use it with one mutex. Whoever changes the value calls `notify_one()` or `notify_all()`, with the mutex or after it.
    A task that was notified locks the mutex again and looks: somebody else may have been faster.

    Thread safety: `notify_one` and `notify_all`, any thread; what is awaited, inside a task.

    Example::

        import freerun
        from freerun.sync import Condvar, Mutex

        async def take(queue: Mutex[list[int]], filled: Condvar) -> int:
            async with queue as guard:
                await filled.wait_for(guard, lambda items: items)
                return guard.value.pop(0)

        async def main() -> int:
            queue, filled = Mutex([]), Condvar()
            task = freerun.spawn(take, queue, filled)
            async with queue as guard:
                guard.value.append(7)
                filled.notify_one()
            return await task

        assert freerun.run(main) == 7
    """

    __slots__ = ("__weakref__", "_line")

    def __init__(self) -> None:
        self._line = WaitList()

    async def wait[T](self, guard: MutexGuard[T]) -> MutexGuard[T]:
        """Unlock the mutex, wait for a notification, lock again; returns the guard, which is as good as before.

        Errors: `RuntimeError` if the guard does not hold its mutex, `TypeError` if it is none.

        Cancel safe: the mutex is locked again before `Cancelled` comes out, which may take as long as somebody else has
        it. A notification that was not used goes to the next in line. Thread safety: inside a task. Rust:
        `Condvar::wait`.
        """
        if not isinstance(guard, MutexGuard):
            raise TypeError(f"argument 'guard' must be the guard of a Mutex, not {type(guard).__name__}: {guard!r}")
        unlocked = False
        try:
            with self._line.enlist() as place:
                guard._pause()
                unlocked = True
                await place
        except BaseException as error:
            if unlocked and not isinstance(error, GeneratorExit):  # closed, one cannot wait any more
                await _lock_again(guard)
            raise
        try:
            await _lock_again(guard)
        except BaseException:
            self._line.wake_one()
            raise
        return guard

    async def wait_for[T](self, guard: MutexGuard[T], predicate: Callable[[T], object]) -> MutexGuard[T]:
        """Wait until `predicate(guard.value)` is true, which is asked at once and after each notification.

        Errors: as `wait`; what `predicate` raises; `TypeError` if it is an async function. Cancel safe, as `wait`.
        Thread safety: inside a task. Rust: `Condvar::wait_while`, the other way round.
        """
        function(predicate, "predicate")
        while not predicate(guard.value):
            await self.wait(guard)
        return guard

    def notify_one(self) -> bool:
        """Wake the task that has waited longest; `False` if there is none, and then nothing is kept.

        Thread safety: any thread. Rust: `Condvar::notify_one`.
        """
        return self._line.wake_one()

    def notify_all(self) -> int:
        """Wake every task that waits; how many. Thread safety: any thread. Rust: `Condvar::notify_all`."""
        return self._line.wake_all()

    def __repr__(self) -> str:
        return f"<Condvar {len(self._line)} waiting>"


async def _lock_again(guard: MutexGuard[Any]) -> None:
    """Lock it, come what may: an abort is put off until that is done."""
    aborted: Cancelled | None = None
    while True:
        try:
            await guard
            break
        except Cancelled as error:
            aborted = error
    if aborted is not None:
        raise aborted
