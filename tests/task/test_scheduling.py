"""What the scheduler promises: nobody starves, nothing is stranded behind a poll that blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import MULTI, PATIENCE, Flavor, every_flavor, occupy, only, until

import freerun
from freerun.sync import oneshot


@every_flavor
async def test_yield_now_lets_others_run() -> None:
    order: list[str] = []

    async def worker(name: str) -> None:
        for _ in range(3):
            order.append(name)
            await freerun.yield_now()

    handles = [freerun.spawn(worker, name) for name in "ab"]
    for handle in handles:
        await handle
    assert sorted(order) == list("aaabbb")


@only(Flavor(0), Flavor(1))
def test_yielders_take_turns(rt: freerun.Runtime) -> None:
    order: list[int] = []

    async def worker(i: int) -> None:
        for _ in range(20):
            order.append(i)
            await freerun.yield_now()

    async def main() -> None:
        for handle in [freerun.spawn(worker, i) for i in range(4)]:
            await handle

    rt.block_on(main)
    longest = max(sum(1 for _ in run) for run in _runs(order))
    assert longest <= 3, order


def _runs(items: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for item in items:
        if runs and runs[-1][-1] == item:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


@every_flavor
async def test_a_task_that_only_yields_starves_nobody() -> None:
    """Neither timers nor the pool nor foreign wakes."""
    stop = False

    async def spins() -> None:
        while not stop:
            await freerun.yield_now()

    spinners = [freerun.spawn(spins) for _ in range(6)]
    tx, rx = oneshot.channel()
    threading.Timer(0.005, tx.send, ("from a thread",)).start()
    await freerun.time.sleep(0.001)
    assert await freerun.spawn_blocking(int) == 0
    assert await rx == "from a thread"
    stop = True
    for spinner in spinners:
        await spinner


@only(Flavor(0), Flavor(1))
def test_what_comes_from_outside_waits_its_turn_and_no_longer(rt: freerun.Runtime) -> None:
    """A worker that always has something of its own to do, each time for more than a millisecond."""
    ran: list[int] = []
    injected = threading.Event()
    polls_since = 0

    async def hog() -> None:
        nonlocal polls_since
        while len(ran) < 50:
            time.sleep(0.0015)
            polls_since += injected.is_set()
            await freerun.yield_now()

    async def quick(i: int) -> None:
        ran.append(i)

    def inject() -> None:
        for i in range(50):
            rt.spawn(quick, i)
        injected.set()

    async def main() -> None:
        hogs = [freerun.spawn(hog) for _ in range(4)]
        await freerun.spawn_blocking(inject)
        for each in hogs:
            await each

    rt.block_on(main)
    assert sorted(ran) == list(range(50))
    assert polls_since < 100, "61 polls for each of them, were the injector looked at by count alone"


async def ready_joins() -> None:
    task = freerun.spawn(freerun.lowlevel.checkpoint)
    await task
    while True:
        await task


async def ready_budget() -> None:
    while True:
        await freerun.task.consume_budget()


async def ready_sleeps() -> None:
    while True:
        await freerun.time.sleep(0)


async def ready_oneshots() -> None:
    while True:
        tx, rx = oneshot.channel()
        tx.send(1)
        await rx


@pytest.mark.parametrize("greedy", [ready_joins, ready_budget, ready_sleeps, ready_oneshots])
def test_ready_awaitables_spend_the_budget(rt: freerun.Runtime, flavor: Flavor, greedy: Any) -> None:
    """Awaits that never wait still give way now and then."""

    async def main() -> None:
        hogs = [freerun.spawn(greedy) for _ in range(flavor.workers + 1)]
        for _ in range(20):
            await freerun.spawn(freerun.lowlevel.checkpoint)
        await freerun.time.sleep(0.001)
        for hog in hogs:
            hog.abort()
        for hog in hogs:
            with pytest.raises(freerun.JoinError):
                await hog

    rt.block_on(main)


@pytest.mark.parametrize("greedy_by", [freerun.task.consume_budget, lambda: freerun.time.sleep(0)])
def test_turns_that_become_long_give_way(rt: freerun.Runtime, greedy_by: Callable[[], Any]) -> None:
    """While turns are short a worker does not look at its clock in each. One that then takes long between ready awaits
    still gives way after a few of them, not after 128."""
    order: list[str] = []

    async def hog() -> None:
        for _ in range(60):
            await greedy_by()
            end = time.monotonic() + 0.004
            while time.monotonic() < end:
                pass
            order.append("hog")

    async def other() -> None:
        order.append("other")

    async def main() -> None:
        for _ in range(3):
            order.clear()
            for _ in range(500):
                await freerun.yield_now()
            together = freerun.lowlevel.checkpoint, hog, other, freerun.lowlevel.checkpoint  # the last goes first
            for handle in [freerun.spawn(each) for each in together]:
                await handle
            assert order.index("other") < 9, order

    rt.block_on(main)


@only(MULTI[1], MULTI[2])
def test_what_is_in_the_lifo_slot_is_not_stranded(rt: freerun.Runtime) -> None:
    """A task woken by one that then blocks its worker runs elsewhere."""

    async def main() -> None:
        for _ in range(5):
            ran = threading.Event()

            async def child(ran: threading.Event = ran) -> None:
                ran.set()

            async def blocks(child: Any = child, ran: threading.Event = ran) -> bool:
                freerun.spawn(child)  # into the LIFO slot of this worker, which now blocks
                return ran.wait(PATIENCE)

            assert await freerun.spawn(blocks)

    rt.block_on(main)


@only(MULTI[1], MULTI[2])
def test_what_is_queued_is_not_stranded(rt: freerun.Runtime) -> None:
    async def main() -> None:
        count = 50
        ran = threading.Semaphore(0)

        async def child() -> None:
            ran.release()

        async def blocks() -> bool:
            for _ in range(count):
                freerun.spawn(child)
            return all(ran.acquire(timeout=PATIENCE) for _ in range(count))

        assert await freerun.spawn(blocks)

    rt.block_on(main)


@only(*MULTI)
def test_timers_fire_while_all_workers_but_one_are_busy(rt: freerun.Runtime, flavor: Flavor) -> None:
    async def main() -> None:
        release = await occupy(flavor.workers - 1)
        try:
            for _ in range(10):
                await freerun.time.sleep(0.001)
        finally:
            release()

    rt.block_on(main)


@only(MULTI[1])
def test_a_free_worker_takes_over_the_driver(rt: freerun.Runtime) -> None:
    """Whichever worker happened to drive when the others began to compute, a sleeper is woken meanwhile."""

    async def main() -> None:
        for _ in range(20):
            woken = threading.Event()

            async def sleeper(woken: threading.Event = woken) -> None:
                await freerun.time.sleep(0.002)
                woken.set()

            freerun.spawn(sleeper)
            await freerun.yield_now()
            assert woken.wait(PATIENCE)  # blocks this worker; the other has to see to the timer

    rt.block_on(main)


@only(MULTI[0])
def test_the_watch_drives_when_every_worker_is_busy(rt: freerun.Runtime) -> None:
    """The only worker computes; the sleeper's timer fires all the same, so it runs as soon as the worker is free."""

    async def main() -> None:
        task = freerun.spawn(freerun.time.sleep(0.002))
        await freerun.yield_now()
        deadline = time.monotonic() + PATIENCE
        while "waiting" in repr(task):  # a busy poll: it never awaits
            assert time.monotonic() < deadline
        await task

    rt.block_on(main)


