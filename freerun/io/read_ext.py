"""`AsyncReadExt`: the methods that follow from `read`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from freerun._arguments import integer

from ._checks import check_limit
from .errors import LimitExceeded, UnexpectedEof

if TYPE_CHECKING:
    from .chain import Chain
    from .protocols import AsyncRead
    from .take import Take

__all__ = ["AsyncReadExt"]


class AsyncReadExt:
    """A base for streams: it has `read`, here is the rest. Tokio: `tokio::io::AsyncReadExt`.

    Example::

        import freerun
        from freerun.io import AsyncReadExt

        class Letters(AsyncReadExt):
            def __init__(self) -> None:
                self.left = list(b"abcdef")

            async def read(self, n: int = 65536, /) -> bytes:
                return bytes([self.left.pop(0)]) if self.left else b""

        async def main() -> tuple[bytes, bytes]:
            letters = Letters()
            return await letters.read_exact(2), await letters.take(3).read_to_end()

        assert freerun.run(main) == (b"ab", b"cde")
    """

    __slots__ = ()

    def read(self, n: int = 65536, /) -> Awaitable[bytes]:
        """Up to `n` bytes as soon as there are any, `b""` at the end of the stream. Cancel safe."""
        raise NotImplementedError(f"{type(self).__name__} must define read()")

    async def read_exact(self, n: int, /) -> bytes:
        """Read exactly `n` bytes.

        Errors: `UnexpectedEof`, with the bytes that came in `.partial`, if the stream ends first. Cancel safety: what
        was read so far is lost (not so with `BufReader`). Thread safety: for tasks. Tokio: `AsyncReadExt::read_exact`.
        """
        integer(n, "n", least=0)
        parts = bytearray()
        while missing := n - len(parts):
            part = await self.read(missing)
            if not part:
                raise UnexpectedEof(bytes(parts), n)
            parts += part
        return bytes(parts)

    async def read_to_end(self, *, limit: int | None = None) -> bytes:
        """Read until the stream ends.

        Errors: `LimitExceeded` if it is longer than `limit` bytes; what was read is then lost. Cancel safety: what was
        read so far is lost (neither happens with `BufReader`). Thread safety: for tasks.
        Tokio: `AsyncReadExt::read_to_end`.
        """
        most = check_limit(limit)
        parts = bytearray()
        while part := await self.read(65536):
            parts += part
            if len(parts) > most:
                raise LimitExceeded(most, "the stream")
        return bytes(parts)

    def chain(self, next: AsyncRead, /) -> Chain:
        """This stream, and when it ends the `next` one. Tokio: `AsyncReadExt::chain`."""
        from .chain import Chain

        return Chain(self, next)

    def take(self, limit: int, /) -> Take:
        """The first `limit` bytes of this stream, then an end. Tokio: `AsyncReadExt::take`."""
        from .take import Take

        return Take(self, limit)
