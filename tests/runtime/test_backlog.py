"""Short tasks stay with their worker; what waits behind a long poll does not stay there: `rt/cost.h`."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest
from support import PATIENCE, SEVERAL, only, until, wait_until

import freerun

SHORT = 2000
MANY = 20_000


def total(rt: freerun.Runtime, what: str) -> int:
    """Of all workers, by the metric's name."""
    return sum(getattr(worker, what) for worker in rt.metrics().workers)


async def polls(rt: freerun.Runtime, times: int) -> None:
    """Until so many more have been."""
    end = total(rt, "polls") + times
    await until(lambda: total(rt, "polls") >= end)


def nothing() -> None:
    """What makes a kind of task a short one."""


async def call(function: Callable[[], object]) -> None:
    function()


async def yields(times: int) -> None:
    for _ in range(times):
        await freerun.yield_now()


async def brief_waits(times: int) -> None:
    """Each ends with a wake from a thread of the pool."""
    for _ in range(times):
        await freerun.spawn_blocking(time.sleep, 0.001)


def start(*functions: Callable[[], object]) -> list[freerun.JoinHandle[None]]:
    """All of them from one place, so that one kind is what the others are."""
    return [freerun.spawn(call, function) for function in functions]


async def learn_that_they_are_short() -> None:
    for _ in range(SHORT // 10):
        for handle in start(*[nothing] * 10):
            await handle


@only(*SEVERAL)
@pytest.mark.parametrize("others", [0, 1, 7])
def test_what_waits_behind_a_poll_that_is_unlike_those_before(rt: freerun.Runtime, others: int) -> None:
    """One blocks its worker until the other has run; the runtime believed that both would be over in no time."""

    async def main() -> None:
        for round in range(10):
            await learn_that_they_are_short()
            meet = threading.Barrier(2)
            both = [lambda: meet.wait(PATIENCE)] * 2
            before, after = [nothing] * (others * (round % 2)), [nothing] * (others * (1 - round % 2))
            for handle in start(*before, both[0], *after, both[1], *after):
                await handle

    rt.block_on(main)


@only(*SEVERAL)
def test_what_waits_when_its_spawner_goes_on_for_long(rt: freerun.Runtime) -> None:
    """They are queued with a worker that does not come back to its queue."""

    async def main() -> None:
        for _ in range(10):
            await learn_that_they_are_short()
            ran = threading.Event()
            handles = start(nothing, ran.set, nothing)
            assert ran.wait(PATIENCE)
            for handle in handles:
                await handle

    rt.block_on(main)


@only(*SEVERAL)
def test_a_lone_task_wakes_one_worker(rt: freerun.Runtime) -> None:
    """Whoever it is: it finds no more than that, and leaves the others asleep. Before, it woke another, every time."""
    calls = 200
    rt.block_on(brief_waits(calls))
    assert total(rt, "parks") < calls + calls // 2


@only(*SEVERAL)
def test_a_lone_task_wakes_one_worker_also_out_of_the_driver(rt: freerun.Runtime) -> None:
    """Which the timer before has sent back there: nobody else is called into it for a task that is short."""

    async def waits(times: int) -> None:
        for _ in range(times):
            await freerun.time.sleep(0.001)
            await brief_waits(1)

    rounds = 100
    rt.block_on(waits(rounds))
    assert total(rt, "parks") < 2 * rounds + rounds // 2


@only(*SEVERAL)
def test_long_ones_are_shared(rt: freerun.Runtime) -> None:
    """Each of them is run by some worker, all workers at once, before and after short ones."""
    workers = rt.metrics().num_workers
    assert workers > 1

    async def main() -> None:
        for _ in range(5):
            meet = threading.Barrier(workers)
            handles = [freerun.spawn(call, lambda: meet.wait(PATIENCE)) for _ in range(workers)]
            for handle in handles:
                await handle
            await learn_that_they_are_short()

    rt.block_on(main)


@only(*SEVERAL)
def test_short_ones_are_not_stolen(rt: freerun.Runtime) -> None:
    """A few tasks of a microsecond, over and over: hardly ever is one moved. A machine with other things to do makes a
    short poll long now and then, as the runtime sees it; hence the median."""

    async def main() -> list[int]:
        counts = []
        for _ in range(20):
            before = total(rt, "steals")
            for _ in range(100):
                for handle in [freerun.spawn(yields, 20) for _ in range(4)]:
                    await handle
            counts.append(total(rt, "steals") - before)
        return counts

    counts = rt.block_on(main)
    assert statistics.median(counts) < 4, counts  # of some 8,700 polls each


@only(*SEVERAL)
@pytest.mark.parametrize("phase", range(4))
def test_a_long_poll_is_forgotten_whatever_the_order_of_polls(rt: freerun.Runtime, phase: int) -> None:
    """Two tasks take turns, so every turn of their worker is like the one before; the first poll of one was long."""
    rounds = 4000

    async def child(ping: freerun.sync.oneshot.Sender[int], pong: freerun.sync.oneshot.Receiver[int]) -> int:
        ping.send(1)
        return await pong

    async def parent() -> list[int]:
        for _ in range(1 + phase):
            await freerun.yield_now()  # what comes out of the LIFO slot is not timed
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        counts = []
        for _ in range(8):
            before = total(rt, "steal_attempts")
            for _ in range(rounds // 8):
                ping, pinged = freerun.sync.oneshot.channel()
                ponged, pong = freerun.sync.oneshot.channel()
                handle = freerun.spawn(child, ping, pong)
                ponged.send(await pinged)
                await handle
            counts.append(total(rt, "steal_attempts") - before)
        return counts

    counts = rt.block_on(parent)
    assert statistics.median(counts) < 20, counts  # of some 500 turns each


@only(*SEVERAL)
def test_a_kind_that_turns_long_is_noticed_whatever_the_order_of_polls(rt: freerun.Runtime) -> None:
    """Tasks take turns in a fixed order, one in sixteen turns long: soon another worker runs such, too. Not each
    turn is timed, and those that are must not be of the other kind only."""
    is_long, over = threading.Event(), threading.Event()
    threads: list[int] = []

    async def stays_short() -> None:
        while not over.is_set():
            await freerun.yield_now()

    async def turns_long() -> None:
        while not over.is_set():
            if is_long.is_set():
                threads.append(threading.get_ident())
                end = time.perf_counter() + 0.0004
                while time.perf_counter() < end:
                    pass
            await freerun.yield_now()

    async def main() -> list[int]:
        counts = []
        for _ in range(15):
            is_long.clear()
            over.clear()
            threads.clear()
            handles = [freerun.spawn(each) for _ in range(4) for each in (turns_long, *[stays_short] * 15)]
            await polls(rt, MANY)
            is_long.set()
            await freerun.time.sleep(0.05)  # looking more often would change the order in which they come
            await until(lambda: len(set(threads)) > 1)
            over.set()
            for handle in handles:
                await handle
            counts.append(next(at for at, thread in enumerate(threads) if thread != threads[0]))
        return counts

    counts = rt.block_on(main)
    assert sorted(counts)[-2] < 100, counts  # long polls on one worker; it takes a dozen at the most


@only(*SEVERAL)
def test_who_is_queued_with_the_busiest_worker_waits_no_longer(rt: freerun.Runtime) -> None:
    """Every worker has a task of its own all the time, so that none is ever idle; one has 32 others besides."""
    others, rounds = rt.metrics().num_workers - 1, 10
    meet, over = threading.Barrier(others + 1), threading.Event()
    turns = [0] * others

    async def keeps_busy(number: int) -> None:
        meet.wait(PATIENCE)  # each on a worker of its own
        while not over.is_set():
            turns[number] += 1
            time.sleep(0.001)  # the poll, blocking on purpose: it is long, and needs no CPU
            await freerun.yield_now()

    async def takes_turns() -> None:
        for _ in range(rounds):
            time.sleep(0.001)  # the poll, as above
            await freerun.yield_now()

    async def main() -> None:
        busy = [freerun.spawn(keeps_busy, number) for number in range(others)]
        meet.wait(PATIENCE)
        for handle in [freerun.spawn(takes_turns) for _ in range(32)]:
            await handle
        over.set()
        for handle in busy:
            await handle

    rt.block_on(main)
    assert max(turns) < 32 * rounds / 2, turns  # each turn of the 32 is one for every other worker, if nobody takes any


@only(*SEVERAL)
def test_a_backlog_is_of_what_is_queued(rt: freerun.Runtime) -> None:
    """Whatever way tasks come and go, by a spawn here or on another thread, a yield, a thief or the driver: when none
    is queued there is no backlog. What is left would stay for good, and have short tasks stolen."""
    over = threading.Event()

    async def takes_some_time(times: int) -> None:
        for _ in range(times):
            time.sleep(0.0003)  # the poll, blocking on purpose: a backlog by itself
            await freerun.yield_now()

    async def sleeps() -> None:
        await freerun.time.sleep(0.001)  # woken by the driver's turn, whoever has it
        await takes_some_time(1)

    def from_outside() -> None:
        while not over.is_set():
            rt.spawn(takes_some_time, 0).detach()
            time.sleep(0.0001)  # so that it often meets a worker that searches: what it brings is taken on another way

    async def main() -> None:
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            handles = [freerun.spawn(sleeps) for _ in range(8)]
            handles += [freerun.spawn(takes_some_time, 2) for _ in range(4)]
            for handle in handles:
                await handle
            await freerun.time.sleep(0.002)  # the workers park meanwhile, but for what comes from outside
        over.set()

    threads = [threading.Thread(target=from_outside) for _ in range(2)]
    for thread in threads:
        thread.start()
    rt.block_on(main)
    for thread in threads:
        thread.join()
    wait_until(lambda: rt.metrics().alive_tasks == 0)
    assert total(rt, "steals") > 0
    assert total(rt, "local_queue_depth") == 0
    assert total(rt, "backlog_ns") == 0
