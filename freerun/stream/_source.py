"""`Source`: an async iterator that a stream takes its items from."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from freerun._core._native import Strand

from ._polling import Failed

__all__ = ["Source"]


class Source[T]:
    """An async iterator, and its next item, which may be half done.

    When `poll()` says that it is done, `take()` gives the item, raises `StopAsyncIteration`, or what the iterator
    raised; the latter two end the source.
    """

    __slots__ = ("_next", "ended", "failed", "iterator", "name")

    def __init__(self, stream: AsyncIterable[T], argument: str = "stream") -> None:
        if not hasattr(stream, "__aiter__"):
            kind = type(stream).__name__
            hint = "; freerun.stream.iter() makes one of an ordinary iterable" if hasattr(stream, "__iter__") else ""
            raise TypeError(f"argument '{argument}' must be an async iterable, not {kind}: {stream!r}{hint}")
        self.name = argument  # for dumps
        self.iterator: AsyncIterator[T] = stream.__aiter__()
        self._next: Strand[T] | Failed | None = None
        self.ended = False
        self.failed = False
        own = getattr(self.iterator, "_become_source", None)  # one of our own streams
        if own is not None:
            own()

    def poll(self) -> bool:
        if self._next is None:
            try:
                self._next = Strand(self.iterator.__anext__())
            except BaseException as error:
                self._next = Failed(error)
        return self._next.poll()

    def take(self) -> T:
        done, self._next = self._next, None
        assert done is not None
        try:
            return done.take()
        except StopAsyncIteration:
            self.ended = True
            raise
        except BaseException:
            self.ended = self.failed = True
            raise

    def half_done(self) -> list[Strand[T] | Failed]:
        """The next item, if it was begun; it is then somebody else's to end."""
        begun, self._next = self._next, None
        return [] if begun is None else [begun]

    @property
    def is_waiting(self) -> bool:
        """Whether the next item has been begun."""
        return self._next is not None

    async def aclose(self) -> None:
        """Close the iterator, if it can be. Nobody may be iterating it."""
        self.ended = True
        aclose = getattr(self.iterator, "aclose", None)
        if aclose is not None:
            await aclose()
