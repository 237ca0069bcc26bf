"""Brief blocking calls at intervals around the length of a spin: every end of one meets every push."""

from __future__ import annotations

import threading
import time
from collections import Counter
from random import Random

import pytest
from support import Flavor, in_threads, seeded, stress_seconds, thread_count, wait_until

import freerun

pytestmark = pytest.mark.stress


def busy(microseconds: float) -> None:
    """Let time pass without going to sleep."""
    until = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < until:
        pass


def test_calls_storm(flavor: Flavor) -> None:
    """Each call runs once and returns, from tasks and from threads, brief or not, while threads leave and come."""
    random = seeded()
    before = thread_count()
    deadline = time.monotonic() + stress_seconds(0.5)
    while time.monotonic() < deadline:
        keep_alive = random.choice([0.0, 2e-5, 1e-3, 10.0])
        rt = flavor.builder().thread_keep_alive(keep_alive).max_blocking_threads(random.randint(1, 4)).build()
        round_ends = time.monotonic() + random.uniform(0.01, 0.1)
        storm(rt, [random.getrandbits(32) for _ in range(5)], round_ends)
    wait_until(lambda: thread_count() <= before)


def storm(rt: freerun.Runtime, seeds: list[int], deadline: float) -> None:
    """One runtime's life."""
    ran: Counter[int] = Counter()
    lock = threading.Lock()

    def call(number: int, microseconds: float) -> int:
        with lock:
            ran[number] += 1
        busy(microseconds)
        return number

    def lengths(seed: int) -> tuple[float, float]:
        mine = Random(seed)
        return mine.choice([0, 0, 0, 10, 60]), mine.choice([0, 0, 0, 15, 20, 25, 100])

    async def inside(index: int) -> int:
        count = 0
        while time.monotonic() < deadline:
            length, pause = lengths(seeds[index] + count)
            number = index * 10_000_000 + count
            assert await freerun.spawn_blocking(call, number, length) == number
            if pause == 100:
                await freerun.time.sleep(0.0001)
            else:
                busy(pause)
            count += 1
        return count

    def outside(index: int) -> None:
        count = 0
        while time.monotonic() < deadline:
            length, pause = lengths(seeds[index] + count)
            number = index * 10_000_000 + count
            assert rt.spawn_blocking(call, number, length).blocking_result() == number
            busy(pause)
            count += 1
        counts[index] = count

    counts: dict[int, int] = {}

    async def main() -> None:
        tasks = [freerun.spawn(inside, index) for index in range(2, 5)]
        for index, task in enumerate(tasks, 2):
            counts[index] = await task

    with rt, in_threads(2, outside):
        rt.block_on(main)
    assert set(ran.values()) <= {1}
    assert len(ran) == sum(counts.values())
