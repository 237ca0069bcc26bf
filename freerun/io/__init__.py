"""Reading and writing streams of bytes. Tokio: `tokio::io`."""

from __future__ import annotations

from . import codec
from .buf_reader import BufReader
from .buf_stream import BufStream
from .buf_writer import BufWriter
from .chain import Chain, chain
from .copy import copy
from .copy_bidirectional import copy_bidirectional
from .copy_buf import copy_buf
from .duplex import DuplexStream, duplex
from .empty import Empty, empty
from .errors import (
    AnyDelimiterCodecError,
    EndOfStream,
    FrameTooLong,
    LimitExceeded,
    LinesCodecError,
    UnexpectedEof,
    WriteZero,
)
from .lines import Lines, Segments
from .protocols import AsyncBufRead, AsyncRead, AsyncStream, AsyncWrite
from .read_ext import AsyncReadExt
from .repeat import Repeat, repeat
from .simplex import SimplexReader, SimplexWriter, simplex
from .sink import Sink, sink
from .split import ReadHalf, WriteHalf, split
from .stdin import Stdin, stdin
from .stdout import Stderr, Stdout, stderr, stdout
from .take import Take, take
from .write_ext import AsyncWriteExt

__all__ = [
    "AnyDelimiterCodecError",
    "AsyncBufRead",
    "AsyncRead",
    "AsyncReadExt",
    "AsyncStream",
    "AsyncWrite",
    "AsyncWriteExt",
    "BufReader",
    "BufStream",
    "BufWriter",
    "Chain",
    "DuplexStream",
    "Empty",
    "EndOfStream",
    "FrameTooLong",
    "LimitExceeded",
    "Lines",
    "LinesCodecError",
    "ReadHalf",
    "Repeat",
    "Segments",
    "SimplexReader",
    "SimplexWriter",
    "Sink",
    "Stderr",
    "Stdin",
    "Stdout",
    "Take",
    "UnexpectedEof",
    "WriteHalf",
    "WriteZero",
    "chain",
    "codec",
    "copy",
    "copy_bidirectional",
    "copy_buf",
    "duplex",
    "empty",
    "repeat",
    "simplex",
    "sink",
    "split",
    "stderr",
    "stdin",
    "stdout",
    "take",
]
