"""Errors of streams that are not the operating system's."""

from __future__ import annotations

__all__ = ["UnexpectedEof"]


class UnexpectedEof(EOFError):
    """The stream ended before as many bytes came as were asked for.

    `partial` holds the bytes that did come, `expected` how many were wanted. Tokio: `io::ErrorKind::UnexpectedEof`.

    Example::

        from freerun.io import UnexpectedEof

        error = UnexpectedEof(b"ab", 4)
        assert (error.partial, error.expected) == (b"ab", 4)
    """

    def __init__(self, partial: bytes, expected: int) -> None:
        super().__init__(f"the stream ended after {len(partial)} of {expected} bytes")
        self.partial = partial
        self.expected = expected

    def __reduce__(self) -> tuple[type[UnexpectedEof], tuple[bytes, int]]:
        return type(self), (self.partial, self.expected)
