"""`FramedRead`: a stream of bytes as frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from freerun._arguments import integer
from freerun._core._native import consume_budget
from freerun.io._checks import CAPACITY, check_reader, close_inner
from freerun.io._claim import Claim
from freerun.io.errors import EndOfStream

from .decoder import Decoder, Incomplete

if TYPE_CHECKING:
    from collections.abc import Buffer
    from types import TracebackType

    from freerun.io.protocols import AsyncRead

__all__ = ["FramedRead"]


class FramedRead[R: AsyncRead, T]:
    """The frames of a stream: `async for frame in FramedRead(stream, decoder)`, or `await framed.next()`.

    `capacity` is how many bytes are asked for at once, `read_buffer` what was read from the stream already. The
    iteration ends where the stream does; a stream that ends within a frame raises `UnexpectedEof`. It may go on after
    an error, if the decoder can, and after an end, if the stream can.

    `close()` closes the stream, and so does leaving `async with`.

    Errors: those of the stream and the decoder; `RuntimeError` for a second reader. Cancel safety: no byte and no frame
    is lost. Thread safety: one task at a time, on any thread. Tokio: `tokio_util::codec::FramedRead`.

    Example::

        import freerun
        from freerun import io
        from freerun.io.codec import FramedRead, LinesCodec

        async def main() -> list[str]:
            ours, theirs = io.duplex(64)
            await theirs.write_all(b"one\\ntwo")
            theirs.close()
            return [line async for line in FramedRead(ours, LinesCodec(max_length=100))]

        assert freerun.run(main) == ["one", "two"]
    """

    __slots__ = ("_buffer", "_capacity", "_claim", "_decoder", "_ended", "_inner", "_worth_a_try")

    def __init__(self, inner: R, decoder: Decoder[T], *, capacity: int = CAPACITY, read_buffer: Buffer = b"") -> None:
        self._inner = check_reader(inner, "inner")
        self._decoder = check_codec(decoder, "decoder", "decode", "decode_eof")
        self._capacity = integer(capacity, "capacity")
        self._buffer = bytearray(read_buffer)
        self._claim = Claim("reading from")
        self._worth_a_try = bool(self._buffer)  # the decoder has not said yet that it needs more
        self._ended = False  # the last read gave nothing, and the decoder may have something left

    @property
    def inner(self) -> R:
        """The stream itself. What it has given already is in `read_buffer`. Tokio: `FramedRead::get_ref`."""
        return self._inner

    @property
    def decoder(self) -> Decoder[T]:
        """What makes the frames; may be replaced between two of them. Tokio: `FramedRead::decoder`, `map_decoder`."""
        return self._decoder

    @decoder.setter
    def decoder(self, decoder: Decoder[T]) -> None:
        self._decoder = check_codec(decoder, "decoder", "decode", "decode_eof")
        self._worth_a_try = bool(self._buffer)

    @property
    def read_buffer(self) -> bytes:
        """What has been read and is in no frame yet. Tokio: `FramedRead::read_buffer`."""
        return bytes(self._buffer)

    async def next(self) -> T:
        """The next frame; `EndOfStream` when there is none. Cancel safe. Tokio: `StreamExt::next`."""
        with self._claim:
            await consume_budget()
            while True:
                try:
                    return self._decoded()
                except Incomplete:
                    pass
                await self._read()

    def _decoded(self) -> T:
        if self._ended:
            try:
                return self._checked(self._decoder.decode_eof)
            except Incomplete:
                self._ended = self._worth_a_try = False
                raise EndOfStream from None
        if not self._worth_a_try:
            raise Incomplete
        try:
            return self._checked(self._decoder.decode)
        except Incomplete:
            self._worth_a_try = False
            raise

    def _checked(self, decode: Callable[[bytearray], T]) -> T:
        frame = decode(self._buffer)
        if frame is None:
            name = f"{type(self._decoder).__name__}.{decode.__name__}()"
            raise TypeError(f"{name} returned None; it must return a frame, or raise Incomplete")
        return frame

    async def _read(self) -> None:
        piece = await self._inner.read(self._capacity)
        self._buffer += piece
        self._worth_a_try = True
        self._ended = not piece

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.next()
        except EndOfStream:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Close the stream, if it can be closed. Any thread."""
        close_inner(self._inner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._decoder!r} of {self._inner!r}>"


def check_codec[C](value: C, argument: str, *methods: str) -> C:
    """Check that something is a codec, and not the class of one."""
    missing = [name for name in methods if not callable(getattr(value, name, None))]
    if missing or isinstance(value, type):
        wanted = " and ".join(f"{name}()" for name in methods)
        raise TypeError(f"argument '{argument}' must be an object with {wanted}: {value!r}")
    return value
