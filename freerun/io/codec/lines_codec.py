"""`LinesCodec`: lines of UTF-8."""

from __future__ import annotations

import sys

from freerun._arguments import integer
from freerun.io.errors import LinesCodecError

from ._delimited import Delimited
from .decoder import Decoder, Incomplete

__all__ = ["LinesCodec"]


class LinesCodec(Decoder[str]):
    """Frames are lines, as `str`, without their `"\\n"` or `"\\r\\n"`; one that is sent gets a `"\\n"`.

    `max_length` is how many bytes a line may have, without its `"\\n"`; `None` is no limit: any other side may then
    fill the memory. A longer line raises `LinesCodecError`, once; the rest of it is skipped, and the next line comes.
    A line that is not UTF-8 raises `UnicodeDecodeError`, with the line in its `.object`, and the next line comes.

    Thread safety: belongs to one `Framed`. Tokio: `tokio_util::codec::LinesCodec`.

    Example::

        from freerun.io.codec import LinesCodec

        codec = LinesCodec(max_length=80)
        buffer = bytearray(b"one\\r\\ntwo\\nthr")
        assert [codec.decode(buffer), codec.decode(buffer), buffer] == ["one", "two", b"thr"]
    """

    def __init__(self, *, max_length: int | None = None) -> None:
        self._max_length = max_length if max_length is None else integer(max_length, "max_length", least=0)
        self._chunks = Delimited(b"\n", sys.maxsize - 1 if max_length is None else max_length, LinesCodecError)

    @property
    def max_length(self) -> int | None:
        """How many bytes a line may have. Tokio: `LinesCodec::max_length`."""
        return self._max_length

    def decode(self, src: bytearray, /) -> str:
        """The next line."""
        return _text(self._chunks.next(src)[:-1])

    def decode_eof(self, src: bytearray, /) -> str:
        """The next line; the last one may lack its end."""
        try:
            return self.decode(src)
        except Incomplete:
            if not src or src == b"\r":
                raise
            return _text(self._chunks.cut(src, len(src)))

    def encode(self, item: str, dst: bytearray, /) -> None:
        """Append a line, and its end. Errors: `TypeError`; `ValueError` if there is a line end in it."""
        if not isinstance(item, str):
            raise TypeError(f"a frame of LinesCodec must be a str, not {type(item).__name__}: {item!r}")
        if "\n" in item:
            raise ValueError(f"a frame of LinesCodec must be one line; split it first: {item!r}")
        dst += item.encode()
        dst += b"\n"

    def __repr__(self) -> str:
        return f"LinesCodec(max_length={self._max_length})"


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode()
