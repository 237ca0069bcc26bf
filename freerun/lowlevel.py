"""What the Python layer of freerun is built on, for those who build primitives of their own.

A coroutine waits in three steps: it makes its `Waker` known to whoever will wake it, it looks once more whether there
is still something to wait for, and it awaits `park()`. A task may be woken for no reason, so it looks again afterwards:

Example::

    import threading

    import freerun
    from freerun import lowlevel

    class Flag:
        def __init__(self) -> None:
            self.is_set = False
            self.wakers: list[lowlevel.Waker] = []

        def set(self) -> None:
            self.is_set = True
            for waker in self.wakers:
                waker.wake()

        async def wait(self) -> None:
            self.wakers.append(lowlevel.current_waker())
            while not self.is_set:
                await lowlevel.park()

    async def main() -> bool:
        flag = Flag()
        threading.Timer(0.01, flag.set).start()
        await flag.wait()
        return flag.is_set

    assert freerun.run(main)

Tasks that wait in line have a `WaitList`, those that all wait for the same news `Listeners`. A descriptor is registered
with the runtime's driver by an `IoSource`, which owns it (`net.AsyncFd` watches somebody else's), or an `IoStream`,
which reads and writes bytes as well.

Everything here may be used from any thread, except that `current_task`, `current_waker`, `park`, the checkpoints and
what is awaited belong in a task. Tokio: `std::task::{Waker, Context}`, `std::future::poll_fn`, and the crate's own
`PollEvented`.
"""

from __future__ import annotations

from ._core._native import (
    IoSource,
    IoStream,
    Listeners,
    TaskRef,
    Waker,
    current_task,
    current_waker,
    park,
    shielded_yield,
    yield_now,
)
from ._core.pending import PENDING, Pending
from ._wait_list import Waiter, WaitList

__all__ = [
    "PENDING",
    "IoSource",
    "IoStream",
    "Listeners",
    "Pending",
    "TaskRef",
    "WaitList",
    "Waiter",
    "Waker",
    "cancel_shielded_checkpoint",
    "checkpoint",
    "current_task",
    "current_waker",
    "park",
]


async def checkpoint() -> None:
    """Let other tasks run, and let an abort of this task arrive.

    Errors: `RuntimeError` outside a task; `Cancelled` if the task was aborted.
    Cancel safety: nothing is lost. Thread safety: for tasks. Tokio: `tokio::task::yield_now`.

    Example::

        import freerun
        from freerun import lowlevel

        async def main() -> str:
            await lowlevel.checkpoint()
            return "still here"

        assert freerun.run(main) == "still here"
    """
    await yield_now()


async def cancel_shielded_checkpoint() -> None:
    """Let other tasks run, but no cancellation arrive: what is due is raised where the task waits next.

    For cleanup that has to give way and must not be cut short, and for code that has taken something already.

    Errors: `RuntimeError` outside a task.
    Cancel safety: an abort, a timeout or a `select()` that would cancel it waits until it is over. Thread safety: for
    tasks. Tokio: none.

    Example::

        import freerun
        from freerun import lowlevel

        async def main() -> str:
            freerun.task.current().abort()
            await lowlevel.cancel_shielded_checkpoint()
            try:
                await lowlevel.checkpoint()
            except freerun.Cancelled:
                return "only here"
            return "not at all"

        assert freerun.run(main) == "only here"
    """
    await shielded_yield()
