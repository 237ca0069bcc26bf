"""`DelayQueue`: values come out in the order of their deadlines, keys move and remove them."""

from __future__ import annotations

import copy
import datetime as dt
import gc
import math
import weakref
from typing import Any

import pytest
from support import Flavor, every_flavor, in_threads, is_parked, seeded, until

import freerun
from freerun.time import DelayQueue, Instant, Key, advance, sleep, sleep_until, timeout


def ms(n: float) -> float:
    return n / 1000


async def ready(queue: DelayQueue[Any]) -> list[Any]:
    """What is due now."""
    found = []
    try:
        while True:
            found.append((await timeout(0, queue.next())).value)
    except (TimeoutError, IndexError):
        return found


class Consumer:
    """A task that takes values as they come."""

    def __init__(self, queue: DelayQueue[Any]) -> None:
        self.queue = queue
        self.start = Instant.now()
        self.log: list[tuple[Any, int]] = []
        self.task = freerun.spawn(self.run)

    async def run(self) -> None:
        async for expired in self.queue:
            assert Instant.now() >= expired.deadline
            self.log.append((expired.value, round(self.start.elapsed() * 1000)))


@freerun.test(start_paused=True)
async def test_immediate() -> None:
    queue: DelayQueue[str] = DelayQueue()
    queue.insert_at("1", Instant.now())
    queue.insert("2", 0)
    queue.insert_at("3", Instant.now())
    assert await ready(queue) == ["1", "2", "3"]
    with pytest.raises(IndexError, match="empty"):
        await queue.next()


@freerun.test(start_paused=True)
async def test_short_delay() -> None:
    queue: DelayQueue[str] = DelayQueue()
    queue.insert_at("value", Instant.now() + ms(5))
    consumer = Consumer(queue)
    await sleep(ms(4))
    assert consumer.log == []
    await consumer.task
    assert consumer.log == [("value", 5)]


@freerun.test(start_paused=True)
async def test_order() -> None:
    delays = [1000, 2, 234, 262_144 + 9 * 4096, 60, 10]
    queue: DelayQueue[int] = DelayQueue()
    for delay in delays:
        queue.insert(delay, ms(delay))
    consumer = Consumer(queue)
    await consumer.task
    assert consumer.log == [(delay, delay) for delay in sorted(delays)]


@freerun.test(start_paused=True)
async def test_same_deadline_is_first_in_first_out() -> None:
    queue: DelayQueue[int] = DelayQueue()
    when = Instant.now() + 1
    for n in range(10):
        queue.insert_at(n, when)
    assert [expired.value async for expired in queue] == list(range(10))


@freerun.test(start_paused=True)
async def test_past_deadlines() -> None:
    queue: DelayQueue[str] = DelayQueue()
    now = Instant.now()
    await sleep(ms(10))
    key = queue.insert_at("late", now)
    assert queue.deadline(key) == now
    assert queue.remove(key) == "late"
    queue.insert_at("later", now + ms(200))
    consumer = Consumer(queue)
    await sleep(ms(80))
    queue.insert_at("past", now + ms(40))
    await freerun.yield_now()
    await freerun.yield_now()
    assert [value for value, _ in consumer.log] == ["past"]
    await consumer.task


@freerun.test(start_paused=True)
async def test_remove() -> None:
    queue: DelayQueue[str] = DelayQueue()
    start = Instant.now()
    key = queue.insert("value", 5)
    consumer = Consumer(queue)
    await freerun.yield_now()
    assert queue.remove(key) == "value"
    await consumer.task  # the queue has become empty
    assert start.elapsed() == 0, "nobody waits for what was removed"
    for use in (queue.remove, queue.deadline, lambda key: queue.reset(key, 1), lambda key: queue.reset_at(key, start)):
        with pytest.raises(KeyError, match="come out or was removed"):
            use(key)
        with pytest.raises(TypeError, match="argument 'key'"):
            use(5)


@freerun.test(start_paused=True)
async def test_removing_the_first_does_not_wake_at_its_deadline() -> None:
    queue: DelayQueue[str] = DelayQueue()
    start = Instant.now()
    first = queue.insert("first", 1)
    queue.insert("second", 100)
    consumer = Consumer(queue)
    await freerun.yield_now()
    queue.remove(first)
    await freerun.yield_now()
    jumped: list[float] = []
    hour = freerun.spawn(sleep_until(start + 50))
    await hour
    jumped.append(start.elapsed())
    assert 50 <= jumped[0] < 50.002
    await consumer.task
    assert consumer.log == [("second", 100_000)]


@freerun.test(start_paused=True)
async def test_reset() -> None:
    queue: DelayQueue[str] = DelayQueue()
    now = Instant.now()
    one = queue.insert_at("one", now + ms(200))
    two = queue.insert_at("two", now + ms(250))
    consumer = Consumer(queue)
    await freerun.yield_now()
    queue.reset_at(one, now + ms(300))
    queue.reset_at(two, now + ms(350))
    queue.reset_at(one, now + ms(400))
    assert queue.deadline(one) == now + ms(400)
    assert queue.peek() is two
    await consumer.task
    assert consumer.log == [("two", 350), ("one", 400)]


