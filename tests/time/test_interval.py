"""`interval` and `interval_at`: the schedule, what was missed, moving it."""

from __future__ import annotations

import copy
import datetime as dt
import math
import time
from typing import Any

import pytest
from support import CURRENT, STRICT, Flavor, every_flavor, in_threads, is_parked, occupy, only, until

import freerun
from freerun.time import Instant, Interval, MissedTick, advance, interval, interval_at, sleep, timeout


class Ticker:
    """An interval whose ticks a task writes down, as offsets in ms from its start, at once when they come."""

    def __init__(self, missed_tick: MissedTick = "burst") -> None:
        self.start = Instant.now()
        self.interval = interval_at(self.start, 0.3, missed_tick)
        self.ticks: list[int] = []

    async def poll(self, *expected: int) -> None:
        """Take what is ready now: exactly these ticks."""
        found = []
        try:
            while True:
                found.append(round((await timeout(0, self.interval.tick()) - self.start) * 1000))
        except TimeoutError:
            assert found == list(expected)


@freerun.test(start_paused=True)
async def test_burst() -> None:
    every = Ticker()
    await every.poll(0)
    await advance(0.1)
    await every.poll()
    await advance(0.2)
    await every.poll(300)
    await advance(0.65)
    await every.poll(600, 900)
    await advance(0.2)
    await every.poll()
    await advance(0.1)
    await every.poll(1200)
    await advance(0.25)
    await every.poll(1500)


@freerun.test(start_paused=True)
async def test_delay() -> None:
    every = Ticker("delay")
    await every.poll(0)
    await advance(0.3)
    await every.poll(300)
    await advance(0.65)  # at 950
    await every.poll(600)
    await advance(0.2)
    await every.poll()
    await advance(0.1)
    await every.poll(1250)
    await advance(0.3)
    await every.poll(1550)


@freerun.test(start_paused=True)
async def test_skip() -> None:
    every = Ticker("skip")
    await every.poll(0)
    await advance(0.3)
    await every.poll(300)
    await advance(0.65)  # at 950
    await every.poll(600)
    await advance(0.249)
    await every.poll()
    await advance(0.001)
    await every.poll(1200)
    await advance(10.0)  # at 11200
    await every.poll(1500)
    await advance(0.2)
    await every.poll(11400)


@freerun.test(start_paused=True)
async def test_a_little_late_is_not_missed() -> None:
    """Up to 5 ms, whatever the behaviour."""
    behaviours: list[MissedTick] = ["burst", "delay", "skip"]
    for missed_tick in behaviours:
        every = Ticker(missed_tick)
        await every.poll(0)
        await advance(0.304)
        await every.poll(300)
        await advance(0.296)
        await every.poll(600)


@freerun.test(start_paused=True)
async def test_reset() -> None:
    every = Ticker()
    await every.poll(0)
    await advance(0.3)
    await every.poll(300)
    await advance(0.1)
    every.interval.reset()
    await advance(0.299)
    await every.poll()
    await advance(0.001)
    await every.poll(700)
    await advance(0.3)
    await every.poll(1000)
    every.interval.reset_immediately()
    await every.poll(1000)
    every.interval.reset_after(0.05)
    await every.poll()
    await advance(0.05)
    await every.poll(1050)
    every.interval.reset_after(dt.timedelta(0))
    await every.poll(1050)
    every.interval.reset_at(every.start + 2)
    await advance(0.949)
    await every.poll()
    await advance(0.001)
    await every.poll(2000)
    await advance(0.3)
    await every.poll(2300)


@freerun.test(start_paused=True)
async def test_reset_while_somebody_waits() -> None:
    """The tick that is being waited for moves too, both ways, and a paused clock stops at no deadline that is gone."""
    every = interval_at(Instant.now() + 100, 60)
    start = Instant.now()
    tick = freerun.spawn(every.tick)
    await freerun.yield_now()
    every.reset_after(1)
    assert await tick == start + 1
    assert start.elapsed() < 1.002

    start = Instant.now()
    every.reset_after(5)
    tick = freerun.spawn(every.tick)
    await freerun.yield_now()
    every.reset_after(1000)
    assert await tick == start + 1000
    assert 1000 <= start.elapsed() < 1000.002


@every_flavor
async def test_real_time() -> None:
    start = Instant.now()
    every = interval(0.005)
    ticks = [await every.tick() for _ in range(5)]
    assert start.elapsed() >= 0.02
    assert [round((b - a) * 1000) for a, b in zip(ticks, ticks[1:], strict=False)] == [5] * 4
    count = 0
    async for tick in every:
        assert tick <= Instant.now()
        count += 1
        if count == 3:
            break


@every_flavor
async def test_first_tick_comes_at_once() -> None:
    start = Instant.now()
    first = await interval(3600).tick()
    assert start <= first <= Instant.now()
    past = Instant.now() - 7200
    every = interval_at(past, 3600)
    assert await every.tick() == past
    assert await every.tick() == past + 3600


