"""`buffer_unordered` and `buffered`: awaitables of a stream, several at a time. As in `futures::StreamExt`."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Any

from freerun._arguments import close_unstarted, integer
from freerun._core._native import Strand
from freerun.task._awaitable import as_awaitable

from ._polling import Failed, Pollable, first
from ._source import Source
from ._stream import Stream

__all__ = ["Buffered", "buffer_unordered", "buffered"]


class Buffered[T](Stream[T]):
    """What `buffer_unordered()` and `buffered()` return."""

    __slots__ = ("_most", "_ordered", "_running", "_source")

    def __init__(self, stream: AsyncIterable[Any], most: int, ordered: bool) -> None:
        super().__init__()
        self._most = integer(most, "n")
        self._ordered = ordered
        self._source: Source[Any] = Source(stream)
        self._running: deque[Strand[T] | Failed] = deque()  # in the order of the stream; `buffered`: some are done

    async def _next(self) -> T:
        while True:
            if self._ordered and self._running and self._running[0].is_done:
                return self._running.popleft().take()
            pollable = self._pollable()
            if not pollable:
                raise StopAsyncIteration
            done = await first(pollable)
            if done is self._source:
                self._begin()
            elif not self._ordered:
                assert isinstance(done, Strand | Failed)
                self._running.remove(done)
                result: T = done.take()
                return result

    def _pollable(self) -> Sequence[Pollable]:
        """What is to be polled: the stream, as long as there is room for more, then what runs, the oldest first."""
        pollable: list[Pollable] = []
        if not self._source.ended and len(self._running) < self._most:
            pollable.append(self._source)
        pollable += [each for each in self._running if not (self._ordered and each.is_done)]
        return pollable

    def _begin(self) -> None:
        """Begin with the next awaitable, if there is one."""
        try:
            item = self._source.take()
        except StopAsyncIteration:
            return
        try:
            self._running.append(Strand(as_awaitable(item, (), "item of the stream")))
        except Exception as error:
            close_unstarted(item)
            self._running.append(Failed(error))

    def _half_done(self) -> list[Strand[Any] | Failed]:
        running, self._running = self._running, deque()
        return [*(each for each in running if not each.is_done), *super()._half_done()]

    def _sources(self) -> Sequence[Source[Any]]:
        return (self._source,)


def buffer_unordered[T](stream: AsyncIterable[Awaitable[T] | Callable[[], Awaitable[T]]], n: int, /) -> Buffered[T]:
    """The results of a stream of awaitables (or async functions without arguments), as they come; `n` run at once.

    They run inside the task that iterates, not as tasks: concurrent, not parallel. For that, let the stream give
    `freerun.spawn(...)` handles. They run while somebody waits for the next result. An exception that one of them
    raises comes out in place of its result, and the iteration may be continued. When the stream itself raises, what
    runs is cancelled.

    Errors: `ValueError`/`TypeError` for a bad `n`, or what is no async iterable; what the stream or an awaitable
    raises; `TypeError` for an item that cannot be awaited. Cancel safety: a cancelled `anext()` loses nothing: what
    runs goes on with the next. Thread safety: one task at a time. `futures::StreamExt::buffer_unordered`.

    Example::

        import freerun
        from freerun import stream

        async def fetch(n: int) -> int:
            await freerun.time.sleep(0.02 - 0.005 * n)
            return n

        async def main() -> list[int]:
            fetches = stream.iter(fetch(n) for n in range(4))
            return [result async for result in stream.buffer_unordered(fetches, 4)]

        assert sorted(freerun.run(main)) == [0, 1, 2, 3]
    """
    return Buffered(stream, n, ordered=False)


def buffered[T](stream: AsyncIterable[Awaitable[T] | Callable[[], Awaitable[T]]], n: int, /) -> Buffered[T]:
    """As `buffer_unordered`, with the results in the order of the stream. `futures::StreamExt::buffered`.

    What has ended but is not due yet counts among the `n`.

    Example::

        import freerun
        from freerun import stream

        async def fetch(n: int) -> int:
            await freerun.time.sleep(0.02 - 0.005 * n)
            return n

        async def main() -> list[int]:
            fetches = stream.iter(fetch(n) for n in range(4))
            return [result async for result in stream.buffered(fetches, 2)]

        assert freerun.run(main) == [0, 1, 2, 3]
    """
    return Buffered(stream, n, ordered=True)
