"""`repeat`: one byte, for ever."""

from __future__ import annotations

from freerun._core._native import consume_budget

from ._checks import CAPACITY, check_n
from .read_ext import AsyncReadExt

__all__ = ["Repeat", "repeat"]


def repeat(byte: bytes, /) -> Repeat:
    """A stream of one byte that never ends.

    Errors: `TypeError`/`ValueError` for what is not `bytes` of length 1. Thread safety: any thread.
    Tokio: `tokio::io::repeat`.

    Example::

        import freerun
        from freerun import io

        assert freerun.run(io.repeat(b"z").read, 4) == b"zzzz"
    """
    return Repeat(byte)


class Repeat(AsyncReadExt):
    """One byte, for ever. Made by `repeat()`. Cancel safe, from any task. Tokio: `tokio::io::Repeat`."""

    __slots__ = ("_bytes",)

    def __init__(self, byte: bytes) -> None:
        if not isinstance(byte, bytes):
            raise TypeError(f"argument 'byte' must be bytes of length 1, not {type(byte).__name__}: {byte!r}")
        if len(byte) != 1:
            raise ValueError(f"argument 'byte' must be bytes of length 1: {byte!r}")
        self._bytes = byte * CAPACITY

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """`n` bytes, at most 64 KiB at once."""
        check_n(n)
        await consume_budget()
        return self._bytes[:n]
