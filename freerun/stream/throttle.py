"""`throttle`: a pause after each item. Tokio: `tokio_stream::StreamExt::throttle`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Any

from freerun._arguments import Seconds, seconds
from freerun.time.instant import Instant
from freerun.time.sleep_until import sleep_until

from ._polling import first
from ._source import Source
from ._stream import Stream

__all__ = ["Throttle", "throttle"]


class Throttle[T](Stream[T]):
    """What `throttle()` returns."""

    __slots__ = ("_pause", "_source", "_until")

    def __init__(self, stream: AsyncIterable[T], pause: Seconds) -> None:
        super().__init__()
        self._pause = seconds(pause, "pause")
        self._source = Source(stream)
        self._until: Instant | None = None

    async def _next(self) -> T:
        if self._until is not None:
            await sleep_until(self._until)
        await first((self._source,))
        item = self._source.take()
        if self._pause:
            self._until = Instant.now() + self._pause
        return item

    def _sources(self) -> Sequence[Source[Any]]:
        return (self._source,)


def throttle[T](stream: AsyncIterable[T], pause: Seconds, /) -> Throttle[T]:
    """The items of a stream, at least `pause` seconds (or a `timedelta`) apart; the stream is not polled meanwhile.

    Errors: `ValueError`/`TypeError` for a bad `pause` or what is no async iterable; what the stream raises.
    Cancel safety: a cancelled `anext()` loses no item, and the pause counts on. Thread safety: one task at a time.
    Tokio: `StreamExt::throttle`.

    Example::

        import freerun
        from freerun import stream
        from freerun.time import Instant

        async def main() -> float:
            start = Instant.now()
            async for _ in stream.throttle(stream.iter(range(3)), 0.01):
                pass
            return start.elapsed()

        assert freerun.run(main) >= 0.02
    """
    return Throttle(stream, pause)
