"""`lowlevel.Listeners`: nobody misses news, whoever comes and goes meanwhile."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from typing import Any

import pytest
from support import CURRENT, every_flavor, in_threads, is_freed, only, seeded, until, wait_until
from sync_support import put_in_line
from waiting_support import Aborts, abort, gives_way, still_waits, waiting

import freerun
from freerun.lowlevel import PENDING, Listeners, Pending


class Counter:
    """A number that only rises; one waits for it to reach something."""

    def __init__(self) -> None:
        self.listeners = Listeners()
        self.value = 0
        self.lock = threading.Lock()
        self.looks = 0

    def add(self) -> None:
        with self.lock:
            self.value += 1
        self.listeners.wake_all()

    def reaches(self, wanted: int) -> Any:
        def look() -> int | Pending:
            self.looks += 1
            return self.value if self.value >= wanted else PENDING

        return look


async def wait(counter: Counter, wanted: int) -> int:
    return await counter.listeners.wait(counter.reaches(wanted))


@every_flavor
async def test_finds_at_once() -> None:
    counter = Counter()
    assert await wait(counter, 0) == 0
    assert (counter.looks, len(counter.listeners)) == (1, 0)
    await gives_way(lambda: wait(counter, 0))


@every_flavor
async def test_everybody_looks_again() -> None:
    counter = Counter()
    tasks = [await waiting(wait, counter, 1 + i % 3) for i in range(100)]
    assert len(counter.listeners) == 100
    for value in (1, 2, 3):
        counter.add()
        for task in tasks[value - 1 :: 3]:
            assert await task >= value
        await until(lambda value=value: len(counter.listeners) == 33 * (3 - value))
    assert counter.listeners.wake_all() == 0


@pytest.mark.parametrize("value", [None, ..., NotImplemented, False, StopIteration(3)])
@every_flavor
async def test_every_value_but_one_is_found(value: object) -> None:
    found = await Listeners().wait(lambda: value)
    assert found is value


@every_flavor
async def test_a_look_that_fails() -> None:
    counter = Counter()

    def look() -> Pending:
        if counter.value:
            raise KeyError("look")
        return PENDING

    async def main() -> None:
        await counter.listeners.wait(look)

    task = await waiting(main)
    counter.add()
    with pytest.raises(KeyError):
        await task
    with pytest.raises(KeyError):
        await counter.listeners.wait(look)
    assert len(counter.listeners) == 0
    for call in (counter.listeners.wait, counter.listeners.block):
        with pytest.raises(TypeError, match="'look' must be a function"):
            call(3)  # type: ignore[arg-type]


@every_flavor
async def test_a_look_that_raises_stop_iteration() -> None:
    """Which is no value, as little as in a coroutine."""
    listeners = Listeners()

    def look() -> int:
        return next(iter(()))

    for waits in (lambda: listeners.wait(look), lambda: freerun.spawn_blocking(listeners.block, look)):
        with pytest.raises(RuntimeError, match="'look' raised StopIteration") as caught:
            await waits()
        assert isinstance(caught.value.__cause__, StopIteration)
    assert len(listeners) == 0


@every_flavor
async def test_news_between_the_look_and_the_wait() -> None:
    """The look itself is when the news comes: one looks again."""
    listeners = Listeners()
    looks = 0

    def look() -> str | Pending:
        nonlocal looks
        looks += 1
        if looks < 3:
            listeners.wake_all()
            return PENDING
        return "found"

    assert await listeners.wait(look) == "found"
    assert looks == 3


@every_flavor
async def test_looks_that_never_find_anything_give_way() -> None:
    """There is news all the time, and never what is wanted."""
    listeners = Listeners()

    def look() -> Pending:
        listeners.wake_all()
        return PENDING

    async def endless() -> None:
        await listeners.wait(look)

    task = freerun.spawn(endless)
    for _ in range(10):
        await freerun.time.sleep(0.001)
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert len(listeners) == 0


@every_flavor
async def test_spurious_wake_ups() -> None:
    counter = Counter()
    wakers = []

    async def main() -> int:
        wakers.append(freerun.lowlevel.current_waker())
        return await wait(counter, 1)

    task = await waiting(main)
    for _ in range(10):
        wakers[0].wake()
        await freerun.yield_now()
    await still_waits(task)
    assert len(counter.listeners) == 1
    counter.add()
    assert await task == 1


@every_flavor
async def test_cancelled() -> None:
    counter = Counter()
    tasks = [await waiting(wait, counter, 1) for _ in range(3)]
    await abort(tasks[1])
    assert len(counter.listeners) == 2
    looks = counter.looks
    counter.add()
    assert [await tasks[0], await tasks[2]] == [1, 1]
    assert counter.looks == looks + 2


@every_flavor
async def test_one_awaitable_is_for_one_task() -> None:
    counter = Counter()
    awaitable = counter.listeners.wait(counter.reaches(1))

    async def main() -> int:
        return await awaitable

    first = await waiting(main)
    with pytest.raises(RuntimeError, match="another task is awaiting"):
        await main()
    await abort(first)
    second = await waiting(main)
    counter.add()
    assert await second == 1


@every_flavor
async def test_a_look_that_steps_its_own_awaitable() -> None:
    """Nobody else has it when the look begins, and it is entered all the same."""

    def look() -> str:
        (awaitable,) = [each for each in gc.get_referrers(look) if type(each).__name__ == "Listen"]
        with pytest.raises(RuntimeError, match="another task is awaiting this very object"):
            next(awaitable)
        return "found"

    assert await Listeners().wait(look) == "found"


@every_flavor
async def test_an_awaitable_that_is_dropped() -> None:
    class Thing:
        pass

    counter = Counter()
    thing = Thing()
    ref = weakref.ref(thing)
    awaitable = counter.listeners.wait(lambda thing=thing: PENDING)
    del thing
    step = awaitable.__await__()
    await put_in_line(step)  # registered, without a coroutine that would be suspended
    assert len(counter.listeners) == 1
    del step, awaitable
    await until(lambda: is_freed(ref))
    assert len(counter.listeners) == 0
    await freerun.yield_now()


def test_threads() -> None:
    counter = Counter()
    found = []

    def work(i: int) -> None:
        found.append(counter.listeners.block(counter.reaches(i)))

    with in_threads(4, work):
        wait_until(lambda: len(counter.listeners) == 3)
        for _ in range(3):
            counter.add()
    assert len(found) == 4
    assert len(counter.listeners) == 0

    def fail() -> Pending:
        raise KeyError("look")

    with pytest.raises(KeyError):
        counter.listeners.block(fail)


@every_flavor
async def test_blocking_a_worker() -> None:
    counter = Counter()
    with pytest.raises(RuntimeError, match=r"block\(\) would block a worker: inside a task, await wait\(\)"):
        counter.listeners.block(counter.reaches(0))


def test_a_signal_handler_ends_a_block() -> None:
    counter = Counter()

    class GotIt(Exception):
        pass

    def handler(*_: object) -> None:
        raise GotIt

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        main = threading.main_thread().ident
        assert main is not None
        timer = threading.Thread(
            target=lambda: (wait_until(lambda: len(counter.listeners)), signal.pthread_kill(main, signal.SIGUSR1))
        )
        timer.start()
        with pytest.raises(GotIt):
            counter.listeners.block(counter.reaches(1))
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(counter.listeners) == 0


@only(CURRENT)
def test_names(rt: freerun.Runtime) -> None:
    assert repr(PENDING) == "PENDING"
    listeners = Listeners()
    ref = weakref.ref(listeners)
    with pytest.raises(TypeError):
        Listeners(1)  # type: ignore[call-arg]
    del listeners
    assert is_freed(ref)


@every_flavor
async def test_storm() -> None:
    """Tasks and threads wait for numbers that rise on two threads; some are aborted; nobody is forgotten."""
    random = seeded()
    aborts = Aborts(random)
    counter = Counter()
    total = 400

    def add(_: int) -> None:
        for _ in range(total // 2):
            counter.add()

    tasks = [freerun.spawn(wait, counter, random.randrange(1, total + 1)) for _ in range(200)]
    threads = [freerun.spawn_blocking(counter.listeners.block, counter.reaches(total)) for _ in range(3)]
    with in_threads(2, add):
        await aborts.maybe(*random.sample(tasks, 100))
        for task in tasks:
            await aborts.result(task)
        for thread in threads:
            assert await thread == total
    gc.collect()
    assert len(counter.listeners) == 0
