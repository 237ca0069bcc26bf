"""`BufReader`: reads in large pieces, gives out what is asked for.

Its methods take nothing out of the buffer before all that they were to give out is in it, and there is no await in
between. So an aborted task loses no byte: the next reader finds them in the buffer. That is what the methods of the
same name on a bare stream, and Tokio's, cannot say of themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from freerun._arguments import integer
from freerun._core._native import consume_budget

from ._buffer import Buffer
from ._checks import CAPACITY, check_limit, check_n, check_reader, close_inner
from ._claim import Claim
from .errors import LimitExceeded, UnexpectedEof
from .lines import Lines, Segments
from .read_ext import AsyncReadExt

if TYPE_CHECKING:
    from types import TracebackType

    from .protocols import AsyncRead

__all__ = ["BufReader"]


class BufReader[R: AsyncRead](AsyncReadExt):
    """Reads a stream through a buffer: `BufReader(stream)`.

    `capacity` is how many bytes it asks the stream for at once. The buffer grows beyond that only for what you ask for,
    a long line for one: give a `limit` where you do not trust the other side.

    `inner` is the stream. `close()` closes it, and so does leaving `async with`.

    Errors: those of the stream, which lose nothing that came before them; `RuntimeError` for a second reader.
    Cancel safety: every method; a cancelled one loses no byte, call it (or another one) again, from whichever task.
    Thread safety: one task at a time may read, on any thread. Tokio: `tokio::io::BufReader`.

    Example::

        import freerun
        from freerun.io import BufReader, duplex

        async def main() -> list[object]:
            ours, theirs = duplex(64)
            await theirs.write_all(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nbody")
            theirs.close()
            async with BufReader(ours) as reader:
                request = await reader.read_line(limit=8192)
                headers = await reader.read_until(b"\\r\\n\\r\\n", limit=8192)
                return [request, headers, await reader.read_exact(2), await reader.read_to_end()]

        assert freerun.run(main) == ["GET / HTTP/1.1\\r\\n", b"Host: x\\r\\n\\r\\n", b"bo", b"dy"]
    """

    __slots__ = ("_buffer", "_capacity", "_claim", "_inner")

    def __init__(self, inner: R, capacity: int = CAPACITY) -> None:
        self._inner = check_reader(inner, "inner")
        self._capacity = integer(capacity, "capacity")
        self._buffer = Buffer()
        self._claim = Claim("reading from")

    @property
    def inner(self) -> R:
        """The stream itself. What it has given already is in the buffer. Tokio: `BufReader::get_ref`."""
        return self._inner

    @property
    def capacity(self) -> int:
        """How many bytes are asked for at once."""
        return self._capacity

    @property
    def buffer(self) -> bytes:
        """What has been read and not yet been given out. Tokio: `BufReader::buffer`."""
        return self._buffer.peek(len(self._buffer))

    async def _fill(self) -> bool:
        """Read once; `False` at the end."""
        piece = await self._inner.read(self._capacity)
        self._buffer.append(piece)
        return len(piece) > 0

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes as soon as there are any, `b""` at the end of the stream. Cancel safe.

        A read of `capacity` or more goes to the stream directly when the buffer is empty.
        """
        check_n(n)
        with self._claim:
            await consume_budget()
            if not self._buffer:
                if n >= self._capacity:
                    return await self._inner.read(n)
                await self._fill()
            return self._buffer.take(n)

    async def fill_buf(self) -> bytes:
        """What is buffered; if that is nothing, read first. `b""` at the end of the stream.

        The bytes stay in the buffer: `consume(n)` those that you have used. Cancel safe.
        Tokio: `AsyncBufReadExt::fill_buf`.

        Example::

            import freerun
            from freerun.io import BufReader, duplex

            async def main() -> list[bytes]:
                ours, theirs = duplex(64)
                await theirs.write_all(b"hello world")
                reader = BufReader(ours)
                seen = [await reader.fill_buf()]
                reader.consume(len(b"hello "))
                return [*seen, await reader.fill_buf()]

            assert freerun.run(main) == [b"hello world", b"world"]
        """
        with self._claim:
            await consume_budget()
            if not self._buffer:
                await self._fill()
            return self.buffer

    def consume(self, n: int, /) -> None:
        """Drop the first `n` bytes of the buffer. Does not wait. Tokio: `AsyncBufReadExt::consume`.

        Errors: `ValueError` if the buffer holds fewer; `RuntimeError` while another task reads.
        """
        with self._claim:
            self._buffer.skip(integer(n, "n", least=0, most=len(self._buffer)))

    async def read_exact(self, n: int, /) -> bytes:
        """Read exactly `n` bytes. Cancel safe.

        Errors: `UnexpectedEof`, with the bytes that came in `.partial`, if the stream ends first.
        Tokio: `AsyncReadExt::read_exact`.
        """
        integer(n, "n", least=0)
        with self._claim:
            await consume_budget()
            while len(self._buffer) < n:
                if not await self._fill():
                    raise UnexpectedEof(self._buffer.take(n), n)
            return self._buffer.take(n)

    async def read_until(self, sep: bytes, /, *, limit: int | None = None) -> bytes:
        """Read up to and including `sep`, one byte or several; without it if the stream ends first. `b""` at the end.

        `limit` is how many bytes that may be, `sep` included. Errors: `LimitExceeded` if there are more before `sep`;
        they stay in the buffer. Cancel safe. Tokio: `AsyncBufReadExt::read_until`.

        Example::

            import freerun
            from freerun.io import BufReader, LimitExceeded, duplex

            async def main() -> list[bytes]:
                ours, theirs = duplex(64)
                await theirs.write_all(b"key=value")
                theirs.close()
                reader = BufReader(ours)
                key = await reader.read_until(b"=")
                try:
                    await reader.read_until(b"=", limit=4)
                except LimitExceeded:
                    return [key, await reader.read_until(b"=")]
                return []

            assert freerun.run(main) == [b"key=", b"value"]
        """
        return await self._until(check_separator(sep), check_limit(limit))

    async def _until(self, sep: bytes, limit: int) -> bytes:
        buffer = self._buffer
        with self._claim:
            await consume_budget()
            searched = 0
            while (end := buffer.find(sep, searched)) < 0:
                if len(buffer) > limit:
                    raise LimitExceeded(limit, f"what comes before {sep!r}")
                searched = max(0, len(buffer) - len(sep) + 1)
                if not await self._fill():
                    return buffer.take(len(buffer))
            if end > limit:
                raise LimitExceeded(limit, f"what comes before {sep!r}")
            return buffer.take(end)

    async def read_line(self, *, limit: int | None = None) -> str:
        """Read a line of UTF-8, its `"\\n"` included; the last one may lack it. `""` at the end of the stream.

        `limit` is how many bytes it may have. Errors: `LimitExceeded`, the line stays in the buffer;
        `UnicodeDecodeError`, the line is in its `.object`. Cancel safe. Tokio: `AsyncBufReadExt::read_line`.
        """
        return (await self._until(b"\n", check_limit(limit))).decode()

    def lines(self, *, limit: int | None = None) -> Lines:
        """The lines, without their `"\\n"` or `"\\r\\n"`: `async for line in reader.lines()`.

        `limit` is how many bytes each may have, its end included. Tokio: `AsyncBufReadExt::lines`.
        """
        return Lines(self, check_limit(limit))

    def split(self, sep: bytes, /, *, limit: int | None = None) -> Segments:
        """The pieces between separators: `async for piece in reader.split(b",")`.

        `limit` is how many bytes each may have, its separator included. Tokio: `AsyncBufReadExt::split`.
        """
        return Segments(self, check_separator(sep), check_limit(limit))

    async def read_to_end(self, *, limit: int | None = None) -> bytes:
        """Read until the stream ends. Cancel safe.

        Errors: `LimitExceeded` if it is longer than `limit` bytes; what was read stays in the buffer.
        Tokio: `AsyncReadExt::read_to_end`.
        """
        most = check_limit(limit)
        with self._claim:
            await consume_budget()
            while len(self._buffer) <= most and await self._fill():
                pass
            if len(self._buffer) > most:
                raise LimitExceeded(most, "the stream")
            return self._buffer.take(len(self._buffer))

    def close(self) -> None:
        """Close the stream, if it can be closed. What is buffered can still be read. Any thread."""
        close_inner(self._inner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} buffered={len(self._buffer)} of {self._inner!r}>"


def check_separator(sep: bytes) -> bytes:
    """Check what lines, or anything else, are separated by."""
    if not isinstance(sep, bytes | bytearray):
        raise TypeError(f"argument 'sep' must be bytes, not {type(sep).__name__}: {sep!r}")
    if not sep:
        raise ValueError("argument 'sep' must have one byte at least")
    return bytes(sep)
