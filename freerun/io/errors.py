"""Errors of streams that are not the operating system's."""

from __future__ import annotations

import errno

__all__ = [
    "AnyDelimiterCodecError",
    "EndOfStream",
    "FrameTooLong",
    "LimitExceeded",
    "LinesCodecError",
    "UnexpectedEof",
    "WriteZero",
]


class UnexpectedEof(EOFError):
    """The stream ended before as many bytes came as were asked for, or in the middle of a frame.

    `partial` holds the bytes that did come, `expected` how many were wanted, `None` if nobody knows.
    Tokio: `io::ErrorKind::UnexpectedEof`.

    Example::

        from freerun.io import UnexpectedEof

        error = UnexpectedEof(b"ab", 4)
        assert (error.partial, error.expected) == (b"ab", 4)
    """

    def __init__(self, partial: bytes, expected: int | None = None) -> None:
        of = "in the middle of a frame, after" if expected is None else "after"
        total = "" if expected is None else f" of {expected}"
        super().__init__(f"the stream ended {of} {len(partial)}{total} bytes")
        self.partial = partial
        self.expected = expected

    def __reduce__(self) -> tuple[type[UnexpectedEof], tuple[bytes, int | None]]:
        return type(self), (self.partial, self.expected)


class EndOfStream(EOFError):
    """There is no further line or frame: the stream has ended where it may end. Tokio: `Stream::next` gives `None`."""

    def __init__(self, message: str = "the stream has ended") -> None:
        super().__init__(message)


class WriteZero(OSError):
    """A stream's `write` took none of the bytes it was given, so that trying again would go on for ever.

    Tokio: `io::ErrorKind::WriteZero`.
    """

    def __init__(self, stream: object = None) -> None:
        super().__init__(errno.EIO, f"write() of {type(stream).__name__} took 0 bytes")


class LimitExceeded(ValueError):
    """What was to be read is longer than the limit that was given; `limit` is that limit, in bytes.

    Nothing was taken: what has been read stands in the reader's buffer.
    """

    def __init__(self, limit: int, what: str = "what was to be read") -> None:
        super().__init__(f"{what} is longer than the limit of {limit} bytes")
        self.limit = limit
        self._what = what

    def __reduce__(self) -> tuple[type[LimitExceeded], tuple[int, str]]:
        return type(self), (self.limit, self._what)


class FrameTooLong(LimitExceeded):
    """A frame is longer than the codec takes; `limit` is how long it may be. Tokio: `LengthDelimitedCodecError`."""

    def __init__(self, limit: int, what: str = "the frame") -> None:
        super().__init__(limit, what)


class LinesCodecError(FrameTooLong):
    """A line is longer than the codec's `max_length`; the codec skips the rest of it.

    Tokio: `LinesCodecError::MaxLineLengthExceeded`.
    """

    def __init__(self, limit: int, what: str = "the line") -> None:
        super().__init__(limit, what)


class AnyDelimiterCodecError(FrameTooLong):
    """A chunk is longer than the codec's `max_length`; the codec skips the rest of it.

    Tokio: `AnyDelimiterCodecError::MaxChunkLengthExceeded`.
    """

    def __init__(self, limit: int, what: str = "the chunk") -> None:
        super().__init__(limit, what)
