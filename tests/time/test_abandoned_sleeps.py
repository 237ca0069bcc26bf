"""Sleeps that nobody waits for any more leave nothing behind, however many there were."""

from __future__ import annotations

import pytest
from support import HEAP_IN_USE, check_script

SCRIPT = (
    HEAP_IN_USE
    + """
import sys
import freerun

flavor, workers = sys.argv[1:]
PER_ROUND, ROUNDS = 10_000, 16  # the last 100,000 are measured

async def one_round(armed):
    def count():
        armed.append(None)
    tasks = [freerun.spawn(sleeper, count) for _ in range(PER_ROUND)]
    while len(armed) < PER_ROUND:
        await freerun.yield_now()
    for task in tasks:
        task.abort()
    for task in tasks:
        try:
            await task
        except freerun.JoinError as error:
            assert error.is_cancelled()
        else:
            raise AssertionError("an aborted hour is over")

async def sleeper(count):
    count()
    await freerun.time.sleep(3600)

with freerun.Builder.new_current_thread().build() if flavor == "current_thread" else (
    freerun.Builder().worker_threads(int(workers)).build()
) as rt:
    sizes = []
    for _ in range(ROUNDS):
        rt.block_on(one_round, [])
        assert rt.metrics().alive_tasks == 0
        sizes.append(settled())
    # A sleep left in the wheel would keep its task: several objects, 500 bytes. The least of a few rounds, since a
    # thread that stands in for a worker has free lists of its own while it lives.
    done = PER_ROUND * (ROUNDS - 9)
    for early, late, each in zip(zip(*sizes[2:6]), zip(*sizes[-4:]), (1 / 10, 80)):
        assert min(late) - min(early) < done * each, sizes
"""
)


@pytest.mark.parametrize("arguments", [("current_thread", "1"), ("multi_thread", "2")], ids="-".join)
def test_aborted_sleeps_leave_nothing(arguments: tuple[str, str]) -> None:
    # The working directory may be that of the sources, which have no compiled core.
    check_script(SCRIPT, *arguments, env={"PYTHONSAFEPATH": "1"})
