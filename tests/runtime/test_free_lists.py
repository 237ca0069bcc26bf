"""What a worker keeps for reuse while it works it gives back when it sleeps: FR_FREE_KEEP in runtime.h."""

from __future__ import annotations

import pytest
from support import HEAP_IN_USE, PATIENCE, check_script

TASKS = 60_000

COMMON = (
    HEAP_IN_USE
    + f"""
import sys, threading
import freerun

TASKS, PATIENCE = {TASKS}, {PATIENCE}
"""
    + """
KEPT_OBJECTS = 3 * 2 * 1024  # of a few kinds, on two cores
KEPT_BYTES = 2 * 8192 * 400

async def task():
    await freerun.yield_now()

async def burst(tasks):
    for handle in [freerun.spawn(task) for _ in range(tasks)]:
        await handle

def is_given_back(before):
    objects, size = in_use()
    return objects - before[0] < KEPT_OBJECTS and size - before[1] < KEPT_BYTES

def check_that_it_is_given_back(before):
    until = time.monotonic() + PATIENCE
    while not is_given_back(before):
        assert time.monotonic() < until, f"kept: {[now - then for now, then in zip(in_use(), before)]}"
        time.sleep(0.01)  # nothing is asked of the runtime meanwhile: it must come to this by itself
    print("ok")
"""
)

SCRIPT = (
    COMMON
    + """
with freerun.Builder().worker_threads(int(sys.argv[1])).build() as rt:
    rt.block_on(burst, 100)
    before = in_use()
    for _ in range(3):
        rt.block_on(burst, TASKS)
    check_that_it_is_given_back(before)
"""
)

STAND_IN = (
    COMMON
    + """
done, threads = threading.Event(), set()

async def blocks():
    threads.add(threading.get_ident())
    assert done.wait(PATIENCE)

async def elsewhere():
    threads.add(threading.get_ident())
    await burst(TASKS)
    done.set()

with freerun.Builder().worker_threads(1).build() as rt:
    rt.block_on(burst, 100)
    before = in_use()
    blocked = rt.spawn(blocks)
    rt.spawn(elsewhere)
    rt.block_on(blocked)
    assert len(threads) == 2, "there was no stand-in"
    check_that_it_is_given_back(before)
"""
)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_burst_needed_is_given_back_once_the_workers_sleep(workers: int) -> None:
    assert check_script(SCRIPT, str(workers)) == "ok\n"


def test_a_stand_in_leaves_nothing_behind() -> None:
    """Its core has no thread any more when it is idle: nobody would give back what it kept."""
    assert check_script(STAND_IN) == "ok\n"
