"""What an abort does, and when: the cases of docs/task.md. docs/task-tests.md says which test proves which."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from support import PATIENCE, Flavor, every_flavor, in_threads, is_parked, occupy, seeded, stress_seconds, until

import freerun
from freerun import Cancelled, CancelScope, JoinSet, TaskGroup, stream
from freerun.lowlevel import park
from freerun.sync import Barrier, Condvar, Mutex, Notify, OnceCell, RwLock, Semaphore, broadcast, mpsc, oneshot, watch
from freerun.task import AbortOnDropHandle, CancellationToken, JoinMap, TaskTracker, task_local, unconstrained
from freerun.time import Instant, interval, sleep, timeout


class Boom(Exception):
    pass


async def never() -> None:
    while True:
        await park()


async def outcome(handle: freerun.JoinHandle[Any]) -> Any:
    """The result, the exception, or "cancelled"."""
    try:
        return await handle
    except freerun.JoinError as error:
        assert error.is_cancelled()
        return "cancelled"
    except BaseException as error:
        return error


async def parked(handle: freerun.JoinHandle[Any]) -> None:
    await until(lambda: is_parked(handle))


# ---- once, at the suspension point ----


@every_flavor
async def test_a_second_abort_during_cleanup_does_nothing() -> None:
    log = []
    gate, opened = oneshot.channel()

    async def work() -> None:
        try:
            await never()
        finally:
            log.append("cleaning")
            await opened
            await sleep(0.001)
            log.append("cleaned")

    handle = freerun.spawn(work)
    await parked(handle)
    assert handle.abort()
    await until(lambda: log)
    await parked(handle)
    assert not handle.abort()
    assert not handle.abort_handle().abort()
    for _ in range(5):
        await freerun.yield_now()
    gate.send(None)
    assert await outcome(handle) == "cancelled"
    assert log == ["cleaning", "cleaned"]


@every_flavor
async def test_two_aborts_before_it_looks_are_one() -> None:
    log = []

    async def work() -> str:
        for _ in range(3):
            try:
                await freerun.yield_now()
            except Cancelled:
                log.append("thrown")
        return "done"

    async def abort_twice() -> str:
        handle.abort()
        handle.abort()
        result: str = await handle
        return result

    started, has_started = oneshot.channel()

    async def slow_start() -> str:
        started.send(None)
        return await work()

    handle = freerun.spawn(slow_start)
    await has_started
    assert await freerun.spawn(abort_twice) == "done"
    assert log in ([], ["thrown"])  # [] if it had ended


@every_flavor
async def test_a_task_that_swallows_it_goes_on_and_the_handle_says_so() -> None:
    log: list[Any] = []

    async def work() -> str:
        try:
            await never()
        except Cancelled:
            log.append("swallowed")
        for _ in range(3):
            await sleep(0.001)  # it may wait as ever
        log.append(await freerun.spawn(value, 7))
        return "done after all"

    async def value(n: int) -> int:
        return n

    handle = freerun.spawn(work)
    await parked(handle)
    assert handle.abort()
    assert not handle.abort()
    assert await handle == "done after all"
    assert log == ["swallowed", 7]


@every_flavor
async def test_exceptions_in_cleanup() -> None:
    async def raises() -> None:
        try:
            await never()
        finally:
            await freerun.yield_now()
            raise Boom

    async def raises_from() -> None:
        try:
            await never()
        except Cancelled as error:
            raise Boom from error

    async def raises_cancelled_of_its_own() -> None:
        try:
            await never()
        except Cancelled:
            raise Cancelled from None

    async def fails_in_aexit() -> None:
        class Resource:
            async def __aenter__(self) -> None: ...

            async def __aexit__(self, *exc: object) -> None:
                await freerun.yield_now()
                raise Boom

        async with Resource():
            await never()

    expected: list[tuple[Callable[[], Coroutine[Any, Any, None]], Any]] = [
        (raises, Boom),
        (raises_from, Boom),
        (raises_cancelled_of_its_own, str),
        (fails_in_aexit, Boom),
    ]
    for work, kind in expected:
        handle = freerun.spawn(work)
        await parked(handle)
        handle.abort()
        result = await outcome(handle)
        assert type(result) is kind
        if kind is Boom:
            assert isinstance(result.__context__, Cancelled)


@every_flavor
async def test_it_arrives_at_what_is_ready() -> None:
    """An await that has what it wants at once is no suspension; the next one that waits is."""
    log = []

    async def work() -> None:
        freerun.task.current().abort()
        tx, rx = oneshot.channel()
        tx.send(1)
        log.append(await rx)
        async with Mutex(0).lock():
            log.append("locked")
        await freerun.yield_now()
        log.append("not reached")

    assert await outcome(freerun.spawn(work)) == "cancelled"
    assert log == [1, "locked"]


# ---- wherever it waits ----


async def in_group() -> None:
    async with TaskGroup() as group:
        group.spawn(never)


async def in_group_body() -> None:
    async with TaskGroup() as group:
        group.spawn(never)
        await never()


async def in_join_set() -> None:
    async with JoinSet[None]() as tasks:
        tasks.spawn(never)
        await tasks.join_next()


async def in_join_all() -> None:
    async with JoinSet[None]() as tasks:
        tasks.spawn(never)
        await tasks.join_all()


async def in_scope() -> None:
    with CancelScope():
        async with CancelScope(deadline=3600):
            await never()


async def in_timeout_block() -> None:
    async with timeout(3600):
        await never()


async def in_timeout() -> None:
    await timeout(3600, timeout(3600, never()))


async def in_handle() -> None:
    task = freerun.spawn(never)
    try:
        await task
    finally:
        task.abort()


async def in_semaphore() -> None:
    async with Semaphore(0):
        raise AssertionError("not reached")


async def in_notify() -> None:
    await Notify().notified()


async def in_recv() -> None:
    tx, rx = mpsc.channel(1)
    with tx:
        await rx.recv()


async def in_changed() -> None:
    tx, rx = watch.channel(0)
    with tx:
        await rx.changed()


async def in_sleep() -> None:
    await sleep(3600)


async def in_join() -> None:
    await freerun.join(never(), sleep(3600))


async def in_try_join() -> None:
    await freerun.try_join(never(), in_select())


async def in_select() -> None:
    await freerun.select(a=never(), b=sleep(3600))


async def in_join_map() -> None:
    async with JoinMap[str, None]() as tasks:
        tasks.spawn("key", never)
        await tasks.join_next()


async def in_abort_on_drop_block() -> None:
    async with AbortOnDropHandle(freerun.spawn(never)) as task:
        await task


async def in_token() -> None:
    await CancellationToken().cancelled()


async def in_run_until_cancelled() -> None:
    await CancellationToken().run_until_cancelled(never)


async def in_tracker() -> None:
    tracker = TaskTracker()
    with tracker.token():
        tracker.close()
        await tracker.wait()


async def in_task_local() -> None:
    await task_local("x").scope(1, never)


async def in_unconstrained() -> None:
    await unconstrained(never)


async def in_mutex() -> None:
    mutex = Mutex()
    async with mutex:
        await mutex.lock()


async def in_rwlock() -> None:
    lock = RwLock()
    async with lock.read():
        await lock.write()


async def in_barrier() -> None:
    await Barrier(2).wait()


async def in_condvar() -> None:
    async with Mutex().lock() as guard:
        await Condvar().wait(guard)


async def in_once_cell() -> None:
    await OnceCell[None]().get_or_init(never)


async def in_oneshot() -> None:
    tx, rx = oneshot.channel()
    with tx:
        await rx


async def in_broadcast() -> None:
    tx, rx = broadcast.channel(1)
    with tx:
        await rx.recv()


async def in_send() -> None:
    tx, rx = mpsc.channel(1)
    with tx, rx:
        await tx.send(1)
        await tx.send(2)


async def in_interval() -> None:
    ticks = interval(3600)
    await ticks.tick()
    await ticks.tick()


async def in_stream() -> None:
    async def numbers() -> AsyncIterator[int]:
        await never()
        yield 1

    async with stream.merge(numbers(), stream.throttle(numbers(), 1)) as numbered:
        await anext(numbered)


async def in_buffered() -> None:
    async with stream.buffer_unordered(stream.iter([never, never]), 2) as results:
        await anext(results)


EVERYWHERE = [
    in_group,
    in_group_body,
    in_join_set,
    in_join_all,
    in_scope,
    in_timeout_block,
    in_timeout,
    in_handle,
    in_semaphore,
    in_notify,
    in_recv,
    in_changed,
    in_sleep,
    in_join,
    in_try_join,
    in_select,
    in_join_map,
    in_abort_on_drop_block,
    in_token,
    in_run_until_cancelled,
    in_tracker,
    in_task_local,
    in_unconstrained,
    in_mutex,
    in_rwlock,
    in_barrier,
    in_condvar,
    in_once_cell,
    in_oneshot,
    in_broadcast,
    in_send,
    in_interval,
    in_stream,
    in_buffered,
]


@every_flavor
@pytest.mark.parametrize("work", EVERYWHERE, ids=lambda work: work.__name__)
async def test_wherever_it_waits(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """By an abort, by a scope around it, by a timeout, and together with all the others."""
    alive = freerun.Handle.current().metrics().alive_tasks
    log = []

    async def guarded() -> None:
        try:
            await work()
        finally:
            await freerun.yield_now()
            log.append("cleaned up")

    handle = freerun.spawn(guarded)
    await parked(handle)
    assert handle.abort()
    assert await outcome(handle) == "cancelled"
    with CancelScope() as scope:

        async def cancel() -> None:
            scope.cancel()

        freerun.spawn(cancel)
        await guarded()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        await timeout(0.002, guarded())
    with pytest.raises(TimeoutError):
        async with timeout(0.002):
            await guarded()
    assert log == ["cleaned up"] * 4
    await until(lambda: freerun.Handle.current().metrics().alive_tasks <= alive)  # no child was left behind


# ---- against what happens at the same time ----


@every_flavor
async def test_race_of_abort_and_completion() -> None:
    """Exactly one outcome, and the same one for whoever asks; true from abort() is no promise that it is heeded."""
    rng = seeded()
    outcomes: Counter[str] = Counter()

    async def work(yields: int, tx: Any) -> str:
        tx.send(None)
        for _ in range(yields):
            await freerun.yield_now()
        return "result"

    for _ in range(40):
        started, has_started = oneshot.channel()
        handle = freerun.spawn(work, rng.randrange(4), started)
        firsts: list[bool] = []
        barrier = threading.Barrier(2)

        def abort(i: int, handle: Any = handle, firsts: Any = firsts, barrier: Any = barrier) -> None:
            barrier.wait(PATIENCE)
            firsts.append(handle.abort())

        with in_threads(2, abort):
            results = [await outcome(handle), await outcome(handle), await outcome(freerun.spawn(_await, handle))]
        assert len(set(results)) == 1
        assert results[0] in ("result", "cancelled")
        assert sum(firsts) <= 1
        if results[0] == "cancelled":
            assert sum(firsts) == 1
        outcomes[results[0]] += 1
        assert handle.is_finished()
        del has_started
    assert sum(outcomes.values()) == 40


async def _await(handle: Any) -> Any:
    try:
        return await handle
    except freerun.JoinError:
        return "cancelled"


def test_storm_of_sets_and_groups(flavor: Flavor) -> None:
    """Many tasks in sets and groups, aborted by threads at any time: each ends once, nobody is forgotten."""
    rng = seeded()
    seconds = stress_seconds(0.5)
    started: list[int] = []
    finished: list[int] = []

    async def leaf(n: int, yields: int, fails: bool) -> int:
        started.append(n)
        try:
            for _ in range(yields):
                await freerun.yield_now()
            if fails:
                raise Boom
            return n
        finally:
            finished.append(n)

    async def branch(kind: int, seed: int) -> None:
        if kind == 0:
            with contextlib.suppress(ExceptionGroup):
                async with TaskGroup() as group:
                    for n in range(seed % 7):
                        group.spawn(leaf, n, seed % 5 + n, (seed + n) % 11 == 0)
        elif kind == 1:
            async with JoinSet[int]() as tasks:
                for n in range(seed % 7):
                    tasks.spawn(leaf, n, seed % 5 + n, (seed + n) % 11 == 0)
                for _ in range(seed % 3):
                    with contextlib.suppress(Boom, IndexError, freerun.JoinError):
                        await tasks.join_next()
        else:
            with CancelScope(shield=seed % 2 == 0, deadline=0.001 * (seed % 3)):
                await branch(seed % 2, seed // 3)

    with flavor.builder().unhandled_exception(lambda error, task: None).build() as rt:
        handles: list[Any] = []
        over = threading.Event()

        def meddle(i: int) -> None:
            while not over.is_set():
                if handles:
                    handles[hash((i, len(handles), len(finished))) % len(handles)].abort()

        async def main() -> None:
            end = Instant.now() + seconds
            with in_threads(2, meddle):
                try:
                    while Instant.now() < end:
                        batch = [freerun.spawn(branch, rng.randrange(3), rng.randrange(1000)) for _ in range(20)]
                        handles[:] = batch
                        for handle in batch:
                            assert await outcome(handle) in (None, "cancelled")
                        assert Counter(started) == Counter(finished)  # none of the children goes on
                        started.clear()
                        finished.clear()
                finally:
                    over.set()

        rt.block_on(main)
        assert rt.metrics().alive_tasks == 0


@every_flavor
async def test_a_granted_lock_is_not_lost_with_its_task() -> None:
    """Aborted at the moment at which the lock is handed over, at the boundary of a group or scope."""
    mutex: Mutex[int] = Mutex(0)

    async def plain() -> None:
        async with mutex.lock() as guard:
            guard.value += 1

    async def in_a_group() -> None:
        async with TaskGroup() as group:
            group.spawn(plain)

    async def in_a_scope() -> None:
        with CancelScope(deadline=3600):
            await plain()

    for work in (plain, in_a_group, in_a_scope):
        for yields in range(4):
            before = await mutex.lock()
            count = before.value
            victim = freerun.spawn(work)
            await until(lambda victim=victim: is_parked(victim))
            before.release()  # granted to it, or to the task in its group
            for _ in range(yields):
                await freerun.yield_now()
            victim.abort()
            result = await outcome(victim)
            async with timeout(PATIENCE), mutex.lock() as guard:  # nobody else holds it
                assert guard.value in (count, count + 1)
                assert result is not None or guard.value == count + 1
    assert not mutex.is_locked()


@every_flavor
async def test_a_message_is_not_lost_with_its_receiver() -> None:
    """Aborted, cancelled or too late at the moment at which the message comes: it is received, or still there."""
    rng = seeded()
    tx, rx = mpsc.channel(4)
    books: list[int] = []

    async def plain() -> None:
        books.append(await rx.recv())

    async def in_a_group() -> None:
        async with TaskGroup() as group:
            group.spawn(plain)

    async def in_a_set() -> None:
        async with JoinSet[None]() as tasks:
            tasks.spawn(plain)
            await tasks.join_next()

    async def in_a_scope() -> None:
        with CancelScope(deadline=0.0005):
            await plain()

    async def in_a_shield() -> None:
        with CancelScope(shield=True):
            await plain()

    async def in_a_timeout() -> None:
        with contextlib.suppress(TimeoutError):
            await timeout(0.0005, plain())

    for number in range(80):
        work = rng.choice([plain, in_a_group, in_a_set, in_a_scope, in_a_shield, in_a_timeout])
        victim = freerun.spawn(work)
        for _ in range(rng.randrange(3)):
            await freerun.yield_now()
        sending = freerun.spawn(tx.send, number)
        for _ in range(rng.randrange(3)):
            await freerun.yield_now()
        victim.abort()
        await outcome(victim)
        await sending
        with contextlib.suppress(freerun.WouldBlock):
            while True:
                books.append(rx.try_recv())
        assert books == list(range(number + 1))


@every_flavor
async def test_a_result_is_not_lost_at_the_boundary_of_a_scope() -> None:
    """What a task has got before the Cancelled reaches it is in its hands, and its scope does not take it away."""
    rng = seeded()
    for _ in range(60):
        tx, rx = oneshot.channel()
        got: list[int] = []
        scope = CancelScope()

        async def work(scope: CancelScope = scope, rx: Any = rx, got: list[int] = got) -> bool:
            with scope:
                got.append(await rx)
                await never()
            return scope.cancelled_caught

        handle = freerun.spawn(work)
        for _ in range(rng.randrange(3)):
            await freerun.yield_now()

        def race(i: int, tx: Any = tx, scope: CancelScope = scope) -> None:
            if i:
                scope.cancel()
            else:
                with contextlib.suppress(freerun.SendError):
                    tx.send(1)

        with in_threads(2, race):
            assert await handle is True
        assert got in ([], [1])


@every_flavor
async def test_before_its_first_poll(flavor: Flavor) -> None:
    """A child that is aborted before it starts never runs, and its place in the set or group is given up."""
    log = []
    release = await occupy(max(flavor.workers - 1, 0))

    async def work() -> None:
        log.append("ran")

    async with TaskGroup() as group:
        child = group.spawn(work)
        assert child.abort()
    tasks: JoinSet[None] = JoinSet()
    other = tasks.spawn(work)
    assert other.abort()
    with pytest.raises(freerun.JoinError):
        await tasks.join_next()
    release()
    assert await outcome(child) == "cancelled"
    if flavor.workers <= 1:
        assert log == []
