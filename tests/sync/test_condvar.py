"""`sync.Condvar`: no notification is missed or lost, and the mutex is locked on every way out."""

from __future__ import annotations

from typing import Any

import pytest
from support import every_flavor, in_threads, seeded, until
from waiting_support import Aborts, abort, still_waits, waiting

import freerun
from freerun.sync import Condvar, Mutex, WouldBlock


def assert_free(mutex: Mutex[Any], condvar: Condvar) -> None:
    with mutex.try_lock():
        pass
    assert len(condvar._line) == 0


@pytest.mark.parametrize("how", ["block", "guard"])
@every_flavor
async def test_wait(how: str) -> None:
    """In an `async with mutex` block, and with the guard of lock()."""
    mutex, condvar = Mutex(0), Condvar()

    async def main() -> int:
        async with mutex if how == "block" else mutex.lock() as guard:
            guard.value += 1
            assert await condvar.wait(guard) is guard
            guard.value += 10
            assert mutex.is_locked()
            return guard.value

    task = await waiting(main)
    async with mutex as guard:
        assert guard.value == 1
        assert condvar.notify_one() is True
        assert condvar.notify_one() is False
        await still_waits(task)  # for the mutex now
        guard.value += 100
    assert await task == 111
    assert_free(mutex, condvar)


@every_flavor
async def test_the_guard_meanwhile() -> None:
    mutex, condvar = Mutex(0), Condvar()
    guards = []

    async def main() -> None:
        async with mutex as guard:
            guards.append(guard)
            await condvar.wait(guard)

    task = await waiting(main)
    assert not mutex.is_locked()
    for use in (lambda: guards[0].value, guards[0].__enter__):
        with pytest.raises(RuntimeError, match="does not hold its mutex"):
            use()
    with pytest.raises(RuntimeError, match="does not hold its mutex"):
        await condvar.wait(guards[0])
    condvar.notify_all()
    await task
    with pytest.raises(RuntimeError, match="does not hold its mutex any more"):
        await condvar.wait(guards[0])
    assert_free(mutex, condvar)
    with pytest.raises(TypeError, match="'guard' must be the guard of a Mutex, not Mutex"):
        await condvar.wait(mutex)  # type: ignore[arg-type]


@every_flavor
async def test_first_in_first_out() -> None:
    mutex, condvar = Mutex([]), Condvar()

    async def main(i: int) -> None:
        async with mutex as guard:
            await condvar.wait(guard)
            guard.value.append(i)

    tasks = [await waiting(main, i) for i in range(5)]
    for i in range(3):
        condvar.notify_one()
        await tasks[i]
    assert condvar.notify_all() == 2
    await tasks[3]
    await tasks[4]
    assert mutex.try_lock().value[:3] == [0, 1, 2]
    assert condvar.notify_all() == 0


@every_flavor
async def test_wait_for() -> None:
    mutex, condvar = Mutex(0), Condvar()
    asked = []

    def wanted(value: int) -> bool:
        asked.append(value)
        return value >= 2

    async def main() -> int:
        async with mutex as guard:
            return (await condvar.wait_for(guard, wanted)).value

    task = await waiting(main)
    for _ in range(2):
        async with mutex as guard:
            guard.value += 1
        condvar.notify_one()
        await until(lambda: asked[-1] == guard_value(mutex))
    assert await task == 2
    assert asked == [0, 1, 2]
    async with mutex as guard:
        with pytest.raises(ZeroDivisionError):
            await condvar.wait_for(guard, lambda value: 1 // 0)
        with pytest.raises(TypeError, match="'predicate'"):
            await condvar.wait_for(guard, main)
        await condvar.wait_for(guard, wanted)
    assert_free(mutex, condvar)


def guard_value(mutex: Mutex[int]) -> int | None:
    try:
        with mutex.try_lock() as guard:
            return guard.value
    except WouldBlock:
        return None


@every_flavor
async def test_cancelled_it_has_the_mutex_again() -> None:
    mutex, condvar = Mutex(0), Condvar()
    cleaned: list[int] = []

    async def main() -> None:
        async with mutex as guard:
            try:
                await condvar.wait(guard)
            finally:
                guard.value += 1
                cleaned.append(guard.value)

    task = await waiting(main)
    holder = await mutex.lock()
    task.abort()
    await still_waits(task)  # for the mutex
    assert cleaned == []
    assert len(condvar._line) == 0, "it has left the line at once"
    holder.release()
    with pytest.raises(freerun.JoinError):
        await task
    assert cleaned == [1]
    assert_free(mutex, condvar)


@every_flavor
async def test_the_notification_of_a_cancelled_task_goes_to_the_next() -> None:
    for hold in (False, True):
        for _ in range(30):
            mutex, condvar = Mutex(0), Condvar()

            async def main() -> None:
                async with mutex as guard:
                    await condvar.wait(guard)

            first, second = await waiting(main), await waiting(main)
            holder = await mutex.lock() if hold else None
            condvar.notify_one()
            if hold:
                await still_waits(first)  # for the mutex, notified
            first.abort()
            if holder:
                holder.release()
            try:
                await first
            except freerun.JoinError:
                await second
            else:
                await abort(second)
            assert_free(mutex, condvar)


@every_flavor
async def test_queue_storm() -> None:
    """A queue of a few places between tasks, some of which are aborted: nothing lost, nothing twice."""
    random = seeded()
    aborts = Aborts(random, often=0.2)
    mutex: Mutex[list[int]] = Mutex([])
    filled, emptied = Condvar(), Condvar()
    taken: list[int] = []
    put: list[int] = []

    async def produce(first: int) -> None:
        for number in range(first, first + 10):
            async with mutex as guard:
                await emptied.wait_for(guard, lambda items: len(items) < 3)
                guard.value.append(number)
                put.append(number)
                filled.notify_one()

    async def consume(count: int) -> None:
        for _ in range(count):
            async with mutex as guard:
                await filled.wait_for(guard, lambda items: items)
                taken.append(guard.value.pop(0))
                emptied.notify_one()

    for turn in range(5):
        consumers = [freerun.spawn(consume, 20) for _ in range(6)]
        producers = [freerun.spawn(produce, 1000 * turn + 10 * i) for i in range(8)]
        await aborts.maybe(*random.sample(producers + consumers[1:], 10))
        rescue = freerun.spawn(consume, 10_000)  # whoever was aborted, somebody empties the queue
        for producer in producers:
            await aborts.result(producer)
        await until(lambda: guard_value(mutex) == [])  # type: ignore[arg-type]
        for consumer in (*consumers, rescue):
            consumer.abort()
            await aborts.result(consumer)
        assert taken == put
        assert_free(mutex, filled)
        assert_free(mutex, emptied)


@every_flavor
async def test_notified_by_threads() -> None:
    mutex, condvar = Mutex(0), Condvar()
    total = 200

    def add(_: int) -> None:
        for _ in range(total // 2):
            with mutex.blocking_lock() as guard:
                guard.value += 1
            condvar.notify_all()

    async def main(wanted: int) -> int:
        async with mutex as guard:
            await condvar.wait_for(guard, lambda value: value >= wanted)
            return guard.value

    tasks = [freerun.spawn(main, 1 + i * 10) for i in range(20)]
    with in_threads(2, add):
        for i, task in enumerate(tasks):
            assert await task >= 1 + i * 10
    assert_free(mutex, condvar)
