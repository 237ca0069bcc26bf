"""`interval`: ticks at a fixed period."""

from __future__ import annotations

import threading
from typing import Any, Final, Literal, Self, final

from freerun._arguments import Seconds, nanoseconds, one_of, seconds
from freerun._core._native import consume_budget

from ._alarm import Alarm
from .instant import Instant, check_instant

__all__ = ["Interval", "MissedTick", "interval", "interval_at"]

type MissedTick = Literal["burst", "delay", "skip"]
"""What an `Interval` does after ticks that nobody was there to take."""

_BEHAVIOURS: Final = ("burst", "delay", "skip")
_LATE_NS: Final = 5_000_000
"""A tick that is taken this much after its time has been missed; Tokio's number."""


@final
class Interval:
    """Ticks at a fixed period. `interval()` and `interval_at()` make it.

    `await tick()` waits for the next tick; `async for instant in interval` ticks for ever. Each tick goes to one taker.
    After ticks that were missed, because the taker was busy for more than a period,

    * `"burst"`: they come at once, one after the other, until the schedule is caught up with. The default.
    * `"delay"`: the next one comes a period after the late one was taken; the schedule moves.
    * `"skip"`: they are left out; the next one comes at the next multiple of the period on the old schedule.

    Thread safety: any thread may call the methods, those that are awaited inside a task.
    Tokio: `tokio::time::Interval`.

    Example::

        import freerun
        from freerun.time import interval

        async def main() -> list[float]:
            ticks = []
            every = interval(0.01)
            async for instant in every:
                ticks.append(instant)
                if len(ticks) == 3:
                    break
            return [round(b - a, 9) for a, b in zip(ticks, ticks[1:])]

        assert freerun.run(main) == [0.01, 0.01]
    """

    __slots__ = ("_alarm", "_lock", "_missed_tick", "_next", "_period", "_seconds")

    def __init__(self, start: Instant, period: Seconds, missed_tick: MissedTick) -> None:
        self._seconds = seconds(period, "period", for_ever=True)
        self._period = nanoseconds(period, "period")
        if self._period == 0:
            raise ValueError(f"argument 'period' must be a nanosecond at the least: {period!r}")
        self._missed_tick = one_of(missed_tick, "missed_tick", _BEHAVIOURS)
        self._next = start.ns
        self._lock = threading.Lock()  # of _next
        self._alarm = Alarm()

    @property
    def period(self) -> float:
        """Seconds between two ticks. Tokio: `Interval::period`."""
        return self._seconds

    @property
    def missed_tick(self) -> MissedTick:
        """`"burst"`, `"delay"` or `"skip"`; may be assigned. Tokio: `Interval::missed_tick_behavior`."""
        return self._missed_tick  # type: ignore[return-value]  # one_of() has checked it

    @missed_tick.setter
    def missed_tick(self, value: MissedTick) -> None:
        self._missed_tick = one_of(value, "missed_tick", _BEHAVIOURS)

    async def tick(self) -> Instant:
        """Wait for the next tick and return the instant it was due, which is in the past if it was late.

        Errors: `RuntimeError` outside a task, or if the runtime has no timers.
        Cancel safety: no tick is lost. Thread safety: for tasks, several at once too. Tokio: `Interval::tick`.

        Example::

            import freerun
            from freerun.time import Instant, interval

            async def main() -> float:
                every = interval(0.01)
                first = await every.tick()  # at once
                return await every.tick() - first

            assert freerun.run(main) == 0.01
        """
        await consume_budget()  # a burst must not starve the others
        return await self._alarm.wait(self._take)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Instant:
        return await self.tick()

    def reset(self) -> None:
        """Let the next tick come a period from now. Tokio: `Interval::reset`."""
        self._move(Instant.now().ns + self._period)

    def reset_immediately(self) -> None:
        """Let the next tick come now. Tokio: `Interval::reset_immediately`."""
        self._move(Instant.now().ns)

    def reset_after(self, after: Seconds, /) -> None:
        """Let the next tick come `after` seconds (or a `timedelta`) from now. Tokio: `Interval::reset_after`."""
        self._move(Instant.now().ns + nanoseconds(after, "after"))

    def reset_at(self, deadline: Instant, /) -> None:
        """Let the next tick come at `deadline`. Tokio: `Interval::reset_at`."""
        self._move(check_instant(deadline, "deadline", "reset_after() takes seconds").ns)

    def _move(self, when: int) -> None:
        with self._lock:
            self._next = when
        self._alarm.ring()

    def _take(self) -> Instant | int:
        """The tick that is due, or when to look again."""
        now = Instant.now().ns
        with self._lock:
            due = self._next
            if now < due:
                return due
            self._next = self._after(due, now)
        return Instant(due)

    def _after(self, due: int, now: int) -> int:
        """When the tick after the one that was due, and is taken now, comes."""
        if now <= due + _LATE_NS or self._missed_tick == "burst":
            return due + self._period
        if self._missed_tick == "delay":
            return now + self._period
        return now + self._period - (now - due) % self._period

    def __repr__(self) -> str:
        return f"<Interval period={self._seconds:g} missed_tick={self._missed_tick!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("an Interval belongs to its runtime: it cannot be pickled or copied")


def interval(period: Seconds, /, missed_tick: MissedTick = "burst") -> Interval:
    """Tick every `period` seconds (or a `timedelta`); the first tick comes at once.

    `missed_tick` says what happens after ticks that came too late to be taken in time: see `Interval`.

    Errors: `ValueError` if `period` is zero, negative or not a number, or for another `missed_tick`; `TypeError`.
    Cancel safety: does not wait. Thread safety: any thread. Tokio: `tokio::time::interval`.

    Example::

        import freerun
        from freerun.time import interval, sleep

        @freerun.main(flavor="current_thread", start_paused=True)
        async def main() -> list[float]:
            every = interval(1, missed_tick="skip")
            start = await every.tick()
            await sleep(2.5)  # misses a tick
            return [await every.tick() - start for _ in range(3)]

        assert main() == [1, 3, 4]
    """
    return Interval(Instant.now(), period, missed_tick)


def interval_at(start: Instant, period: Seconds, /, missed_tick: MissedTick = "burst") -> Interval:
    """Tick every `period` seconds, for the first time at `start`.

    Errors: `TypeError` if `start` is no `Instant`; for the rest see `interval()`.
    Cancel safety: does not wait. Thread safety: any thread. Tokio: `tokio::time::interval_at`.

    Example::

        import freerun
        from freerun.time import Instant, interval_at

        async def main() -> bool:
            start = Instant.now() + 0.01
            every = interval_at(start, 60)
            return await every.tick() == start

        assert freerun.run(main)
    """
    return Interval(check_instant(start, "start", "Instant.now() + seconds gives one"), period, missed_tick)
