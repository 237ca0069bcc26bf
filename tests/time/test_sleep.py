"""`time.sleep` and `time.sleep_until`: never early, any duration, cancel safe."""

from __future__ import annotations

import datetime as dt
import math
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from support import Flavor, every_flavor, is_parked, seeded, until

import freerun
from freerun.time import Instant, sleep, sleep_until


@pytest.mark.parametrize("seconds", [0, 0.0, 1e-9, 0.0001, 0.001, 0.0031, 0.01, dt.timedelta(milliseconds=3)], ids=repr)
def test_never_early(rt: freerun.Runtime, seconds: Any) -> None:
    async def main() -> None:
        for _ in range(5):
            before, start = time.monotonic(), Instant.now()
            assert await sleep(seconds) is None
            wanted = seconds.total_seconds() if isinstance(seconds, dt.timedelta) else seconds
            assert start.elapsed() >= wanted
            assert time.monotonic() - before >= wanted

    rt.block_on(main)


@pytest.mark.parametrize(("bad", "error"), [
    (-1, ValueError), (-1e-9, ValueError), (math.nan, ValueError), (-math.inf, ValueError),
    (dt.timedelta(seconds=-1), ValueError), (10**400, ValueError),
    ("1", TypeError), (None, TypeError), (True, TypeError), ([], TypeError), (1j, TypeError),
], ids=repr)  # fmt: skip
def test_bad_durations(bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="argument 'seconds'"):
        sleep(bad)


@every_flavor
async def test_other_numbers() -> None:
    for number in (Fraction(1, 1000), Decimal("0.001")):
        start = Instant.now()
        await sleep(number)  # type: ignore[arg-type]
        assert start.elapsed() >= 0.001


@pytest.mark.parametrize("seconds", [3600, 1e9, 1e18, 1e300, math.inf, dt.timedelta.max], ids=repr)
def test_huge(rt: freerun.Runtime, seconds: Any) -> None:
    """It sleeps on and can be aborted."""

    async def main() -> None:
        task = freerun.spawn(sleep(seconds))
        await until(lambda: is_parked(task))
        await sleep(0.002)
        assert not task.is_finished()
        task.abort()
        with pytest.raises(freerun.JoinError):
            await task

    rt.block_on(main)


@every_flavor
async def test_order() -> None:
    """Timers fire in the order of their deadlines, or later ones together."""
    order: list[int] = []

    async def sleeper(ms: int) -> None:
        await sleep_until(start + ms / 1000)
        order.append(ms)
        assert start.elapsed() >= ms / 1000

    start = Instant.now()
    tasks = [freerun.spawn(sleeper, ms) for ms in (40, 5, 20, 1, 10, 30, 0)]
    for task in tasks:
        await task
    assert sorted(order) == [0, 1, 5, 10, 20, 30, 40]


@every_flavor
async def test_thousands() -> None:
    random = seeded()

    async def sleeper(seconds: float) -> None:
        deadline = Instant.now() + seconds
        await sleep(seconds)
        assert Instant.now() >= deadline

    tasks = [freerun.spawn(sleeper, random.uniform(0, 0.05)) for _ in range(3000)]
    for task in tasks:
        await task


@every_flavor
async def test_abort_takes_the_timer_out() -> None:
    for _ in range(5):
        tasks = [freerun.spawn(sleep(0.001 if i % 2 else 3600)) for i in range(200)]
        await freerun.yield_now()
        for task in tasks[::2]:
            task.abort()
        for i, task in enumerate(tasks):
            if i % 2:
                await task
            else:
                with pytest.raises(freerun.JoinError):
                    await task


@every_flavor
async def test_sleep_until() -> None:
    deadline = Instant.now() + 0.005
    await sleep_until(deadline)
    assert Instant.now() >= deadline
    await sleep_until(deadline)  # over: at once
    await sleep_until(Instant(0))
    await sleep_until(Instant(-5))


def test_sleep_until_bad_argument() -> None:
    for bad in (1.5, 0, None, "x", dt.timedelta(1)):
        with pytest.raises(TypeError, match="argument 'deadline'"):
            sleep_until(bad)  # type: ignore[arg-type]


@every_flavor
async def test_the_clock_of_a_sleep_starts_with_its_await() -> None:
    later = sleep(0.01)
    await sleep(0.015)
    start = Instant.now()
    await later
    assert start.elapsed() >= 0.01


@every_flavor
async def test_awaited_again() -> None:
    twice = sleep(0.002)
    await twice
    await twice  # it is over


@every_flavor
async def test_a_sleep_that_moves_to_another_task() -> None:
    """Longer and longer, until it is short enough to wait for and long enough to be aborted."""

    async def naps(nap: Any) -> None:
        await nap

    for seconds in (0.01, 0.1, 1, 10):
        nap = sleep(seconds)
        first = freerun.spawn(naps, nap)
        await until(lambda: is_parked(first) or first.is_finished())
        first.abort()
        try:
            await first
        except freerun.JoinError:
            break
    else:
        raise AssertionError("it was never aborted in its sleep")
    await freerun.spawn(naps, nap)


@every_flavor
async def test_a_sleep_that_outlives_its_runtime() -> None:
    kept: list[Any] = []

    async def main() -> None:
        nap = sleep(3600)
        kept.append(nap)
        await nap

    def other_runtime() -> None:
        rt = freerun.Builder().worker_threads(1).build()
        task = rt.spawn(main)
        while not is_parked(task):
            time.sleep(0.0005)
        rt.shutdown()

    await freerun.spawn_blocking(other_runtime)
    freerun.spawn(sleep(0.001))
    kept.clear()  # the timer's wheel is gone
    await sleep(0.001)


def test_without_timers(flavor: Flavor) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="enable_time"):
            await sleep(0.001)
        await freerun.yield_now()

    with flavor.builder().enable_io().build() as rt:
        rt.block_on(main)


@every_flavor
async def test_millions_of_seconds_apart() -> None:
    """Deadlines of every level of the wheel at once; the near ones fire, the far ones can be taken out."""
    far = [freerun.spawn(sleep(64.0**level)) for level in range(1, 9) for _ in range(10)]
    near = [freerun.spawn(sleep(0.0005 * i)) for i in range(40)]
    for task in near:
        await task
    assert not any(task.is_finished() for task in far)
    for task in far:
        task.abort()
    for task in far:
        with pytest.raises(freerun.JoinError):
            await task
