"""Foreign threads spawn while the runtime shuts down. Each spawn raises RuntimeShutdown or makes a task that ends;
no task runs half, none is lost, and the numbers add up exactly."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from engine_support import outcome
from support import FLAVORS, PATIENCE, Flavor, in_threads, seeded, stress_seconds

import freerun

SPAWNERS = 6


class Tally:
    """What one spawning thread and its tasks did; only that thread appends to `handles`."""

    def __init__(self) -> None:
        self.handles: list[freerun.JoinHandle[int]] = []
        self.started: list[int] = []
        self.ended: list[int] = []
        self.refused = 0

    async def quick(self, i: int) -> int:
        self.started.append(i)
        self.ended.append(i)
        return i

    async def yields(self, i: int) -> int:
        self.started.append(i)
        try:
            await freerun.yield_now()
            await freerun.yield_now()
        finally:
            self.ended.append(i)
        return i

    async def sleeps(self, i: int) -> int:
        self.started.append(i)
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            self.ended.append(i)
        return i

    def blocks(self, i: int) -> int:
        self.started.append(i)
        self.ended.append(i)
        return i

    def spawn_until_refused(self, spawn: Any, bodies: list[Any]) -> None:
        for i in range(1_000_000):
            body = bodies[i % len(bodies)]
            try:
                handle = spawn(body(i)) if i % 7 == 3 and body != self.blocks else spawn(body, i)
            except freerun.RuntimeShutdown:
                self.refused += 1
                return
            self.handles.append(handle)

    def check(self) -> Counter[str]:
        assert self.refused == 1
        outcomes = [outcome(handle) for handle in self.handles]
        assert sorted(self.started) == sorted(self.ended)
        assert len(set(self.started)) == len(self.started)
        started = set(self.started)
        for i, how in enumerate(outcomes):
            assert how in (i, "cancelled"), how
            assert how == "cancelled" or i in started
        return Counter("cancelled" if how == "cancelled" else "returned" for how in outcomes)


def rounds(flavor: Flavor, blocking: bool, background: bool) -> None:
    random = seeded()
    deadline = time.monotonic() + stress_seconds(0.3)
    total: Counter[str] = Counter()
    count = 0
    while count == 0 or time.monotonic() < deadline:
        rt = flavor.builder().max_blocking_threads(random.choice([1, 4])).build()
        tallies = [Tally() for _ in range(SPAWNERS)]
        start = threading.Barrier(SPAWNERS + 1)

        def spawn(k: int, rt: freerun.Runtime = rt, tallies: Any = tallies, start: Any = start) -> None:
            tally: Tally = tallies[k]
            bodies = [tally.blocks] if blocking else [tally.quick, tally.yields, tally.sleeps]
            start.wait()
            tally.spawn_until_refused(rt.spawn_blocking if blocking else rt.spawn, bodies)

        with in_threads(SPAWNERS, spawn):
            start.wait()
            time.sleep(random.random() * 0.01)
            if background:
                rt.shutdown_background()
            rt.shutdown(PATIENCE)
        for tally in tallies:
            total += tally.check()
        count += 1
    print(f"{count} rounds: {dict(total)}")
    assert sum(total.values()) > 0


@pytest.mark.stress
@pytest.mark.parametrize("flavor", FLAVORS, ids=str)
@pytest.mark.parametrize("background", [False, True], ids=["shutdown", "background"])
def test_tasks(flavor: Flavor, background: bool) -> None:
    rounds(flavor, False, background)


@pytest.mark.stress
@pytest.mark.parametrize("flavor", FLAVORS, ids=str)
def test_blocking_calls(flavor: Flavor) -> None:
    rounds(flavor, True, False)


@pytest.mark.stress
@pytest.mark.parametrize("flavor", FLAVORS, ids=str)
def test_block_on(flavor: Flavor) -> None:
    """Threads in block_on: each call returns, or raises that the runtime is over; then it stays so."""
    deadline = time.monotonic() + stress_seconds(0.3)
    ends: list[str] = []

    async def main(i: int) -> int:
        await freerun.yield_now()
        return i

    while not ends or time.monotonic() < deadline:
        rt = flavor.builder().build()

        def block(k: int, rt: freerun.Runtime = rt) -> None:
            try:
                for i in range(1_000_000):
                    assert rt.block_on(main, i) == i
            except freerun.RuntimeShutdown:
                ends.append("refused")
            except freerun.JoinError as error:
                assert error.is_cancelled()
                ends.append("cancelled")

        with in_threads(4, block):
            time.sleep(0.003)
            rt.shutdown(PATIENCE)
        assert len(ends) % 4 == 0
    print(Counter(ends))
