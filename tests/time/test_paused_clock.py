"""The paused clock: stands still, jumps when idle, moves when told to. Current-thread only."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest
from support import MULTI, PATIENCE, only, seeded

import freerun
from freerun.time import Instant, advance, pause, resume, sleep, sleep_until, timeout


@freerun.test(start_paused=True)
async def test_sleep_takes_no_time() -> None:
    real, start = time.monotonic(), Instant.now()
    await sleep(100_000)
    assert start.elapsed() >= 100_000
    assert time.monotonic() - real < PATIENCE


@freerun.test(start_paused=True)
async def test_stands_still_while_busy() -> None:
    start = Instant.now()
    for _ in range(1000):
        await freerun.yield_now()
    assert start.elapsed() == 0


@freerun.test()
async def test_times_are_exact_whenever_it_was_paused() -> None:
    for _ in range(20):
        await freerun.yield_now()
        pause()
        start = Instant.now()
        for milliseconds in (1, 20, 300):
            await sleep(milliseconds / 1000)
        assert start.elapsed() == pytest.approx(0.321, abs=1e-9)
        resume()


@freerun.test(start_paused=True)
async def test_order_of_timers() -> None:
    order: list[float] = []

    async def sleeper(seconds: float) -> None:
        await sleep(seconds)
        order.append(seconds)
        assert seconds <= start.elapsed() <= seconds + 0.002  # the resolution

    start = Instant.now()
    tasks = [freerun.spawn(sleeper, seconds) for seconds in (5, 1, 1000, 0.5, 30)]
    for task in tasks:
        await task
    assert order == [0.5, 1, 5, 30, 1000]


@freerun.test(start_paused=True)
async def test_advance() -> None:
    hour = freerun.spawn(sleep(3600))
    await freerun.yield_now()
    start = Instant.now()
    await advance(1800)
    assert start.elapsed() == 1800
    assert not hour.is_finished()
    await advance(1801)
    for _ in range(3):
        await freerun.yield_now()
    assert hour.is_finished()
    await advance(0)


@freerun.test(start_paused=True)
async def test_the_same_seconds_are_as_long_everywhere() -> None:
    """0.067 * 1e9 is a little more than 67000000, 1.001 * 1e9 a little less than 1001000000."""
    random = seeded()
    for seconds in (0.067, 1.001, 0.1, *(random.randrange(1, 100_000) / 1000 for _ in range(300))):
        start = Instant.now()
        await sleep(seconds)
        assert start.elapsed() == pytest.approx(seconds, abs=1e-9)
        naps = [freerun.spawn(sleep(seconds)), freerun.spawn(sleep_until(Instant.now() + seconds))]
        await freerun.yield_now()
        await advance(seconds)
        for _ in range(3):
            await freerun.yield_now()
        assert all(nap.is_finished() for nap in naps), seconds


@freerun.test(start_paused=True)
async def test_for_ever_is_not_jumped_to() -> None:
    """Who sleeps for ever waits for others, and no idle clock runs to its end."""
    start = Instant.now()
    naps = [freerun.spawn(sleep(seconds)) for seconds in (math.inf, 1e300, 1e18)]
    naps.append(freerun.spawn(sleep_until(start + math.inf)))
    await sleep(365 * 86400)
    with pytest.raises(TimeoutError):
        await timeout(10, sleep(math.inf))
    assert start.elapsed() == 365 * 86400 + 10
    for nap in naps:
        assert not nap.is_finished()
        nap.abort()
        with pytest.raises(freerun.JoinError):
            await nap


@freerun.test(start_paused=True)
async def test_the_clock_has_an_end() -> None:
    """It is an error to go beyond it; the clock never turns back."""
    start = Instant.now()
    for bad in (1e300, 1e18, 10**12):
        with pytest.raises(ValueError, match="argument 'duration'"):
            await advance(bad)
    for bad in (math.inf, math.nan, -1):
        with pytest.raises(ValueError, match="argument 'duration'"):
            await advance(bad)
    assert start.elapsed() == 0
    await advance(100 * 365 * 86400)
    with pytest.raises(ValueError, match="end of the clock"):
        await advance(100 * 365 * 86400)
    before = Instant.now()
    await sleep(1)
    assert before.elapsed() == 1


@freerun.test(start_paused=True)
async def test_what_is_ready_comes_before_the_next_timer() -> None:
    """Loopback needs no time: a jump of the clock must not overtake bytes that are there already."""
    ours, theirs = freerun.net.UnixStream.pair()

    async def echo() -> None:
        while data := await theirs.read():
            await theirs.write_all(data)

    server = freerun.spawn(echo)
    start = Instant.now()
    async with ours:
        for _ in range(100):
            await ours.write_all(b"x")
            assert await freerun.time.timeout(10, ours.read()) == b"x"
    assert start.elapsed() == 0
    await server
    theirs.close()


@freerun.test(start_paused=True)
async def test_blocking_work_holds_the_clock() -> None:
    """Time does not jump while a blocking call may still bring something about."""
    release = threading.Event()
    call = freerun.spawn_blocking(release.wait, PATIENCE)
    timer = freerun.spawn(sleep(3600))
    for _ in range(20):
        await freerun.yield_now()
    time.sleep(0.005)
    assert not timer.is_finished()
    release.set()
    assert await call
    await timer


@freerun.test
async def test_pause_and_resume() -> None:
    pause()
    with pytest.raises(RuntimeError, match="paused already"):
        pause()
    start = Instant.now()
    await sleep(10)
    assert start.elapsed() >= 10
    resume()
    with pytest.raises(RuntimeError, match="not paused"):
        resume()
    with pytest.raises(RuntimeError, match="not paused"):
        await advance(1)
    before = Instant.now()
    assert before >= start + 10, "it goes on from where it stood"
    real = time.monotonic()
    await sleep(0.005)
    assert time.monotonic() - real >= 0.005


@freerun.test(start_paused=True)
async def test_bad_advance() -> None:
    for bad, error in ((-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("x", TypeError)):
        with pytest.raises(error, match="'duration'"):
            await advance(bad)


@freerun.test(start_paused=True)
async def test_deadlines_already_past() -> None:
    start = Instant.now()
    await sleep_until(start)
    await sleep(0)
    assert start.elapsed() == 0


@freerun.test(start_paused=True)
async def test_aborted_timer_does_not_move_the_clock() -> None:
    start = Instant.now()
    far = freerun.spawn(sleep(1_000_000))
    await freerun.yield_now()
    far.abort()
    with pytest.raises(freerun.JoinError):
        await far
    await sleep(1)
    assert start.elapsed() < 2


@freerun.test(start_paused=True)
async def test_an_aborted_advance_has_moved_the_clock() -> None:
    start = Instant.now()
    task = freerun.spawn(advance, 10)
    await freerun.yield_now()  # it gives way to what is due
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert start.elapsed() >= 10


@only(*MULTI)
def test_multi_thread_refuses(rt: freerun.Runtime) -> None:
    async def main() -> None:
        for call in (pause, resume):
            with pytest.raises(RuntimeError, match="current-thread"):
                call()
        with pytest.raises(RuntimeError, match="current-thread"):
            await advance(1)

    rt.block_on(main)
    with pytest.raises(ValueError, match="start_paused"):
        freerun.Builder().start_paused().build()


def test_outside_a_runtime() -> None:
    for call in (pause, resume):
        with pytest.raises(RuntimeError, match="no freerun runtime"):
            call()


def test_shutdown_of_a_paused_runtime() -> None:
    log: list[Any] = []

    async def cleans_up() -> None:
        try:
            await freerun.lowlevel.park()
        finally:
            await sleep(500)
            log.append("clean")

    async def main() -> None:
        freerun.spawn(cleans_up)
        await freerun.yield_now()

    with freerun.Builder.new_current_thread().start_paused().build() as rt:
        rt.block_on(main)
    assert log == ["clean"]
