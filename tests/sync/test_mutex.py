"""`sync.Mutex`: Tokio's cases (see docs/sync-tests.md), every way out, what a guard may do and when."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from support import (
    MULTI,
    PATIENCE,
    check_script,
    every_flavor,
    in_threads,
    is_freed,
    is_parked,
    only,
    seeded,
    until,
)
from sync_support import parked, put_in_line

import freerun
from freerun.sync import Mutex, MutexGuard, WouldBlock


class Thing:
    pass


@every_flavor
async def test_the_value() -> None:
    mutex = Mutex(1)
    async with mutex as guard:
        assert guard.value == 1
        guard.value += 1
        assert guard.mutex is mutex
    guard = await mutex.lock()
    assert guard.value == 2
    guard.value = 3
    guard.release()
    with mutex.try_lock() as guard:
        assert guard.value == 3
    async with Mutex() as nothing:
        assert nothing.value is None


@every_flavor
async def test_waits_for_its_turn() -> None:
    mutex = Mutex(100)
    guard = await mutex.lock()
    task = await parked(mutex.lock())
    assert mutex.is_locked()
    guard.value = 99
    guard.release()
    other = await task
    assert other.value == 99
    other.release()
    assert not mutex.is_locked()


@every_flavor
async def test_first_come_first_served() -> None:
    mutex: Mutex[list[int]] = Mutex([])

    async def enter(i: int) -> None:
        async with mutex as guard:
            guard.value.append(i)
            await freerun.yield_now()

    guard = await mutex.lock()
    tasks = [await parked(enter(i)) for i in range(20)]
    guard.release()
    for task in tasks:
        await task
    assert (await mutex.lock()).value == list(range(20))


@every_flavor
async def test_one_at_a_time() -> None:
    mutex = Mutex(0)
    inside = 0

    async def add() -> None:
        nonlocal inside
        for _ in range(20):
            async with mutex as guard:
                inside += 1
                assert inside == 1
                seen = guard.value
                await freerun.yield_now()
                guard.value = seen + 1
                inside -= 1

    tasks = [freerun.spawn(add) for _ in range(20)]
    for task in tasks:
        await task
    async with mutex as guard:
        assert guard.value == 400


@every_flavor
async def test_try_lock() -> None:
    mutex = Mutex(1)
    guard = mutex.try_lock()
    with pytest.raises(WouldBlock, match="locked"):
        mutex.try_lock()
    guard.release()
    async with mutex:
        with pytest.raises(WouldBlock):
            mutex.try_lock()
    mutex.try_lock().release()


@every_flavor
async def test_an_aborted_waiter_leaves_the_line() -> None:
    """Tokio's aborted_future_1 and 2: before and after the lock was handed to it."""
    for unlock_first in (False, True):
        mutex = Mutex()
        guard = await mutex.lock()
        first, second = await parked(mutex.lock()), await parked(mutex.lock())
        if unlock_first:
            guard.release()
            first.abort()
        else:
            first.abort()
            guard.release()
        try:
            (await first).release()
        except freerun.JoinError:
            pass
        (await second).release()
        assert not mutex.is_locked()


@every_flavor
async def test_aborted_inside_the_block() -> None:
    mutex = Mutex(0)

    async def hold() -> None:
        async with mutex as guard:
            guard.value = 1
            await freerun.time.sleep(PATIENCE)

    task = await parked(hold())
    task.abort()
    async with mutex as guard:
        assert guard.value == 1


@every_flavor
async def test_failures_unlock_and_do_not_poison() -> None:
    mutex = Mutex(0)
    with pytest.raises(KeyError):
        async with mutex as guard:
            guard.value = 1
            raise KeyError
    with pytest.raises(KeyError):
        async with mutex.lock() as guard:
            guard.value += 1
            raise KeyError
    assert not mutex.is_locked()
    assert mutex.try_lock().value == 2


@every_flavor
async def test_a_guard_after_its_end() -> None:
    mutex = Mutex(0)
    async with mutex as of_block:
        pass
    async with mutex.lock() as of_lock:
        pass
    released = await mutex.lock()
    released.release()
    released.release()  # harmless
    for guard in (of_block, of_lock, released):
        with pytest.raises(RuntimeError, match="not hold its mutex any more"):
            guard.value
        with pytest.raises(RuntimeError, match="not hold its mutex any more"):
            guard.value = 1
        with pytest.raises(RuntimeError, match="not hold its mutex any more"), guard:
            pytest.fail("it must not get in")
        with pytest.raises(RuntimeError, match="call lock\\(\\) again"):
            await guard
        guard.release()
    async with mutex as other:  # a guard of an earlier block is not one of this
        with pytest.raises(RuntimeError):
            of_block.value
        of_block.release()
        assert mutex.is_locked()
        assert other.value == 0


