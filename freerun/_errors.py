"""Every exception freerun raises by itself. The native engine imports this module, so it imports nothing of freerun."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AcquireError",
    "Cancelled",
    "JoinError",
    "RecvError",
    "RuntimeShutdown",
    "SendError",
    "SendTimeoutError",
    "TrySendError",
    "WouldBlock",
]


class Cancelled(BaseException):
    """Thrown into a task at its suspension point when it is aborted.

    A `BaseException`, so that `except Exception` does not swallow it. Cleanup (`finally`, `async with`) may await.
    Let it pass on when cleanup is over.
    """


class RuntimeShutdown(RuntimeError):
    """The runtime is shutting down or has been shut down: it takes no new work."""


class JoinError(Exception):
    """What awaiting a `JoinHandle` raises when the task ended without a result of its own.

    `id` is the task's id. Tokio: `tokio::task::JoinError`.
    """

    def __init__(self, message: str, id: int, cancelled: bool = True) -> None:
        super().__init__(message)
        self.id = id
        self._cancelled = cancelled

    def is_cancelled(self) -> bool:
        """Whether the task was aborted (also by the runtime's shutdown)."""
        return self._cancelled

    def is_panic(self) -> bool:
        """Whether the engine had to give the task up (its coroutine refused to end), rather than an abort."""
        return not self._cancelled

    def __reduce__(self) -> tuple[type[JoinError], tuple[str, int, bool]]:
        return type(self), (str(self), self.id, self._cancelled)


class AcquireError(Exception):
    """The semaphore is closed: it gives no permits any more. Tokio: `tokio::sync::AcquireError`."""


class RecvError(Exception):
    """Nothing can be received any more: every sender is gone and the queue is empty."""


class SendError(Exception):
    """The channel is closed. `value` is what could not be sent. Tokio: `mpsc::error::SendError`."""

    def __init__(self, value: Any = None) -> None:
        super().__init__(self._message)
        self.value = value

    _message = "the channel is closed; the value that was not sent is in .value"

    def __reduce__(self) -> tuple[type[SendError], tuple[Any]]:
        return type(self), (self.value,)


class SendTimeoutError(SendError, TimeoutError):
    """There was no room in time. `value` is what could not be sent. Tokio: `mpsc::error::SendTimeoutError`."""

    _message = "there was no room in the channel in time; the value that was not sent is in .value"


class WouldBlock(Exception):
    """A `try_...` call would have had to wait."""


class TrySendError(SendError):
    """A `try_send()` or `try_reserve()` failed: `TrySendError.Full` or `TrySendError.Closed`.

    `value` is what could not be sent. Tokio: `mpsc::error::TrySendError`.
    """

    Full: ClassVar[type[TrySendError]]
    Closed: ClassVar[type[TrySendError]]


class TrySendFull(TrySendError, WouldBlock):
    """The channel is full. Known as `TrySendError.Full`."""

    _message = "the channel is full; the value that was not sent is in .value"


class TrySendClosed(TrySendError):
    """The channel is closed. Known as `TrySendError.Closed`."""


TrySendError.Full, TrySendError.Closed = TrySendFull, TrySendClosed
for _class in (TrySendFull, TrySendClosed):  # where users know them from, for tracebacks and for pickle
    _class.__name__ = _class.__name__.removeprefix("TrySend")
    _class.__qualname__ = f"TrySendError.{_class.__name__}"
    _class.__module__ = "freerun"
del _class


for _name in __all__:
    globals()[_name].__module__ = "freerun"  # where users know them from: a traceback says freerun.JoinError
del _name
