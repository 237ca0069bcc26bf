"""Workers that get stuck and come back at random moments, while the stand-in polls what is there; counted exactly."""

from __future__ import annotations

import threading
import time
from collections import Counter
from random import Random

import pytest
from support import PATIENCE, STOOD_IN_FOR, in_threads, only, seeded, stress_seconds

import freerun
from freerun.sync import mpsc

pytestmark = pytest.mark.stress


@only(*STOOD_IN_FOR)
def test_stuck_workers_storm(rt: freerun.Runtime) -> None:
    """Every task runs once, every message arrives in its sender's order, whoever polls and whoever is stuck."""
    random = seeded()
    workers = rt.metrics().num_workers
    seeds = [random.randrange(1 << 16) for _ in range(4)]
    deadline = time.monotonic() + stress_seconds(0.5)
    lock = threading.Lock()
    counts: Counter[str] = Counter()

    async def hog(seconds: float, in_place: bool) -> None:
        if in_place:
            freerun.block_in_place(time.sleep, seconds)
        else:
            time.sleep(seconds)
        with lock:
            counts["hogs"] += 1

    async def ping_pong(n: int) -> list[int]:
        tx, rx = mpsc.channel(2)
        child = freerun.spawn(sends, tx, n)
        got = [value async for value in rx]
        await child
        return got

    async def sends(tx: mpsc.Sender[int], n: int) -> None:
        with tx:
            for i in range(n):
                if i % 7 == 0:
                    await freerun.time.sleep(0.001)
                await tx.send(i)

    def work(index: int) -> None:
        mine = Random(seeds[index])
        while time.monotonic() < deadline or not counts["spawned"]:
            hogs = [
                rt.spawn(hog, mine.uniform(0.005, 0.03), mine.random() < 0.2) for _ in range(mine.randint(1, workers))
            ]
            n = mine.randint(1, 40)
            channels = [rt.spawn(ping_pong, n) for _ in range(5)]
            aborted = rt.spawn(freerun.time.sleep, 3600)
            if mine.random() < 0.5:
                time.sleep(mine.uniform(0, 0.02))
            aborted.abort()
            for each in channels:
                assert each.blocking_result(PATIENCE) == list(range(n))
            with pytest.raises(freerun.JoinError):
                aborted.blocking_result(PATIENCE)
            for each in hogs:
                each.blocking_result(PATIENCE)
            with lock:
                counts["spawned"] += len(hogs)

    with in_threads(len(seeds), work):
        pass
    assert counts["hogs"] == counts["spawned"] > 0
    assert rt.metrics().alive_tasks == 0
