"""`Framed`: frames in both directions of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterable, Buffer, Iterable
from typing import TYPE_CHECKING, Protocol

from freerun.io._checks import CAPACITY, check_writer

from .decoder import Decoder
from .encoder import Encoder
from .framed_read import FramedRead, check_codec
from .framed_write import FramedWrite

if TYPE_CHECKING:
    from types import TracebackType

    from freerun.io.protocols import AsyncStream

__all__ = ["Codec", "Framed"]


class Codec[T, U](Decoder[T], Encoder[U], Protocol):
    """Both a `Decoder` and an `Encoder`."""


class Framed[S: AsyncStream, T, U](FramedRead[S, T]):
    """Frames to and from a stream: a `FramedRead` that also has the methods of a `FramedWrite`.

    `codec` decodes and encodes. `split()` gives the two directions to two tasks. Leaving `async with` flushes and
    closes the stream; leaving it with an exception closes only; `close()` does not flush either, see `FramedWrite`.

    Errors, cancel safety and thread safety are those of `FramedRead` and `FramedWrite`: one task may receive while
    another sends. Tokio: `tokio_util::codec::Framed`.

    Example::

        import freerun
        from freerun import io
        from freerun.io.codec import Framed, LinesCodec

        async def main() -> str:
            ours, theirs = io.duplex(64)
            async with Framed(ours, LinesCodec()) as client, Framed(theirs, LinesCodec()) as server:
                await client.send("hello")
                await server.send((await server.next()).upper())
                return await client.next()

        assert freerun.run(main) == "HELLO"
    """

    __slots__ = ("_writer",)

    def __init__(
        self,
        inner: S,
        codec: Codec[T, U],
        *,
        capacity: int = CAPACITY,
        read_buffer: Buffer = b"",
        backpressure_boundary: int = 8192,
    ) -> None:
        check_codec(codec, "codec", "decode", "decode_eof", "encode")
        super().__init__(inner, codec, capacity=capacity, read_buffer=read_buffer)
        self._writer: FramedWrite[S, U] = FramedWrite(
            check_writer(inner, "inner"), codec, backpressure_boundary=backpressure_boundary
        )

    @property
    def write_buffer(self) -> bytes:
        """What has not been written yet."""
        return self._writer.write_buffer

    @property
    def encoder(self) -> Encoder[U]:
        """What takes the frames; `decoder` is what makes them. Either may be replaced between two frames."""
        return self._writer.encoder

    @encoder.setter
    def encoder(self, encoder: Encoder[U]) -> None:
        self._writer.encoder = encoder

    def split(self) -> tuple[FramedRead[S, T], FramedWrite[S, U]]:
        """The reading and the writing direction, for two tasks; they share everything with this object.

        Tokio: `StreamExt::split`.
        """
        return self, self._writer

    async def feed(self, frame: U, /) -> None:
        """Take a frame without writing it at once, see `FramedWrite.feed`. Cancel safety: it was not taken."""
        await self._writer.feed(frame)

    async def send(self, frame: U, /) -> None:
        """Take a frame, and write it, see `FramedWrite.send`. Cancel safety: never a part of a frame."""
        await self._writer.send(frame)

    async def send_all(self, frames: Iterable[U] | AsyncIterable[U], /) -> None:
        """Take every frame of an iterable, and flush in the end, see `FramedWrite.send_all`."""
        await self._writer.send_all(frames)

    async def flush(self) -> None:
        """Write what is waiting. Cancel safe: call it again."""
        await self._writer.flush()

    async def shutdown(self) -> None:
        """Write what is waiting, then end the writing direction. Cancel safe: call it again."""
        await self._writer.shutdown()

    def close(self) -> None:
        """Close the stream, if it can be closed. What was not flushed is lost, with a `ResourceWarning`. Any thread."""
        self._writer.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._writer.__aexit__(kind, error, trace)