@every_flavor
async def test_only_guards_that_nobody_kept_are_used_again() -> None:
    mutex = Mutex(0)
    kept = []
    for i in range(5):
        async with mutex:
            pass
        async with mutex as guard:
            kept.append(guard)
            guard.value += 1
        async with mutex.lock() as guard:
            assert guard.value == i + 1
            kept.append(guard)
        (await mutex.lock()).release()
    assert len({id(guard) for guard in kept}) == 10
    async with mutex:
        for guard in kept:
            guard.release()  # harmless
            with pytest.raises(RuntimeError, match="not hold its mutex any more"):
                guard.value
        assert mutex.is_locked()


@every_flavor
async def test_blocks_in_blocks() -> None:
    """The last guard that was returned is another mutex's, or has a lock, and nobody has it."""
    outer, inner = Mutex(1), Mutex(2)
    for _ in range(3):
        async with outer:
            async with inner as guard:
                assert guard.mutex is inner
                assert guard.value == 2
            del guard
            await inner.lock()  # dropped at once
            async with inner:
                assert outer.is_locked()
                assert inner.is_locked()
            await inner.lock()
        async with outer as guard:
            assert guard.value == 1
            assert not inner.is_locked()
    assert not outer.is_locked()


@only(*MULTI)
def test_a_worker_that_changes_its_thread(rt: freerun.Runtime) -> None:
    """What it returns values with was made by the thread before."""
    mutex = Mutex(1)

    async def main() -> None:
        for _ in range(10):
            async with mutex as guard:
                assert guard.value == 1
            freerun.block_in_place(lambda: None)
            assert (await mutex.lock()).value == 1
            await freerun.yield_now()

    rt.block_on(main)
    assert not mutex.is_locked()


@every_flavor
async def test_a_guard_before_its_time() -> None:
    mutex = Mutex(0)
    guard = mutex.lock()
    with pytest.raises(RuntimeError, match="await it first"):
        guard.value
    with pytest.raises(RuntimeError, match="await it first"):
        guard.release()
    assert not mutex.is_locked()
    assert await guard is guard
    assert await guard is guard
    assert guard.value == 0
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del guard.value


@every_flavor
async def test_early_release() -> None:
    mutex = Mutex(0)
    async with mutex.lock() as guard:
        guard.release()
        assert not mutex.is_locked()
        other = mutex.try_lock()
    assert mutex.is_locked(), "the end of the block must not unlock for somebody else"
    other.release()
    async with mutex as guard:
        with pytest.raises(RuntimeError, match="whose end unlocks it"):
            guard.release()
        assert guard.value == 0
    assert not mutex.is_locked()


@every_flavor
async def test_the_block_needs_no_guard() -> None:
    """Whether anybody keeps the guard of `async with mutex` makes no difference."""
    mutex = Mutex(0)
    async with mutex:
        gc.collect()
        assert mutex.is_locked()
    async with mutex as guard:
        del guard
        gc.collect()
        assert mutex.is_locked()
    assert not mutex.is_locked()


@every_flavor
async def test_an_end_without_a_begin() -> None:
    mutex = Mutex(0)
    with pytest.raises(RuntimeError, match="end of no 'async with mutex' block"):
        await mutex.__aexit__(None, None, None)
    guard = mutex.try_lock()
    with pytest.raises(RuntimeError, match="end of no 'async with mutex' block"):
        await mutex.__aexit__(None, None, None)
    assert guard.value == 0


@every_flavor
async def test_a_begin_that_is_not_awaited() -> None:
    mutex = Mutex(0)
    mutex.__aenter__()
    gc.collect()
    assert not mutex.is_locked()


@every_flavor
async def test_dropped_guards_unlock() -> None:
    mutex = Mutex(0)
    guard = await mutex.lock()
    del guard
    assert not mutex.is_locked() or await until(lambda: gc.collect() is not None and not mutex.is_locked()) is None
    await mutex.lock()  # dropped at once
    await mutex.lock()
    await until(lambda: gc.collect() is not None and not mutex.is_locked())  # if this task has changed its worker
    mutex.try_lock()
    await until(lambda: gc.collect() is not None and not mutex.is_locked())


@every_flavor
async def test_an_abandoned_leaf_unlocks() -> None:
    """A lock() that was polled by hand and then forgotten, with the lock already handed to it."""
    mutex = Mutex(0)
    guard = await mutex.lock()
    leaf = mutex.lock()
    await put_in_line(leaf)
    guard.release()
    assert mutex.is_locked()
    del leaf
    assert not mutex.is_locked() or await until(lambda: gc.collect() is not None and not mutex.is_locked()) is None


@every_flavor
async def test_a_leaf_that_is_closed_may_be_awaited_again() -> None:
    mutex = Mutex(0)
    guard = await mutex.lock()
    leaf = mutex.lock()
    await put_in_line(leaf)
    leaf.close()
    guard.release()
    assert not mutex.is_locked()
    assert await leaf is leaf
    leaf.close()  # it holds the lock: closing the await changes nothing
    assert leaf.value == 0


@every_flavor
async def test_values_are_released() -> None:
    mutex: Any = Mutex(Thing())
    async with mutex as guard:
        ref = weakref.ref(guard.value)
        guard.value = None
    await until(lambda: is_freed(ref))
    async with mutex as guard:
        guard.value = Thing()
        ref = weakref.ref(guard.value)
    del mutex, guard
    await until(lambda: is_freed(ref))


