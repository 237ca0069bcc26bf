"""`simplex`: a pipe within the process, in one direction."""

from __future__ import annotations

from collections.abc import Buffer
from typing import TYPE_CHECKING, Self

from freerun._arguments import integer

from ._checks import CAPACITY, check_n, contiguous
from ._pipe import Pipe
from .read_ext import AsyncReadExt

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SimplexReader", "SimplexWriter", "simplex"]


def simplex(max_buf_size: int) -> tuple[SimplexReader, SimplexWriter]:
    """Make a pipe in memory: `(reader, writer)`, with at most `max_buf_size` bytes on the way.

    Errors: `ValueError`/`TypeError` for a bad size. Thread safety: any thread; the ends may be used by tasks of
    different runtimes. Tokio: `tokio::io::simplex`.

    Example::

        import freerun
        from freerun import io

        async def main() -> bytes:
            reader, writer = io.simplex(64)
            async with writer:
                await writer.write_all(b"one way")
            return await reader.read_to_end()

        assert freerun.run(main) == b"one way"
    """
    pipe = Pipe(integer(max_buf_size, "max_buf_size"))
    return SimplexReader(pipe), SimplexWriter(pipe)


class _End:
    __slots__ = ("__weakref__", "_closed", "_pipe")

    def __init__(self, pipe: Pipe) -> None:
        self._closed = False
        self._pipe = pipe

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._closed

    def close(self) -> None:
        """Close this end. Whoever waits on it gets an `OSError`. May be called twice. Any thread."""
        self._closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pipe"):
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{' closed' if self._closed else ''}>"


class SimplexReader(_End, AsyncReadExt):
    """The reading end of a pipe in memory. Made by `simplex()`.

    `close()`, leaving `async with` and garbage collection close it: the writer gets `BrokenPipeError`.

    Errors: `OSError` once it is closed, `RuntimeError` for a second reader. Cancel safety: `read` loses nothing.
    Thread safety: any thread; what is awaited, inside a task. Tokio: `ReadHalf<SimplexStream>`.
    """

    __slots__ = ()

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes as soon as there are any, `b""` at the end of the stream. Cancel safe."""
        return await self._pipe.read(check_n(n))

    def close(self) -> None:
        """Close this end: the writer gets `BrokenPipeError`. May be called twice. Any thread."""
        super().close()
        self._pipe.close_reader()


class SimplexWriter(_End):
    """The writing end of a pipe in memory. Made by `simplex()`.

    `close()`, leaving `async with` and garbage collection close it: the reader gets what was written, then an end.

    Errors: `BrokenPipeError` when nobody will read it, `OSError` once it is closed, `RuntimeError` for a second writer.
    Cancel safety: `write` loses nothing. Thread safety: any thread; what is awaited, inside a task.
    Tokio: `WriteHalf<SimplexStream>`.
    """

    __slots__ = ()

    async def write(self, data: Buffer, /) -> int:
        """Write what there is room for, at least one byte, and say how many. Cancel safe: then nothing was written."""
        return await self._pipe.write(contiguous(data))

    async def write_all(self, data: Buffer, /) -> None:
        """Write all of `data`. Not cancel safe: any number of bytes, from the first on, may have been written."""
        await self._pipe.write_all(contiguous(data))

    async def flush(self) -> None:
        """Do nothing: nothing is held back."""

    async def shutdown(self) -> None:
        """Nothing more will be written: the reader sees the end. Does not wait."""
        self._pipe.shut_down()

    def close(self) -> None:
        """Close this end: the reader sees the end. May be called twice. Any thread."""
        super().close()
        self._pipe.close_writer()
