"""Brief blocking calls, whose threads and workers look for one another awake: no call is lost, none waits for a thread
that has something else to do, and no thread stays behind.

Whether anybody spins depends on the machine, so each test makes brief calls until somebody would, and holds either way.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from random import Random

from support import PATIENCE, Flavor, check_script, every_flavor, in_threads, seeded, thread_count, until, wait_until

import freerun

BRIEF = 200
"""Calls after which it is known that they are brief."""


def same(number: int) -> int:
    return number


async def brief_calls(count: int = BRIEF) -> None:
    for number in range(count):
        assert await freerun.spawn_blocking(same, number) == number


@every_flavor
async def test_one_after_another() -> None:
    await brief_calls(2000)


@every_flavor
async def test_from_many_tasks(rt: freerun.Runtime) -> None:
    """More calls at once than threads spin; some with pauses longer than a spin, so that threads sleep in between."""
    random = seeded()
    pauses = [[random.choice([0, 0, 0, 0.0001, 0.002]) for _ in range(100)] for _ in range(8)]

    async def work(mine: list[float]) -> int:
        total = 0
        for pause in mine:
            total += await freerun.spawn_blocking(same, 1)
            if pause:
                await freerun.time.sleep(pause)
        return total

    assert await freerun.join(*[freerun.spawn(work, mine) for mine in pauses]) == (100,) * 8
    assert rt.metrics().blocking_queue_depth == 0


@every_flavor
async def test_brief_after_long() -> None:
    """A call that waits for a later one, which must not wait for its thread."""
    for _ in range(10):
        await brief_calls(50)
        event = threading.Event()
        waits = freerun.spawn_blocking(event.wait, PATIENCE)
        await brief_calls(10)
        await freerun.spawn_blocking(event.set)
        assert await waits


async def answer(number: int) -> int:
    return number


class Waits:
    """Its destructor waits for an event that another blocking call sets."""

    def __init__(self, entered: threading.Event, event: threading.Event, outcomes: list[bool]) -> None:
        self.entered, self.event, self.outcomes = entered, event, outcomes

    def __del__(self) -> None:
        self.entered.set()
        self.outcomes.append(self.event.wait(PATIENCE))


@every_flavor
async def test_result_with_a_slow_destructor() -> None:
    """Nobody wants the result, so the pool's thread drops it after the call has ended: it is not at the queue then."""
    outcomes: list[bool] = []

    def make(detached: threading.Event, entered: threading.Event, event: threading.Event) -> Waits:
        assert detached.wait(PATIENCE)  # else whoever detaches has the result, and drops it
        return Waits(entered, event, outcomes)

    for _ in range(20):
        await brief_calls(50)
        detached, entered, event = threading.Event(), threading.Event(), threading.Event()
        freerun.spawn_blocking(make, detached, entered, event).detach()
        detached.set()
        await freerun.spawn_blocking(entered.wait, PATIENCE)
        await freerun.spawn_blocking(event.set)
    await until(lambda: len(outcomes) == 20)
    assert all(outcomes)


@every_flavor
async def test_timers_and_tasks_go_on() -> None:
    """A worker that spins all the time keeps neither the driver from its turns nor other tasks from theirs."""
    stop = False

    async def calls() -> int:
        count = 0
        while not stop:
            count += await freerun.spawn_blocking(same, 1)
        return count

    calling = freerun.spawn(calls)
    for _ in range(50):
        await freerun.time.sleep(0.001)
        assert await freerun.spawn(freerun.yield_now) is None
    stop = True
    assert await calling > 0


@every_flavor
async def test_wakes_from_other_threads(rt: freerun.Runtime) -> None:
    """What a plain thread spawns while a worker spins is run, without a wake that would be made for a sleeper."""
    calling = freerun.spawn(brief_calls, 2000)

    def outside() -> None:
        for number in range(200):
            assert rt.spawn(answer, number).blocking_result() == number

    await freerun.spawn_blocking(outside)
    await calling


def test_keep_alive_shorter_than_a_spin(flavor: Flavor) -> None:
    """Threads leave while others spin, sleep and are asked for; each call finds one."""
    random = seeded()
    before = thread_count()
    for keep_alive in (0.0, 1e-6, 1e-5, 1e-4):
        with flavor.builder().thread_keep_alive(keep_alive).max_blocking_threads(3).build() as rt:

            async def main() -> None:
                for _ in range(10):
                    await brief_calls(30)
                    await freerun.time.sleep(random.choice([0, 0.0005]))

            rt.block_on(main)
            wait_until(lambda rt=rt: rt.metrics().num_blocking_threads == 0)  # type: ignore[misc]
    wait_until(lambda: thread_count() <= before)


def test_idle_after_brief_calls(flavor: Flavor) -> None:
    """A spin is over by itself: every thread that is left waits, and is there for the next call."""
    with flavor.builder().thread_keep_alive(PATIENCE).build() as rt:
        for _ in range(5):
            rt.block_on(brief_calls)
            wait_until(lambda: rt.metrics().num_idle_blocking_threads == rt.metrics().num_blocking_threads > 0)


def test_shutdown_at_any_moment(flavor: Flavor) -> None:
    """Calls from tasks and threads while the runtime ends: each is run once or refused, none hangs."""
    random = seeded()
    before = thread_count()
    for _ in range(15):
        rt = flavor.builder().thread_keep_alive(random.choice([0.0, 1e-5, 10.0])).max_blocking_threads(3).build()
        ran: Counter[int] = Counter()
        returned: Counter[int] = Counter()
        lock = threading.Lock()
        seeds = [random.getrandbits(32) for _ in range(3)]

        def call(number: int, ran: Counter[int] = ran, lock: threading.Lock = lock) -> int:
            with lock:
                ran[number] += 1
            return number

        def outside(i: int, rt: freerun.Runtime = rt, seeds: list[int] = seeds) -> None:
            mine = Random(seeds[i])
            try:
                for number in range(i * 1_000_000, (i + 1) * 1_000_000):
                    assert rt.spawn_blocking(call, number).blocking_result() == number
                    with lock:
                        returned[number] += 1
                    for _ in range(mine.choice([0, 0, 100, 1000])):
                        pass
            except freerun.RuntimeShutdown:
                pass
            except freerun.JoinError as error:
                assert error.is_cancelled()

        async def inside(number: int = -1) -> None:
            with suppress(freerun.JoinError, freerun.RuntimeShutdown):
                while True:
                    assert await freerun.spawn_blocking(call, number) == number
                    with lock:
                        returned[number] += 1
                    number -= 1

        def so_many(wanted: int) -> bool:
            with lock:
                return sum(returned.values()) >= wanted

        with in_threads(2, outside):
            rt.spawn(inside)
            wanted = random.randrange(1, 300)
            wait_until(lambda: so_many(wanted))
            rt.shutdown()
        assert set(ran.values()) == {1}
        assert set(returned) <= set(ran)
    wait_until(lambda: thread_count() <= before)


def test_on_one_cpu() -> None:
    """There, whom one waits for cannot run while one spins: nobody does, and all goes on."""
    check_script(
        """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import freerun

        async def main():
            return sum([await freerun.spawn_blocking(int, 1) for _ in range(500)])

        for builder in (freerun.Builder.new_current_thread(), freerun.Builder.new_multi_thread().worker_threads(2)):
            with builder.build() as rt:
                assert rt.block_on(main) == 500
        """
    )
