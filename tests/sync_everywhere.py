"""Everything in `sync` used once, as isolated work: it has to be importable in another interpreter."""

from __future__ import annotations

from typing import Any

import freerun
from freerun.sync import (
    Barrier,
    Condvar,
    Mutex,
    Notify,
    OnceCell,
    RwLock,
    Semaphore,
    SetOnce,
    broadcast,
    mpsc,
    oneshot,
    watch,
)


async def channels(n: int) -> tuple[Any, ...]:
    """What came through: from three senders, by one value, by all receivers, the latest value."""
    tx, rx = mpsc.channel(2)
    unbounded_tx, unbounded_rx = mpsc.unbounded_channel()
    once_tx, once_rx = oneshot.channel()
    all_tx, all_rx = broadcast.channel(4)
    latest_tx, latest_rx = watch.channel(0)

    async def produce(tx: mpsc.Sender[int]) -> None:
        with tx:
            for i in range(n):
                await tx.send(i)
                if i % 7 == 0:
                    unbounded_tx.send(i)

    producers = [freerun.spawn(produce, tx.clone()) for _ in range(3)]
    tx.close()
    bounded = sum([value async for value in rx])
    for producer in producers:
        await producer
    unbounded_tx.close()
    unbounded = sum([value async for value in unbounded_rx])
    freerun.spawn_blocking(once_tx.send, "once")
    freerun.spawn_blocking(all_tx.send, "to all")
    freerun.spawn_blocking(latest_tx.send, "latest")
    return bounded, unbounded, await once_rx, await all_rx.recv(), await latest_rx.wait_for(lambda value: value != 0)


async def locks(tasks: int) -> tuple[Any, ...]:
    """How many went through every lock, with some aborted on the way; and what the other primitives say."""
    semaphore, mutex, lock, turns = Semaphore(2), Mutex(0), RwLock(0), Condvar()

    async def work() -> None:
        async with semaphore:
            async with lock.read() as guard:
                await freerun.yield_now()
                assert guard.value <= tasks
            async with lock.write() as guard:
                guard.value += 1
            async with mutex as guard:
                value = guard.value
                await freerun.yield_now()
                guard.value = value + 1
                turns.notify_all()

    handles = [freerun.spawn(work) for _ in range(tasks)]
    aborted = [freerun.spawn(work) for _ in range(5)]
    for handle in aborted:
        handle.abort()
    async with mutex as guard:
        await turns.wait_for(guard, lambda value: value >= tasks)
    for handle in handles:
        await handle

    barrier, cell, once, notify = Barrier(3), OnceCell[int](), SetOnce[int](), Notify()

    async def make() -> int:
        return 7

    leaders = [await task for task in [freerun.spawn(barrier.wait) for _ in range(3)]]
    freerun.spawn_blocking(once.set, 8)
    freerun.spawn_blocking(notify.notify_one)
    await notify.notified()
    return (
        semaphore.available_permits(),
        [each.is_leader() for each in leaders].count(True),
        await cell.get_or_init(make),
        await once.wait(),
    )


async def leave_waiting() -> None:
    """End with a task in every line: the runtime there is shut down under them."""
    semaphore, mutex, (tx, rx), barrier = Semaphore(0), Mutex(), mpsc.channel(1), Barrier(2)
    await mutex.lock()
    await tx.send(1)
    for wait in (semaphore.acquire, mutex.lock, tx.reserve, barrier.wait, SetOnce[int]().wait, Notify().notified):
        freerun.spawn(wait)
    freerun.spawn(tx.send, rx)
    await freerun.yield_now()


async def everything(n: int) -> tuple[Any, ...]:
    """All of it."""
    result = await channels(n), await locks(n)
    await leave_waiting()
    return result
