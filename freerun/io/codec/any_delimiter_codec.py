"""`AnyDelimiterCodec`: chunks that end with one of a few bytes."""

from __future__ import annotations

import sys
from collections.abc import Buffer

from freerun._arguments import integer
from freerun.io._checks import contiguous
from freerun.io.errors import AnyDelimiterCodecError

from ._delimited import Delimited
from .decoder import Decoder, Incomplete

__all__ = ["AnyDelimiterCodec"]


class AnyDelimiterCodec(Decoder[bytes]):
    """Frames are the chunks between delimiters, as `bytes` without them.

    `seek_delimiters` holds the bytes each of which ends a chunk; `sequence_writer` is written after each one that is
    sent. `max_length` is how many bytes a chunk may have; `None` is no limit: any other side may then fill the memory.
    A longer chunk raises `AnyDelimiterCodecError`, once; the rest of it is skipped, and the next chunk comes.

    Thread safety: belongs to one `Framed`. Tokio: `tokio_util::codec::AnyDelimiterCodec`.

    Example::

        from freerun.io.codec import AnyDelimiterCodec

        codec = AnyDelimiterCodec(b",;", b";", max_length=80)
        buffer = bytearray(b"a,b;c")
        assert [codec.decode(buffer), codec.decode(buffer), buffer] == [b"a", b"b", b"c"]
    """

    def __init__(
        self,
        seek_delimiters: bytes = b",;\n\r",
        sequence_writer: bytes = b",",
        *,
        max_length: int | None = None,
    ) -> None:
        for value, argument in ((seek_delimiters, "seek_delimiters"), (sequence_writer, "sequence_writer")):
            if not isinstance(value, bytes):
                raise TypeError(f"argument '{argument}' must be bytes, not {type(value).__name__}: {value!r}")
        if not seek_delimiters:
            raise ValueError("argument 'seek_delimiters' must have one byte at least")
        self._seek = seek_delimiters
        self._writer = sequence_writer
        self._max_length = max_length if max_length is None else integer(max_length, "max_length", least=0)
        most = sys.maxsize - 1 if max_length is None else max_length
        self._chunks = Delimited(seek_delimiters, most, AnyDelimiterCodecError)

    @property
    def max_length(self) -> int | None:
        """How many bytes a chunk may have. Tokio: `AnyDelimiterCodec::max_length`."""
        return self._max_length

    def decode(self, src: bytearray, /) -> bytes:
        """The next chunk."""
        return self._chunks.next(src)[:-1]

    def decode_eof(self, src: bytearray, /) -> bytes:
        """The next chunk; the last one may lack its delimiter."""
        try:
            return self.decode(src)
        except Incomplete:
            if not src:
                raise
            return self._chunks.cut(src, len(src))

    def encode(self, item: str | Buffer, dst: bytearray, /) -> None:
        """Append a chunk, `str` as UTF-8, and `sequence_writer`."""
        dst += item.encode() if isinstance(item, str) else contiguous(item)
        dst += self._writer

    def __repr__(self) -> str:
        return f"AnyDelimiterCodec({self._seek!r}, {self._writer!r}, max_length={self._max_length})"
