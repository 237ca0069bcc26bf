"""`merge`: several streams as one. Tokio: `tokio_stream::StreamExt::merge`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from typing import Any

from ._polling import first
from ._source import Source
from ._stream import Stream

__all__ = ["Merge", "merge"]


class Merge[T](Stream[T]):
    """What `merge()` returns."""

    __slots__ = ("_all", "_turn")

    def __init__(self, streams: tuple[AsyncIterable[T], ...]) -> None:
        super().__init__()
        self._all = [Source(stream, f"streams[{i}]") for i, stream in enumerate(streams)]
        self._turn = 0

    async def _next(self) -> T:
        while True:
            ready = [source for source in self._all if not source.ended]
            if not ready:
                raise StopAsyncIteration
            self._turn += 1  # each is the first to be polled in its turn
            begin = self._turn % len(ready)
            order = ready[begin:] + ready[:begin]
            source = await first(order)
            with suppress(StopAsyncIteration):
                return source.take()

    def _sources(self) -> Sequence[Source[Any]]:
        return self._all


def merge[T](*streams: AsyncIterable[T]) -> Merge[T]:
    """The items of several streams, each as soon as it comes. It ends when all of them have.

    Those that are ready take turns. When one raises, the others are closed, and the exception comes out.

    Errors: `TypeError` for what is no async iterable; what the streams raise. Cancel safety: a cancelled `anext()`
    loses no item of any stream. Thread safety: one task at a time. Tokio: `StreamExt::merge`.

    Example::

        import freerun
        from freerun import stream
        from freerun.sync import mpsc

        async def main() -> list[int]:
            (tx, rx), (other_tx, other_rx) = mpsc.channel(5), mpsc.channel(5)
            with tx, other_tx:
                for n in range(3):
                    await tx.send(n)
                    await other_tx.send(10 * n)
            return sorted([item async for item in stream.merge(rx, other_rx)])

        assert freerun.run(main) == [0, 0, 1, 2, 10, 20]
    """
    return Merge(streams)
