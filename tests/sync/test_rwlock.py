"""`sync.RwLock`: Tokio's sync_rwlock.rs, and what Python adds."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from support import every_flavor, in_threads, seeded, until
from waiting_support import Aborts, abort, gives_way, still_waits, waiting

import freerun
from freerun.sync import Barrier, RwLock, RwLockReadGuard, RwLockWriteGuard, WouldBlock


async def entered(guard: Any) -> Any:
    return await guard


def assert_free(lock: RwLock[Any]) -> None:
    """Nobody is in, nobody waits."""
    with lock.try_write():
        pass
    assert "unlocked" in repr(lock)


@every_flavor
async def test_read_shared() -> None:
    lock = RwLock(100)
    first, second = await lock.read(), await lock.read()
    assert first.value == second.value == 100
    first.release()
    second.release()
    assert_free(lock)


@pytest.mark.parametrize(("held", "wanted"), [("read", "write"), ("write", "read"), ("write", "write")])
@every_flavor
async def test_exclusive_pending(held: str, wanted: str) -> None:
    """write_shared_pending, read_exclusive_pending, write_exclusive_pending, write_shared_drop."""
    lock = RwLock(100)
    guard = await getattr(lock, held)()
    task = await waiting(entered, getattr(lock, wanted)())
    await still_waits(task)
    guard.release()
    (await task).release()
    assert_free(lock)


@every_flavor
async def test_exhaust_reading() -> None:
    lock = RwLock(100, max_readers=10)
    reads = [await lock.read() for _ in range(10)]
    with pytest.raises(WouldBlock):
        lock.try_read()
    task = await waiting(entered, lock.read())
    reads.pop().release()
    reads.append(await task)
    for guard in reads:
        guard.release()
    assert_free(lock)


@pytest.mark.parametrize("max_readers", [0, -1, 1 << 29])
def test_max_readers_out_of_range(max_readers: int) -> None:
    """zero_max_readers, zero_max_readers_const."""
    with pytest.raises(ValueError, match="'max_readers'"):
        RwLock(100, max_readers=max_readers)
    with pytest.raises(TypeError, match="'max_readers'"):
        RwLock(100, max_readers="many")  # type: ignore[arg-type]


@every_flavor
async def test_write_read_shared_pending() -> None:
    """A waiting writer holds back new readers."""
    lock = RwLock(100)
    first, second = await lock.read(), await lock.read()
    writer = await waiting(entered, lock.write())
    reader = await waiting(entered, lock.read())
    with pytest.raises(WouldBlock):
        lock.try_read()
    first.release()
    await still_waits(writer, reader)
    second.release()
    guard = await writer
    await still_waits(reader)
    guard.release()
    (await reader).release()
    assert_free(lock)


@every_flavor
async def test_write_read_shared_drop_pending() -> None:
    """When the waiting writer gives up, those behind it go in beside who is in."""
    lock = RwLock(100)
    first = await lock.read()
    writer = await waiting(entered, lock.write())
    readers = [await waiting(entered, lock.read()) for _ in range(3)]
    await abort(writer)
    for reader in readers:
        (await reader).release()
    first.release()
    assert_free(lock)


@every_flavor
async def test_uncontested() -> None:
    """read_uncontested, write_uncontested."""
    lock = RwLock(100)
    async with lock.read() as guard:
        assert guard.value == 100
    async with lock.write() as writing:
        writing.value += 50
        assert writing.value == 150
    assert lock.try_read().value == 150


@every_flavor
async def test_write_order() -> None:
    """Who asks first goes in first; a guard that is not awaited has not asked."""
    lock: RwLock[list[int]] = RwLock([])
    second, first = lock.write(), lock.write()
    async with first as guard:
        guard.value.append(1)
    async with second as guard:
        guard.value.append(2)
    async with lock.read() as guard:
        assert guard.value == [1, 2]


@every_flavor
async def test_fifo() -> None:
    """Readers and writers go in in the order of their coming; readers that stand together go in together."""
    lock = RwLock(None)
    order: list[str] = []

    async def take(name: str) -> None:
        async with lock.read() if name.islower() else lock.write():
            order.append(name)
            for _ in range(3):
                await freerun.yield_now()
            order.append(name)

    guard = await lock.write()
    tasks = [await waiting(take, name) for name in "abCdEFgh"]
    guard.release()
    for task in tasks:
        await task
    for start, group in ((0, "ab"), (4, "C"), (6, "d"), (8, "E"), (10, "F"), (12, "gh")):
        assert sorted(order[start : start + 2 * len(group)]) == sorted(group * 2)
    assert_free(lock)


@every_flavor
async def test_multithreaded() -> None:
    barrier = Barrier(5)
    lock = RwLock(0)

    async def add(number: int) -> None:
        for _ in range(200):
            async with lock.write() as guard:
                guard.value += number
        await barrier.wait()

    for number in (2, 3, 5, 7):
        freerun.spawn(add, number)
    await barrier.wait()
    async with lock.read() as guard:
        assert guard.value == 17 * 200


@every_flavor
async def test_try_write() -> None:
    lock = RwLock(0)
    guard = await lock.read()
    with pytest.raises(WouldBlock):
        lock.try_write()
    guard.release()
    lock.try_write().release()
    assert_free(lock)


def test_try_read_try_write() -> None:
    lock = RwLock(15)
    with lock.try_read() as first:
        assert first.value == 15
        with pytest.raises(WouldBlock, match="somebody has the lock"):
            lock.try_write()
        with lock.try_read() as second:
            assert second.value == 15
    with lock.try_write() as writing:
        writing.value = 1515
        with pytest.raises(WouldBlock, match="a writer has the lock"):
            lock.try_read()
    assert lock.try_read().value == 1515


# --- Downgrading ---


@every_flavor
async def test_downgrade() -> None:
    """downgrade_map, without the map: who waits to read goes in, a writer does not."""
    lock = RwLock(0)
    async with lock.write() as guard:
        reader = await waiting(entered, lock.read())
        writer = await waiting(entered, lock.write())
        guard.value = 1
        assert guard.downgrade() is guard
        other = await reader
        assert other.value == guard.value == 1
        with pytest.raises(RuntimeError, match="downgraded"):
            guard.value = 2
        guard.downgrade()
        other.release()
        await still_waits(writer)
    (await writer).release()
    assert_free(lock)
    with pytest.raises(RuntimeError, match="was released"):
        guard.downgrade()


@every_flavor
async def test_leaving_a_downgraded_guard_twice() -> None:
    lock = RwLock(0)
    async with lock.write() as guard:
        with guard.downgrade() as same:
            assert same is guard
        assert_free(lock)
    assert_free(lock)


# --- Guards ---


@pytest.mark.parametrize("kind", ["read", "write"])
@every_flavor
async def test_guards_release_on_every_way_out(kind: str) -> None:
    lock = RwLock(0)
    read = getattr(lock, kind)
    with pytest.raises(ZeroDivisionError):
        async with read():
            1 // 0
    assert_free(lock)
    guard = await read()
    guard.release()
    guard.release()
    assert_free(lock)
    with await read():
        pass
    assert_free(lock)
    guard = await read()
    del guard
    gc.collect()
    assert_free(lock)

    async def hold() -> None:
        async with read():
            await freerun.lowlevel.park()

    await abort(await waiting(hold))
    assert_free(lock)


@every_flavor
async def test_a_guard_is_for_one_time() -> None:
    lock = RwLock(7)
    for guard in (lock.read(), lock.write()):
        for use in (lambda: guard.value, guard.__enter__, guard.release):
            with pytest.raises(RuntimeError, match="does not hold its lock yet"):
                use()
        assert guard.lock is lock
        async with guard:
            assert guard.value == 7
            assert await guard is guard  # it has the lock already
        for use in (lambda: guard.value, guard.__enter__):
            with pytest.raises(RuntimeError, match="was released"):
                use()
        with pytest.raises(RuntimeError, match="has had its turn"):
            await guard
    with pytest.raises(AttributeError):
        lock.try_read().value = 3  # type: ignore[misc]
    with lock.try_write() as writing:
        with pytest.raises(AttributeError, match="cannot be deleted"):
            del writing.value
    assert (type(lock.read()), type(lock.write())) == (RwLockReadGuard, RwLockWriteGuard)


@every_flavor
async def test_only_guards_that_nobody_kept_are_used_again() -> None:
    lock, other = RwLock(0), RwLock(7)
    kept: list[Any] = []
    for i in range(5):
        async with lock.read():
            pass
        async with lock.write():
            (await other.read()).release()
        async with lock.write() as guard:
            guard.value = i
            guard.downgrade()
        del guard
        async with lock.write() as writes:  # not what was downgraded
            writes.value += 1
            kept.append(writes)
        for _ in range(2):
            async with lock.read() as reads:
                assert reads.value == i + 1
                kept.append(reads)
        await other.write()  # dropped at once
        assert (await other.read()).value == 7
    assert len({id(guard) for guard in kept}) == 15
    for guard in kept:
        guard.release()  # harmless
        with pytest.raises(RuntimeError, match="released"):
            guard.value
    assert_free(lock)
    assert_free(other)


@every_flavor
async def test_a_guard_that_two_tasks_await() -> None:
    lock = RwLock(0)
    holder = await lock.write()
    guard = lock.write()
    task = await waiting(entered, guard)
    with pytest.raises(RuntimeError, match="another task is awaiting"):
        await guard
    holder.release()
    (await task).release()
    assert_free(lock)


@every_flavor
async def test_a_guard_travels() -> None:
    """Owned guards: taken by one task, released by another or by a thread."""
    lock = RwLock(0)
    guard = await lock.write()
    task = await waiting(entered, lock.write())
    await freerun.spawn_blocking(guard.release)
    guard = await task
    threading.Thread(target=guard.release).start()
    async with lock.read():
        pass


@every_flavor
async def test_released_by_many_at_once() -> None:
    for _ in range(30):
        lock = RwLock(0)
        guard = await lock.read()
        with in_threads(4, lambda _: guard.release()):
            pass
        assert_free(lock)


@every_flavor
async def test_cooperative() -> None:
    lock = RwLock(0)

    async def work() -> None:
        async with lock.read():
            pass
        async with lock.write():
            pass

    await gives_way(work)


# --- Threads ---


@every_flavor
async def test_blocking_forms_in_a_task() -> None:
    lock = RwLock(0)
    for block in (lock.blocking_read, lock.blocking_write):
        with pytest.raises(RuntimeError, match=r"would block a worker: inside a task, await (read|write)\(\)"):
            block()
    assert_free(lock)


@every_flavor
async def test_threads_and_tasks() -> None:
    lock = RwLock([0, 0])

    def work(i: int) -> None:
        for _ in range(100):
            with lock.blocking_write() as guard:
                guard.value[0] += 1
                guard.value[1] += 1
            with lock.blocking_read() as guard:
                assert guard.value[0] == guard.value[1]

    async def aio() -> None:
        for _ in range(100):
            async with lock.write() as guard:
                guard.value[0] += 1
                await freerun.yield_now()
                guard.value[1] += 1
            async with lock.read() as guard:
                assert guard.value[0] == guard.value[1]

    with in_threads(2, work):
        for task in [freerun.spawn(aio) for _ in range(4)]:
            await task
    assert lock.try_read().value == [600, 600]
    assert_free(lock)


@every_flavor
async def test_blocked_threads_are_in_line() -> None:
    """A thread that waits to write holds back the readers that come after it."""
    lock = RwLock(0)
    order: list[str] = []

    def write() -> None:
        with lock.blocking_write():
            order.append("thread")

    async def read() -> None:
        async with lock.read():
            order.append("task")

    def writer_waits() -> bool:
        try:
            lock.try_read().release()
        except WouldBlock:
            return True
        return False

    guard = await lock.read()
    thread = freerun.spawn_blocking(write)
    await until(writer_waits)
    reader = await waiting(read)
    guard.release()
    await thread
    await reader
    assert order == ["thread", "task"]
    assert_free(lock)


# --- Cancellation ---


@pytest.mark.parametrize("max_readers", [2, 1000])
@every_flavor
async def test_cancelled_anywhere(max_readers: int) -> None:
    """Tasks that are aborted while they wait, when they were let in without knowing, and while they are in."""
    random = seeded()
    aborts = Aborts(random, often=0.5)
    lock = RwLock(0, max_readers=max_readers)
    inside: set[tuple[str, int]] = set()
    mutex = threading.Lock()
    done = 0

    def check(me: tuple[str, int]) -> None:
        with mutex:
            inside.add(me)
            writers = sum(kind == "write" for kind, _ in inside)
            assert writers == 0 or len(inside) == 1
            assert len(inside) <= max_readers

    async def work(i: int, kind: str, steps: int) -> None:
        nonlocal done
        async with lock.read() if kind == "read" else lock.write() as guard:
            try:
                check((kind, i))
                for _ in range(steps):
                    await freerun.yield_now()
                if kind == "write" and steps == 2:
                    with mutex:
                        inside.clear()
                        inside.add(("read", i))
                    guard.downgrade()
                    kind = "read"
                    await freerun.yield_now()
                done += 1
            finally:
                with mutex:
                    inside.discard((kind, i))

    for turn in range(40):
        tasks = [
            freerun.spawn(work, i, random.choice(["read", "read", "write"]), random.randrange(3)) for i in range(12)
        ]
        if turn % 2:
            await freerun.yield_now()
        await aborts.maybe(*random.sample(tasks, len(tasks)))
        for task in tasks:
            await aborts.result(task)
        assert not inside
        assert_free(lock)
    assert done > 0


@every_flavor
async def test_let_in_and_cancelled_at_once() -> None:
    """What was given to a task that is aborted before it runs goes to the next."""
    for kind in ("read", "write"):
        for _ in range(30):
            lock = RwLock(0)
            guard = await lock.write()
            first = await waiting(entered, getattr(lock, kind)())
            second = await waiting(entered, lock.write())
            guard.release()
            first.abort()
            try:
                guard = await first
            except freerun.JoinError:
                pass
            else:
                guard.release()
            (await second).release()
            assert_free(lock)


# --- Finalizers ---


def test_a_finalizer_in_the_middle_of_everything() -> None:
    """Guards that are collected at any call, under the lock's own lock too."""
    lock = RwLock(0)

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.guard = lock.try_read()

    async def use(guard: Any) -> None:
        async with guard:
            pass

    async def main() -> None:
        before = gc.get_threshold()
        gc.set_threshold(3, 2, 2)
        try:
            for _ in range(50):
                Cycle()
                tasks = [freerun.spawn(use, lock.read()), freerun.spawn(use, lock.write())]
                await freerun.yield_now()
                gc.collect()
                for task in tasks:
                    await task
        finally:
            gc.set_threshold(*before)

    freerun.run(main, flavor="current_thread")
    gc.collect()
    assert_free(lock)
