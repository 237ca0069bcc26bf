"""Random graphs of tasks that spawn, await and abort each other. Whatever happens, every task ends exactly once, every
handle says how, and nothing is lost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from engine_support import outcome
from support import seeded, stress_seconds

import freerun
from freerun.sync import RecvError, oneshot

MOST_TASKS = 300


class BoomError(Exception):
    """What tasks fail with."""


@dataclass
class Graph:
    """One run: its tasks by key, in the order in which they were spawned, and how each body ended."""

    seed: int
    multi_thread: bool
    handles: dict[int, freerun.JoinHandle[int]] = field(default_factory=dict)
    started: dict[int, int] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    twice: list[int] = field(default_factory=list)
    keys: Any = field(default_factory=lambda: iter(range(MOST_TASKS)))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_key(self) -> int | None:
        with self.lock:
            return next(self.keys, None)

    def spawn(self, depth: int) -> int | None:
        """Spawn a task; its key, unless there are enough."""
        key = self.next_key()
        if key is None:
            return None
        random = Random(self.seed * 1_000_003 + key)
        if random.random() < 0.1:
            handle = freerun.spawn_blocking(self.call, key, random)
        elif random.random() < 0.5:
            handle = freerun.spawn(self.body, key, depth, random)
        else:
            handle = freerun.spawn(self.body(key, depth, random))
        with self.lock:
            self.handles[key] = handle
        return key

    def note(self, record: dict[int, Any], key: int, what: Any) -> None:
        if key in record:
            self.twice.append(key)
        record[key] = what

    def call(self, key: int, random: Random) -> int:
        """A blocking call."""
        self.note(self.started, key, 1)
        time.sleep(random.random() * 0.001)
        if random.random() < 0.1:
            self.note(self.ended, key, "failed")
            raise BoomError
        self.note(self.ended, key, "returned")
        return key

    async def body(self, key: int, depth: int, random: Random) -> int:
        self.note(self.started, key, 1)
        try:
            for _ in range(random.randrange(12)):
                await self.step(key, depth, random)
        except freerun.Cancelled:
            self.note(self.ended, key, "cancelled")
            if random.random() < 0.3:
                await freerun.yield_now()  # cleanup that waits
            raise
        except BoomError:
            self.note(self.ended, key, "failed")
            raise
        self.note(self.ended, key, "returned")
        return key

    async def step(self, key: int, depth: int, random: Random) -> None:
        match random.randrange(10):
            case 0 | 1:
                await freerun.yield_now()
            case 2:
                await freerun.time.sleep(random.random() * 0.002)
            case 3 | 4 if depth < 6:
                for _ in range(random.randrange(1, 5)):
                    self.spawn(depth + 1)
            case 5:
                await self.join_younger(key, random)
            case 6:
                self.abort_any(random)
            case 7:
                await self.ask(random)
            case 8 if self.multi_thread and random.random() < 0.3:
                freerun.block_in_place(time.sleep, random.random() * 0.001)
            case 9 if random.random() < 0.1:
                raise BoomError

    async def join_younger(self, key: int, random: Random) -> None:
        """Nobody awaits an older task, so no two wait for each other."""
        with self.lock:
            younger = [handle for other, handle in self.handles.items() if other > key]
        if younger:
            try:
                await random.choice(younger)
            except (freerun.JoinError, BoomError):
                pass

    def abort_any(self, random: Random) -> None:
        if handles := self.list_handles():
            random.choice(handles).abort()

    def list_handles(self) -> list[freerun.JoinHandle[int]]:
        with self.lock:
            return list(self.handles.values())

    async def ask(self, random: Random) -> None:
        """A question to a task that may be aborted before it answers."""
        tx, rx = oneshot.channel()
        number = random.random()

        async def answer(tx: Any) -> None:
            with tx:
                if number < 0.5:
                    await freerun.yield_now()
                tx.send(number)

        handle = freerun.spawn(answer, tx)
        del tx
        if random.random() < 0.3:
            handle.abort()
        try:
            assert await rx == number
        except RecvError:
            pass

    async def main(self) -> None:
        for _ in range(8):
            self.spawn(0)
        seen = 0
        while seen < len(handles := self.list_handles()):  # until nobody spawns any more
            for handle in handles[seen:]:
                try:
                    await handle
                except (freerun.JoinError, BoomError):
                    pass
            seen = len(handles)

    def check(self) -> None:
        assert not self.twice
        for key, handle in self.handles.items():
            assert handle.is_finished()
            how = outcome(handle)
            ended = self.ended.get(key)
            if how == "cancelled":
                assert ended in ("cancelled", None)
                assert (ended is None) == (key not in self.started)
            elif isinstance(how, BoomError):
                assert ended == "failed"
            else:
                assert how == key
                assert ended == "returned"
        assert self.ended.keys() == self.started.keys()
        assert self.started.keys() <= self.handles.keys()


def run_graphs(workers: int, seconds: float, disturb: bool) -> int:
    random = seeded()
    deadline = time.monotonic() + seconds
    runs = 0
    while runs == 0 or time.monotonic() < deadline:
        builder = freerun.Builder().worker_threads(workers) if workers else freerun.Builder.new_current_thread()
        builder.rng_seed(random.getrandbits(64)).event_interval(random.choice([1, 7, 61]))
        builder.global_queue_interval(random.choice([1, 31, 61])).max_blocking_threads(random.choice([1, 3, 100]))
        builder.unhandled_exception(lambda error, task: None)
        if random.random() < 0.3:
            builder.disable_lifo_slot()
        with builder.build() as rt:
            for _ in range(5):
                graph = Graph(random.getrandbits(32), workers > 0)
                stop = threading.Event()
                thread = threading.Thread(target=interfere, args=(graph, stop)) if disturb else None
                if thread:
                    thread.start()
                try:
                    rt.block_on(graph.main)
                finally:
                    stop.set()
                    if thread:
                        thread.join()
                graph.check()
                runs += 1
            metrics = rt.metrics()
            assert metrics.spawned_tasks >= metrics.alive_tasks
    return runs


def interfere(graph: Graph, stop: threading.Event) -> None:
    """Abort tasks from a foreign thread."""
    random = Random(graph.seed)
    while not stop.wait(0.0005):
        graph.abort_any(random)


@pytest.mark.stress
@pytest.mark.parametrize("workers", [0, 1, 2, 4, 8])
def test_graphs(workers: int) -> None:
    assert run_graphs(workers, stress_seconds(0.6), disturb=False) > 0


@pytest.mark.stress
@pytest.mark.parametrize("workers", [0, 2, 8])
def test_graphs_with_foreign_aborts(workers: int) -> None:
    assert run_graphs(workers, stress_seconds(0.6), disturb=True) > 0
