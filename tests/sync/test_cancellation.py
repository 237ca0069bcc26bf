"""Every await of `sync` cancelled at random points, by abort and by giving up: nothing lost, doubled or forgotten."""

from __future__ import annotations

import contextlib
import gc
import random
from collections import Counter
from typing import Any

import pytest
from support import every_flavor, seeded, until

import freerun
from freerun.sync import RecvError, mpsc


async def ended(task: freerun.JoinHandle[Any]) -> None:
    """Wait until it is over, however."""
    with contextlib.suppress(freerun.JoinError):
        await task


class Traffic:
    """Senders that come and go by abort, a receiver that does so too, and books of both sides."""

    def __init__(self, capacity: int, rng: random.Random) -> None:
        self.capacity = capacity
        self.rng = rng
        self.tx, self.rx = mpsc.channel(capacity)
        self.sent: dict[int, list[int]] = {}
        self.received: list[tuple[int, int]] = []

    async def send(self, tx: Any, who: int, how: int) -> None:
        """Nothing can come between the end of the await and the entry in the books."""
        books = self.sent[who] = []
        with tx:
            for n in range(6):
                message = (who, n)
                if how == 0:
                    await tx.send(message)
                    books.append(n)
                elif how == 1:
                    async with tx.reserve() as permit:
                        await freerun.yield_now()
                        permit.send(message)
                        books.append(n)
                elif how == 2:
                    for permit in await tx.reserve_many(min(2, self.capacity)):
                        permit.send((who, n))
                        books.append(n)
                        await freerun.yield_now()
                        break  # the rest goes back when it is freed
                else:
                    await tx.send_timeout(message, 60)
                    books.append(n)

    async def receive(self, how: int) -> None:
        if how == 0:
            async for message in self.rx:
                self.received.append(message)
        elif how == 1:
            while True:
                self.received += await self.rx.recv_many(3)
        else:
            while True:
                self.received.append(await self.rx.recv())

    async def run(self) -> None:
        senders = [freerun.spawn(self.send, self.tx.clone(), who, self.rng.randrange(4)) for who in range(12)]
        self.tx.close()
        receiver = freerun.spawn(self.receive, 0)
        while True:
            for task in senders:
                if self.rng.random() < 0.02:
                    task.abort()
            if self.rng.random() < 0.3:
                receiver.abort()
            if self.rng.random() < 0.5:
                await freerun.yield_now()
            if receiver.is_finished():
                try:
                    await receiver
                except freerun.JoinError:
                    receiver = freerun.spawn(self.receive, self.rng.randrange(3))
                    continue
                except RecvError:
                    pass
                break
        for task in senders:
            await ended(task)
        del senders, task

    def check(self) -> None:
        sent = Counter((who, n) for who, books in self.sent.items() for n in books)
        assert Counter(self.received) == sent
        for who in self.sent:
            assert [n for each, n in self.received if each == who] == self.sent[who]


@pytest.mark.parametrize("capacity", [1, 2, 7])
@every_flavor
async def test_mpsc(capacity: int) -> None:
    rng = seeded()
    for _ in range(6):
        traffic = Traffic(capacity, rng)
        await traffic.run()
        traffic.check()
        await until(lambda traffic=traffic: gc.collect() is not None and traffic.rx.capacity() == capacity)