@every_flavor
async def test_cancelled_ticks_are_not_lost() -> None:
    every = interval_at(Instant.now() + 3600, 3600)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await timeout(0.001, every.tick())
    every.reset_after(0.01)
    task = freerun.spawn(every.tick)
    await until(lambda: is_parked(task) or task.is_finished())
    task.abort()
    try:
        await task
    except freerun.JoinError:
        await every.tick()
    with pytest.raises(TimeoutError):
        await timeout(0.005, every.tick())


@every_flavor
async def test_several_takers() -> None:
    """Each tick goes to one of them."""
    every = interval(0.001)
    taken: list[Instant] = []

    async def takes() -> None:
        for _ in range(5):
            taken.append(await every.tick())

    tasks = [freerun.spawn(takes) for _ in range(4)]
    for task in tasks:
        await task
    assert len(set(taken)) == 20
    taken.sort()
    assert [round((b - a) * 1000) for a, b in zip(taken, taken[1:], strict=False)] == [1] * 19


@only(CURRENT, *STRICT)
@every_flavor
async def test_a_burst_does_not_starve_others(flavor: Flavor) -> None:
    """A thousand ticks are ready at once. After the first 128 it is behind the other in the queue of its worker, or
    just before it. With a second worker it could go there, and be done while the system lets the first one wait."""
    release = await occupy(max(flavor.workers - 1, 0))
    every = interval_at(Instant.now() - 100, 0.001)
    ran: list[int] = []

    async def other() -> None:
        ran.append(len(ticks))

    ticks: list[Instant] = []

    async def takes() -> None:
        freerun.spawn(other)
        for _ in range(1000):
            ticks.append(await every.tick())

    await freerun.spawn(takes)
    release()
    await until(lambda: ran)
    assert ran[0] <= 2 * 128


@every_flavor
async def test_reset_from_threads() -> None:
    every = interval_at(Instant.now() + 3600, 3600)

    async def takes() -> None:
        await every.tick()

    task = freerun.spawn(takes)

    def work(i: int) -> None:
        time.sleep(0.001 * i)
        every.reset_after(0.005 if i == 3 else 3600)

    def threads() -> None:
        with in_threads(4, lambda i: work(i) if i < 3 else None):
            pass
        work(3)

    await freerun.spawn_blocking(threads)
    await task


@pytest.mark.parametrize(("bad", "error"), [
    (0, ValueError), (0.0, ValueError), (1e-12, ValueError), (-1, ValueError), (math.nan, ValueError),
    (10**400, ValueError), ("1", TypeError), (None, TypeError), (True, TypeError),
], ids=repr)  # fmt: skip
def test_bad_periods(bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="argument 'period'"):
        interval(bad)
    with pytest.raises(error, match="argument 'period'"):
        interval_at(Instant.now(), bad)


@pytest.mark.parametrize("period", [math.inf, 1e300, 1e18, dt.timedelta.max], ids=repr)
@every_flavor
async def test_for_ever(period: Any) -> None:
    """One tick, and no other until it is reset."""
    for missed_tick in ("burst", "delay", "skip"):
        every = interval(period, missed_tick)  # type: ignore[arg-type]
        assert every.period >= 1e13
        await every.tick()
        with pytest.raises(TimeoutError):
            await timeout(0.005, every.tick())
        every.reset_after(period)
        every.reset_immediately()
        await every.tick()


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="argument 'start'"):
        interval_at(5.0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="argument 'missed_tick'"):
        interval(1, "never")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 'missed_tick'"):
        interval(1, missed_tick=5)  # type: ignore[arg-type]
    every = interval(1)
    with pytest.raises(ValueError, match="argument 'missed_tick'"):
        every.missed_tick = "x"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="argument 'after'"):
        every.reset_after(-1)
    with pytest.raises(TypeError, match="argument 'deadline'"):
        every.reset_at(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.copy(every)


def test_attributes() -> None:
    every = interval(dt.timedelta(milliseconds=250), missed_tick="skip")
    assert isinstance(every, Interval)
    assert every.period == 0.25
    assert every.missed_tick == "skip"
    every.missed_tick = "delay"
    assert every.missed_tick == "delay"
    assert repr(every) == "<Interval period=0.25 missed_tick='delay'>"


def test_outside_a_task() -> None:
    every = interval(1)
    with pytest.raises(RuntimeError, match="inside a freerun task only"):
        every.tick().send(None)


def test_without_timers(flavor: Flavor) -> None:
    async def main() -> None:
        every = interval(60)
        await every.tick()  # nothing to wait for
        with pytest.raises(RuntimeError, match="enable_time"):
            await every.tick()
        await freerun.yield_now()

    with flavor.builder().enable_io().build() as rt:
        rt.block_on(main)


@freerun.test(start_paused=True)
async def test_sleeping_tasks_share_the_clock() -> None:
    """A mix of a sleeper, a ticker and a limit runs in the order of the clock, always the same."""
    for _ in range(3):
        log: list[str] = []

        async def ticks(log: list[str] = log) -> None:
            async for _ in interval(1):
                log.append("tick")

        async def sleeps(log: list[str] = log) -> None:
            await sleep(1.5)
            log.append("slept")

        task = freerun.spawn(sleeps)
        with pytest.raises(TimeoutError):
            await timeout(2.5, ticks())
        await task
        assert log == ["tick", "tick", "slept", "tick"]
