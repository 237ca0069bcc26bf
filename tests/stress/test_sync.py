"""Channels and locks between tasks on several workers and plain threads, with aborts at random."""

from __future__ import annotations

import threading
import time
from random import Random
from typing import Any

import pytest
from support import MULTI, Flavor, in_threads, only, seeded, stress_seconds

import freerun
from freerun.sync import Lagged, RecvError, RwLock, broadcast, watch

pytestmark = pytest.mark.stress


def seeds(random: Random) -> Any:
    """Seeds of short runs, for as long as a stress test lasts; one at least."""
    deadline = time.monotonic() + stress_seconds(0.5)
    while True:
        seed = random.randrange(1 << 32)
        print(f"run {seed}")
        yield Random(seed)
        if time.monotonic() >= deadline:
            return


class Tally:
    """What one receiver of a broadcast has seen: each sender's numbers rise, and what is missing was reported."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.got = 0
        self.missed = 0

    def note(self, value: tuple[int, int]) -> None:
        sender, number = value
        assert number > self.last.get(sender, -1)
        self.last[sender] = number
        self.got += 1


@only(*MULTI)
def test_broadcast(rt: freerun.Runtime, flavor: Flavor) -> None:
    senders, each = 3, 150

    async def main(random: Random) -> None:
        capacity = random.choice([1, 2, 7, 64])
        tx, rx = broadcast.channel(capacity)
        tallies = [Tally() for _ in range(8)]
        aborted = 0

        async def take(rx: broadcast.Receiver[Any], tally: Tally, count: int) -> bool:
            for _ in range(count):
                try:
                    tally.note(await rx.recv())
                except Lagged as lagged:
                    tally.missed += lagged.n
                except RecvError:
                    return True
            return False

        async def keep_taking(rx: broadcast.Receiver[Any], tally: Tally, random: Random) -> None:
            """By one task after another, many of which are aborted."""
            nonlocal aborted
            over = False
            while not over:
                task = freerun.spawn(take, rx, tally, random.randrange(1, 20))
                for _ in range(random.randrange(4)):
                    await freerun.yield_now()
                if random.random() < 0.4:
                    task.abort()
                try:
                    over = await task
                except freerun.JoinError:
                    aborted += 1

        def take_in_thread(rx: broadcast.Receiver[Any], tally: Tally) -> None:
            while True:
                try:
                    tally.note(rx.blocking_recv())
                except Lagged as lagged:
                    tally.missed += lagged.n
                except RecvError:
                    return

        async def send(tx: broadcast.Sender[Any], name: int, random: Random) -> None:
            with tx:
                for number in range(each):
                    tx.send((name, number))
                    if random.random() < 0.3:
                        await freerun.yield_now()

        receivers = [rx, *(tx.subscribe() for _ in tallies[1:])]
        waiting: list[Any] = [
            freerun.spawn(keep_taking, rx, tally, Random(random.random()))
            for rx, tally in zip(receivers[2:], tallies[2:], strict=True)
        ]
        waiting += [
            freerun.spawn_blocking(take_in_thread, rx, tally)
            for rx, tally in zip(receivers[:2], tallies[:2], strict=True)
        ]
        waiting += [freerun.spawn(send, tx.clone(), name, Random(random.random())) for name in range(senders)]
        tx.close()
        for task in waiting:
            await task
        assert {tally.got + tally.missed for tally in tallies} == {senders * each}
        assert len(tx) == 0

    for random in seeds(seeded()):
        rt.block_on(main, random)


@only(*MULTI)
def test_watch(rt: freerun.Runtime, flavor: Flavor) -> None:
    """Nobody sees an old value after a newer one, and everybody sees the last."""
    each = 200

    async def main(random: Random) -> None:
        tx, rx = watch.channel(0)

        async def follow(rx: watch.Receiver[int], random: Random) -> int:
            last = 0
            while True:
                if random.random() < 0.5:
                    task = freerun.spawn(rx.wait_for, lambda value: value < 0)
                    await freerun.yield_now()
                    task.abort()
                    try:
                        await task
                    except (freerun.JoinError, RecvError):
                        pass
                    rx.mark_changed()  # it may have looked at the last one
                try:
                    await rx.changed()
                except RecvError:
                    return max(last, rx.borrow())
                value = rx.borrow_and_update()
                assert value >= last
                last = value

        async def add(tx: watch.Sender[int], random: Random) -> None:
            with tx:
                for _ in range(each):
                    tx.send_modify(lambda value: value + 1)
                    if random.random() < 0.2:
                        await freerun.yield_now()

        followers = [freerun.spawn(follow, rx.clone(), Random(random.random())) for _ in range(6)]
        adders = [freerun.spawn(add, tx.clone(), Random(random.random())) for _ in range(3)]
        tx.close()
        for task in adders:
            await task
        for follower in followers:
            assert await follower == 3 * each

    for random in seeds(seeded()):
        rt.block_on(main, random)


@only(*MULTI)
def test_rwlock(rt: freerun.Runtime, flavor: Flavor) -> None:
    """Writers are alone, nobody waits for ever, and at the end the lock is free."""

    async def main(random: Random) -> None:
        lock = RwLock([0, 0], max_readers=random.choice([1, 2, 100]))
        written = 0

        async def use(random: Random) -> None:
            nonlocal written
            for _ in range(10):
                kind = random.random()
                if kind < 0.5:
                    async with lock.read() as guard:
                        first = guard.value[0]
                        await freerun.yield_now()
                        assert guard.value == [first, first]
                elif kind < 0.8:
                    async with lock.write() as guard:
                        try:
                            guard.value[0] += 1
                            await freerun.yield_now()
                        finally:
                            guard.value[1] += 1
                            written += 1
                else:
                    async with lock.write() as guard:
                        guard.value[0] += 1
                        guard.value[1] += 1
                        written += 1
                        first = guard.downgrade().value[0]
                        await freerun.yield_now()
                        assert guard.value == [first, first]

        def in_thread(_: int) -> None:
            nonlocal written
            for _ in range(20):
                with lock.blocking_write() as guard:
                    guard.value[0] += 1
                    guard.value[1] += 1
                    written += 1
                with lock.blocking_read() as guard:
                    assert guard.value[0] == guard.value[1]

        with in_threads(2, in_thread):
            tasks = [freerun.spawn(use, Random(random.random())) for _ in range(16)]
            for task in random.sample(tasks, 6):
                for _ in range(random.randrange(5)):
                    await freerun.yield_now()
                task.abort()
            for task in tasks:
                try:
                    await task
                except freerun.JoinError:
                    pass
        with lock.try_write() as guard:
            assert guard.value == [written, written]

    for random in seeds(seeded()):
        rt.block_on(main, random)


@only(*MULTI)
def test_closing_from_everywhere(rt: freerun.Runtime, flavor: Flavor) -> None:
    """Ends that are closed by several threads at once: counted once, and nobody waits for ever."""

    async def main(random: Random) -> None:
        tx, rx = broadcast.channel(4)
        others = [tx.clone() for _ in range(4)]
        receivers = [rx, *(tx.subscribe() for _ in range(4))]

        async def drain(rx: broadcast.Receiver[int]) -> int:
            count = 0
            while True:
                try:
                    await rx.recv()
                    count += 1
                except Lagged as lagged:
                    count += lagged.n
                except RecvError:
                    return count

        def close(_: int) -> None:
            for other in others:
                other.close()

        tasks = [freerun.spawn(drain, each) for each in receivers[:3]]
        gone = freerun.spawn(tx.closed)
        for number in range(random.randrange(10)):
            tx.send(number)
        with in_threads(3, close):
            await freerun.yield_now()
        assert tx.strong_count() == 1
        threading.Thread(target=tx.close).start()
        for task in tasks:
            await task
        barrier = threading.Barrier(3)

        def close_receivers(_: int) -> None:
            barrier.wait()
            for each in receivers:
                each.close()

        with in_threads(3, close_receivers):
            await gone
        assert tx.receiver_count() == len(tx) == 0

    for random in seeds(seeded()):
        rt.block_on(main, random)
