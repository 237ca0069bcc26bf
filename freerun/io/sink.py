"""`sink`: swallows everything."""

from __future__ import annotations

from collections.abc import Buffer

from freerun._core._native import consume_budget

from ._checks import contiguous
from .write_ext import AsyncWriteExt

__all__ = ["Sink", "sink"]


def sink() -> Sink:
    """A stream that swallows what is written to it.

    Thread safety: any thread. Tokio: `tokio::io::sink`.

    Example::

        import freerun
        from freerun import io

        assert freerun.run(io.sink().write, b"gone") == 4
    """
    return Sink()


class Sink(AsyncWriteExt):
    """Takes everything. Made by `sink()`. Cancel safe, from any task. Tokio: `tokio::io::Sink`."""

    __slots__ = ()

    async def write(self, data: Buffer, /) -> int:
        """Swallow `data`; how many bytes that were."""
        size = len(contiguous(data))
        await consume_budget()
        return size
