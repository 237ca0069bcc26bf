"""`task.TaskTracker`: Tokio's task_tracker.rs, and what Python adds."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from support import CURRENT, every_flavor, in_threads, is_parked, only, seeded, until, wait_until
from waiting_support import Aborts, abort, still_waits, waiting

import freerun
from freerun.task import TaskTracker


async def sleep_long() -> None:
    await freerun.time.sleep(3600)


@every_flavor
async def test_open_close() -> None:
    tracker = TaskTracker()
    assert not tracker.is_closed() and tracker.is_empty() and bool(tracker)
    assert tracker.close() and tracker.is_closed() and not tracker.close()
    assert tracker.reopen() and not tracker.is_closed() and not tracker.reopen()
    assert tracker.close()
    await tracker.wait()


@every_flavor
async def test_token_len() -> None:
    tracker = TaskTracker()
    tokens = []
    for i in range(10):
        assert len(tracker) == i
        tokens.append(tracker.token())
        assert tokens[-1].tracker is tracker
    for i in range(10):
        assert not tracker.is_empty()
        assert len(tracker) == 10 - i
        token = tokens.pop()
        token.release()
        token.release()
        with pytest.raises(RuntimeError, match="released"):
            _ = token.tracker
    assert tracker.is_empty() and len(tracker) == 0


def test_a_dropped_token_counts_no_more() -> None:
    tracker = TaskTracker()
    tracker.token()
    gc.collect()
    wait_until(lambda: len(tracker) == 0)


@every_flavor
async def test_notify_immediately() -> None:
    tracker = TaskTracker()
    tracker.close()
    await tracker.wait()


@every_flavor
async def test_notify_immediately_on_reopen() -> None:
    """A wait sees that the tracker was closed and empty, however short the time."""
    tracker = TaskTracker()
    wait = tracker.wait()
    tracker.close()
    tracker.reopen()
    await wait


@every_flavor
async def test_notify_on_close_and_on_last_task() -> None:
    tracker = TaskTracker()
    task = await waiting(tracker.wait)
    tracker.close()
    await task
    tracker.reopen()
    with tracker.token():
        tracker.close()
        task = await waiting(tracker.wait)
        await still_waits(task)
    await task


@every_flavor
async def test_a_reopened_tracker_does_not_let_go() -> None:
    tracker = TaskTracker()
    with tracker.token():
        tracker.close()
        task = await waiting(tracker.wait)
        tracker.reopen()
    await still_waits(task)
    await abort(task)
    again = await waiting(tracker.wait)
    tracker.close()
    await again


@every_flavor
async def test_spawn_counts_until_it_has_ended() -> None:
    tracker = TaskTracker()
    go = freerun.sync.Notify()

    async def work(n: int) -> int:
        await go.notified()
        return n

    handles = [tracker.spawn(work, n) for n in range(3)] + [tracker.spawn(work(3), name="fourth")]
    assert handles[3].name == "fourth"
    assert len(tracker) == 4
    await until(lambda: all(map(is_parked, handles)))
    tracker.close()
    done = await waiting(tracker.wait)
    go.notify_waiters()
    await done
    assert [await handle for handle in handles] == [0, 1, 2, 3]
    assert tracker.is_empty()


@every_flavor
async def test_however_it_ends() -> None:
    tracker = TaskTracker()

    async def fails() -> None:
        raise KeyError("oh")

    async def cleans_up() -> None:
        try:
            await sleep_long()
        finally:
            await freerun.yield_now()

    failed, aborted = tracker.spawn(fails), tracker.spawn(cleans_up)
    await until(lambda: is_parked(aborted))
    aborted.abort()
    tracker.close()
    await tracker.wait()
    with pytest.raises(KeyError):  # its traceback holds frames; the count does not wait for them
        await failed
    with pytest.raises(freerun.JoinError):
        await aborted


@only(CURRENT)
@every_flavor
async def test_aborted_before_its_first_step() -> None:
    """The coroutine runs nothing then; the count goes down nonetheless, without any help by the collector."""
    tracker = TaskTracker()
    begun: list[int] = []

    async def body() -> None:
        begun.append(1)

    handles = [tracker.spawn(body), tracker.spawn(body())]
    for handle in handles:
        handle.abort()
    tracker.close()
    await tracker.wait()
    assert not begun
    for handle in handles:
        with pytest.raises(freerun.JoinError):
            await handle


def test_a_shutdown_empties_it() -> None:
    tracker = TaskTracker()
    rt = freerun.Builder.new_current_thread().build()
    tracker.spawn_on(rt, sleep_long)  # never stepped
    tracker.spawn_on(rt.handle(), sleep_long())

    async def main() -> None:
        tracker.spawn(sleep_long)
        await freerun.yield_now()

    rt.block_on(main)
    assert len(tracker) == 3
    rt.shutdown()
    assert len(tracker) == 0
    with pytest.raises(freerun.RuntimeShutdown):
        tracker.spawn_on(rt, sleep_long)
    with pytest.raises(freerun.RuntimeShutdown):
        tracker.spawn_on(rt, sleep_long())
    assert len(tracker) == 0


@every_flavor
async def test_what_spawn_refuses_is_not_counted() -> None:
    tracker = TaskTracker()
    for bad in (1, None):
        with pytest.raises(TypeError, match="argument 'coro'"):
            tracker.spawn(bad)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes no arguments"):
        tracker.spawn(sleep_long(), 1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="argument 'name'"):
        tracker.spawn(sleep_long, name=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="argument 'fn'"):
        tracker.spawn_blocking(sleep_long)
    assert tracker.is_empty()
    with pytest.raises(TypeError, match="returned int"):
        await tracker.spawn(lambda: 1)  # type: ignore[call-overload]
    assert tracker.is_empty()


def test_outside_a_runtime() -> None:
    tracker = TaskTracker()
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        tracker.spawn(sleep_long)
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        tracker.spawn(sleep_long())
    assert tracker.is_empty()


@every_flavor
async def test_the_spawn_site_is_the_callers() -> None:
    tracker = TaskTracker()
    seen: list[str | None] = []

    async def body() -> None:
        seen.append(freerun.task.current().spawned_at)

    await tracker.spawn(body)
    assert seen[0] is not None and "test_task_tracker.py" in seen[0]


@every_flavor
async def test_spawn_blocking() -> None:
    tracker = TaskTracker()
    go = threading.Event()

    def fails() -> None:
        raise KeyError("oh")

    waits, fails_handle = tracker.spawn_blocking(go.wait, 60), tracker.spawn_blocking(fails)
    tracker.close()
    done = await waiting(tracker.wait)
    await until(lambda: len(tracker) == 1)
    go.set()
    await done
    assert await waits
    with pytest.raises(KeyError):
        await fails_handle


@every_flavor
async def test_track() -> None:
    tracker = TaskTracker()

    async def value(n: int) -> int:
        await freerun.yield_now()
        return n

    first, second = tracker.track(value(1)), tracker.track(value, 2)
    assert len(tracker) == 2
    assert await first == 1
    assert await second == 2
    assert tracker.is_empty()
    aborted = await waiting(tracker.track, sleep_long)
    assert len(tracker) == 1
    await abort(aborted)
    assert tracker.is_empty()
    with pytest.raises(TypeError, match="argument 'awaitable'"):
        tracker.track(1)  # type: ignore[call-overload]
    await until(tracker.is_empty)


@every_flavor
async def test_a_wait_is_cancel_safe() -> None:
    tracker = TaskTracker()
    first, second = await waiting(tracker.wait), await waiting(tracker.wait)
    await abort(first)
    tracker.close()
    await second


@every_flavor
async def test_random_tasks() -> None:
    """Whatever happens to them, the count comes to zero, and not before all have ended."""
    random = seeded()
    aborts = Aborts(random, 0.4)
    tracker = TaskTracker()
    running = 0
    lock = threading.Lock()

    async def body(turns: int, fails: bool) -> None:
        nonlocal running
        with lock:
            running += 1
        try:
            for _ in range(turns):
                await freerun.yield_now()
            if fails:
                raise KeyError
        finally:
            try:
                await freerun.yield_now()  # where the abort may come as well
            finally:
                with lock:
                    running -= 1

    handles: list[freerun.JoinHandle[Any]] = []
    for _ in range(300):
        handles.append(tracker.spawn(body, random.randrange(5), random.random() < 0.2))
        await aborts.maybe(random.choice(handles))
    tracker.close()
    await tracker.wait()
    assert running == 0 and len(tracker) == 0
    for handle in handles:
        try:
            await handle
        except (KeyError, freerun.JoinError):
            pass


def test_from_plain_threads(rt: freerun.Runtime) -> None:
    tracker = TaskTracker()

    async def nothing() -> None:
        pass

    def work(_i: int) -> None:
        for _ in range(200):
            tracker.spawn_on(rt, nothing)
            with tracker.token():
                pass

    with in_threads(3, work):
        rt.block_on(nothing)
    tracker.close()
    rt.block_on(tracker.wait)
    assert len(tracker) == 0
