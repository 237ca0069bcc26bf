"""`FramedWrite`: frames, written to a stream of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Self

from freerun._arguments import integer
from freerun._core._native import consume_budget
from freerun.io._checks import check_writer, close_inner
from freerun.io._claim import Claim
from freerun.io._outgoing import Outgoing

from .encoder import Encoder
from .framed_read import check_codec

if TYPE_CHECKING:
    from types import TracebackType

    from freerun.io.protocols import AsyncWrite

__all__ = ["FramedWrite"]


class FramedWrite[W: AsyncWrite, T]:
    """Frames for a stream: `await FramedWrite(stream, encoder).send(frame)`.

    `feed` takes a frame without writing it, until more than `backpressure_boundary` bytes are waiting; `send` takes and
    writes it, with all that were fed before. `shutdown()` writes what is left and ends the stream. Leaving `async with`
    flushes and closes it; leaving it with an exception closes only. `close()` cannot wait, so it does not flush: frames
    that were not written are lost, with a `ResourceWarning`.

    Errors: those of the stream and the encoder; a frame that the encoder refuses leaves nothing behind. `RuntimeError`
    for a second writer. Cancel safety: never a part of a frame, see the methods. Thread safety: one task at a time, on
    any thread. Tokio: `tokio_util::codec::FramedWrite`.

    Example::

        import freerun
        from freerun import io
        from freerun.io.codec import FramedWrite, LengthDelimitedCodec

        async def main() -> bytes:
            ours, theirs = io.duplex(64)
            async with FramedWrite(ours, LengthDelimitedCodec(length_field_length=2)) as frames:
                await frames.feed(b"one")
                await frames.send(b"two")
            return await theirs.read()

        assert freerun.run(main) == b"\\x00\\x03one\\x00\\x03two"
    """

    __slots__ = ("_boundary", "_claim", "_encoder", "_out")

    def __init__(self, inner: W, encoder: Encoder[T], *, backpressure_boundary: int = 8192) -> None:
        self._out = Outgoing(check_writer(inner, "inner"))
        self._encoder = check_codec(encoder, "encoder", "encode")
        self._boundary = integer(backpressure_boundary, "backpressure_boundary")
        self._claim = Claim("writing to")

    @property
    def inner(self) -> W:
        """The stream itself. Frames in `write_buffer` have not reached it. Tokio: `FramedWrite::get_ref`."""
        inner: W = self._out.inner
        return inner

    @property
    def encoder(self) -> Encoder[T]:
        """What takes the frames; may be replaced between two of them. Tokio: `FramedWrite::encoder`, `map_encoder`."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder[T]) -> None:
        self._encoder = check_codec(encoder, "encoder", "encode")

    @property
    def write_buffer(self) -> bytes:
        """What has not been written yet. Tokio: `FramedWrite::write_buffer`."""
        return bytes(self._out.data)

    async def feed(self, frame: T, /) -> None:
        """Take a frame; it waits only while more than the boundary is waiting to be written.

        Cancel safety: the frame was not taken. Tokio: `SinkExt::feed`.
        """
        with self._claim:
            await self._feed(frame)

    async def send(self, frame: T, /) -> None:
        """Take a frame, and write it with all that are waiting.

        Cancel safety: either it was not taken, or it stays in the buffer as far as it was not written, and the next
        `send` or `flush` goes on where this one stopped. Tokio: `SinkExt::send`.
        """
        with self._claim:
            await self._feed(frame)
            await self._out.flush()

    async def send_all(self, frames: Iterable[T] | AsyncIterable[T], /) -> None:
        """Take every frame of an iterable, and flush in the end.

        Cancel safety: as `send`; a frame that came out of the iterable and was not taken yet is lost.
        Tokio: `SinkExt::send_all`.
        """
        with self._claim:
            if isinstance(frames, AsyncIterable):
                async for frame in frames:
                    await self._feed(frame)
            else:
                for frame in frames:
                    await self._feed(frame)
            await self._out.flush()

    async def _feed(self, frame: T) -> None:
        await consume_budget()
        data = self._out.data
        if len(data) >= self._boundary:
            await self._out.drain()
        before = len(data)
        try:
            self._encoder.encode(frame, data)
        except BaseException:
            del data[before:]
            raise

    async def flush(self) -> None:
        """Write what is waiting. Cancel safe: call it again. Tokio: `SinkExt::flush`."""
        with self._claim:
            await self._out.flush()

    async def shutdown(self) -> None:
        """Write what is waiting, then end the stream. Cancel safe: call it again. Tokio: `SinkExt::close`."""
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
        return f"<{type(self).__name__} {self._encoder!r} to {self.inner!r}>"
