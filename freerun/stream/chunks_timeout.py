"""`chunks_timeout`: items in batches. Tokio: `tokio_stream::StreamExt::chunks_timeout`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Any

from freerun._arguments import Seconds, integer, seconds
from freerun.time.instant import Instant
from freerun.time.timeout_at import timeout_at

from ._polling import first
from ._source import Source
from ._stream import Stream

__all__ = ["ChunksTimeout", "chunks_timeout"]


class ChunksTimeout[T](Stream[list[T]]):
    """What `chunks_timeout()` returns."""

    __slots__ = ("_deadline", "_end", "_items", "_most", "_source", "_wait")

    def __init__(self, stream: AsyncIterable[T], max_size: int, wait: Seconds) -> None:
        super().__init__()
        self._most = integer(max_size, "max_size")
        self._wait = seconds(wait, "wait")
        self._source = Source(stream)
        self._items: list[T] = []  # of the batch that is being filled
        self._deadline: Instant | None = None  # of that batch, from its first item on
        self._end: BaseException | None = None  # how the stream has ended

    async def _next(self) -> list[T]:
        while self._end is None and len(self._items) < self._most:
            try:
                await self._ready()
            except TimeoutError:
                return self._cut()
            try:
                self._add(self._source.take())
            except BaseException as error:
                self._end = error
        if self._items:
            return self._cut()
        assert self._end is not None
        raise self._end

    async def _ready(self) -> None:
        if self._deadline is None:
            await first((self._source,))
        else:
            await timeout_at(self._deadline, first((self._source,)))

    def _add(self, item: T) -> None:
        if not self._items:
            self._deadline = Instant.now() + self._wait
        self._items.append(item)

    def _cut(self) -> list[T]:
        batch, self._items, self._deadline = self._items, [], None
        return batch

    def _sources(self) -> Sequence[Source[Any]]:
        return (self._source,)


def chunks_timeout[T](stream: AsyncIterable[T], max_size: int, wait: Seconds, /) -> ChunksTimeout[T]:
    """The items of a stream in lists: of `max_size`, or of what has come `wait` seconds after the first of them.

    No list is empty. The last one is what is left when the stream ends; an exception that ends it comes after that.

    Errors: `ValueError`/`TypeError` for a bad `max_size` or `wait` (seconds or a `timedelta`), or what is no async
    iterable; what the stream raises. Cancel safety: a cancelled `anext()` loses no item: they are in the next batch.
    Thread safety: one task at a time. Tokio: `StreamExt::chunks_timeout`.

    Example::

        import freerun
        from freerun import stream

        async def main() -> list[list[int]]:
            return [batch async for batch in stream.chunks_timeout(stream.iter(range(5)), 2, 60)]

        assert freerun.run(main) == [[0, 1], [2, 3], [4]]
    """
    return ChunksTimeout(stream, max_size, wait)
