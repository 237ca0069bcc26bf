"""`StreamMap`: streams by key, which come and go. Tokio: `tokio_stream::StreamMap`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Hashable, Iterator, KeysView, Mapping, Sequence
from contextlib import suppress
from typing import Any, final

from freerun._core._native import Waker, current_waker

from ._polling import cancel, first
from ._source import Source
from ._stream import Stream

__all__ = ["StreamMap"]


@final
class StreamMap[K: Hashable, T](Stream[tuple[K, T]]):
    """Streams by key, merged into one of `(key, item)`.

    A stream that ends leaves the map. When the map is empty the iteration ends; after another `insert()` it may be
    iterated again. A stream that raises leaves the map as well, and its exception comes out, with a note that names the
    key; the others stay, and the iteration may be continued.

    `StreamMap(mapping)` begins with these. Errors: `TypeError` for what is no async iterable. Cancel safety: a
    cancelled `anext()` loses no item. Thread safety: one task iterates at a time; `insert()`, `len()` and the like
    from any thread. Tokio: `tokio_stream::StreamMap`.

    Example::

        import freerun
        from freerun import stream

        async def main() -> dict[str, list[int]]:
            seen: dict[str, list[int]] = {}
            async with stream.StreamMap({"a": stream.iter([1, 2]), "b": stream.iter([3])}) as streams:
                async for key, item in streams:
                    seen.setdefault(key, []).append(item)
            return seen

        assert freerun.run(main) == {"a": [1, 2], "b": [3]}
    """

    __slots__ = ("_map", "_turn", "_waker")

    def __init__(self, streams: Mapping[K, AsyncIterable[T]] | None = None) -> None:
        super().__init__()
        self._map: dict[K, _Keyed[K, T]] = {}
        self._turn = 0
        self._waker: Waker | None = None  # of the task that waits for an item
        for key, stream in (streams or {}).items():
            self.insert(key, stream)

    def insert(self, key: K, stream: AsyncIterable[T], /) -> None:
        """Add a stream. A task that is waiting for an item waits for this one's, too. Never waits.

        Errors: `ValueError` if there is one with this key: `await remove(key)` first; `TypeError` for what is no async
        iterable; `RuntimeError` if the map was closed. Thread safety: any thread. Tokio: `StreamMap::insert`.
        """
        if self._closed:
            raise RuntimeError("this StreamMap has been closed")
        keyed = _Keyed(key, stream)
        if self._map.setdefault(key, keyed) is not keyed:
            raise ValueError(f"there is a stream with the key {key!r} already; await remove({key!r}) first")
        if (waker := self._waker) is not None:
            waker.wake()

    async def remove(self, key: K, /) -> None:
        """Take a stream out and close it: what it is at is cancelled, and cleans up, before this returns.

        One that has no `aclose()`, a receiver for one, may be used further.

        Errors: `KeyError` if there is none; what its cleanup raises; `RuntimeError` while another task iterates the
        map. Cancel safety: the stream is out at once; its cleanup is cancelled again. Tokio: `StreamMap::remove`.

        Example::

            import freerun
            from freerun import stream

            async def main() -> int:
                streams = stream.StreamMap({"ticks": freerun.time.interval(0.001)})
                await anext(streams)
                await streams.remove("ticks")
                return len(streams)

            assert freerun.run(main) == 0
        """
        self._enter()
        try:
            source = self._map.pop(key)
            errors = await cancel(source.half_done())
            await source.aclose()
            if errors:
                raise errors[0]
        finally:
            self._busy.release()

    def keys(self) -> KeysView[K]:
        """The keys of the streams in it. Thread safety: any thread. Tokio: `StreamMap::keys`."""
        return self._map.copy().keys()

    def contains_key(self, key: K, /) -> bool:
        """Whether there is a stream with this key; as `key in streams`. Tokio: `StreamMap::contains_key`."""
        return key in self._map

    def is_empty(self) -> bool:
        """Whether there is no stream. Thread safety: any thread. Tokio: `StreamMap::is_empty`."""
        return not self._map

    def __contains__(self, key: object) -> bool:
        return key in self._map

    def __len__(self) -> int:
        return len(self._map)

    def __bool__(self) -> bool:
        return True  # also an empty one can be iterated

    async def _polled(self) -> tuple[K, T]:
        return await self._next()  # neither an empty map nor one stream's failure ends it

    async def _next(self) -> tuple[K, T]:
        while self._map:
            self._turn += 1  # each is the first to be polled in its turn
            self._waker = current_waker()
            try:
                source = await first(_InTurns(self._map, self._turn))
            finally:
                self._waker = None
            with suppress(StopAsyncIteration):
                return source.key, self._take(source)
        raise StopAsyncIteration

    def _take(self, source: _Keyed[K, T]) -> T:
        try:
            return source.take()
        except StopAsyncIteration:
            self._map.pop(source.key, None)
            raise
        except BaseException as error:
            self._map.pop(source.key, None)
            error.add_note(f"in the stream {source.key!r} of a StreamMap")
            raise

    def _sources(self) -> Sequence[Source[Any]]:
        return list(self._map.copy().values())

    async def _close(self) -> None:
        await super()._close()
        self._map.clear()


class _Keyed[K, T](Source[T]):
    __slots__ = ("key",)

    def __init__(self, key: K, stream: AsyncIterable[T]) -> None:
        super().__init__(stream)
        self.key = key
        self.name = f"stream {key!r}"


class _InTurns[K, T]:
    """The streams that are in the map when it is iterated, beginning with another one each time."""

    __slots__ = ("_map", "_turn")

    def __init__(self, streams: dict[K, _Keyed[K, T]], turn: int) -> None:
        self._map = streams
        self._turn = turn

    def __iter__(self) -> Iterator[_Keyed[K, T]]:
        every = list(self._map.copy().values())
        begin = self._turn % max(1, len(every))
        return iter(every[begin:] + every[:begin])
