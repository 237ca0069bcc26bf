"""`duplex`: two ends of a connection within the process."""

from __future__ import annotations

from collections.abc import Buffer
from typing import TYPE_CHECKING, Self

from freerun._arguments import integer

from ._checks import CAPACITY, check_n, contiguous
from ._pipe import Pipe
from .read_ext import AsyncReadExt

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DuplexStream", "duplex"]


def duplex(max_buf_size: int) -> tuple[DuplexStream, DuplexStream]:
    """Make both ends of a connection in memory: what is written to one is read from the other.

    At most `max_buf_size` bytes are on the way in each direction; a writer waits for its reader then.

    Errors: `ValueError`/`TypeError` for a bad size. Thread safety: any thread; the ends may be used by tasks of
    different runtimes. Tokio: `tokio::io::duplex`.

    Example::

        import freerun
        from freerun import io

        async def main() -> bytes:
            client, server = io.duplex(64)
            await client.write_all(b"ping")
            assert await server.read_exact(4) == b"ping"
            await server.write_all(b"pong")
            return await client.read()

        assert freerun.run(main) == b"pong"
    """
    size = integer(max_buf_size, "max_buf_size")
    there, back = Pipe(size), Pipe(size)
    return DuplexStream(back, there), DuplexStream(there, back)


class DuplexStream(AsyncReadExt):
    """One end of a connection in memory. Made by `duplex()`.

    `close()`, leaving `async with` and garbage collection close this end: the other one reads what was written, then
    an end, and gets `BrokenPipeError` when it writes.

    Errors: `BrokenPipeError` for a write that nobody will read, `OSError` once this end is closed, `RuntimeError` for a
    second reader or writer. Cancel safety: `read` and `write` lose nothing. Thread safety: every method, from any
    thread; those that are awaited, inside a task. Tokio: `tokio::io::DuplexStream`.
    """

    __slots__ = ("__weakref__", "_closed", "_input", "_output")

    def __init__(self, input: Pipe, output: Pipe) -> None:
        self._closed = False
        self._input = input
        self._output = output

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes as soon as there are any, `b""` at the end of the stream. Cancel safe."""
        return await self._input.read(check_n(n))

    async def write(self, data: Buffer, /) -> int:
        """Write what there is room for, at least one byte, and say how many. Cancel safe: then nothing was written."""
        return await self._output.write(contiguous(data))

    async def write_all(self, data: Buffer, /) -> None:
        """Write all of `data`. Not cancel safe: any number of bytes, from the first on, may have been written."""
        await self._output.write_all(contiguous(data))

    async def flush(self) -> None:
        """Do nothing: nothing is held back."""

    async def shutdown(self) -> None:
        """Close the writing direction: the other end sees the end of the stream; reading goes on. Does not wait."""
        self._output.shut_down()

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._closed

    def close(self) -> None:
        """Close both directions. Whoever waits on this end gets an `OSError`. May be called twice. Any thread."""
        self._closed = True
        self._output.close_writer()
        self._input.close_reader()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_output"):
            self.close()

    def __repr__(self) -> str:
        return f"<DuplexStream{' closed' if self._closed else ''}>"
