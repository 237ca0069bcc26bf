"""Random trees of join, select and timeout, woken from tasks and plain threads, aborted at any time. Every task ends,
every branch that began ends, and every message is either taken or still there."""

from __future__ import annotations

import queue
import threading
import time
from random import Random
from typing import Any

import pytest
from support import PATIENCE, in_threads, seeded, stress_seconds

import freerun
from freerun.sync import Notify, Semaphore, mpsc, oneshot
from freerun.time import sleep, timeout


class World:
    """What the leaves of the trees wait for, and the books. Every tree has a generator of its own."""

    def __init__(self) -> None:
        self.semaphore = Semaphore(2)
        self.notify = Notify()
        self.tx, self.rx = mpsc.channel(4)
        self.orders: queue.SimpleQueue[Any] = queue.SimpleQueue()  # senders for the plain threads to use
        self.lock = threading.Lock()
        self.began = self.ended = self.sent = self.received = 0

    def count(self, what: str) -> None:
        with self.lock:
            setattr(self, what, getattr(self, what) + 1)

    async def leaf(self, random: Random) -> int:
        self.count("began")
        try:
            return await self.waits(random)
        finally:
            try:
                if random.random() < 0.3:
                    await freerun.yield_now()  # it may be cut short
            finally:
                self.count("ended")

    async def waits(self, random: Random) -> int:
        how = random.randrange(6)
        if how == 0:
            await sleep(random.choice([0, 0.001, 0.003]))
        elif how == 1:
            async with self.semaphore:
                await freerun.yield_now()
        elif how == 2:
            tx, rx = oneshot.channel()
            self.orders.put(tx)
            assert await rx == 1
        elif how == 3:
            await self.tx.send(1)
            self.count("sent")
        elif how == 4:
            await freerun.select(self.notify.notified(), sleep(0.002))
        else:
            for _ in range(random.randrange(5)):
                await freerun.yield_now()
        return 1

    async def tree(self, random: Random, depth: int) -> int:
        how = random.randrange(7) if depth else 0
        if how == 0:
            return await self.leaf(random)
        branches = [self.tree(random, depth - 1) for _ in range(random.randrange(1, 5))]
        if how in (1, 2):
            return sum(await freerun.join(*branches))
        if how in (3, 4):
            return (await freerun.select(*branches, biased=random.random() < 0.5))[1]
        try:
            if how == 5:
                return sum(await timeout(random.choice([0.001, 60]), freerun.try_join(*branches)))
            async with timeout(random.choice([0.001, 60])):
                return sum(await freerun.try_join(*branches))
        except TimeoutError:
            return 0

    def fulfil(self) -> None:
        """A plain thread's."""
        while (tx := self.orders.get(timeout=PATIENCE)) is not None:
            try:
                tx.send(1)
            except freerun.SendError:
                pass  # its branch has lost

    async def receive(self) -> None:
        while True:
            await self.rx.recv()
            self.count("received")
            self.notify.notify_one()

    async def round(self, random: Random) -> None:
        tasks = [freerun.spawn(self.tree(Random(random.random()), 3)) for _ in range(20)]
        receiver = freerun.spawn(self.receive)
        for task in tasks:
            if random.random() < 0.3:
                for _ in range(random.randrange(3)):
                    await freerun.yield_now()
                task.abort()
        for task in tasks:
            try:
                assert await timeout(PATIENCE, task) >= 0
            except freerun.JoinError as error:
                assert error.is_cancelled()
        receiver.abort()
        try:
            await receiver
        except freerun.JoinError:
            pass

    def check(self) -> None:
        assert self.began == self.ended
        in_channel = 0
        while True:
            try:
                self.rx.try_recv()
            except freerun.WouldBlock:
                break
            in_channel += 1
        # One that was cancelled after its message had gone did not get to say so: none, since `send` returns at once.
        assert self.received + in_channel == self.sent
        assert self.semaphore.available_permits() == 2


@pytest.mark.stress
def test_trees(rt: freerun.Runtime) -> None:
    random = seeded()
    world = World()
    with in_threads(2, lambda _: world.fulfil()):
        try:
            ends = time.monotonic() + stress_seconds(0.5)
            while time.monotonic() < ends or world.began <= 50:
                rt.block_on(world.round, random)
        finally:
            for _ in range(2):
                world.orders.put(None)
    world.check()
    assert world.began > 50
