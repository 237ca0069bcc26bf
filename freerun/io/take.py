"""`take`: the beginning of a stream."""

from __future__ import annotations

from freerun._arguments import integer

from ._checks import CAPACITY, check_n, check_reader
from .protocols import AsyncRead
from .read_ext import AsyncReadExt

__all__ = ["Take", "take"]


def take(reader: AsyncRead, limit: int, /) -> Take:
    """Read at most `limit` bytes of `reader`; then comes an end.

    Errors: `ValueError`/`TypeError` for a bad argument. Thread safety: any thread. Tokio: `AsyncReadExt::take`.

    Example::

        import freerun
        from freerun import io

        async def main() -> bytes:
            return await io.take(io.repeat(b"x"), 3).read_to_end()

        assert freerun.run(main) == b"xxx"
    """
    return Take(reader, limit)


class Take(AsyncReadExt):
    """The beginning of a stream. Made by `take()`.

    Errors and thread safety are those of the stream. Cancel safety: `read` loses nothing. Tokio: `tokio::io::Take`.
    """

    __slots__ = ("_inner", "_limit")

    def __init__(self, inner: AsyncRead, limit: int) -> None:
        self._inner = check_reader(inner, "reader")
        self._limit = integer(limit, "limit", least=0)

    @property
    def inner(self) -> AsyncRead:
        """The stream itself. Tokio: `Take::get_ref`."""
        return self._inner

    @property
    def limit(self) -> int:
        """How many bytes may still be read. Tokio: `Take::limit`."""
        return self._limit

    def set_limit(self, limit: int, /) -> None:
        """Allow so many bytes from now on. Tokio: `Take::set_limit`."""
        self._limit = integer(limit, "limit", least=0)

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes; `b""` at the limit and at the end of the stream. Cancel safe.

        Errors: `RuntimeError` if the stream gives more than it was asked for.
        """
        most = min(check_n(n), self._limit)
        if most == 0:
            return b""
        data = await self._inner.read(most)
        if len(data) > most:
            raise RuntimeError(f"read({most}) of {self._inner!r} gave {len(data)} bytes")
        self._limit -= len(data)
        return data
