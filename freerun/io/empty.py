"""`empty`: nothing."""

from __future__ import annotations

from collections.abc import Buffer

from freerun._core._native import consume_budget

from ._checks import CAPACITY, check_n, contiguous
from .read_ext import AsyncReadExt
from .write_ext import AsyncWriteExt

__all__ = ["Empty", "empty"]


def empty() -> Empty:
    """A stream that has ended already, and that swallows what is written to it.

    Thread safety: any thread. Tokio: `tokio::io::empty`.

    Example::

        import freerun
        from freerun import io

        assert freerun.run(io.empty().read) == b""
    """
    return Empty()


class Empty(AsyncReadExt, AsyncWriteExt):
    """Nothing to read; takes everything. Made by `empty()`. Cancel safe, from any task. Tokio: `tokio::io::Empty`."""

    __slots__ = ()

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """`b""`."""
        check_n(n)
        await consume_budget()
        return b""

    async def fill_buf(self) -> bytes:
        """`b""`."""
        await consume_budget()
        return b""

    def consume(self, n: int, /) -> None:
        """Do nothing."""

    async def write(self, data: Buffer, /) -> int:
        """Swallow `data`; how many bytes that were."""
        size = len(contiguous(data))
        await consume_budget()
        return size
