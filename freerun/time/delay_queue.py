"""`DelayQueue`: values that come out when their time has come."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Final, Self, final

from freerun._arguments import Seconds, nanoseconds
from freerun._core._native import consume_budget

from ._alarm import Alarm
from .instant import Instant, check_instant

__all__ = ["DelayQueue", "Expired", "Key"]

_SLACK: Final = 32


@final
class Key:
    """Names a value in a `DelayQueue`, until it has come out or was removed. Tokio: `delay_queue::Key`."""

    __slots__ = ()


@final
@dataclass(frozen=True, slots=True)
class Expired[T]:
    """What comes out of a `DelayQueue`: the value, the key it had, and the instant at which it was due.

    Tokio: `delay_queue::Expired`.
    """

    value: T
    key: Key
    deadline: Instant


@final
class DelayQueue[T]:
    """Values that come out when their time has come, earliest first; those of one instant in the order of insertion.

    `insert(value, seconds)` gives a key, with which the value can be removed or its time changed. `await next()` waits
    for the value that is due first; `async for expired in queue` takes values until the queue is empty. A queue that
    lives longer than its values: wait for the first insertion by other means, a `Notify` say, then iterate.

    Inserting and removing take O(log n), and no timer: there is one for each task that waits. What was removed is gone
    at once; its place is cleared up by the time that half of them are empty.

    Thread safety: any thread may call the methods, those that are awaited inside a task. Any number of tasks may wait;
    each value goes to one of them. The clock is that of the runtime in which `insert` is called.
    Tokio: `tokio_util::time::DelayQueue`.

    Example::

        import freerun
        from freerun.time import DelayQueue

        async def main() -> list[str]:
            queue: DelayQueue[str] = DelayQueue()
            queue.insert("last", 0.02)
            queue.insert("first", 0.01)
            never = queue.insert("never", 0.015)
            assert queue.remove(never) == "never"
            return [expired.value async for expired in queue]

        assert freerun.run(main) == ["first", "last"]
    """

    __slots__ = ("_alarm", "_entries", "_heap", "_lock", "_numbers")

    def __init__(self) -> None:
        # Reentrant: a destructor that the garbage collector runs meanwhile may use this queue.
        self._lock = threading.RLock()
        self._numbers = count()
        self._entries: dict[Key, tuple[int, int, T]] = {}  # deadline, number, value
        # One item for each entry, and stale ones: those whose number is no longer their entry's. The first is none.
        self._heap: list[tuple[int, int, Key]] = []
        self._alarm = Alarm()

    def insert(self, value: T, delay: Seconds, /) -> Key:
        """Put in a value that comes out `delay` seconds (or a `timedelta`) from now; `math.inf`: never by itself.

        Errors: `ValueError` if `delay` is negative or not a number, `TypeError`.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `DelayQueue::insert`.

        Example::

            import freerun
            from freerun.time import DelayQueue

            async def main() -> int:
                queue: DelayQueue[int] = DelayQueue()
                queue.insert(42, 0.01)
                return (await queue.next()).value

            assert freerun.run(main) == 42
        """
        return self._insert(value, _after(delay))

    def insert_at(self, value: T, when: Instant, /) -> Key:
        """Put in a value that comes out at an instant; if that has passed, at once.

        Errors: `TypeError` if `when` is no `Instant`.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `DelayQueue::insert_at`.

        Example::

            import freerun
            from freerun.time import DelayQueue, Instant

            async def main() -> bool:
                queue: DelayQueue[int] = DelayQueue()
                when = Instant.now() + 0.01
                queue.insert_at(42, when)
                return (await queue.next()).deadline == when

            assert freerun.run(main)
        """
        return self._insert(value, _at(when))

    async def next(self) -> Expired[T]:
        """Wait until the value that is due first is due, and take it.

        Errors: `IndexError` if the queue is empty, or becomes so; `RuntimeError` outside a task, or if the runtime has
        no timers. Cancel safety: no value is lost. Thread safety: for tasks, several at once too.
        Tokio: `DelayQueue::poll_expired`.

        Example::

            import freerun
            from freerun.time import DelayQueue

            async def main() -> str:
                queue: DelayQueue[str] = DelayQueue()
                queue.insert("value", 0.01)
                found = (await queue.next()).value
                try:
                    await queue.next()
                except IndexError:
                    return found
                return "more"

            assert freerun.run(main) == "value"
        """
        await consume_budget()  # what is due already must not starve the others
        return await self._alarm.wait(self._take)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Expired[T]:
        try:
            return await self.next()
        except IndexError:
            raise StopAsyncIteration from None

    def remove(self, key: Key, /) -> T:
        """Take a value out before its time, and return it.

        Errors: `KeyError` if it has come out or was removed, or is in another queue; `TypeError` if `key` is no `Key`.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `DelayQueue::remove`.

        Example::

            from freerun.time import DelayQueue

            queue: DelayQueue[str] = DelayQueue()
            key = queue.insert("value", 60)
            assert queue.remove(key) == "value"
            assert queue.is_empty()
        """
        with self._lock:
            first = self._first()
            _, _, value = self._entry(key)
            del self._entries[key]
            self._tidy()
            changed = self._first() is not first
        self._ring_if(changed)
        return value

    def reset(self, key: Key, delay: Seconds, /) -> None:
        """Let a value come out `delay` seconds (or a `timedelta`) from now instead.

        Errors: as those of `insert()` and `remove()`.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `DelayQueue::reset`.

        Example::

            import freerun
            from freerun.time import DelayQueue

            async def main() -> str:
                queue: DelayQueue[str] = DelayQueue()
                key = queue.insert("soon", 3600)
                queue.insert("later", 60)
                queue.reset(key, 0.01)
                return (await queue.next()).value

            assert freerun.run(main) == "soon"
        """
        self._reset(key, _after(delay))

    def reset_at(self, key: Key, when: Instant, /) -> None:
        """Let a value come out at an instant instead. As `reset()`. Tokio: `DelayQueue::reset_at`."""
        self._reset(key, _at(when))

    def deadline(self, key: Key, /) -> Instant:
        """When a value is due. Errors: as those of `remove()`. Tokio: `DelayQueue::deadline`."""
        with self._lock:
            return Instant(self._entry(key)[0])

    def peek(self) -> Key:
        """The key of the value that is due first. Errors: `IndexError` if the queue is empty. Any thread.

        Tokio: `DelayQueue::peek`.
        """
        with self._lock:
            if not self._heap:
                raise _empty()
            return self._heap[0][2]

    def clear(self) -> None:
        """Drop every value. Tasks that wait find the queue empty. Any thread. Tokio: `DelayQueue::clear`."""
        with self._lock:
            entries, self._entries = self._entries, {}
            self._heap = []
        self._ring_if(bool(entries))

    def is_empty(self) -> bool:
        """Whether there is no value. Any thread. Tokio: `DelayQueue::is_empty`."""
        return not self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<DelayQueue len={len(self)}>"

    def __reduce__(self) -> Any:
        raise TypeError("a DelayQueue belongs to its runtime: it cannot be pickled or copied")

    def _insert(self, value: T, when: int) -> Key:
        key = Key()
        with self._lock:
            self._put(key, when, value)
            changed = self._heap[0][2] is key
        self._ring_if(changed)
        return key

    def _reset(self, key: Key, when: int) -> None:
        with self._lock:
            first = self._first()
            _, _, value = self._entry(key)
            self._put(key, when, value)
            self._tidy()
            changed = self._first() is not first
        self._ring_if(changed)

    def _take(self) -> Expired[T] | int:
        """The value that is due, or when to look again."""
        now = Instant.now().ns
        with self._lock:
            if not self._heap:
                raise _empty()
            when, _, key = self._heap[0]
            if now < when:
                return when
            heappop(self._heap)
            _, _, value = self._entries.pop(key)
            self._tidy()
        return Expired(value, key, Instant(when))

    # With the lock held:

    def _entry(self, key: Key) -> tuple[int, int, T]:
        if not isinstance(key, Key):
            raise TypeError(f"argument 'key' must be a Key, as insert() returns it, not {type(key).__name__}: {key!r}")
        try:
            return self._entries[key]
        except KeyError:
            raise KeyError("this key's value has come out or was removed, or is in another DelayQueue") from None

    def _put(self, key: Key, when: int, value: T) -> None:
        number = next(self._numbers)
        self._entries[key] = (when, number, value)
        heappush(self._heap, (when, number, key))

    def _first(self) -> tuple[int, int, Key] | None:
        return self._heap[0] if self._heap else None

    def _is_stale(self, item: tuple[int, int, Key]) -> bool:
        entry = self._entries.get(item[2])
        return entry is None or entry[1] != item[1]

    def _tidy(self) -> None:
        """Drop stale items from the front, and all of them once they are the majority."""
        while self._heap and self._is_stale(self._heap[0]):
            heappop(self._heap)
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._heap = [(when, number, key) for key, (when, number, _) in self._entries.copy().items()]
            heapify(self._heap)

    def _ring_if(self, changed: bool) -> None:
        if changed:
            self._alarm.ring()


def _after(delay: Seconds) -> int:
    return Instant.now().ns + nanoseconds(delay, "delay")


def _at(when: object) -> int:
    return check_instant(when, "when", "insert() and reset() take seconds").ns


def _empty() -> IndexError:
    return IndexError("the DelayQueue is empty")
