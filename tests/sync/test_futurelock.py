"""Warnings about tasks that were given a lock and do not look at it, while whoever is next waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Reports
from support import FLAVORS, PATIENCE, Flavor, until

import freerun
from freerun.sync import Mutex, Notify, RwLock, Semaphore

LOCKS: list[Callable[[], Any]] = [
    Mutex,
    lambda: Semaphore(1),
    RwLock,
]


def acquire(lock: Any) -> Any:
    if isinstance(lock, Mutex):
        return lock.lock()
    return lock.write() if isinstance(lock, RwLock) else lock.acquire()


@pytest.fixture(params=FLAVORS, ids=str)
def impatient(request: pytest.FixtureRequest) -> Any:
    flavor: Flavor = request.param
    with flavor.builder().slow_poll_warning(0.05).build() as rt:
        yield rt


async def until_in_line(leaf: Any) -> None:
    """A poll by hand may come at the end of the budget, and then it is in no line yet."""
    for _ in range(3):
        await freerun.yield_now()
        next(leaf)


@pytest.mark.parametrize("make", LOCKS)
def test_a_leaf_that_nobody_polls(impatient: freerun.Runtime, make: Any, reports: Reports) -> None:
    go, lined = Notify(), Notify()
    lock = make()

    async def sleeps_on_a_lock() -> None:
        leaf = acquire(lock).__await__()
        await until_in_line(leaf)
        lined.notify_one()
        await go.notified()
        leaf.close()

    async def main() -> None:
        held = await acquire(lock)
        task = freerun.spawn(sleeps_on_a_lock, name="sleeper")
        await lined.notified()
        held.release()
        next_one = freerun.spawn(acquire(lock))
        await until(lambda: list(reports))
        assert not next_one.is_finished()
        go.notify_one()
        await task
        (await next_one).release()

    impatient.block_on(main)
    (message,) = reports.messages
    assert "'sleeper', spawned at" in message
    assert "was given a lock or a permit" in message
    assert "waits elsewhere" in message
    assert "in test_a_leaf_that_nobody_polls.<locals>.sleeps_on_a_lock" in message.split("stack:")[1]


def test_a_branch_in_a_task_that_is_stuck(impatient: freerun.Runtime, reports: Reports) -> None:
    """The lock is given to one branch while another one keeps the thread."""
    mutex = Mutex()
    lined, release = threading.Event(), threading.Event()

    async def wants() -> None:
        async with mutex:
            pass

    async def hogs() -> None:
        while not waiting():
            await freerun.yield_now()
        lined.set()
        assert release.wait(PATIENCE)

    def waiting() -> bool:
        return lined_up[0].is_set()

    lined_up = [threading.Event()]

    async def wants_and_says() -> None:
        leaf = mutex.lock()
        inner = leaf.__await__()
        await until_in_line(inner)
        lined_up[0].set()
        (await leaf).release()

    async def stuck() -> None:
        await freerun.join(wants_and_says(), hogs())

    held = mutex.blocking_lock()

    def from_outside() -> None:
        assert lined.wait(PATIENCE)
        held.release()
        deadline = threading.Event()
        for _ in range(int(PATIENCE * 100)):
            if any("was given a lock" in message for message in reports.messages):
                break
            deadline.wait(0.01)
        release.set()

    thread = threading.Thread(target=from_outside)
    thread.start()
    impatient.block_on(stuck)
    thread.join()
    (message,) = [each for each in reports.messages if "was given a lock" in each]
    assert "is in one poll" in message
    assert "hogs" in message.split("stack:")[1]


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("in_a_branch", [False, True])
def test_what_a_stream_has_begun(impatient: freerun.Runtime, make: Any, in_a_branch: bool, reports: Reports) -> None:
    """Half done, it has been given the lock; and then its task asks for the lock itself, say."""
    lock = make()

    async def locked() -> Any:
        with await acquire(lock):
            yield 1

    async def waits_elsewhere() -> None:
        items = freerun.stream.merge(locked())
        if in_a_branch:
            assert await freerun.select(anext(items), freerun.time.sleep(0.001), biased=True) == (1, None)
        else:
            with pytest.raises(TimeoutError):
                await freerun.time.timeout(0.001, anext(items))
        begun.notify_one()
        await go.notified()
        assert await anext(items) == 1  # none the worse
        await items.aclose()

    async def main() -> None:
        held = await acquire(lock)
        task = freerun.spawn(waits_elsewhere, name="streamer")
        await begun.notified()
        held.release()
        next_one = freerun.spawn(acquire(lock))
        await until(lambda: list(reports))
        assert not next_one.is_finished()
        go.notify_one()
        await task
        (await next_one).release()

    begun, go = Notify(), Notify()
    impatient.block_on(main)
    (message,) = reports.messages
    assert "'streamer', spawned at" in message
    assert f"spawned at {__file__}:" in message and "<locals>.main was given a lock" in message
    assert "does not go on with the stream in which it awaits it" in message
    assert "waits_elsewhere" in message.split("stack:")[1]


@pytest.mark.parametrize("flavor", FLAVORS, ids=str)
def test_streams_with_locks_are_no_false_alarm(flavor: Flavor, reports: Reports) -> None:
    mutex = Mutex(0)

    async def numbers() -> Any:
        for _ in range(200):
            with await mutex.lock() as guard:
                guard.value += 1
                await freerun.yield_now()
            yield guard

    async def reads() -> None:
        async for _ in freerun.stream.merge(numbers(), numbers()):
            pass

    async def main() -> None:
        for reader in [freerun.spawn(reads) for _ in range(3)]:
            await reader

    with flavor.builder().slow_poll_warning(0.1).build() as rt:
        rt.block_on(main)
    assert mutex.try_lock().value == 1200
    assert reports.messages == []


def test_no_false_alarm(impatient: freerun.Runtime, reports: Reports) -> None:
    """Locks that are held long, waited for, given up and handed on are nothing to warn of."""
    mutex, semaphore, lock = Mutex(), Semaphore(2), RwLock()

    async def worker(n: int) -> None:
        for _ in range(6):
            async with mutex:
                await freerun.time.sleep(0.001)
            await freerun.select(semaphore.acquire(2), freerun.time.sleep(0.001), lock.read())
            async with lock.write():
                await freerun.yield_now()
            task = freerun.spawn(acquire(mutex))
            await freerun.yield_now()
            task.abort()
            try:
                (await task).release()
            except freerun.JoinError:
                pass
            del task

    async def main() -> None:
        await freerun.join(*[worker(n) for n in range(8)])
        async with mutex:
            waits = freerun.spawn(acquire(mutex))
            await freerun.time.sleep(0.2)
        (await waits).release()

    impatient.block_on(main)
    assert [each for each in reports.messages if "was given a lock" in each] == []
