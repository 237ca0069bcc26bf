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
from freerun.sync import Notify, RecvError, SetOnce, broadcast, mpsc, oneshot, watch


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


class Ways:
    """Ways in which somebody stops waiting."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    async def wait(self, make: Any) -> bool:
        """Await what `make()` gives, plain, with a limit, or beside what is over sooner; whether it came to its end."""
        kind = self.rng.randrange(3)
        if kind == 0:
            await make()
            return True
        if kind == 1:
            try:
                await freerun.time.timeout(self.rng.choice([0, 0.0005]), make())
            except TimeoutError:
                return False
            return True
        beside = freerun.yield_now() if self.rng.random() < 0.5 else freerun.time.sleep(0.0005)
        return (await freerun.select(make(), beside))[0] == 0

    async def crowd(self, make: Any, event: Any) -> int:
        """Many that wait, some of whom give up or are aborted, before, while and after the event; how many heard of it.

        Who neither gave up nor was aborted has heard of it, or this never returns."""
        tasks = [freerun.spawn(self.wait, make) for _ in range(16)]
        early = [task for task in tasks if self.rng.random() < 0.3]
        late = [task for task in tasks if self.rng.random() < 0.3]
        for task in early:
            if self.rng.random() < 0.3:
                await freerun.yield_now()
            task.abort()
        happened = freerun.spawn_blocking(event) if self.rng.random() < 0.5 else event()
        for task in late:
            task.abort()
        if isinstance(happened, freerun.JoinHandle):
            await happened
        heard = 0
        for task in tasks:
            try:
                heard += await task
            except freerun.JoinError as error:
                assert error.is_cancelled()
        return heard


def closed_of_mpsc() -> tuple[Any, Any, Any]:
    tx, rx = mpsc.channel(1)
    return tx.closed, rx.close, rx


def closed_of_unbounded() -> tuple[Any, Any, Any]:
    tx, rx = mpsc.unbounded_channel()
    return tx.closed, rx.close, rx


def closed_of_broadcast() -> tuple[Any, Any, Any]:
    tx, rx = broadcast.channel(1)
    return tx.closed, rx.close, rx


def closed_of_watch() -> tuple[Any, Any, Any]:
    tx, rx = watch.channel(0)
    return tx.closed, rx.close, rx


def value_of_watch() -> tuple[Any, Any, Any]:
    tx, rx = watch.channel(0)
    return (lambda: rx.clone().wait_for(lambda value: value == 2)), (lambda: [tx.send(n) for n in (1, 2)]), (tx, rx)


def value_of_set_once() -> tuple[Any, Any, Any]:
    cell: SetOnce[int] = SetOnce()
    return cell.wait, (lambda: cell.set(1)), cell


def all_of_notify() -> tuple[Any, Any, Any]:
    notify = Notify()
    made = [notify.notified() for _ in range(64)]  # they hear of a call that comes after this
    return made.pop, notify.notify_waiters, notify


@pytest.mark.parametrize(
    "kind",
    [
        closed_of_mpsc,
        closed_of_unbounded,
        closed_of_broadcast,
        closed_of_watch,
        value_of_watch,
        value_of_set_once,
        all_of_notify,
    ],
)
@every_flavor
async def test_what_everybody_waits_for(kind: Any) -> None:
    """An event for all: who gives up disturbs nobody, and nobody who goes on waiting is forgotten."""
    ways = Ways(seeded())
    for _ in range(8):
        make, event, _keep = kind()
        await ways.crowd(make, event)
        await make()  # it stays so for who comes late


@every_flavor
async def test_oneshot() -> None:
    """The value is received once, whoever gives up before; `closed()` likewise."""
    rng = seeded()
    ways = Ways(rng)
    for number in range(40):
        tx, rx = oneshot.channel()
        got: list[int] = []

        async def receive(rx: Any = rx, got: list[int] = got) -> None:
            got.append(await rx)

        send = freerun.spawn_blocking if rng.random() < 0.5 else lambda *args: freerun.spawn(async_call, *args)
        sent = send(tx.send, number)
        while not got:
            receiver = freerun.spawn(ways.wait, receive)
            if rng.random() < 0.5:
                await freerun.yield_now()
            if rng.random() < 0.5:
                receiver.abort()
            await ended(receiver)
        await sent
        assert got == [number]

        tx, rx = oneshot.channel()
        left = freerun.spawn_blocking(rx.close)
        while not await ways.wait(tx.closed):
            pass
        await left


async def async_call(fn: Any, *args: Any) -> Any:
    await freerun.yield_now()
    return fn(*args)


@every_flavor
async def test_unbounded() -> None:
    """What is received by those who give up again and again is all, once, in order."""
    rng = seeded()
    ways = Ways(rng)
    tx, rx = mpsc.unbounded_channel()
    received: list[int] = []

    async def one() -> None:
        received.append(await rx.recv())

    async def many() -> None:
        received.extend(await rx.recv_many(3))

    async def produce() -> None:
        with tx:
            for n in range(200):
                tx.send(n)
                if rng.random() < 0.5:
                    await freerun.yield_now()

    producer = freerun.spawn(produce)
    try:
        while True:
            task = freerun.spawn(ways.wait, rng.choice([one, many]))
            if rng.random() < 0.5:
                task.abort()
            await ended(task)
    except RecvError:
        pass
    await producer
    assert received == list(range(200))
