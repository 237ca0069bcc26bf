"""`stream.merge`: Tokio's stream_merge.rs, and fairness."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from stream_support import Book, channel_of, collect
from support import every_flavor, in_threads, seeded
from waiting_support import waiting

import freerun
from freerun import stream
from freerun.sync import Notify, mpsc


@every_flavor
async def test_merge_sync_streams() -> None:
    merged = await collect(stream.merge(stream.iter([0, 2, 4, 6]), stream.iter([1, 3, 5])))
    assert sorted(merged) == list(range(7))
    assert await collect(stream.merge()) == []
    assert await collect(stream.merge(channel_of(), channel_of(1))) == [1]


@every_flavor
async def test_merge_async_streams() -> None:
    (tx1, rx1), (tx2, rx2) = mpsc.unbounded_channel(), mpsc.unbounded_channel()
    opened = stream.merge(rx1, rx2)
    tx1.send(1)
    assert await anext(opened) == 1
    tx2.send(2)
    assert await anext(opened) == 2
    tx1.close()
    tx2.send(3)
    assert await anext(opened) == 3
    tx2.close()
    with pytest.raises(StopAsyncIteration):
        await anext(opened)


@every_flavor
async def test_an_item_of_either_wakes_it() -> None:
    channels = [mpsc.unbounded_channel() for _ in range(5)]
    opened = stream.merge(*(rx for _, rx in channels))

    async def consume() -> list[int]:
        return [item async for item in opened]

    task: freerun.JoinHandle[list[int]] = await waiting(consume)
    for n, (tx, _) in enumerate(channels):
        tx.send(n)
        tx.close()
    assert sorted(await task) == list(range(5))


@every_flavor
async def test_those_that_are_always_ready_take_turns() -> None:
    async def endless(n: int) -> object:
        while True:
            yield n

    opened = stream.merge(*(endless(n) for n in range(4)))  # type: ignore[arg-type]
    items = await collect(opened, 400)
    assert all(items.count(n) == 100 for n in range(4))
    await opened.aclose()


@every_flavor
async def test_one_that_fails_closes_the_others() -> None:
    book = Book()
    opened = stream.merge(book.waits("waits"), book.numbers("numbers", 1 << 30, 0.001), book.fails("fails", 1))
    with pytest.raises(KeyError):
        while True:
            await anext(opened)
    assert sorted(book.closed) == ["fails", "numbers", "waits"]


@every_flavor
async def test_the_others_are_closed_all_at_once() -> None:
    """Their cleanup runs side by side, so it takes as long as the slowest, whatever the clock says."""
    inside = 0
    most = 0

    async def slow() -> object:
        nonlocal inside, most
        try:
            await freerun.time.sleep(3600)
            yield 1
        finally:
            inside += 1
            most = max(most, inside)
            await freerun.time.sleep(0.005)
            inside -= 1

    opened = stream.merge(*(slow() for _ in range(5)))  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.001, anext(opened))
    await opened.aclose()
    assert (inside, most) == (0, 5)


def test_senders_on_other_threads(rt: freerun.Runtime) -> None:
    random = seeded()
    channels = [mpsc.channel(random.choice([1, 3, 100])) for _ in range(3)]

    def send(i: int) -> None:
        with channels[i][0] as tx:
            for n in range(300):
                tx.blocking_send((i, n))

    async def consume() -> list[tuple[int, int]]:
        return [item async for item in stream.merge(*(rx for _, rx in channels))]

    with in_threads(3, send):
        items = rt.block_on(consume)
    for i in range(3):
        assert [n for who, n in items if who == i] == list(range(300))


@every_flavor
async def test_the_last_of_many_is_reached() -> None:
    """To look at all of them takes longer than a turn."""
    channels = [mpsc.unbounded_channel() for _ in range(20_000)]
    opened = stream.merge(*(rx for _, rx in channels))
    task: freerun.JoinHandle[int] = await waiting(anext, opened)
    channels[-1][0].send(7)
    assert await task == 7
    await opened.aclose()


@every_flavor
async def test_one_that_spends_the_budget_without_an_item_leaves_some_for_the_others() -> None:
    (tx, rx), (other_tx, other_rx) = mpsc.unbounded_channel(), mpsc.unbounded_channel()
    done = Notify()

    async def wants_nothing() -> AsyncIterator[int]:
        tx.send(0)
        async for n in rx:  # there is always one
            tx.send(n + 1)
            if n < 0:
                yield n

    async def other() -> AsyncIterator[int]:
        while True:
            yield await other_rx.recv()

    opened = stream.merge(wants_nothing(), other())

    async def sends() -> None:
        for n in range(10):
            await freerun.time.sleep(0.001)
            other_tx.send(n)
        await done.notified()

    sender = freerun.spawn(sends)
    assert await collect(opened, 10) == list(range(10))
    done.notify_one()
    await sender
    await opened.aclose()
