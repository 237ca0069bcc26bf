"""`BytesCodec`: bytes as they come."""

from __future__ import annotations

from collections.abc import Buffer

from freerun.io._checks import contiguous

from .decoder import Decoder, Incomplete

__all__ = ["BytesCodec"]


class BytesCodec(Decoder[bytes]):
    """Frames are whatever bytes have come; anything bytes-like is written as it is.

    Thread safety: belongs to one `Framed`. Tokio: `tokio_util::codec::BytesCodec`.

    Example::

        from freerun.io.codec import BytesCodec

        buffer = bytearray(b"abc")
        assert BytesCodec().decode(buffer) == b"abc" and not buffer
    """

    def decode(self, src: bytearray, /) -> bytes:
        """Everything in `src`."""
        if not src:
            raise Incomplete
        data = bytes(src)
        src.clear()
        return data

    def encode(self, item: Buffer, dst: bytearray, /) -> None:
        """Append `item`."""
        dst += contiguous(item)

    def __repr__(self) -> str:
        return "BytesCodec()"
