"""`BufStream`: a stream with a buffer in each direction."""

from __future__ import annotations

from collections.abc import Buffer
from typing import TYPE_CHECKING

from ._checks import CAPACITY, check_writer
from .buf_reader import BufReader
from .buf_writer import BufWriter

if TYPE_CHECKING:
    from types import TracebackType

    from .protocols import AsyncStream

__all__ = ["BufStream"]


class BufStream[S: AsyncStream](BufReader[S]):
    """Reads and writes a stream through buffers: a `BufReader` that also has the methods of a `BufWriter`.

    `read_capacity` and `write_capacity` are the sizes of the two. Leaving `async with` flushes and closes the stream;
    leaving it with an exception closes only; `close()` does not flush either, see `BufWriter`.

    Errors, cancel safety and thread safety are those of `BufReader` and `BufWriter`: one task may read while another
    writes. Tokio: `tokio::io::BufStream`.

    Example::

        import freerun
        from freerun.io import BufStream, duplex

        async def main() -> str:
            ours, theirs = duplex(64)
            async with BufStream(ours) as client, BufStream(theirs) as server:
                await client.write_all(b"hello\\n")
                await client.flush()
                await server.write_all((await server.read_until(b"\\n")).upper())
                await server.flush()
                return await client.read_line()

        assert freerun.run(main) == "HELLO\\n"
    """

    __slots__ = ("_writer",)

    def __init__(self, inner: S, read_capacity: int = CAPACITY, write_capacity: int = CAPACITY) -> None:
        super().__init__(inner, read_capacity)
        self._writer = BufWriter(check_writer(inner, "inner"), write_capacity)

    @property
    def write_buffer(self) -> bytes:
        """What has not been written yet."""
        return self._writer.buffer

    async def write(self, data: Buffer, /) -> int:
        """Take some of `data`, as a rule all, and say how many bytes. Cancel safe: then none of it was taken."""
        return await self._writer.write(data)

    async def write_all(self, data: Buffer, /) -> None:
        """Take all of `data`. Cancel safe for data shorter than the capacity, see `BufWriter.write_all`."""
        await self._writer.write_all(data)

    async def flush(self) -> None:
        """Write the buffer to the stream, and flush that. Cancel safe: call it again."""
        await self._writer.flush()

    async def shutdown(self) -> None:
        """Flush, then end the writing direction. Cancel safe: call it again."""
        await self._writer.shutdown()

    def close(self) -> None:
        """Close the stream, if it can be closed. What was not flushed is lost, with a `ResourceWarning`. Any thread."""
        self._writer.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._writer.__aexit__(kind, error, trace)
