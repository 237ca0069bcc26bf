"""`spawn_blocking` and the pool behind it."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Flavor, every_flavor, is_freed, thread_count, until, wait_until

import freerun


@every_flavor
async def test_result_arguments_failure() -> None:
    def fails() -> None:
        raise KeyError("k")

    assert await freerun.spawn_blocking(int, "17", base=8) == 15
    assert await freerun.spawn_blocking(dict, a=1) == {"a": 1}
    assert await freerun.spawn_blocking(threading.get_ident) != threading.get_ident()
    with pytest.raises(KeyError):
        await freerun.spawn_blocking(fails)
    with pytest.raises(TypeError):
        await freerun.spawn_blocking(int, 1, 2, 3)


def test_bad_arguments(rt: freerun.Runtime) -> None:
    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="'fn'"):
        rt.spawn_blocking()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="argument 'fn' must be callable, not int"):
        rt.spawn_blocking(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"argument 'fn' must be an ordinary function, not an async one; use spawn\(\)"):
        rt.spawn_blocking(coroutine)
    coro = coroutine()
    with pytest.raises(TypeError, match="argument 'fn'"):
        rt.spawn_blocking(coro)  # type: ignore[arg-type]
    coro.close()


@every_flavor
async def test_does_not_block_the_worker() -> None:
    release = threading.Event()
    blocked = [freerun.spawn_blocking(release.wait, PATIENCE) for _ in range(10)]
    for _ in range(10):
        await freerun.time.sleep(0.0005)  # timers and tasks go on
        assert await freerun.spawn(freerun.lowlevel.checkpoint) is None
    assert not any(handle.is_finished() for handle in blocked)
    release.set()
    assert all([await handle for handle in blocked])


def test_limit(flavor: Flavor) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    async def main() -> None:
        for handle in [freerun.spawn_blocking(work) for _ in range(60)]:
            await handle

    with flavor.builder().max_blocking_threads(3).build() as rt:
        rt.block_on(main)
        assert rt.metrics().num_blocking_threads <= 3
        assert rt.metrics().blocking_queue_depth == 0
    assert 1 <= most <= 3


def test_one_thread_runs_in_order(flavor: Flavor) -> None:
    order: list[int] = []

    async def main() -> None:
        for handle in [freerun.spawn_blocking(order.append, i) for i in range(1000)]:
            await handle

    with flavor.builder().max_blocking_threads(1).build() as rt:
        rt.block_on(main)
    assert order == list(range(1000))


@every_flavor
async def test_a_thousand_at_once(rt: freerun.Runtime) -> None:
    def square(i: int) -> int:
        return i * i

    handles = [freerun.spawn_blocking(square, i) for i in range(1000)]
    assert [await handle for handle in handles] == [i * i for i in range(1000)]
    assert rt.metrics().num_blocking_threads <= 512


def test_keep_alive(flavor: Flavor) -> None:
    with flavor.builder().thread_keep_alive(0.005).build() as rt:
        before = thread_count()

        async def main() -> None:
            release = threading.Event()
            handles = [freerun.spawn_blocking(release.wait, PATIENCE) for _ in range(5)]
            await until(lambda: rt.metrics().num_blocking_threads == 5)
            assert thread_count() >= before + 5
            release.set()
            for handle in handles:
                await handle
            await until(lambda: rt.metrics().num_blocking_threads == 0)
            assert await freerun.spawn_blocking(int) == 0  # and it starts again

        rt.block_on(main)
        wait_until(lambda: thread_count() <= before)


def test_idle_threads_are_reused(flavor: Flavor) -> None:
    with flavor.builder().thread_keep_alive(PATIENCE).build() as rt:

        async def main() -> None:
            seen = set()
            for _ in range(50):
                seen.add(await freerun.spawn_blocking(threading.get_native_id))
                await until(lambda: rt.metrics().num_idle_blocking_threads == rt.metrics().num_blocking_threads)
            assert len(seen) == 1

        rt.block_on(main)


def test_abort_queued(flavor: Flavor) -> None:
    ran: list[int] = []
    release = threading.Event()

    async def main() -> None:
        blocker = freerun.spawn_blocking(release.wait, PATIENCE)
        queued = [freerun.spawn_blocking(ran.append, i) for i in range(10)]
        for handle in queued[::2]:
            assert handle.abort()
            assert not handle.abort()
        release.set()
        assert await blocker
        for i, handle in enumerate(queued):
            if i % 2:
                await handle
            else:
                with pytest.raises(freerun.JoinError):
                    await handle

    with flavor.builder().max_blocking_threads(1).build() as one:
        one.block_on(main)
    assert ran == [1, 3, 5, 7, 9]


@every_flavor
async def test_abort_started() -> None:
    """A call that runs cannot be stopped; it ends as if nobody had asked."""
    started, release = threading.Event(), threading.Event()

    def call() -> str:
        started.set()
        assert release.wait(PATIENCE)
        return "done"

    handle = freerun.spawn_blocking(call)
    await until(started.is_set)
    handle.abort()
    release.set()
    assert await handle == "done"


@every_flavor
async def test_aborting_the_waiter_leaves_the_call() -> None:
    release, ended = threading.Event(), threading.Event()

    def call() -> None:
        release.wait(PATIENCE)
        ended.set()

    async def waits() -> None:
        await freerun.spawn_blocking(call)

    task = freerun.spawn(waits)
    await until(lambda: "waiting" in repr(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert not ended.is_set()
    release.set()
    await until(ended.is_set)


@every_flavor
async def test_spawn_from_a_call() -> None:
    async def child(x: int) -> int:
        await freerun.time.sleep(0.001)
        return x + 1

    def call() -> int:
        first = freerun.spawn(child, 1).blocking_result()
        second = freerun.Handle.current().block_on(child, first)
        return second + freerun.spawn_blocking(int, "3").blocking_result()

    assert await freerun.spawn_blocking(call) == 6


@every_flavor
async def test_no_task_in_a_call() -> None:
    def call() -> None:
        freerun.task.current()

    with pytest.raises(RuntimeError):
        await freerun.spawn_blocking(call)


@every_flavor
async def test_releases_what_it_was_given() -> None:
    class Thing:
        pass

    thing: Any = Thing()
    ref = weakref.ref(thing)
    assert await freerun.spawn_blocking(isinstance, thing, Thing)
    assert await freerun.spawn_blocking(lambda x, *, y: x is y, thing, y=thing)
    del thing
    await until(lambda: is_freed(ref))


def test_system_exit_in_a_call(rt: freerun.Runtime) -> None:
    async def main() -> None:
        await freerun.spawn_blocking(sys.exit, 7)

    with pytest.raises(SystemExit) as caught:
        rt.block_on(main)
    assert caught.value.code == 7


def test_names(flavor: Flavor) -> None:
    def name() -> str:
        return Path("/proc/thread-self/comm").read_text().strip()

    async def main() -> str:
        return await freerun.spawn_blocking(name)

    with flavor.builder().thread_name("tester").build() as rt:
        assert rt.block_on(main) == "tester-b0"


def test_unhandled_failure(flavor: Flavor) -> None:
    seen: list[Any] = []
    builder = flavor.builder().unhandled_exception(lambda error, task: seen.append((type(error), task.kind)))

    async def main() -> None:
        freerun.spawn_blocking(int, "no number")
        await until(lambda: seen)

    with builder.build() as rt:
        rt.block_on(main)
    assert seen == [(ValueError, "blocking")]


def test_churn(flavor: Flavor) -> None:
    """Threads that leave and threads that start, while calls keep coming: none is forgotten."""

    async def main() -> None:
        for i in range(300):
            assert await freerun.spawn_blocking(abs, -i) == i
            if i % 10 == 0:
                await freerun.time.sleep(0.001)

    with flavor.builder().thread_keep_alive(0.0005).build() as rt:
        rt.block_on(main)