@pytest.mark.parametrize(("which", "when", "expected"), [
    (0, 100, [("one", 100), ("two", 250)]),
    (1, 100, [("two", 100), ("one", 200)]),
    (0, 300, [("two", 250), ("one", 300)]),
    (0, 10, [("one", 80), ("two", 250)]),
])  # fmt: skip
@freerun.test(start_paused=True)
async def test_reset_one_of_two(which: int, when: int, expected: list[tuple[str, int]]) -> None:
    """Earlier, later, and into the past: at once then."""
    queue: DelayQueue[str] = DelayQueue()
    now = Instant.now()
    keys = [queue.insert_at("one", now + ms(200)), queue.insert_at("two", now + ms(250))]
    consumer = Consumer(queue)
    await sleep_until(now + ms(80))
    queue.reset_at(keys[which], now + ms(when))
    await consumer.task
    assert consumer.log == expected


@freerun.test(start_paused=True)
async def test_reset_what_is_due_already() -> None:
    queue: DelayQueue[str] = DelayQueue()
    now = Instant.now()
    key = queue.insert_at("value", now - 0.1)
    queue.reset_at(key, now + 0.1)
    queue.reset(key, 0.05)
    assert await ready(queue) == []
    await advance(0.06)
    assert await ready(queue) == ["value"]
    assert len(queue) == 0


@freerun.test(start_paused=True)
async def test_insert_before_the_first() -> None:
    queue: DelayQueue[str] = DelayQueue()
    queue.insert("last", 10)
    consumer = Consumer(queue)
    await freerun.yield_now()
    queue.insert("middle", 0.6)
    await freerun.yield_now()
    queue.insert("first", 0.2)
    await consumer.task
    assert consumer.log == [("first", 200), ("middle", 600), ("last", 10_000)]


@freerun.test(start_paused=True)
async def test_insert_while_iterating() -> None:
    queue: DelayQueue[int] = DelayQueue()
    for n in (1, 2, 3):
        queue.insert(n, 0.1)
    found = []
    async for expired in queue:
        found.append(expired.value)
        if expired.value <= 3:
            queue.insert(expired.value + 10, 0.5)
    assert found == [1, 2, 3, 11, 12, 13]
    assert [expired.value async for expired in queue] == []
    queue.insert(4, 0.1)  # it goes on after it was empty
    assert [expired.value async for expired in queue] == [4]


@freerun.test(start_paused=True)
async def test_clear() -> None:
    queue: DelayQueue[int] = DelayQueue()
    start = Instant.now()
    keys = [queue.insert(n, 5) for n in range(100)]
    assert len(queue) == 100
    assert not queue.is_empty()
    consumer = Consumer(queue)
    await freerun.yield_now()
    queue.clear()
    assert queue.is_empty()
    await consumer.task
    assert consumer.log == []
    assert start.elapsed() == 0
    with pytest.raises(KeyError):
        queue.remove(keys[0])
    queue.clear()


@freerun.test(start_paused=True)
async def test_peek_and_expired() -> None:
    queue: DelayQueue[str] = DelayQueue()
    with pytest.raises(IndexError, match="empty"):
        queue.peek()
    now = Instant.now()
    later = queue.insert("later", 2)
    first = queue.insert("first", 1)
    assert queue.peek() is first
    expired = await queue.next()
    assert (expired.value, expired.key, expired.deadline) == ("first", first, now + 1)
    assert queue.peek() is later
    assert isinstance(later, Key)
    with pytest.raises(KeyError):
        queue.remove(first)
    with pytest.raises(KeyError):
        DelayQueue[str]().remove(later)
    assert repr(queue) == "<DelayQueue len=1>"


@every_flavor
async def test_real_time() -> None:
    random = seeded()
    queue: DelayQueue[float] = DelayQueue()
    start = Instant.now()
    delays = [random.uniform(0, 0.03) for _ in range(300)]
    for delay in delays:
        queue.insert(delay, delay)
    found = [expired async for expired in queue]
    assert [each.deadline for each in found] == sorted(each.deadline for each in found)
    assert sorted(each.value for each in found) == sorted(delays)
    assert start.elapsed() >= max(delays)


@every_flavor
async def test_cancelled_takers_lose_nothing() -> None:
    queue: DelayQueue[str] = DelayQueue()
    key = queue.insert("value", 3600)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await timeout(0.001, queue.next())
    queue.reset(key, 0.01)
    task = freerun.spawn(queue.next)
    await until(lambda: is_parked(task) or task.is_finished())
    task.abort()
    try:
        assert (await task).value == "value"
    except freerun.JoinError:
        assert (await queue.next()).value == "value"
    assert queue.is_empty()


