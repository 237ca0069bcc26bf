"""`LengthDelimitedCodec`: frames that say how long they are."""

from __future__ import annotations

import sys
from collections.abc import Buffer
from typing import Literal

from freerun._arguments import integer, one_of
from freerun.io._checks import contiguous
from freerun.io.errors import FrameTooLong, UnexpectedEof

from .decoder import Decoder, Incomplete

__all__ = ["LengthDelimitedCodec"]


class LengthDelimitedCodec(Decoder[bytes]):
    """Frames are `bytes`, each behind a header that holds its length.

    All sizes are in bytes:

    * `length_field_offset`: how much of the header comes before the length
    * `length_field_length`: how long the length is, 1 to 8
    * `length_adjustment`: added to the length to get how many bytes follow what is skipped; a length that counts a
      header of four bytes as well needs -4
    * `num_skip`: how much of the beginning is not part of the frame; `None`: the header up to the end of the length
    * `max_frame_length`: a length above it raises `FrameTooLong`, and so does a frame to be sent. Never more than the
      length field can say
    * `endianness`: `"big"`, `"little"` or `"native"`

    A frame that is sent consists of the length, adjusted the other way round, and the bytes. What else a header holds
    is the sender's business.

    Errors: `FrameTooLong`, for the same frame again when one goes on: such a stream cannot be followed any more.
    Thread safety: belongs to one `Framed`. Tokio: `tokio_util::codec::LengthDelimitedCodec`,
    `length_delimited::Builder`.

    Example::

        from freerun.io.codec import LengthDelimitedCodec

        codec = LengthDelimitedCodec(length_field_length=2, length_adjustment=-2)  # the length counts itself
        buffer = bytearray()
        codec.encode(b"hello", buffer)
        assert buffer == b"\\x00\\x07hello"
        assert codec.decode(buffer) == b"hello"
    """

    def __init__(
        self,
        *,
        length_field_offset: int = 0,
        length_field_length: int = 4,
        length_adjustment: int = 0,
        num_skip: int | None = None,
        max_frame_length: int = 8 * 1024 * 1024,
        endianness: Literal["big", "little", "native"] = "big",
    ) -> None:
        self._offset = integer(length_field_offset, "length_field_offset", least=0)
        self._field = integer(length_field_length, "length_field_length", least=1, most=8)
        self._adjustment = integer(length_adjustment, "length_adjustment", least=-sys.maxsize)
        head = self._offset + self._field
        self._skip = head if num_skip is None else integer(num_skip, "num_skip", least=0)
        self._head = max(head, self._skip)
        one_of(endianness, "endianness", ("big", "little", "native"))
        self._order: Literal["big", "little"] = sys.byteorder if endianness == "native" else endianness
        self.set_max_frame_length(max_frame_length)
        self._length: int | None = None  # of the frame whose header was taken already

    @property
    def max_frame_length(self) -> int:
        """How long a frame may be. Tokio: `LengthDelimitedCodec::max_frame_length`."""
        return self._most

    def set_max_frame_length(self, max_frame_length: int, /) -> None:
        """Allow so many bytes, from the next header on. Tokio: `LengthDelimitedCodec::set_max_frame_length`."""
        most = integer(max_frame_length, "max_frame_length", least=0)
        representable = (1 << 8 * self._field) - 1 + self._adjustment
        self._most = max(0, min(most, representable))

    def decode(self, src: bytearray, /) -> bytes:
        """The next frame."""
        if self._length is None:
            self._length = self._take_head(src)
        length = self._length
        if len(src) < length:
            raise Incomplete
        frame = bytes(memoryview(src)[:length])
        del src[:length]
        self._length = None
        return frame

    def _take_head(self, src: bytearray) -> int:
        if len(src) < self._head:
            raise Incomplete
        said = int.from_bytes(src[self._offset : self._offset + self._field], self._order)
        length = said + self._adjustment
        if said > self._most:
            raise FrameTooLong(self._most, f"a frame of {said} bytes")
        if length < 0:
            raise ValueError(f"a frame of {said} bytes has {length} after the adjustment")
        del src[: self._skip]
        return length

    def decode_eof(self, src: bytearray, /) -> bytes:
        """The next frame; `UnexpectedEof` if the stream ended within one, its header included."""
        try:
            return self.decode(src)
        except Incomplete:
            if self._length is not None:
                raise UnexpectedEof(bytes(src), self._length) from None
            if src:
                raise UnexpectedEof(bytes(src)) from None
            raise

    def encode(self, item: Buffer, dst: bytearray, /) -> None:
        """Append a frame. Errors: `FrameTooLong`; `ValueError` if the adjusted length would be negative."""
        data = contiguous(item)
        if len(data) > self._most:
            raise FrameTooLong(self._most, f"a frame of {len(data)} bytes")
        length = len(data) - self._adjustment
        if length < 0:
            raise ValueError(f"a frame of {len(data)} bytes has a length of {length} after the adjustment")
        dst += length.to_bytes(self._field, self._order)
        dst += data

    def __repr__(self) -> str:
        return (
            f"LengthDelimitedCodec(length_field_offset={self._offset}, length_field_length={self._field}, "
            f"length_adjustment={self._adjustment}, num_skip={self._skip}, max_frame_length={self._most}, "
            f"endianness={self._order!r})"
        )
