"""The cooperative budget among branches, and without: one that is always ready keeps nobody from running."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support import CURRENT, every_flavor, only

import freerun
from freerun.sync import Semaphore, mpsc
from freerun.task import consume_budget


async def greedy(stop: list[Any]) -> int:
    """Is always ready."""
    semaphore = Semaphore(1)
    turns = 0
    while not stop:
        async with semaphore:
            turns += 1
    return turns


async def greedy_for_time(stop: list[Any]) -> None:
    """Uses up the turn's millisecond without a single await that counts, and then gives way."""
    while not stop:
        end = time.perf_counter() + 0.003
        while time.perf_counter() < end:
            pass
        await freerun.yield_now()


@pytest.mark.parametrize("order", ["greedy first", "greedy last"])
@pytest.mark.parametrize("kind", [greedy, greedy_for_time])
@every_flavor
async def test_a_greedy_branch_does_not_starve_its_siblings(order: str, kind: Any) -> None:
    stop: list[int] = []

    async def sibling() -> str:
        for _ in range(20):
            await Semaphore(1).acquire()
            await freerun.yield_now()
        stop.append(1)
        return "done"

    branches = [kind(stop), sibling()]
    if order == "greedy last":
        branches.reverse()
    assert "done" in await freerun.join(*branches)


@pytest.mark.parametrize("biased", [False, True])
@every_flavor
async def test_a_greedy_branch_does_not_starve_a_select(biased: bool) -> None:
    """Not even where the order counts."""

    async def sibling() -> str:
        for _ in range(20):
            await Semaphore(1).acquire()
            await freerun.yield_now()
        return "done"

    assert await freerun.select(greedy([]), sibling(), biased=biased) == (1, "done")
    assert await freerun.select(greedy_for_time([]), sibling(), biased=biased) == (1, "done")


@pytest.mark.parametrize("biased", [False, True])
@every_flavor
async def test_branches_that_wake_each_other_do_not_starve_a_third(biased: bool) -> None:
    tx_a, rx_a = mpsc.channel(1)
    tx_b, rx_b = mpsc.channel(1)

    async def volley(rx: Any, tx: Any) -> None:
        while True:
            await tx.send(await rx.recv())

    async def third() -> str:
        for _ in range(50):
            await freerun.yield_now()
        return "done"

    tx_b.try_send("ball")
    assert await freerun.select(volley(rx_a, tx_b), volley(rx_b, tx_a), third(), biased=biased) == (2, "done")


@every_flavor
async def test_a_greedy_branch_lets_other_tasks_run() -> None:
    stop: list[int] = []

    async def other() -> None:
        stop.append(1)

    freerun.spawn(other)
    await freerun.join(greedy(stop), greedy(stop))


@every_flavor
async def test_nested_groups_get_their_turn() -> None:
    stop: list[int] = []

    async def deep() -> None:
        await freerun.join(nested(), greedy(stop))

    async def nested() -> None:
        await freerun.select(greedy([]), patient())

    async def patient() -> None:
        for _ in range(20):
            await Semaphore(1).acquire()
        stop.append(1)

    await freerun.join(greedy_for_time(stop), deep(), greedy(stop))


@only(CURRENT)
@every_flavor
async def test_unconstrained() -> None:
    """It does not give way, and what comes after it does again."""
    order: list[str] = []

    async def other() -> None:
        order.append("other")

    async def many() -> str:
        semaphore = Semaphore(1)
        for _ in range(10_000):
            async with semaphore:
                pass
        order.append("many")
        return "value"

    freerun.spawn(other)
    await freerun.yield_now()
    order.clear()
    freerun.spawn(other)
    assert await freerun.task.unconstrained(many()) == "value"
    assert order[0] == "many"
    while len(order) == 1:
        await freerun.task.consume_budget()
    assert await freerun.task.unconstrained(many) == "value"


@every_flavor
async def test_unconstrained_passes_everything_on() -> None:
    async def fails() -> None:
        await freerun.yield_now()
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        await freerun.task.unconstrained(fails())
    with pytest.raises(TypeError, match="'awaitable' must be a coroutine"):
        freerun.task.unconstrained(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        freerun.task.unconstrained()  # type: ignore[call-overload]
    once = freerun.task.unconstrained(freerun.yield_now())
    await once
    with pytest.raises(RuntimeError, match="awaited already"):
        await once
    log: list[int] = []

    async def cleans() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            log.append(1)

    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.001, freerun.task.unconstrained(cleans))
    assert log == [1]


@only(CURRENT)
@every_flavor
async def test_slow_awaits_that_are_ready_end_the_turn_soon() -> None:
    """The clock is not read at every ready await, but often enough: not after 128 of them."""
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await freerun.yield_now()

    handle = freerun.spawn(other)
    for number in range(200):
        end = time.perf_counter() + (0.0005 if number % 40 >= 8 else 0)  # a few fast ones first
        while time.perf_counter() < end:
            pass
        await consume_budget()
    done = True
    await handle
    assert turns >= 200 // 20
