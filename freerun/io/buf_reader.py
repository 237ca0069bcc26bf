"""`BufReader`: reads in large pieces, gives out what is asked for.

An aborted task loses no byte, see `_buffered.py`: that is what the methods of the same name on a bare stream, and
Tokio's, cannot say of themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from freerun._arguments import integer
from freerun._core._native import consume_budget

from ._buffer import Buffer
from ._buffered import Buffered
from ._checks import CAPACITY, check_n, check_reader, close_inner
from ._claim import Claim

if TYPE_CHECKING:
    from types import TracebackType

    from .protocols import AsyncRead

__all__ = ["BufReader"]


class BufReader[R: AsyncRead](Buffered):
    """Reads a stream through a buffer: `BufReader(stream)`.

    `capacity` is how many bytes it asks the stream for at once. The buffer grows beyond that only for what you ask for,
    a long line for one: give a `limit` where you do not trust the other side.

    `inner` is the stream. `close()` closes it, and so does leaving `async with`.

    Errors: those of the stream, which lose nothing that came before them; `RuntimeError` for a second reader.
    Cancel safety: every method; a cancelled one loses no byte, call it (or another one) again, from whichever task.
    Thread safety: one task at a time may read, on any thread. Tokio: `tokio::io::BufReader`.

    Example::

        import freerun
        from freerun.io import BufReader, duplex

        async def main() -> list[object]:
            ours, theirs = duplex(64)
            await theirs.write_all(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nbody")
            theirs.close()
            async with BufReader(ours) as reader:
                request = await reader.read_line(limit=8192)
                headers = await reader.read_until(b"\\r\\n\\r\\n", limit=8192)
                return [request, headers, await reader.read_exact(2), await reader.read_to_end()]

        assert freerun.run(main) == ["GET / HTTP/1.1\\r\\n", b"Host: x\\r\\n\\r\\n", b"bo", b"dy"]
    """

    __slots__ = ("_capacity", "_inner")

    def __init__(self, inner: R, capacity: int = CAPACITY) -> None:
        self._inner = check_reader(inner, "inner")
        self._capacity = integer(capacity, "capacity")
        self._buffer = Buffer()
        self._claim = Claim("reading from")

    @property
    def inner(self) -> R:
        """The stream itself. What it has given already is in the buffer. Tokio: `BufReader::get_ref`."""
        return self._inner

    @property
    def capacity(self) -> int:
        """How many bytes are asked for at once."""
        return self._capacity

    async def _fill(self, want: int | None = 0) -> bool:  # noqa: ARG002  # the capacity is what the user chose
        """Read once; `False` at the end."""
        piece = await self._inner.read(self._capacity)
        self._buffer.append(piece)
        return len(piece) > 0

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes as soon as there are any, `b""` at the end of the stream. Cancel safe.

        A read of `capacity` or more goes to the stream directly when the buffer is empty.
        """
        check_n(n)
        with self._claim:
            await consume_budget()
            if not self._buffer:
                if n >= self._capacity:
                    return await self._inner.read(n)
                await self._fill()
            return self._buffer.take(n)

    def close(self) -> None:
        """Close the stream, if it can be closed. What is buffered can still be read. Any thread."""
        close_inner(self._inner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} buffered={len(self._buffer)} of {self._inner!r}>"
