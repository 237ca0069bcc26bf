"""`Outgoing`: bytes on their way to a stream that have not been written yet.

What was written is removed after each single `write`, and `write` is cancel safe. So a cancelled flush may be taken up
again: no byte is left out, and none is written twice.
"""

from __future__ import annotations

import warnings
from typing import Any

from ._checks import flush_inner
from .errors import WriteZero

__all__ = ["Outgoing"]

MOST = 1 << 18  # what one write is given; a copy is made of it


class Outgoing:
    """A buffer in front of a stream. Not safe for threads: its owner's claim guards it."""

    __slots__ = ("data", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.data = bytearray()

    async def drain(self) -> None:
        """Write everything. Cancel safe: what was not written stays."""
        while self.data:
            n = await self.inner.write(self._piece())
            if n == 0:
                raise WriteZero(self.inner)
            del self.data[:n]

    def _piece(self) -> bytes:
        """A copy, for a buffer that is being written cannot grow."""
        return bytes(self.data) if len(self.data) <= MOST else bytes(memoryview(self.data)[:MOST])

    async def flush(self) -> None:
        """Write everything, and have the stream do the same. Cancel safe."""
        await self.drain()
        await flush_inner(self.inner)

    async def shutdown(self) -> None:
        """Flush, then end the stream. Cancel safe as far as the bytes go."""
        await self.flush()
        await self.inner.shutdown()

    def give_up(self, owner: object, stacklevel: int = 3) -> None:
        """Forget what was not written, and say so."""
        if self.data:
            lost, self.data = len(self.data), bytearray()
            warnings.warn(
                f"{type(owner).__name__} was closed with {lost} bytes that were never written; await flush() or "
                "shutdown() first",
                ResourceWarning,
                stacklevel=stacklevel,
                source=owner,
            )
