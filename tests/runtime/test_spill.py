"""More tasks at once than a worker's ring has room for: `rt/spill.h`."""

from __future__ import annotations

import threading

from support import CURRENT, PATIENCE, SEVERAL, STRICT, Flavor, every_flavor, is_parked, only, until, wait_until

import freerun
from freerun.time import sleep

RING = 256
MANY = 20 * RING + 1


async def number_after_yields(number: int, yields: int) -> int:
    for _ in range(yields):
        await freerun.yield_now()
    return number


async def all_go_on(counts: list[int]) -> None:
    """Each of them, from here on."""
    least = min(counts)
    await until(lambda: min(counts) > least)


@every_flavor
async def test_each_of_many_runs_once() -> None:
    for count in (RING - 1, RING, RING + 1, RING + 2, 3 * RING, MANY):
        for yields in (0, 1, 3):
            handles = [freerun.spawn(number_after_yields, number, yields) for number in range(count)]
            assert [await handle for handle in handles] == list(range(count))


@every_flavor
async def test_many_are_woken_at_once() -> None:
    """Those who wait for one thing; and those who sleep till one moment, whom the driver wakes."""
    gate = freerun.sync.Notify()

    async def wait(number: int) -> int:
        await gate.notified()
        await sleep(0.01)
        return number

    handles = [freerun.spawn(wait, number) for number in range(MANY)]
    await until(lambda: all(is_parked(handle) for handle in handles))
    gate.notify_waiters()
    assert [await handle for handle in handles] == list(range(MANY))


@every_flavor
async def test_what_is_spilled_has_its_turn_among_those_that_never_rest() -> None:
    """More tasks than a ring has room for, each of which is always ready: all of them go on."""
    counts = [0] * (3 * RING)
    done = False

    async def restless(number: int) -> None:
        while not done:
            counts[number] += 1
            await freerun.yield_now()

    handles = [freerun.spawn(restless, number) for number in range(len(counts))]
    try:
        for _ in range(3):
            await all_go_on(counts)
    finally:
        done = True
        for handle in handles:
            await handle


@freerun.test(worker_threads=1)
async def test_what_never_rests_gets_no_more_turns_than_what_is_spilled() -> None:
    """A few tasks that are always ready, beside many that are polled once: at most half of the polls are theirs."""
    done = False
    polls = 0

    async def restless() -> None:
        nonlocal polls
        while not done:
            polls += 1
            await freerun.yield_now()

    async def short() -> None:
        pass

    loops = [freerun.spawn(restless) for _ in range(10)]
    await freerun.yield_now()
    for handle in [freerun.spawn(short) for _ in range(100 * RING)]:
        await handle
    done = True
    for loop in loops:
        await loop
    assert polls <= 50 * RING


@every_flavor
async def test_what_comes_from_outside_does_not_hold_it_up(rt: freerun.Runtime) -> None:
    """Nor the other way round: a thread goes on spawning, while tasks that never rest fill the rings."""
    counts = [0] * (3 * RING)
    done = threading.Event()
    came = [0]
    room = threading.Semaphore(500)

    async def restless(number: int) -> None:
        while not done.is_set():
            counts[number] += 1
            await freerun.yield_now()

    async def guest() -> None:
        came[0] += 1  # a hint to go on with; several workers may miss a count
        room.release()

    def spawn_guests() -> None:
        while not done.is_set():
            assert room.acquire(timeout=PATIENCE)
            rt.spawn(guest)

    handles = [freerun.spawn(restless, number) for number in range(len(counts))]
    thread = threading.Thread(target=spawn_guests)
    thread.start()
    try:
        for _ in range(3):
            await all_go_on(came)
            await all_go_on(counts)
    finally:
        done.set()
        for handle in handles:
            await handle
        await freerun.spawn_blocking(thread.join)


@only(*SEVERAL)
def test_what_is_spilled_by_a_worker_that_does_not_come_back(rt: freerun.Runtime) -> None:
    """Others take it over, however short it is."""
    ran = [0]
    lock = threading.Lock()
    over = threading.Event()

    async def short() -> None:
        with lock:
            ran[0] += 1
            if ran[0] == MANY:
                over.set()

    async def main() -> bool:
        for _ in range(10):  # so that they are known as short
            for handle in [freerun.spawn(short) for _ in range(RING // 2)]:
                await handle
        with lock:
            ran[0] = 0
        handles = [freerun.spawn(short) for _ in range(MANY)]
        ended = over.wait(PATIENCE)
        for handle in handles:
            await handle
        return ended

    assert rt.block_on(main)


@only(*STRICT)
def test_shutdown_closes_what_was_spilled_by_workers_that_are_stuck(flavor: Flavor) -> None:
    """Nobody polls them any more: they are cancelled all the same, and the rest when the worker is back."""
    rt = flavor.builder().build()
    stuck = threading.Barrier(flavor.workers)
    leave = threading.Event()
    handles: list[freerun.JoinHandle[int]] = []

    async def block() -> None:
        if stuck.wait(PATIENCE) == 0:
            handles.extend(freerun.spawn(number_after_yields, number, 0) for number in range(MANY))
        leave.wait(PATIENCE)

    try:
        for _ in range(flavor.workers):
            rt.spawn(block)
        wait_until(lambda: len(handles) == MANY)
        rt.shutdown(timeout=0.1)
        assert sum(handle.is_finished() for handle in handles) >= MANY - RING
    finally:
        leave.set()
    wait_until(lambda: all(handle.is_finished() for handle in handles))


@only(CURRENT, Flavor(1, stand_in=False))
def test_metrics_count_what_was_spilled(rt: freerun.Runtime) -> None:
    async def main() -> int:
        handles = [freerun.spawn(number_after_yields, number, 0) for number in range(4 * RING)]
        depth = rt.metrics().workers[0].local_queue_depth
        for handle in handles:
            await handle
        return depth

    assert rt.block_on(main) == 4 * RING - 1  # and one in the LIFO slot
    assert rt.metrics().workers[0].local_queue_depth == 0
    assert rt.metrics().workers[0].overflows > 0
