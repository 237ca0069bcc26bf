"""Frames instead of bytes: codecs, and streams that use them. Tokio: `tokio_util::codec`."""

from __future__ import annotations

from freerun.io.errors import AnyDelimiterCodecError, EndOfStream, FrameTooLong, LinesCodecError

from .any_delimiter_codec import AnyDelimiterCodec
from .bytes_codec import BytesCodec
from .decoder import Decoder, Incomplete
from .encoder import Encoder
from .framed import Codec, Framed
from .framed_read import FramedRead
from .framed_write import FramedWrite
from .length_delimited_codec import LengthDelimitedCodec
from .lines_codec import LinesCodec

__all__ = [
    "AnyDelimiterCodec",
    "AnyDelimiterCodecError",
    "BytesCodec",
    "Codec",
    "Decoder",
    "Encoder",
    "EndOfStream",
    "FrameTooLong",
    "Framed",
    "FramedRead",
    "FramedWrite",
    "Incomplete",
    "LengthDelimitedCodec",
    "LinesCodec",
    "LinesCodecError",
]
