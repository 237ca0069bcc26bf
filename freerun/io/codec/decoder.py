"""`Decoder`: bytes to frames; `Incomplete` is how it says that there is no whole frame yet."""

from __future__ import annotations

from typing import Protocol

from freerun.io.errors import UnexpectedEof

__all__ = ["Decoder", "Incomplete"]


class Incomplete(Exception):
    """Raised by `decode` when `src` does not hold a whole frame yet. Tokio: `Ok(None)`."""


class Decoder[T](Protocol):
    """Takes frames out of bytes: what `FramedRead` needs. Derive from it and define `decode`.

    Tokio: `tokio_util::codec::Decoder`.

    Example::

        import freerun
        from freerun import io
        from freerun.io.codec import Decoder, FramedRead, Incomplete

        class Pairs(Decoder[bytes]):
            def decode(self, src: bytearray) -> bytes:
                if len(src) < 2:
                    raise Incomplete
                frame = bytes(src[:2])
                del src[:2]
                return frame

        async def main() -> list[bytes]:
            return [pair async for pair in FramedRead(io.take(io.repeat(b"x"), 4), Pairs())]

        assert freerun.run(main) == [b"xx", b"xx"]
    """

    def decode(self, src: bytearray, /) -> T:
        """Take one frame out of `src` and return it; raise `Incomplete` if there is no whole one.

        What has been used is deleted from `src`; the codec may keep in itself how far it got. `None` is no frame.
        """
        ...

    def decode_eof(self, src: bytearray, /) -> T:
        """The same when the stream has ended; called until it raises `Incomplete`.

        Unless defined otherwise: what `decode` says, and `UnexpectedEof` if bytes are left over.
        """
        try:
            return self.decode(src)
        except Incomplete:
            if src:
                raise UnexpectedEof(bytes(src)) from None
            raise