@every_flavor
async def test_wakes_from_everywhere() -> None:
    """A task that is woken while it runs, while it is queued and while it waits misses nothing."""
    wakers: list[Any] = []
    count = 0
    stop = threading.Event()

    async def parks() -> int:
        nonlocal count
        wakers.append(freerun.lowlevel.current_waker())
        while count < 200:
            await freerun.lowlevel.park()
            count += 1
        return count

    def wakes() -> None:
        while not stop.is_set():
            for waker in wakers:
                waker.wake()
            time.sleep(0.00005)

    threads = [threading.Thread(target=wakes) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert await freerun.spawn(parks) == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    wakers[0].wake()  # it is over: harmless


@every_flavor
async def test_spurious_wakes_are_harmless() -> None:
    """Whatever a task waits for, it goes on waiting when it is woken for no reason."""
    tx, rx = oneshot.channel()
    waits = {
        "sleep": freerun.time.sleep(3600),
        "oneshot": rx,
        "join": freerun.spawn(freerun.time.sleep(3600)),
    }

    async def wait(what: Any, wakers: list[Any]) -> None:
        wakers.append(freerun.lowlevel.current_waker())
        await what

    for what in waits.values():
        wakers: list[Any] = []
        task = freerun.spawn(wait, what, wakers)
        await until(lambda: "waiting" in repr(task))
        for _ in range(50):
            wakers[0].wake()
            await freerun.yield_now()
        await until(lambda: "waiting" in repr(task))
        assert not task.is_finished()
        task.abort()
        with pytest.raises(freerun.JoinError):
            await task
    tx.close()


@every_flavor
async def test_a_yield_beside_a_wait_is_kept() -> None:
    """One task polls two awaitables: the first yields, the second waits. It must be polled again."""

    class Both:
        def __await__(self) -> Any:
            first = yielding().__await__()
            while True:
                try:
                    token = first.send(None)
                except StopIteration:
                    return
                next(freerun.lowlevel.park().__await__())
                yield token

    async def yielding() -> None:
        for _ in range(3):
            await freerun.yield_now()

    await freerun.spawn(Both())
