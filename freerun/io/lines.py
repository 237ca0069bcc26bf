"""`Lines` and `Segments`: what `BufReader.lines()` and `BufReader.split()` return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from .errors import EndOfStream

if TYPE_CHECKING:
    from ._buffered import Buffered

__all__ = ["Lines", "Segments"]


class Segments:
    """The pieces of a stream between separators, as `bytes` without them. Made by `BufReader.split()`.

    Errors: those of the stream, `LimitExceeded`. The iteration may go on after an error.
    Cancel safety: no byte is lost. Thread safety: one task at a time, on any thread.
    Tokio: `tokio::io::Split`.

    Example::

        import freerun
        from freerun.io import BufReader, duplex

        async def main() -> list[bytes]:
            ours, theirs = duplex(64)
            await theirs.write_all(b"a,bc,,d")
            theirs.close()
            return [piece async for piece in BufReader(ours).split(b",")]

        assert freerun.run(main) == [b"a", b"bc", b"", b"d"]
    """

    __slots__ = ("_limit", "_reader", "_sep")

    def __init__(self, reader: Buffered, sep: bytes, limit: int) -> None:
        self._reader = reader
        self._sep = sep
        self._limit = limit

    @property
    def reader(self) -> Buffered:
        """Where the pieces come from."""
        return self._reader

    async def next_segment(self) -> bytes:
        """The next piece; `EndOfStream` when there is none. Cancel safe. Tokio: `Split::next_segment`."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise EndOfStream from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._reader._until(self._sep, self._limit)
        if not piece:
            raise StopAsyncIteration
        return piece.removesuffix(self._sep)


class Lines:
    """The lines of a stream, as `str` without their `"\\n"` or `"\\r\\n"`. Made by `BufReader.lines()`.

    Errors: those of the stream, `LimitExceeded`, `UnicodeDecodeError` (the line is in its `.object`). The iteration may
    go on after an error. Cancel safety: no byte is lost. Thread safety: one task at a time, on any thread.
    Tokio: `tokio::io::Lines`.

    Example::

        import freerun
        from freerun.io import BufReader, duplex

        async def main() -> list[str]:
            ours, theirs = duplex(64)
            await theirs.write_all(b"one\\r\\n\\ntwo\\nthree")
            theirs.close()
            return [line async for line in BufReader(ours).lines(limit=100)]

        assert freerun.run(main) == ["one", "", "two", "three"]
    """

    __slots__ = ("_limit", "_reader")

    def __init__(self, reader: Buffered, limit: int) -> None:
        self._reader = reader
        self._limit = limit

    @property
    def reader(self) -> Buffered:
        """Where the lines come from."""
        return self._reader

    async def next_line(self) -> str:
        """The next line; `EndOfStream` when there is none. Cancel safe. Tokio: `Lines::next_line`."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise EndOfStream from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self._reader._until(b"\n", self._limit)
        if not line:
            raise StopAsyncIteration
        if line.endswith(b"\n"):
            line = line[: -2 if line.endswith(b"\r\n") else -1]
        return line.decode()