@every_flavor
async def test_cycles_are_collected() -> None:
    for keep_guard in (False, True):
        mutex: Any = Mutex(Thing())
        guard = await mutex.lock()
        thing = guard.value
        thing.mutex = mutex
        thing.guard = guard if keep_guard else None
        ref, mutex_ref = weakref.ref(thing), weakref.ref(mutex)
        if not keep_guard:
            guard.release()
        del mutex, guard, thing
        async with Mutex():  # the worker forgets what it returned last
            pass
        await until(lambda ref=ref, mutex_ref=mutex_ref: is_freed(ref) and mutex_ref() is None)


def test_blocking_lock(rt: freerun.Runtime) -> None:
    mutex = Mutex(0)

    def add(_: int) -> None:
        for _ in range(50):
            with mutex.blocking_lock() as guard:
                guard.value += 1

    async def add_too() -> None:
        for _ in range(50):
            async with mutex as guard:
                seen = guard.value
                await freerun.yield_now()
                guard.value = seen + 1

    async def main() -> None:
        tasks = [freerun.spawn(add_too) for _ in range(3)]
        for task in tasks:
            await task

    with in_threads(3, add):
        rt.block_on(main)
    with mutex.blocking_lock() as guard:
        assert guard.value == 300


@every_flavor
async def test_blocking_lock_in_a_task() -> None:
    mutex = Mutex(5)
    with pytest.raises(RuntimeError, match="would block a worker: inside a task, await lock"):
        mutex.blocking_lock()
    guard = await freerun.spawn_blocking(mutex.blocking_lock)
    assert guard.value == 5


def test_outside_a_task() -> None:
    mutex = Mutex(1)
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(mutex.lock())
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(mutex.__aenter__())  # type: ignore[call-overload]
    assert not mutex.is_locked()


def test_names() -> None:
    mutex = Mutex(value="x")
    assert repr(mutex) == "<freerun.sync.Mutex unlocked>"
    with mutex.try_lock():
        assert repr(mutex) == "<freerun.sync.Mutex locked>"
    assert Mutex[int].__origin__ is Mutex
    assert MutexGuard[int].__origin__ is MutexGuard
    with pytest.raises(TypeError):
        MutexGuard()
    with pytest.raises(TypeError):
        Mutex(1, 2)  # type: ignore[call-overload]


@every_flavor
async def test_a_guard_used_by_many_threads() -> None:
    """The guard may be shared; then the value is set and read by whoever, and it is released once."""
    for _ in range(20):
        mutex = Mutex(0)
        guard = await mutex.lock()
        other = await parked(mutex.lock())

        def use(_: int, guard: Any = guard) -> None:
            for i in range(50):
                try:
                    guard.value = i
                    guard.value
                except RuntimeError:
                    pass
            while True:
                try:
                    guard.release()
                    return
                except RuntimeError:  # another thread is at it right now
                    pass

        with in_threads(3, use):
            pass
        (await other).release()
        assert not mutex.is_locked()


def test_shutdown_with_waiters() -> None:
    """A runtime that is shut down takes its waiters out of the line; the mutex lives on."""
    mutex = Mutex(0)
    guard = mutex.try_lock()
    rt = freerun.Builder().worker_threads(2).build()
    tasks = [rt.spawn(mutex.lock()) for _ in range(10)]
    for task in tasks:
        while not is_parked(task):
            pass
    rt.shutdown(PATIENCE)
    guard.release()
    del tasks, task
    assert not mutex.is_locked()


def test_at_exit() -> None:
    check_script(
        """
        import freerun
        from freerun.sync import Mutex
        mutex = Mutex(0)
        rt = freerun.Builder().worker_threads(2).build()
        guard = mutex.try_lock()
        waiting = [rt.spawn(mutex.lock()) for _ in range(5)]
        """
    )


@every_flavor
async def test_storm() -> None:
    """Aborts at random, blocks and guards at random: never two inside, and it is free in the end."""
    random = seeded()
    mutex = Mutex(0)
    lock = threading.Lock()

    async def enter(how: int, yields: int) -> None:
        if how == 0:
            async with mutex:
                await inside(yields)
        elif how == 1:
            async with mutex.lock() as guard:
                await inside(yields)
                guard.release()
        else:
            with await mutex.lock():
                await inside(yields)

    async def inside(yields: int) -> None:
        assert lock.acquire(blocking=False), "two are inside"
        try:
            for _ in range(yields):
                await freerun.yield_now()
        finally:
            lock.release()

    for _ in range(15):
        tasks = [freerun.spawn(enter, random.randrange(3), random.randrange(3)) for _ in range(30)]
        for task in tasks:
            if random.random() < 0.4:
                task.abort()
            if random.random() < 0.2:
                await freerun.yield_now()
        for task in tasks:
            try:
                await task
            except freerun.JoinError:
                pass
        await until(lambda: not mutex.is_locked() or gc.collect() is None)
