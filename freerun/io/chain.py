"""`chain`: one stream after another."""

from __future__ import annotations

from ._checks import CAPACITY, check_n, check_reader
from .protocols import AsyncRead
from .read_ext import AsyncReadExt

__all__ = ["Chain", "chain"]


def chain(first: AsyncRead, second: AsyncRead, /) -> Chain:
    """Read `first`, and when it ends `second`.

    Thread safety: any thread. Tokio: `AsyncReadExt::chain`.

    Example::

        import freerun
        from freerun import io

        async def main() -> bytes:
            return await io.chain(io.repeat(b"a").take(2), io.repeat(b"b").take(3)).read_to_end()

        assert freerun.run(main) == b"aabbb"
    """
    return Chain(first, second)


class Chain(AsyncReadExt):
    """One stream after another. Made by `chain()`.

    Errors and thread safety are those of the streams. Cancel safety: `read` loses nothing. Tokio: `tokio::io::Chain`.
    """

    __slots__ = ("_first", "_first_ended", "_second")

    def __init__(self, first: AsyncRead, second: AsyncRead) -> None:
        self._first = check_reader(first, "first")
        self._second = check_reader(second, "second")
        self._first_ended = False

    @property
    def streams(self) -> tuple[AsyncRead, AsyncRead]:
        """Both streams. Tokio: `Chain::get_ref`."""
        return self._first, self._second

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes of the stream whose turn it is; `b""` when both have ended. Cancel safe."""
        check_n(n)
        if not self._first_ended:
            data = await self._first.read(n)
            if data:
                return data
            self._first_ended = True
        return await self._second.read(n)
