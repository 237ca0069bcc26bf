"""`Buffered`: what can be done with a stream that is read through a buffer. For `BufReader` and `fs.File`.

Its methods take nothing out of the buffer before all that they were to give out is in it, and there is no await in
between. So an aborted task loses no byte: the next reader finds them in the buffer.
"""

from __future__ import annotations

from freerun._arguments import integer
from freerun._core._native import consume_budget

from ._buffer import Buffer
from ._checks import check_limit
from ._claim import Claim
from .errors import LimitExceeded, UnexpectedEof
from .lines import Lines, Segments
from .read_ext import AsyncReadExt

__all__ = ["Buffered"]


class Buffered(AsyncReadExt):
    """A base: has `_buffer`, the `_claim` under which it is touched, and `_fill`."""

    __slots__ = ("_buffer", "_claim")

    _buffer: Buffer
    _claim: Claim

    async def _fill(self, want: int | None = 0) -> bool:
        """Read once into the buffer; `False` at the end. `want` is how many bytes would be of use, `None`: all."""
        raise NotImplementedError

    @property
    def buffer(self) -> bytes:
        """What has been read and not yet been given out. Tokio: `BufReader::buffer`."""
        return self._buffer.peek(len(self._buffer))

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
                if not await self._fill(n - len(self._buffer)):
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
            want = None if limit is None else most + 1
            while len(self._buffer) <= most and await self._fill(want):
                pass
            if len(self._buffer) > most:
                raise LimitExceeded(most, "the stream")
            return self._buffer.take(len(self._buffer))


def check_separator(sep: bytes) -> bytes:
    """Check what lines, or anything else, are separated by."""
    if not isinstance(sep, bytes | bytearray):
        raise TypeError(f"argument 'sep' must be bytes, not {type(sep).__name__}: {sep!r}")
    if not sep:
        raise ValueError("argument 'sep' must have one byte at least")
    return bytes(sep)
