"""`split`: the two directions of any stream, for two tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Buffer
from typing import Any

from ._checks import CAPACITY, check_reader, check_writer, flush_inner
from .protocols import AsyncStream
from .read_ext import AsyncReadExt

__all__ = ["ReadHalf", "WriteHalf", "split"]


def split[S: AsyncStream](stream: S, /) -> tuple[ReadHalf[S], WriteHalf[S]]:
    """Two halves that share `stream`, which must allow reading and writing at once, as every stream of freerun does.

    Closing stays the stream's business. Errors: `TypeError` for what cannot be read and written.
    Thread safety: any thread. Tokio: `tokio::io::split`.

    Example::

        import freerun
        from freerun import io

        async def main() -> bool:
            ours, theirs = io.duplex(64)
            read, write = io.split(ours)
            echo = freerun.spawn(io.copy, read, write)
            await theirs.write_all(b"hello")
            answer = await theirs.read_exact(5)
            theirs.close()
            return (await echo, answer) == (5, b"hello") and read.unsplit(write) is ours

        assert freerun.run(main)
    """
    check_reader(stream, "stream")
    check_writer(stream, "stream")
    return ReadHalf(stream), WriteHalf(stream)


class ReadHalf[S: AsyncStream](AsyncReadExt):
    """The reading direction of a stream. Made by `split()`.

    Errors, cancel safety and thread safety are those of the stream's methods. Tokio: `tokio::io::ReadHalf`.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: S) -> None:
        self._stream = stream

    def read(self, n: int = CAPACITY, /) -> Awaitable[bytes]:
        """Up to `n` bytes as soon as there are any, `b""` at the end of the stream. Cancel safe."""
        return self._stream.read(n)

    def is_pair_of(self, other: WriteHalf[Any], /) -> bool:
        """Whether `other` is the other half of the same stream. Tokio: `ReadHalf::is_pair_of`."""
        return other._stream is self._stream

    def unsplit(self, other: WriteHalf[S], /) -> S:
        """The stream again. Errors: `ValueError` if `other` is another stream's. Tokio: `ReadHalf::unsplit`."""
        if not isinstance(other, WriteHalf):
            raise TypeError(f"argument 'other' must be a WriteHalf, not {type(other).__name__}")
        if not self.is_pair_of(other):
            raise ValueError("argument 'other' is the write half of another stream")
        return self._stream


class WriteHalf[S: AsyncStream]:
    """The writing direction of a stream. Made by `split()`.

    Errors, cancel safety and thread safety are those of the stream's methods. Tokio: `tokio::io::WriteHalf`.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: S) -> None:
        self._stream = stream

    def write(self, data: Buffer, /) -> Awaitable[int]:
        """Write some of `data` and say how many bytes. Cancel safe: then nothing was written."""
        return self._stream.write(data)

    def write_all(self, data: Buffer, /) -> Awaitable[None]:
        """Write all of `data`. Not cancel safe: some of it may have been written."""
        return self._stream.write_all(data)

    def flush(self) -> Awaitable[None]:
        """Flush the stream, if it has something to flush."""
        return flush_inner(self._stream)

    def shutdown(self) -> Awaitable[None]:
        """End this direction: the other side sees the end of the stream."""
        return self._stream.shutdown()

    def is_pair_of(self, other: ReadHalf[Any], /) -> bool:
        """Whether `other` is the other half of the same stream. Tokio: `WriteHalf::is_pair_of`."""
        return other._stream is self._stream
