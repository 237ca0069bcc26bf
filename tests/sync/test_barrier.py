"""`sync.Barrier`: Tokio's sync_barrier.rs, and cancelled waiters."""

from __future__ import annotations

from typing import Any

import pytest
from support import every_flavor, seeded
from waiting_support import Aborts, abort, gives_way, still_waits, waiting

import freerun
from freerun.sync import Barrier


@pytest.mark.parametrize("n", [0, 1])
@every_flavor
async def test_does_not_block(n: int) -> None:
    """zero_does_not_block, single."""
    barrier = Barrier(n)
    for _ in range(3):
        assert (await barrier.wait()).is_leader()
    await gives_way(barrier.wait)


@every_flavor
async def test_tango() -> None:
    barrier = Barrier(2)
    first = await waiting(barrier.wait)
    second = freerun.spawn(barrier.wait)
    assert sorted([(await first).is_leader(), (await second).is_leader()]) == [False, True]


@every_flavor
async def test_lots() -> None:
    """One leader a round, and nobody goes on before the last has come."""
    barrier = Barrier(50)
    for _ in range(5):
        tasks = [await waiting(barrier.wait) for _ in range(49)]
        await still_waits(*tasks)
        leaders = [(await barrier.wait()).is_leader()]
        leaders += [(await task).is_leader() for task in tasks]
        assert leaders.count(True) == 1


@every_flavor
async def test_rounds_do_not_mix() -> None:
    """Tasks that go round and round: nobody is a round ahead of another by more than one."""
    barrier = Barrier(8)
    rounds = [0] * 8
    leaders = 0

    async def work(i: int) -> None:
        nonlocal leaders
        for number in range(50):
            assert min(rounds) >= number
            rounds[i] += 1
            if (await barrier.wait()).is_leader():
                leaders += 1
            assert min(rounds) > number

    for task in [freerun.spawn(work, i) for i in range(8)]:
        await task
    assert leaders == 50


@every_flavor
async def test_a_cancelled_task_has_not_arrived() -> None:
    barrier = Barrier(3)
    first, second = await waiting(barrier.wait), await waiting(barrier.wait)
    await abort(first)
    third = await waiting(barrier.wait)
    await still_waits(second, third)
    assert "2 of 3" in repr(barrier)
    assert (await barrier.wait()).is_leader()
    await second
    await third


@every_flavor
async def test_cancelled_at_any_time() -> None:
    """However many give up, a round needs all; one that gave up too late counts for that round only."""
    random = seeded()
    aborts = Aborts(random)
    barrier = Barrier(4)
    passed = leaders = aborted = 0
    tasks: list[freerun.JoinHandle[Any]] = []
    for _ in range(100):
        tasks = [freerun.spawn(barrier.wait) for _ in range(random.randrange(1, 8))]
        if random.random() < 0.5:
            await freerun.yield_now()
        await aborts.maybe(*tasks)
        while not all(task.is_finished() for task in tasks):
            for task in tasks:
                if random.random() < 0.1:
                    task.abort()
            await freerun.yield_now()
        for task in tasks:
            result = await aborts.result(task)
            aborted += result is None
            passed += result is not None
            leaders += result is not None and result.is_leader()
    assert len(barrier._round.arrived) == 0
    assert passed <= 4 * leaders <= passed + aborted


@pytest.mark.parametrize("n", [-1, 1.5, "2", None])
def test_bad_n(n: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="'n'"):
        Barrier(n)
