"""Chunks that end with one of a set of bytes, at most so long: what lines and other delimited chunks share."""

from __future__ import annotations

import re
from collections.abc import Callable

from freerun.io.errors import FrameTooLong

from .decoder import Incomplete

__all__ = ["Delimited"]


class Delimited:
    """Takes chunks out of a buffer, their delimiter included. A chunk that is too long is an error once; then the rest
    of it is skipped, up to its delimiter, and never kept."""

    __slots__ = ("_delimiter", "_error", "_most", "_searched", "_skipping")

    def __init__(self, delimiters: bytes, most: int, error: Callable[[int], FrameTooLong]) -> None:
        self._delimiter = re.compile(b"[" + re.escape(delimiters) + b"]")
        self._most = most
        self._error = error
        self._searched = 0
        self._skipping = False

    def next(self, src: bytearray) -> bytes:
        """The next chunk; `Incomplete` if there is no whole one."""
        if self._skipping:
            self._skip(src)
        end = self._end(src)
        if end is not None:
            return self.cut(src, end)
        if len(src) > self._most:
            self._searched = 0
            self._skipping = True
            raise self._error(self._most)
        self._searched = len(src)
        raise Incomplete

    def _end(self, src: bytearray) -> int | None:
        found = self._delimiter.search(src, self._searched, min(len(src), self._most + 1))
        return None if found is None else found.end()

    def _skip(self, src: bytearray) -> None:
        found = self._delimiter.search(src)
        if found is None:
            src.clear()
            raise Incomplete
        end = found.end()
        del found  # it holds the buffer, which could not be changed
        del src[:end]
        self._skipping = False

    def cut(self, src: bytearray, end: int) -> bytes:
        """The first `end` bytes, removed."""
        chunk = bytes(memoryview(src)[:end])
        del src[:end]
        self._searched = 0
        return chunk
