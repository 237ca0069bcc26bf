"""`timeout`: a limit for each item of a stream. Tokio: `tokio_stream::StreamExt::timeout`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Any

from freerun._arguments import Seconds, seconds
from freerun.time.instant import Instant
from freerun.time.timeout_at import timeout_at

from ._polling import first
from ._source import Source
from ._stream import Stream

__all__ = ["Timeout", "timeout"]


class Timeout[T](Stream[T]):
    """What `timeout()` returns."""

    __slots__ = ("_deadline", "_limit", "_source")

    def __init__(self, stream: AsyncIterable[T], limit: Seconds) -> None:
        super().__init__()
        self._limit = seconds(limit, "limit")
        self._source = Source(stream)
        self._deadline: Instant | None = None  # None: this item has been late, or nobody has asked for one yet

    async def _next(self) -> T:
        if not self._started_waiting():
            await first((self._source,))
        else:
            assert self._deadline is not None
            try:
                await timeout_at(self._deadline, first((self._source,)))
            except TimeoutError:
                self._deadline = None
                raise TimeoutError(f"no item within {self._limit:.12g} s") from None
        item = self._source.take()
        self._deadline = Instant.now() + self._limit
        return item

    def _started_waiting(self) -> bool:
        """Whether a limit holds for the item that is waited for now."""
        if self._deadline is None and not self._source.is_waiting:
            self._deadline = Instant.now() + self._limit
        return self._deadline is not None

    def _sources(self) -> Sequence[Source[Any]]:
        return (self._source,)


def timeout[T](stream: AsyncIterable[T], limit: Seconds, /) -> Timeout[T]:
    """The items of a stream; `TimeoutError` when the next one takes longer than `limit` seconds (or a `timedelta`).

    The time counts from the item before, or from when the first is asked for; an item that is there counts as in time.
    The stream goes on: what was begun is not cancelled, and who iterates further gets the late item whenever it comes,
    without another limit.

    Errors: `TimeoutError`; `ValueError`/`TypeError` for a bad `limit` or what is no async iterable; what the stream
    raises. Cancel safety: a cancelled `anext()` loses no item, and the limit stays where it was. Thread safety: one
    task at a time. Tokio: `StreamExt::timeout`.

    Example::

        import freerun
        from freerun import stream
        from freerun.sync import mpsc

        async def main() -> list[str]:
            tx, rx = mpsc.channel(5)
            limited, seen = stream.timeout(rx, 0.01), []
            await tx.send("in time")
            seen.append(await anext(limited))
            try:
                await anext(limited)
            except TimeoutError as error:
                seen.append(str(error))
            await tx.send("late")
            return [*seen, await anext(limited)]

        assert freerun.run(main) == ["in time", "no item within 0.01 s", "late"]
    """
    return Timeout(stream, limit)
