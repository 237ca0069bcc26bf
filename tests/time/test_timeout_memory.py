"""Timeouts, sleeps and queues that are done leave nothing behind, however many there were."""

from __future__ import annotations

import pytest
from support import HEAP_IN_USE, check_script

SCRIPT = (
    HEAP_IN_USE
    + """
import sys
import freerun
from freerun.time import DelayQueue, interval, sleep, timeout

what, flavor, per_round = sys.argv[1], sys.argv[2], int(sys.argv[3])
ROUNDS, WARM = 16, 4

async def nothing():
    pass

async def yields():
    await freerun.yield_now()

async def ready():
    for _ in range(per_round):
        await timeout(10, nothing())

async def armed():
    for _ in range(per_round):
        await timeout(10, yields())

async def blocks():
    for _ in range(per_round):
        async with timeout(10):
            await freerun.yield_now()

async def nested():
    for _ in range(per_round // 2):
        async with timeout(10):
            await timeout(10, timeout(9, yields()))

async def expired():
    for _ in range(per_round // 4):
        try:
            async with timeout(0):
                await timeout(10, sleep(10))
        except TimeoutError:
            pass
        try:
            await timeout(0, sleep(10))
        except TimeoutError:
            pass

async def aborted():
    async def waits():
        async with timeout(3600):
            await timeout(3600, sleep(3600))
    tasks = [freerun.spawn(waits) for _ in range(per_round // 4)]
    await sleep(0.01)
    for task in tasks:
        task.abort()
    for task in tasks:
        try:
            await task
        except freerun.JoinError:
            pass

async def queue():
    values = DelayQueue()
    keys = [values.insert(n, 3600) for n in range(per_round // 4)]
    for key in keys:
        values.reset(key, 7200)
    for key in keys:
        values.remove(key)

async def ticks():
    every = interval(3600)
    for _ in range(per_round // 4):
        every.reset_immediately()
        await every.tick()

with freerun.Builder.new_current_thread().build() if flavor == "current_thread" else (
    freerun.Builder().worker_threads(2).build()
) as rt:
    sizes = []
    for _ in range(ROUNDS):
        rt.block_on(globals()[what])
        assert rt.metrics().alive_tasks == 0
        sizes.append(settled())
# A quarter of per_round is the least that anything is done in a round; each left behind is an object or 150 bytes.
# The least of a few rounds, since a thread that stands in for a worker has free lists while it lives; and half of what
# would be left behind, since those of a worker that is seldom needed may fill later: 1,024 objects of a kind.
done = (ROUNDS - WARM - 4) * per_round / 4
for early, late, each in zip(zip(*sizes[WARM - 3 : WARM + 1]), zip(*sizes[-4:]), (1 / 2, 80)):
    assert min(late) - min(early) < done * each, sizes
"""
)

WHAT = ["ready", "armed", "blocks", "nested", "expired", "aborted", "queue", "ticks"]


@pytest.mark.parametrize("flavor", ["current_thread", "multi_thread"])
@pytest.mark.parametrize("what", WHAT)
def test_nothing_is_left(what: str, flavor: str) -> None:
    check_script(SCRIPT, what, flavor, "10000", env={"PYTHONSAFEPATH": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("what", ["armed", "blocks"])
def test_nothing_is_left_of_a_million(what: str) -> None:
    check_script(SCRIPT, what, "multi_thread", "100000", env={"PYTHONSAFEPATH": "1"}, timeout=110)
