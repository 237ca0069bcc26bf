"""`BufWriter`: gathers small writes into large ones."""

from __future__ import annotations

from collections.abc import Buffer
from typing import TYPE_CHECKING, Self

from freerun._arguments import integer
from freerun._core._native import consume_budget

from ._checks import CAPACITY, check_writer, close_inner, contiguous
from ._claim import Claim
from ._outgoing import Outgoing

if TYPE_CHECKING:
    from types import TracebackType

    from .protocols import AsyncWrite

__all__ = ["BufWriter"]


class BufWriter[W: AsyncWrite]:
    """Writes to a stream through a buffer: `BufWriter(stream)`. Nothing leaves before `flush()` or a full buffer.

    `capacity` is how many bytes it gathers; data of that size and more goes to the stream directly.

    `shutdown()` flushes and ends the stream. Leaving `async with` flushes and closes it; leaving it with an exception
    closes only. `close()` cannot wait, so it does not flush: bytes that were not written are lost, with a
    `ResourceWarning`, as they are when the object is dropped. `inner` is the stream.

    Errors: those of the stream; `WriteZero` if it takes nothing; `RuntimeError` for a second writer.
    Cancel safety: a cancelled `write`, `flush` or `shutdown` loses nothing and repeats nothing, call it again;
    `write_all` says what it does. Thread safety: one task at a time may write, on any thread. Tokio:
    `tokio::io::BufWriter`.

    Example::

        import freerun
        from freerun.io import BufWriter, duplex

        async def main() -> bytes:
            ours, theirs = duplex(1000)
            async with BufWriter(ours) as writer:
                for i in range(5):
                    await writer.write_all(b"%d," % i)
            return await theirs.read()

        assert freerun.run(main) == b"0,1,2,3,4,"
    """

    __slots__ = ("_capacity", "_claim", "_out")

    def __init__(self, inner: W, capacity: int = CAPACITY) -> None:
        self._out = Outgoing(check_writer(inner, "inner"))
        self._capacity = integer(capacity, "capacity")
        self._claim = Claim("writing to")

    @property
    def inner(self) -> W:
        """The stream itself. Bytes in the buffer have not reached it. Tokio: `BufWriter::get_ref`."""
        inner: W = self._out.inner
        return inner

    @property
    def capacity(self) -> int:
        """How many bytes are gathered."""
        return self._capacity

    @property
    def buffer(self) -> bytes:
        """What has not been written yet. Tokio: `BufWriter::buffer`."""
        return bytes(self._out.data)

    async def write(self, data: Buffer, /) -> int:
        """Take some of `data`, as a rule all, and say how many bytes. Cancel safe: then none of it was taken.

        It waits only when the buffer has no room. Tokio: `AsyncWriteExt::write`.
        """
        piece = contiguous(data)
        with self._claim:
            await self._make_room(len(piece))
            if len(piece) >= self._capacity:
                return await self.inner.write(piece)
            self._out.data += piece
            return len(piece)

    async def write_all(self, data: Buffer, /) -> None:
        """Take all of `data`. It waits only when the buffer has no room.

        Cancel safety: of data shorter than `capacity` nothing was taken; of longer data any number of bytes, from the
        first on, may have been written. Tokio: `AsyncWriteExt::write_all`.
        """
        piece = contiguous(data)
        with self._claim:
            await self._make_room(len(piece))
            if len(piece) >= self._capacity:
                await self.inner.write_all(piece)
            else:
                self._out.data += piece

    async def _make_room(self, n: int) -> None:
        await consume_budget()
        if len(self._out.data) + n > self._capacity:
            await self._out.drain()

    async def flush(self) -> None:
        """Write the buffer to the stream, and flush that. Cancel safe: call it again. Tokio: `AsyncWriteExt::flush`."""
        with self._claim:
            await self._out.flush()

    async def shutdown(self) -> None:
        """Flush, then end the stream: its reader sees the end. Cancel safe: call it again.

        Tokio: `AsyncWriteExt::shutdown`.
        """
        with self._claim:
            await self._out.shutdown()

    def close(self) -> None:
        """Close the stream, if it can be closed. What was not flushed is lost, with a `ResourceWarning`. Any thread."""
        self._out.give_up(self)
        close_inner(self._out.inner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            self._out.data.clear()  # the exception tells; a warning on top of it would not help
            close_inner(self._out.inner)

    def __del__(self) -> None:
        if hasattr(self, "_out"):
            self._out.give_up(self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} buffered={len(self._out.data)} of {self.inner!r}>"
