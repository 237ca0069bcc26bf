"""`ChildStdin`, `ChildStdout`, `ChildStderr`: our ends of the pipes to a child."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from freerun._core._native import IoStream
from freerun.io import AsyncReadExt

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ChildStderr", "ChildStdin", "ChildStdout"]


class _Pipe(IoStream):
    __slots__ = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{' closed' if self.closed else ''}>"


class ChildStdin(_Pipe):
    """The pipe to a child's standard input: `write`, `write_all`, `write_vectored`, `try_write`, `writable`.

    `shutdown()`, `close()` and leaving `async with` close it: the child reads an end. It fills up when the child does
    not read; then a write waits.

    Errors: `BrokenPipeError` when the child has closed its end or is gone; `RuntimeError` for a second writer. Cancel
    safety: `write` is, `write_all` is not. Thread safety: any thread; what is awaited, inside a task.
    Tokio: `tokio::process::ChildStdin`.
    """

    __slots__ = ()

    async def flush(self) -> None:
        """Nothing is held back here. Tokio: `AsyncWriteExt::flush`."""

    async def shutdown(self) -> None:
        """Close it: the child reads an end. Does not wait. Tokio: `AsyncWriteExt::shutdown`."""
        self.close()


class _Source(_Pipe, AsyncReadExt):
    __slots__ = ()

    def peek(self, _n: int = 65536, /) -> Any:
        """Pipes cannot do that: use `freerun.io.BufReader`, and its `fill_buf()`."""
        raise OSError(f"{type(self).__name__} is a pipe, which one cannot look into: use BufReader and fill_buf()")


class ChildStdout(_Source):
    """The pipe from a child's standard output: `read`, `read_into`, `read_exact`, `read_to_end`, and so on.

    For lines: `BufReader(child.stdout).lines()`. The end comes when every process that has the other end has closed it:
    the child's own children may have it, too.

    Errors: `OSError`; `RuntimeError` for a second reader. Cancel safety: `read` and `read_into` lose nothing,
    `read_exact` and `read_to_end` do. Thread safety: any thread; what is awaited, inside a task.
    Tokio: `tokio::process::ChildStdout`.
    """

    __slots__ = ()


class ChildStderr(_Source):
    """The pipe from a child's error stream; as `ChildStdout`. Tokio: `tokio::process::ChildStderr`."""

    __slots__ = ()