@every_flavor
async def test_several_consumers() -> None:
    """Each value goes to one of them, and all of them end when the queue is empty."""
    queue: DelayQueue[int] = DelayQueue()
    for n in range(200):
        queue.insert(n, ms(n % 20))
    consumers = [Consumer(queue) for _ in range(4)]
    for consumer in consumers:
        await consumer.task
    assert sorted(value for consumer in consumers for value, _ in consumer.log) == list(range(200))


@every_flavor
async def test_used_from_threads() -> None:
    """Threads insert, move and remove; every value comes out once, by one way or the other."""
    random = seeded()
    queue: DelayQueue[int] = DelayQueue()
    last = queue.insert(-1, 3600)
    removed: list[int] = []
    seeds = [random.random() for _ in range(3)]

    def work(i: int) -> None:
        import random as module

        own = module.Random(seeds[i])
        for n in range(200):
            value = i * 1000 + n
            key = queue.insert(value, own.choice([0, 0.001, 0.005, 60]))
            try:
                match own.randrange(4):
                    case 0:
                        removed.append(queue.remove(key))
                    case 1:
                        queue.reset(key, own.choice([0, 0.002]))
                    case 2:
                        queue.reset_at(key, Instant.now() + 60)
                        queue.reset(key, 0)
                    case _:
                        queue.deadline(key)
                        queue.reset(key, 0.001)
            except KeyError:
                pass  # it has come out meanwhile
        assert len(queue) >= 1

    def threads() -> None:
        with in_threads(3, work):
            pass
        queue.remove(last)

    consumer = Consumer(queue)
    await freerun.spawn_blocking(threads)
    await consumer.task
    found = sorted([*(value for value, _ in consumer.log), *removed])
    assert found == [i * 1000 + n for i in range(3) for n in range(200)]


@every_flavor
async def test_removed_values_are_freed_and_leave_no_place() -> None:
    class Value:
        pass

    queue: DelayQueue[Any] = DelayQueue()
    refs = []
    for n in range(2000):
        value = Value()
        refs.append(weakref.ref(value))
        key = queue.insert(value, 3600 + n)
        queue.reset(key, 7200 - n)
        queue.reset(key, 7200 + n)
        if n % 50:
            queue.remove(key)
        del value
    assert len(queue) == 40
    assert len(queue._heap) <= 2 * 40 + 100
    del key

    def alive() -> int:
        gc.collect()  # once: is_freed() would, for each of them
        return sum(ref() is not None for ref in refs)

    await until(lambda: alive() == 40)
    queue.clear()
    await until(lambda: alive() == 0)


@every_flavor
async def test_a_destructor_may_use_the_queue() -> None:
    queue: DelayQueue[Any] = DelayQueue()

    class Value:
        def __del__(self) -> None:
            queue.insert("left behind", 0)

    queue.insert(Value(), 3600)
    queue.clear()
    key = queue.insert(Value(), 3600)
    queue.remove(key)
    gc.collect()
    await until(lambda: len(queue) == 2)
    assert [expired.value async for expired in queue] == ["left behind"] * 2


@pytest.mark.parametrize(("bad", "error"), [
    (-1, ValueError), (math.nan, ValueError), (10**400, ValueError), ("1", TypeError), (None, TypeError),
], ids=repr)  # fmt: skip
def test_bad_delays(bad: Any, error: type[Exception]) -> None:
    queue: DelayQueue[int] = DelayQueue()
    with pytest.raises(error, match="argument 'delay'"):
        queue.insert(1, bad)
    key = queue.insert(1, dt.timedelta(seconds=1))
    with pytest.raises(error, match="argument 'delay'"):
        queue.reset(key, bad)
    with pytest.raises(TypeError, match="argument 'when'"):
        queue.insert_at(1, 5.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 'when'"):
        queue.reset_at(key, 5.0)  # type: ignore[arg-type]
    assert len(queue) == 1
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.copy(queue)


@pytest.mark.parametrize("delay", [math.inf, 1e300, 1e18, dt.timedelta.max], ids=repr)
@every_flavor
async def test_for_ever(delay: Any) -> None:
    """It waits behind everything else, and can be removed."""
    queue: DelayQueue[str] = DelayQueue()
    key = queue.insert("never", delay)
    queue.insert("soon", 0.001)
    assert (await queue.next()).value == "soon"
    with pytest.raises(TimeoutError):
        await timeout(0.01, queue.next())
    assert queue.deadline(key) > Instant.now() + 1e9
    assert queue.remove(key) == "never"


def test_outside_a_task() -> None:
    queue: DelayQueue[int] = DelayQueue()
    queue.insert(1, 5)
    with pytest.raises(RuntimeError, match="inside a freerun task only"):
        queue.next().send(None)


def test_without_timers(flavor: Flavor) -> None:
    async def main() -> None:
        queue: DelayQueue[int] = DelayQueue()
        queue.insert(1, 0)
        queue.insert(2, 60)
        assert (await queue.next()).value == 1
        with pytest.raises(RuntimeError, match="enable_time"):
            await queue.next()
        await freerun.yield_now()

    with flavor.builder().enable_io().build() as rt:
        rt.block_on(main)
