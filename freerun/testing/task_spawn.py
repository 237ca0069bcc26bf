"""`task_spawn`: an awaitable that a test polls by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._core._native import Strand
from freerun.lowlevel import PENDING, Pending
from freerun.task import unconstrained
from freerun.task._awaitable import as_awaitable

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Spawn", "task_spawn"]


@overload
def task_spawn[T](awaitable: Awaitable[T], /) -> Spawn[T]: ...
@overload
def task_spawn[*Ts, T](async_fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> Spawn[T]: ...
def task_spawn(awaitable: Any, /, *args: Any) -> Spawn[Any]:  # type: ignore[misc]  # mypy on TypeVarTuple
    """Take an awaitable, or `async_fn, *args`, that the test polls itself, one step at a time.

    So a test sees what lies between two steps: that something waits, that the right event wakes it and no other, that
    what it was granted is not lost when it is closed. Nothing runs by itself; leaves (timers, sockets, channels) work
    as in any task, without a cooperative budget.

    Errors: `TypeError` for what cannot be awaited. Thread safety: any thread. Tokio: `tokio_test::task::spawn`.

    Example::

        import freerun
        from freerun.sync import mpsc
        from freerun.testing import PENDING, task_spawn

        @freerun.test
        async def test_a_message_wakes_the_receiver() -> None:
            tx, rx = mpsc.channel(1)
            recv = task_spawn(rx.recv)
            assert recv.poll() is PENDING
            assert not recv.is_woken()
            await tx.send("hello")
            assert recv.is_woken()
            assert recv.poll() == "hello"

        test_a_message_wakes_the_receiver()
    """
    return Spawn(as_awaitable(awaitable, args))


@final
class Spawn[T]:
    """An awaitable that is polled by hand, within the task that polls it. Made by `task_spawn()`.

    A context manager, which closes it. It may be polled by one task after another, of one runtime. What wakes it wakes
    the task that has polled it last, too, as a spurious wake-up: so a bare `park()` of that task may return.

    Thread safety: one at a time; `RuntimeError` where two meet. Tokio: `tokio_test::task::Spawn`.
    """

    __slots__ = ("__weakref__", "_closed", "_strand")

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._closed = False
        self._strand = Strand(unconstrained(awaitable))  # how long the test has taken is not its business

    def poll(self) -> T | Pending:
        """Go on until it waits, which is `PENDING`, or ends: then its result, or what it raises.

        It goes on whether it was woken or not, as `poll` does in Rust.

        Errors: what it raises; `RuntimeError` outside a task, in another runtime than the first time, and once it has
        ended. Does not wait. Tokio: `Spawn::poll`.
        """
        if self._strand.is_done:
            what = "was closed" if self._closed else "has ended, and poll() has said how"
            raise RuntimeError(f"this awaitable {what}: there is nothing left to poll")
        return self._strand.take() if self._strand.poll_asked() else PENDING

    def is_woken(self) -> bool:
        """Whether it asks to be polled: something has woken it since the last poll, or it has yielded there.

        `False` before the first poll, and when it has ended. Tokio: `Spawn::is_woken`.
        """
        return self._strand.is_woken()

    @property
    def is_done(self) -> bool:
        """Whether it has ended, or was closed."""
        return self._strand.is_done

    def close(self) -> None:
        """Drop it half done, as losing a `select` would without a chance to clean up: a coroutine is closed.

        May be called twice. Tokio: dropping the `Spawn`.
        """
        was_done = self._strand.is_done
        self._strand.close()
        self._closed |= not was_done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
