"""Runtimes that come and go in several threads at once, while others use their handles."""

from __future__ import annotations

import threading
import time
from collections import deque
from random import Random
from typing import Any

import pytest
from engine_support import outcome
from support import FLAVORS, PATIENCE, in_threads, open_fds, seeded, stress_seconds, thread_count, wait_until

import freerun
from freerun.sync import RecvError, oneshot


async def body(kind: int) -> int:
    if kind == 0:
        return kind
    if kind == 1:
        await freerun.yield_now()
        return kind
    try:
        await freerun.time.sleep(0.001 if kind == 2 else 3600)
    finally:
        await freerun.yield_now()
    return kind


@pytest.mark.stress
def test_created_and_destroyed_concurrently() -> None:
    """Four threads make runtimes and shut them down; what they did not leave behind is counted."""
    seed = seeded().getrandbits(32)
    seconds = stress_seconds(1)
    with freerun.Builder().worker_threads(1).build() as rt:
        rt.block_on(body, 1)
    threads, fds = thread_count(), len(open_fds())

    def make(k: int) -> None:
        random = Random(seed + k)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            rt = random.choice(FLAVORS).builder().build()
            kinds = [random.randrange(4) for _ in range(random.randrange(30))]
            handles = [rt.spawn(body, kind) for kind in kinds]
            if random.random() < 0.7:
                assert rt.block_on(body, 2) == 2
            calls = [rt.spawn_blocking(len, "abc") for _ in range(random.randrange(3))]
            rt.shutdown(PATIENCE)
            for kind, handle in zip(kinds, handles, strict=True):
                assert outcome(handle) in (kind, "cancelled")
            for call in calls:
                assert outcome(call) in (3, "cancelled")

    with in_threads(4, make):
        pass
    wait_until(lambda: thread_count() <= threads)
    wait_until(lambda: len(open_fds()) <= fds)


@pytest.mark.stress
def test_handles_in_other_threads_while_their_runtime_dies() -> None:
    """Aborted, awaited from another runtime, waited for on plain threads: each resolves."""
    seed = seeded().getrandbits(32)
    stop = threading.Event()
    shared: deque[tuple[int, freerun.JoinHandle[int]]] = deque(maxlen=200)
    resolved = [0, 0, 0]

    def pick(random: Random) -> tuple[int, freerun.JoinHandle[int]] | None:
        try:
            return shared[random.randrange(len(shared))]
        except (IndexError, ValueError):
            time.sleep(0.001)
            return None

    def make(k: int) -> None:
        random = Random(seed + k)
        while not stop.is_set():
            with random.choice(FLAVORS).builder().build() as rt:
                for _ in range(random.randrange(40)):
                    kind = random.randrange(4)
                    shared.append((kind, rt.spawn(body, kind)))
                if random.random() < 0.5:
                    rt.block_on(body, 2)

    def waits(k: int) -> None:
        random = Random(seed + 100 + k)
        while not stop.is_set():
            if found := pick(random):
                kind, handle = found
                assert outcome(handle) in (kind, "cancelled")
                resolved[0] += 1

    def aborts(k: int) -> None:
        random = Random(seed + 200 + k)
        while not stop.is_set():
            if found := pick(random):
                found[1].abort()
                found[1].is_finished()
                repr(found[1])
                resolved[1] += 1

    async def joins(random: Random) -> None:
        while not stop.is_set():
            found = pick(random)
            if found is None:
                await freerun.yield_now()
                continue
            kind, handle = found
            try:
                assert await handle == kind
            except freerun.JoinError as error:
                assert error.is_cancelled()
            resolved[2] += 1

    async def join_all() -> None:
        for handle in [freerun.spawn(joins, Random(seed + 300 + i)) for i in range(10)]:
            await handle

    def end(k: int) -> None:
        del k
        time.sleep(stress_seconds(1))
        try:
            wait_until(lambda: all(resolved))
        finally:
            stop.set()

    roles = [make, make, waits, waits, aborts, end]
    with freerun.Builder().worker_threads(2).build() as watcher, in_threads(len(roles), lambda k: roles[k](k)):
        watcher.block_on(join_all)
    print(resolved)


@pytest.mark.stress
def test_channels_between_runtimes_that_die() -> None:
    """A receiver on one runtime, its sender on another, either of which may go first."""
    random = seeded()
    deadline = time.monotonic() + stress_seconds(0.5)

    async def send(tx: Any, value: int) -> None:
        with tx:
            await freerun.yield_now()
            try:
                tx.send(value)
            except freerun.sync.SendError as error:
                assert error.value == value

    async def receive(rx: Any) -> int:
        try:
            received: int = await rx
        except RecvError:
            return -1
        return received

    while time.monotonic() < deadline:
        one = random.choice(FLAVORS[1:]).builder().build()
        two = random.choice(FLAVORS[1:]).builder().build()
        handles = []
        for i in range(20):
            tx, rx = oneshot.channel()
            handles.append(one.spawn(receive, rx))
            two.spawn(send, tx, i)
            del tx, rx
        first, second = (one, two) if random.random() < 0.5 else (two, one)
        first.shutdown(PATIENCE)
        second.shutdown(PATIENCE)
        for i, handle in enumerate(handles):
            assert outcome(handle) in (i, -1, "cancelled")


@pytest.mark.stress
def test_timers_of_runtimes_that_die() -> None:
    """Sleeps that end, are aborted and are shut down at the same moment."""
    random = seeded()
    deadline = time.monotonic() + stress_seconds(0.5)
    while time.monotonic() < deadline:
        rt = random.choice(FLAVORS[1:]).builder().build()
        handles = [rt.spawn(freerun.time.sleep, random.random() * 0.003) for _ in range(100)]
        for handle in random.sample(handles, 20):
            handle.abort()
        time.sleep(random.random() * 0.003)
        rt.shutdown(PATIENCE)
        assert {outcome(handle) for handle in handles} <= {None, "cancelled"}
