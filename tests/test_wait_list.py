"""`lowlevel.WaitList`: order, wake-ups that are passed on, places that are given up."""

from __future__ import annotations

import threading

import pytest
from support import every_flavor, in_threads, is_parked, seeded, until

import freerun
from freerun.lowlevel import WaitList


class Tokens:
    """A semaphore: the least that needs a wait list."""

    def __init__(self, free: int = 0, strict: bool = False) -> None:
        self.free = free
        self.strict = strict
        self.lock = threading.Lock()
        self.line = WaitList()

    def release(self) -> None:
        with self.lock:
            self.free += 1
        self.line.wake_one()

    def _take(self) -> bool:
        with self.lock:
            taken = self.free > 0
            self.free -= taken
        return taken

    async def acquire(self) -> None:
        with self.line.enlist() as waiter:
            while not ((not self.strict or waiter.is_first) and self._take()):
                await waiter


@every_flavor
async def test_first_in_first_out() -> None:
    tokens = Tokens()
    order: list[int] = []

    async def take(i: int) -> None:
        await tokens.acquire()
        order.append(i)

    tasks = []
    for i in range(10):
        tasks.append(freerun.spawn(take, i))
        await until(lambda i=i: len(tokens.line) == i + 1 and is_parked(tasks[-1]))
    for i in range(10):
        tokens.release()
        await tasks[i]
    assert order == list(range(10))
    assert len(tokens.line) == 0


@every_flavor
async def test_nobody_in_line() -> None:
    """A wake-up is not kept."""
    line = WaitList()
    assert line.wake_one() is False
    assert line.wake_all() == 0
    assert len(line) == 0
    with line.enlist() as waiter:
        assert (len(line), waiter.is_first) == (1, True)
    assert len(line) == 0
    assert line.wake_one() is False


@every_flavor
async def test_wake_all() -> None:
    line = WaitList()

    async def wait() -> None:
        with line.enlist() as waiter:
            await waiter

    tasks = [freerun.spawn(wait) for _ in range(20)]
    await until(lambda: all(map(is_parked, tasks)))
    assert line.wake_all() == 20
    for task in tasks:
        await task
    assert len(line) == 0


@every_flavor
async def test_an_aborted_waiter_leaves_at_once() -> None:
    line = WaitList()

    async def wait() -> None:
        with line.enlist() as waiter:
            await waiter

    first, second = freerun.spawn(wait), freerun.spawn(wait)
    await until(lambda: is_parked(first) and is_parked(second))
    first.abort()
    await until(lambda: len(line) == 1)
    assert line.wake_one() is True
    await second
    with pytest.raises(freerun.JoinError):
        await first


@every_flavor
async def test_the_wake_up_of_an_aborted_task_goes_to_the_next() -> None:
    for _ in range(100):
        tokens = Tokens()
        first, second = freerun.spawn(tokens.acquire), freerun.spawn(tokens.acquire)
        await until(lambda: len(tokens.line) == 2 and is_parked(first) and is_parked(second))
        tokens.release()  # wakes one of them,
        first.abort()  # which may be this one
        try:
            await first
        except freerun.JoinError:
            await second
        else:
            tokens.release()
            await second
        assert (tokens.free, len(tokens.line)) == (0, 0)


@every_flavor
async def test_a_wake_up_that_was_not_needed_goes_to_the_next() -> None:
    """Somebody enlists, finds what it wants by itself, and was woken meanwhile."""
    line = WaitList()

    async def wait() -> None:
        with line.enlist() as waiter:
            await waiter

    with line.enlist():
        task = freerun.spawn(wait)
        await until(lambda: is_parked(task))
        assert line.wake_one() is True  # us
        assert is_parked(task)
    await task


@every_flavor
async def test_spurious_wake_ups() -> None:
    line = WaitList()
    wakers: list[freerun.lowlevel.Waker] = []
    rounds = 0

    async def wait() -> None:
        nonlocal rounds
        wakers.append(freerun.lowlevel.current_waker())
        with line.enlist() as waiter:
            await waiter
            rounds += 1
            await waiter

    task = freerun.spawn(wait)
    for wanted in (0, 1):
        await until(lambda: bool(wakers) and is_parked(task))
        for _ in range(10):
            wakers[0].wake()
            await freerun.yield_now()
        await until(lambda: is_parked(task))
        assert rounds == wanted
        line.wake_one()
        await until(lambda wanted=wanted: rounds > wanted or task.is_finished())
    await task


@every_flavor
async def test_strict_order_against_newcomers() -> None:
    """Who takes only when it is first cannot be overtaken by who comes at the right moment."""
    tokens = Tokens(1, strict=True)
    order: list[str] = []

    async def take(name: str) -> None:
        await tokens.acquire()
        order.append(name)

    await tokens.acquire()
    waiting = freerun.spawn(take, "waiting")
    await until(lambda: is_parked(waiting))
    tokens.release()
    newcomer = freerun.spawn(take, "newcomer")
    await waiting
    tokens.release()
    await newcomer
    assert order == ["waiting", "newcomer"]


@every_flavor
async def test_who_was_held_back_is_told_when_it_becomes_the_first() -> None:
    """Two are woken, the second one runs before the first one, and goes back to wait."""
    tokens = Tokens(strict=True)
    with tokens.line.enlist() as we:
        task = freerun.spawn(tokens.acquire)
        await until(lambda: len(tokens.line) == 2 and is_parked(task))
        tokens.release()
        tokens.release()
        for _ in range(20):
            await freerun.yield_now()
        await until(lambda: is_parked(task))
        await we
        assert we.is_first
        assert tokens._take()
    await task


@pytest.mark.parametrize("strict", [False, True])
@every_flavor
async def test_storm(strict: bool) -> None:
    """Tasks that are aborted at random, tokens from threads: none is lost, none is made."""
    random = seeded()
    tokens = Tokens(0, strict)
    total = 300
    taken = 0
    lock = threading.Lock()

    async def take() -> None:
        nonlocal taken
        await tokens.acquire()
        with lock:
            taken += 1

    def give(_: int) -> None:
        for _ in range(total // 2):
            tokens.release()

    with in_threads(2, give):
        while taken < total:
            tasks = [freerun.spawn(take) for _ in range(8)]
            for task in tasks:
                if random.random() < 0.5:
                    task.abort()
                if random.random() < 0.3:
                    await freerun.yield_now()
            for task in tasks:
                if taken >= total:
                    task.abort()
                elif random.random() < 0.1:
                    await freerun.yield_now()
                    task.abort()
            for task in tasks:
                while not task.is_finished():
                    if taken >= total:
                        task.abort()
                    await freerun.yield_now()
    assert (taken, tokens.free) == (total, 0)
    assert len(tokens.line) == 0


@freerun.test
async def test_wakes_from_a_finalizer_inside_its_own_lock() -> None:
    line = WaitList()

    async def wait() -> None:
        with line.enlist() as waiter:
            await waiter

    task = freerun.spawn(wait)
    await until(lambda: is_parked(task))
    with line._lock:
        assert line.wake_one() is True
    await task


def test_outside_a_task() -> None:
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        WaitList().enlist()
