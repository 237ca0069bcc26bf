"""`AsyncWriteExt`: the methods that follow from `write`."""

from __future__ import annotations

from collections.abc import Awaitable, Buffer

from ._checks import contiguous
from .errors import WriteZero

__all__ = ["AsyncWriteExt"]


class AsyncWriteExt:
    """A base for streams: it has `write`, here is the rest. Tokio: `tokio::io::AsyncWriteExt`.

    Example::

        import freerun
        from freerun.io import AsyncWriteExt

        class Slow(AsyncWriteExt):
            def __init__(self) -> None:
                self.got = b""

            async def write(self, data: bytes, /) -> int:
                self.got += bytes(data[:3])
                return min(3, len(data))

        async def main() -> bytes:
            slow = Slow()
            await slow.write_all(b"hello")
            return slow.got

        assert freerun.run(main) == b"hello"
    """

    __slots__ = ()

    def write(self, data: Buffer, /) -> Awaitable[int]:
        """Write some of `data` and say how many bytes. Cancel safe: then nothing was written."""
        raise NotImplementedError(f"{type(self).__name__} must define write()")

    async def write_all(self, data: Buffer, /) -> None:
        """Write all of `data`.

        Errors: the stream's own; `WriteZero` if it takes nothing. Cancel safety: none; any number of the bytes, from
        the first on, may have been written. Thread safety: for tasks. Tokio: `AsyncWriteExt::write_all`.
        """
        rest = memoryview(contiguous(data))
        while rest:
            n = await self.write(rest)
            if n == 0:
                raise WriteZero(self)
            rest = rest[n:]

    async def flush(self) -> None:
        """Pass on what is held back, which is nothing here. Cancel safe. Tokio: `AsyncWriteExt::flush`."""

    async def shutdown(self) -> None:
        """Nothing more will be written. Here: as `flush()`. Tokio: `AsyncWriteExt::shutdown`."""
        await self.flush()
