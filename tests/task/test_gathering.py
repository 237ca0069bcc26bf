"""Who awaits one task after the other is not woken first of all at each of their ends: `fr_task_gathers()`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support import CURRENT, Flavor, is_parked, only, until

import freerun

ALONE = only(CURRENT, Flavor(1, stand_in=False))
"""One worker: what it does is in a fixed order."""
COUNT = 2000


async def once_more(number: int) -> int:
    await freerun.yield_now()
    return number


async def one_after_the_other() -> int:
    total = 0
    for handle in [freerun.spawn(once_more, number) for number in range(COUNT)]:
        total += await handle
    return total


async def as_they_end() -> int:
    async with freerun.JoinSet[int]() as tasks:
        for number in range(COUNT):
            tasks.spawn(once_more, number)
        return sum([number async for number in tasks])


async def within_a_timeout() -> int:
    async with freerun.time.timeout(3600):
        return await one_after_the_other()


def worker(rt: freerun.Runtime) -> Any:
    (only_one,) = rt.metrics().workers
    return only_one


@ALONE
@pytest.mark.parametrize("gather", [one_after_the_other, as_they_end, within_a_timeout])
def test_many_are_collected_in_few_polls(rt: freerun.Runtime, gather: Callable[[], Awaitable[int]]) -> None:
    before = worker(rt).polls
    assert rt.block_on(gather) == sum(range(COUNT))
    assert worker(rt).polls - before < 2 * COUNT + COUNT // 10  # two for each of them


@ALONE
@pytest.mark.parametrize("few", [1, 2, 5, 40])
def test_who_waits_for_few_goes_on_at_once(rt: freerun.Runtime, few: int) -> None:
    """However often: each time it has spawned them itself. Tasks that never rest are queued meanwhile."""
    rounds = 50
    turns = [0]

    async def main() -> list[int]:
        others = [freerun.spawn(restless, turns) for _ in range(100)]
        waited = []
        for _ in range(rounds):
            handles = [freerun.spawn(once_more, number) for number in range(few)]
            await handles[0]
            for handle in handles[1:]:
                before = turns[0]
                await handle
                waited.append(turns[0] - before)
        for other in others:
            other.abort()
        return waited

    waited = rt.block_on(main)
    assert all(turns_between < 50 for turns_between in waited), waited


async def restless(turns: list[int]) -> None:
    while True:
        turns[0] += 1
        await freerun.yield_now()


async def end(ended: list[int], turns: list[int]) -> None:
    ended.append(turns[0])


@ALONE
def test_who_finds_but_one_each_time_goes_on_at_once(rt: freerun.Runtime) -> None:
    """It takes what ends, one by one, as others spawn it: hardly ever does it wait for a round of the queue."""

    async def spawner(tasks: freerun.JoinSet[None], ended: list[int], turns: list[int]) -> None:
        for _ in range(300):
            before = len(ended)
            tasks.spawn(end, ended, turns)
            while len(ended) == before or turns[0] < ended[-1] + 300:
                await freerun.yield_now()

    async def main() -> int:
        turns, ended, late = [0], list[int](), 0
        others = [freerun.spawn(restless, turns) for _ in range(100)]
        async with freerun.JoinSet[None]() as tasks:
            tasks.spawn(freerun.time.sleep, 3600)  # there is always one to wait for
            source = freerun.spawn(spawner, tasks, ended, turns)
            for _ in range(300):
                await tasks.join_next()
                late += turns[0] - ended[-1] > 50
            await source
        for other in others:
            other.abort()
        return late

    assert rt.block_on(main) < 30


async def has_collected(collected: list[bool], gatherer: freerun.JoinHandle[None]) -> None:
    """It has all but the last, and waits for that."""
    await until(lambda: collected and is_parked(gatherer))


@ALONE
def test_an_abort_reaches_it_at_once(rt: freerun.Runtime) -> None:
    async def gatherer(
        last: freerun.JoinHandle[None], turns: list[int], collected: list[bool], seen: list[int]
    ) -> None:
        for handle in [freerun.spawn(once_more, number) for number in range(COUNT)]:
            await handle
        collected.append(True)
        try:
            await last
        finally:
            seen.append(turns[0])

    async def main() -> list[int]:
        waited = []
        for _ in range(5):
            turns, collected, seen = [0], list[bool](), list[int]()
            last = freerun.spawn(freerun.time.sleep, 3600)
            handle = freerun.spawn(gatherer, last, turns, collected, seen)
            await has_collected(collected, handle)
            others = [freerun.spawn(restless, turns) for _ in range(100)]
            await freerun.yield_now()
            before = turns[0]
            handle.abort()
            while not seen:
                await freerun.yield_now()
            waited.append(seen[0] - before)
            for each in (last, *others):
                each.abort()
        return waited

    assert max(rt.block_on(main)) < 50


@ALONE
def test_another_wait_in_between_ends_it(rt: freerun.Runtime) -> None:
    """It is woken at once by a message, even if it has collected many before."""

    async def main() -> int:
        await one_after_the_other()
        hits = 0
        for _ in range(20):
            tx, rx = freerun.sync.oneshot.channel()
            freerun.spawn(send, tx)
            before = worker(rt).lifo_hits
            await rx
            hits += worker(rt).lifo_hits - before
        return hits

    async def send(tx: freerun.sync.oneshot.Sender[int]) -> None:
        tx.send(1)

    assert rt.block_on(main) >= 20
