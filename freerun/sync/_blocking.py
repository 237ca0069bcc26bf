"""Waiting on a plain thread: `Blocked` is to a thread what a `Waker` with `park()` is to a task."""

from __future__ import annotations

from queue import SimpleQueue

from freerun._core._native import on_worker

__all__ = ["Blocked", "refuse_on_worker"]


class Blocked:
    """The calling thread, which waits. Whoever has something to wake need not know that it is not a task.

    `wake()` may come from a finalizer, also from one that interrupts `wait()` on this very thread: `SimpleQueue` is
    made for that, and `threading.Event` is not.
    """

    __slots__ = ("_wakes",)

    def __init__(self) -> None:
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """End a `wait()`, now or the next one. Any thread."""
        self._wakes.put(None)

    def wait(self) -> None:
        """Wait for a `wake()`; look again afterwards. Signal handlers run, and may raise."""
        self._wakes.get()


def refuse_on_worker(name: str, instead: str) -> None:
    """Raise unless this thread may block."""
    if on_worker():
        raise RuntimeError(f"{name}() would block a worker: inside a task, {instead}")
