"""`Buffer`: bytes that have been read and not yet been asked for.

A piece that arrives while it is empty is kept as it is, without a copy. Only what spans several pieces is put together,
in a bytearray: appending to that and taking from its front is linear in the bytes, however small the pieces are.
"""

from __future__ import annotations

__all__ = ["Buffer"]


class Buffer:
    """A queue of bytes. Not safe for threads: its owner's claim or lock guards it."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._at = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def append(self, piece: bytes) -> None:
        """Add bytes at the end."""
        if not piece:  # the end of a file: what is there stays the object that it is
            return
        if self._at == len(self._data):
            self._data = bytes(piece)  # the object itself, if it is bytes
        elif isinstance(self._data, bytearray):
            del self._data[: self._at]
            self._data += piece
        else:
            together = bytearray(memoryview(self._data)[self._at :])
            together += piece
            self._data = together
        self._at = 0

    def take(self, n: int) -> bytes:
        """Remove the first `n` bytes, or as many as there are."""
        taken = self.peek(n)
        self._at += len(taken)
        if self._at == len(self._data):
            self._data, self._at = b"", 0
        return taken

    def peek(self, n: int) -> bytes:
        """The first `n` bytes, or as many as there are."""
        data, at = self._data, self._at
        end = min(at + n, len(data))
        if isinstance(data, bytes):
            return data[at:end]  # the object itself, if that is all of it
        return bytes(memoryview(data)[at:end])

    def skip(self, n: int) -> None:
        """Remove the first `n` bytes, of which there must be as many."""
        self._at += n
        if self._at == len(self._data):
            self._data, self._at = b"", 0

    def find(self, sep: bytes, start: int) -> int:
        """Where the first `sep` at or after `start` ends, or -1."""
        at = self._data.find(sep, self._at + start)
        return -1 if at < 0 else at + len(sep) - self._at
