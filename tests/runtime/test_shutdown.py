"""Shutdown: every task ends exactly once, cleanup runs, threads go, and nothing waits for ever."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import pytest
from engine_support import (
    build,
    drive,
    drive_until_parked,
    is_closed,
    occupy_all,
    outcome,
    threads_named,
    unique_name,
    wait_gone,
)
from support import CURRENT, FLAVORS, MULTI, PATIENCE, STRICT, Flavor, all_at_once, in_threads, only, wait_until

import freerun
from freerun.sync import oneshot


async def for_ever() -> None:
    await freerun.time.sleep(3600)


async def value(x: int = 1) -> int:
    return x


def said_here(reports: Any) -> list[logging.LogRecord]:
    """What was said too loudly for a debug message, on this thread."""
    return [
        record for record in reports if record.levelno >= logging.WARNING and record.thread == threading.get_ident()
    ]


def test_empty_runtime(flavor: Flavor) -> None:
    name = unique_name()
    rt = build(flavor, name)
    workers = [f"{name}-{i}" for i in range(flavor.workers)]
    wait_until(lambda: set(threads_named(name)) >= set(workers))
    assert len(threads_named(name)) <= flavor.workers + 1  # the driver's
    rt.shutdown()
    assert not threads_named(name)


def test_everything_is_refused_afterwards(flavor: Flavor) -> None:
    rt = flavor.builder().build()
    rt.shutdown()
    for call in (
        lambda: rt.spawn(value),
        lambda: rt.spawn(value()),
        lambda: rt.block_on(value),
        lambda: rt.block_on(value()),
        lambda: rt.spawn_blocking(int),
        lambda: rt.handle().spawn(value),
        rt.metrics,
        rt.handle().dump_tasks,
    ):
        with pytest.raises(freerun.RuntimeShutdown, match="shut"):
            call()
    with rt.handle().enter(), pytest.raises(freerun.RuntimeShutdown):
        freerun.spawn(value)
    assert "shut down" in repr(rt)
    assert "shut down" in repr(rt.handle())


def test_results_survive(rt: freerun.Runtime) -> None:
    done, failed = rt.spawn(value, 7), rt.spawn(fails)
    drive(rt, lambda: done.is_finished() and failed.is_finished())
    rt.shutdown()
    assert done.blocking_result() == 7
    with pytest.raises(ZeroDivisionError):
        failed.blocking_result()


async def fails() -> None:
    raise ZeroDivisionError


@only(CURRENT, *STRICT)
def test_pending_tasks_never_start_or_run_to_their_end(flavor: Flavor) -> None:
    """Tasks in the queues when the door closes: the ones that started saw Cancelled, the others did not begin."""
    started, ended = [], []

    async def body(i: int) -> None:
        started.append(i)
        try:
            await freerun.time.sleep(3600)
        finally:
            ended.append(i)

    with flavor.builder().build() as rt:
        release = occupy_all(rt, flavor)
        handles = [rt.spawn(body, i) if i % 2 else rt.spawn(body(i)) for i in range(500)]
        with in_threads(1, lambda _: rt.shutdown()):
            wait_until(lambda: is_closed(rt))
            release()
    assert [outcome(handle) for handle in handles] == ["cancelled"] * 500
    assert sorted(started) == sorted(ended)


def test_parked_tasks_get_cancelled_once(rt: freerun.Runtime) -> None:
    cancelled = []

    async def wait(how: Any) -> None:
        try:
            await how()
        except freerun.Cancelled:
            cancelled.append(freerun.lowlevel.current_task().id)
            raise

    async def never_sent() -> None:
        _tx, rx = oneshot.channel()
        await rx

    async def accept() -> None:
        async with await freerun.net.TcpListener.bind("127.0.0.1:0") as listener:
            await listener.accept()

    handles = [rt.spawn(wait, how) for how in (for_ever, never_sent, accept, freerun.lowlevel.park)]
    drive_until_parked(rt, *handles)
    rt.shutdown()
    assert [outcome(handle) for handle in handles] == ["cancelled"] * len(handles)
    assert sorted(cancelled) == sorted(handle.id for handle in handles)


def test_yield_loops(flavor: Flavor) -> None:
    polls = [0] * 8
    closed = []

    async def loop(i: int) -> None:
        try:
            while True:
                polls[i] += 1
                await freerun.yield_now()
        finally:
            closed.append(i)

    with flavor.builder().build() as rt:
        handles = [rt.spawn(loop, i) for i in range(8)]
        drive(rt, lambda: all(polls))
    assert [outcome(handle) for handle in handles] == ["cancelled"] * 8
    assert sorted(closed) == list(range(8))


def test_swallowing_cancelled_once_is_the_tasks_right(rt: freerun.Runtime) -> None:
    async def swallows() -> str:
        try:
            await freerun.time.sleep(3600)
        except freerun.Cancelled:
            await freerun.yield_now()
        return "kept its result"

    handle = rt.spawn(swallows)
    drive_until_parked(rt, handle)
    rt.shutdown()
    assert handle.blocking_result() == "kept its result"


@pytest.mark.parametrize("how", ["waits", "yields"])
@all_at_once(*FLAVORS)
def test_a_task_that_never_gives_up_is_closed_at_the_deadline(flavor: Flavor, how: str, reports: Any) -> None:
    seen: list[str] = []

    async def stubborn() -> None:
        try:
            while True:
                try:
                    await (freerun.time.sleep(3600) if how == "waits" else freerun.yield_now())
                except freerun.Cancelled:
                    seen.append("cancelled")
        except GeneratorExit:
            seen.append("closed")
            raise

    name = unique_name()
    rt = build(flavor, name)
    handle = rt.spawn(stubborn, name="stubborn")
    drive(rt, lambda: how == "yields" or "waiting" in repr(handle))
    started = time.monotonic()
    rt.shutdown(timeout=1)  # long enough to be cancelled first
    assert time.monotonic() - started >= 1
    assert seen == ["cancelled", "closed"]
    assert handle.is_finished()
    assert outcome(handle) == "cancelled"
    assert not threads_named(name)
    (report,) = said_here(reports)
    assert f"task {handle.id} 'stubborn', spawned at {__file__}" in report.getMessage()


@pytest.mark.parametrize("how", ["waits", "yields"])
def test_a_task_that_swallows_everything_ends_all_the_same(
    flavor: Flavor, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, and GeneratorExit when it is closed. It is not freed, which would close it again, in no task."""
    ignored: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: ignored.append(str(what.exc_value)))
    seen: list[str] = []

    async def swallows() -> None:
        while True:
            try:
                await (freerun.time.sleep(3600) if how == "waits" else freerun.yield_now())
            except BaseException as error:
                seen.append(type(error).__name__)

    name = unique_name()
    rt = build(flavor, name)
    handle = rt.spawn(swallows)
    drive(rt, lambda: how == "yields" or "waiting" in repr(handle))
    rt.shutdown(timeout=0.5)  # long enough to be cancelled first
    assert outcome(handle) == "cancelled"
    wait_gone(name)
    gc.collect()
    assert seen == ["Cancelled", "GeneratorExit"]
    assert ignored == ["coroutine ignored GeneratorExit"]


def test_cleanup_may_await(rt: freerun.Runtime) -> None:
    done: list[str] = []

    async def cleanup_sleeps() -> None:
        try:
            await for_ever()
        finally:
            await freerun.time.sleep(0.01)
            await freerun.yield_now()
            done.append("slept")

    async def cleanup_receives(rx: Any) -> None:
        try:
            await for_ever()
        finally:
            done.append(await rx)

    async def cleanup_sends(tx: Any) -> None:
        try:
            await for_ever()
        finally:
            await freerun.time.sleep(0.01)
            tx.send("received")

    async def cleanup_joins(other: freerun.JoinHandle[Any]) -> None:
        try:
            await for_ever()
        finally:
            try:
                await other
            except freerun.JoinError as error:
                done.append(f"joined: {error.is_cancelled()}")

    tx, rx = oneshot.channel()
    other = rt.spawn(cleanup_sleeps)
    handles = [rt.spawn(cleanup_receives, rx), rt.spawn(cleanup_sends, tx), rt.spawn(cleanup_joins, other), other]
    drive_until_parked(rt, *handles)
    rt.shutdown()
    assert sorted(done) == ["joined: True", "received", "slept"]
    assert [outcome(handle) for handle in handles] == ["cancelled"] * 4


def test_cleanup_may_use_sockets(rt: freerun.Runtime) -> None:
    async def says_goodbye(listener: freerun.net.TcpListener) -> None:
        stream, _ = await listener.accept()
        try:
            await stream.read()
        finally:
            await stream.write_all(b"goodbye")
            stream.close()

    async def bind() -> freerun.net.TcpListener:
        return await freerun.net.TcpListener.bind("127.0.0.1:0")

    listener = rt.block_on(bind)
    with socket.create_connection(listener.local_addr) as client:
        handle = rt.spawn(says_goodbye, listener)
        drive(rt, lambda: rt.metrics().io_registered >= 2 and "waiting" in repr(handle))
        rt.shutdown()
        client.settimeout(PATIENCE)
        assert client.recv(100) == b"goodbye"
    listener.close()
    assert outcome(handle) == "cancelled"


def test_cleanup_cannot_start_work(rt: freerun.Runtime) -> None:
    errors = []

    async def cleanup() -> None:
        try:
            await for_ever()
        finally:
            for call in (
                lambda: freerun.spawn(value),
                lambda: freerun.spawn(value()),
                lambda: freerun.spawn_blocking(int),
                lambda: rt.handle().spawn(value),
            ):
                try:
                    call()
                except freerun.RuntimeShutdown as error:
                    errors.append(error)

    handle = rt.spawn(cleanup)
    drive_until_parked(rt, handle)
    rt.shutdown()
    assert len(errors) == 4
    assert outcome(handle) == "cancelled"


def test_cleanup_that_raises(rt: freerun.Runtime, reports: Any) -> None:
    async def cleanup() -> None:
        try:
            await for_ever()
        finally:
            raise LookupError("in cleanup")

    kept = rt.spawn(cleanup)
    dropped = rt.spawn(cleanup, name="nobody looks")
    drive_until_parked(rt, kept, dropped)
    del dropped
    rt.shutdown()
    assert isinstance(outcome(kept), LookupError)
    (report,) = [record for record in reports if record.levelno >= logging.ERROR]
    assert "nobody looks" in report.getMessage()
    assert report.exc_info
    assert "in cleanup" in str(report.exc_info[1])


@all_at_once(*MULTI)
def test_stuck_in_a_worker(flavor: Flavor, reports: Any) -> None:
    """The deadline holds, the report names the task, and the threads leave once the call returns."""
    inside, release = threading.Event(), threading.Event()
    name = unique_name()

    async def stuck() -> None:
        inside.set()
        assert release.wait(PATIENCE)

    rt = build(flavor, name)
    handle = rt.spawn(stuck, name="stuck")
    other = rt.spawn(for_ever)
    assert inside.wait(PATIENCE)
    started = time.monotonic()
    rt.shutdown(timeout=0.1)
    assert time.monotonic() - started < PATIENCE / 2  # not until the release
    (report,) = said_here(reports)
    assert f"task {handle.id} 'stuck', spawned at {__file__}" in report.getMessage()
    assert "running" in report.getMessage()
    assert not handle.is_finished()
    assert threads_named(name)
    rt.shutdown()  # does not wait for it again
    release.set()
    wait_until(handle.is_finished)
    wait_gone(name)
    assert outcome(other) == "cancelled"


@all_at_once(*FLAVORS)
def test_stuck_in_the_pool(flavor: Flavor, reports: Any) -> None:
    inside, release = threading.Event(), threading.Event()
    name = unique_name()

    def stuck() -> str:
        inside.set()
        assert release.wait(PATIENCE)
        return "at last"

    rt = build(flavor, name)
    handle = rt.spawn_blocking(stuck)
    assert inside.wait(PATIENCE)
    started = time.monotonic()
    rt.shutdown(timeout=0.1)
    assert time.monotonic() - started < PATIENCE / 2
    (report,) = said_here(reports)
    assert f"blocking call {handle.id}, spawned at {__file__}" in report.getMessage()
    release.set()
    assert handle.blocking_result(PATIENCE) == "at last"
    wait_gone(name)


def test_a_blocking_call_that_ends_in_time_keeps_its_result(flavor: Flavor, reports: Any) -> None:
    inside, release = threading.Event(), threading.Event()

    def call() -> str:
        inside.set()
        assert release.wait(PATIENCE)
        return "done"

    rt = flavor.builder().max_blocking_threads(1).build()
    running, queued = rt.spawn_blocking(call), rt.spawn_blocking(call)
    assert inside.wait(PATIENCE)
    with in_threads(1, lambda _: rt.shutdown(PATIENCE)):
        wait_until(lambda: is_closed(rt))
        assert outcome(queued) == "cancelled"  # it had not begun
        release.set()
    assert running.blocking_result() == "done"
    assert not [record for record in reports if record.levelno >= logging.WARNING]


@all_at_once(*MULTI)
def test_stuck_in_block_in_place(flavor: Flavor, reports: Any) -> None:
    inside, release = threading.Event(), threading.Event()
    name = unique_name()

    async def stuck() -> None:
        freerun.block_in_place(lambda: inside.set() or release.wait(PATIENCE))

    rt = build(flavor, name)
    handle = rt.spawn(stuck, name="in place")
    assert inside.wait(PATIENCE)
    assert rt.block_on(value, 3) == 3  # another thread goes on with its queue
    rt.shutdown(timeout=0.1)
    assert "in place" in said_here(reports)[0].getMessage()
    release.set()
    wait_until(handle.is_finished)
    wait_gone(name)


def test_timeout_zero(flavor: Flavor) -> None:
    """Nobody waits for cleanup then, but everything ends all the same."""
    name = unique_name()
    rt = build(flavor, name)
    handles = [rt.spawn(for_ever) for _ in range(100)]
    drive_until_parked(rt, *handles)
    rt.shutdown(timeout=0)
    assert {outcome(handle) for handle in handles} == {"cancelled"}
    assert not threads_named(name)


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_bad_timeout(rt: freerun.Runtime, timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout"):
        rt.shutdown(timeout)
    assert rt.block_on(value, 5) == 5


def test_twice(flavor: Flavor) -> None:
    rt = flavor.builder().build()
    handle = rt.spawn(for_ever)
    for _ in range(3):
        rt.shutdown()
        assert handle.is_finished()
    rt.shutdown_background()


def test_from_several_threads_at_once(flavor: Flavor) -> None:
    name = unique_name()
    rt = build(flavor, name)
    ended = []
    start = threading.Barrier(4)

    async def slow_cleanup() -> None:
        try:
            await for_ever()
        finally:
            await freerun.time.sleep(0.05)
            ended.append(1)

    handles = [rt.spawn(slow_cleanup) for _ in range(10)]
    drive_until_parked(rt, *handles)

    def shut_down(_: int) -> None:
        start.wait()
        rt.shutdown()
        assert all(handle.is_finished() for handle in handles)
        assert len(ended) == 10
        assert not threads_named(name)

    with in_threads(4, shut_down):
        pass


def test_from_a_task_is_an_error(rt: freerun.Runtime) -> None:
    async def shut_down() -> None:
        with pytest.raises(RuntimeError, match="shutdown_background"):
            rt.shutdown()

    rt.block_on(shut_down)
    rt.block_on(join, rt.spawn(shut_down))
    assert rt.block_on(value, 2) == 2


async def join(handle: freerun.JoinHandle[Any]) -> Any:
    return await handle


def test_from_a_blocking_call_is_an_error(rt: freerun.Runtime) -> None:
    with pytest.raises(RuntimeError, match="shutdown_background"):
        rt.spawn_blocking(rt.shutdown, 0.1).blocking_result(PATIENCE)
    assert rt.block_on(value, 2) == 2


def test_in_another_runtimes_task(flavor: Flavor) -> None:
    name = unique_name()
    inner = build(flavor, name)
    handle = inner.spawn(for_ever)

    async def shut_down() -> None:
        inner.shutdown()

    with freerun.Builder().worker_threads(1).build() as outer:
        outer.block_on(shut_down)
    assert outcome(handle) == "cancelled"
    assert not threads_named(name)


def test_background(flavor: Flavor) -> None:
    """It does not wait, and still everything ends."""
    name = unique_name()
    cleaned = []

    async def cleanup() -> None:
        try:
            await for_ever()
        finally:
            await freerun.time.sleep(0.01)
            cleaned.append(1)

    rt = build(flavor, name)
    handles = [rt.spawn(cleanup) for _ in range(10)]
    drive_until_parked(rt, *handles)
    rt.shutdown_background()
    assert is_closed(rt)
    assert {outcome(handle) for handle in handles} == {"cancelled"}
    assert len(cleaned) == 10
    wait_gone(name)


def test_background_from_a_task(flavor: Flavor) -> None:
    name = unique_name()
    rt = build(flavor, name)

    async def shut_down() -> str:
        rt.shutdown_background()
        with pytest.raises(freerun.RuntimeShutdown):
            freerun.spawn(value)
        try:
            await freerun.time.sleep(3600)
        except freerun.Cancelled:
            await freerun.yield_now()
        return "ended"

    handle = rt.spawn(shut_down)
    try:
        rt.block_on(join, handle)
    except (freerun.JoinError, freerun.RuntimeShutdown):
        pass  # the main task may have been cancelled, or come too late
    assert handle.blocking_result(PATIENCE) == "ended"
    wait_gone(name)


def test_background_with_a_stuck_call(flavor: Flavor) -> None:
    """It returns at once; the thread goes when the call does."""
    inside, release = threading.Event(), threading.Event()
    name = unique_name()
    rt = build(flavor, name)
    handle = rt.spawn_blocking(lambda: inside.set() or release.wait(PATIENCE))
    assert inside.wait(PATIENCE)
    rt.shutdown_background()
    assert not handle.is_finished()
    release.set()
    assert handle.blocking_result(PATIENCE) is True
    wait_gone(name)


def test_dropped_without_shutdown(flavor: Flavor) -> None:
    name = unique_name()
    rt = build(flavor, name)
    handle = rt.spawn(for_ever)
    drive_until_parked(rt, handle)
    gone = weakref.ref(rt)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del rt
        gc.collect()
    (warning,) = caught
    assert warning.category is ResourceWarning
    assert "without shutdown" in str(warning.message)
    del caught, warning  # `source` is the runtime
    assert gone() is None
    assert outcome(handle) == "cancelled"
    wait_gone(name)


def test_while_another_thread_is_in_block_on(flavor: Flavor) -> None:
    """That thread's main task is cancelled like the others."""
    name = unique_name()
    rt = build(flavor, name)
    inside, cleaned = threading.Event(), threading.Event()
    caught: list[BaseException] = []

    async def main() -> None:
        inside.set()
        try:
            await for_ever()
        finally:
            await freerun.time.sleep(0.01)
            cleaned.set()

    def block(_: int) -> None:
        try:
            rt.block_on(main)
        except BaseException as error:
            caught.append(error)

    with in_threads(1, block):
        assert inside.wait(PATIENCE)
        rt.shutdown()
        assert cleaned.is_set()
    (error,) = caught
    assert isinstance(error, freerun.JoinError)
    assert error.is_cancelled()
    assert not threads_named(name)


def test_while_many_threads_are_in_block_on(flavor: Flavor) -> None:
    rt = flavor.builder().build()
    inside = threading.Semaphore(0)
    ends = []

    async def main() -> None:
        inside.release()
        await for_ever()

    def block(_: int) -> None:
        try:
            rt.block_on(main)
        except freerun.JoinError as error:
            ends.append(error.is_cancelled())

    with in_threads(8, block):
        for _ in range(8):
            assert inside.acquire(timeout=PATIENCE)
        rt.shutdown()
    assert ends == [True] * 8


@only(CURRENT)
def test_current_thread_by_another_thread(flavor: Flavor) -> None:
    """Nobody runs it: the thread that shuts it down does, cleanup included."""
    rt = flavor.builder().build()
    where = []

    async def task() -> None:
        try:
            await for_ever()
        finally:
            await freerun.time.sleep(0.001)
            where.append(threading.get_ident())

    handle = rt.spawn(task)
    drive_until_parked(rt, handle)
    idents = []
    with in_threads(1, lambda _: (idents.append(threading.get_ident()), rt.shutdown())):
        pass
    assert where == idents
    assert outcome(handle) == "cancelled"


@only(CURRENT)
def test_current_thread_stuck_in_a_poll(flavor: Flavor, reports: Any) -> None:
    rt = flavor.builder().build()
    inside, release = threading.Event(), threading.Event()

    async def stuck() -> str:
        inside.set()
        assert release.wait(PATIENCE)
        return "ended"

    results = []
    with in_threads(1, lambda _: results.append(rt.block_on(stuck))):
        assert inside.wait(PATIENCE)
        rt.shutdown(timeout=0.1)
        assert "(running)" in reports[0].getMessage()
        release.set()
    assert results == ["ended"]


def test_paused_clock() -> None:
    """Cleanup that sleeps does not wait for real."""
    rt = freerun.Builder.new_current_thread().start_paused().build()

    async def task() -> str:
        try:
            await freerun.time.sleep(1e6)
        except freerun.Cancelled:
            await freerun.time.sleep(3)
        return "cleaned"

    handle = rt.spawn(task)
    rt.block_on(value)
    rt.shutdown()
    assert handle.blocking_result() == "cleaned"


def test_with_leaves_by_an_exception(flavor: Flavor) -> None:
    with pytest.raises(LookupError), flavor.builder().build() as rt:
        handle = rt.spawn(for_ever)
        raise LookupError
    assert outcome(handle) == "cancelled"


def test_thousands_of_tasks(flavor: Flavor) -> None:
    cleaned = []

    async def task() -> None:
        try:
            await for_ever()
        finally:
            await freerun.yield_now()
            cleaned.append(None)

    with flavor.builder().build() as rt:
        handles = [rt.spawn(task) for _ in range(5000)]
        drive(rt, lambda: "waiting" in repr(handles[-1]))
        started = len(handles)
    assert {outcome(handle) for handle in handles} == {"cancelled"}
    assert len(cleaned) <= started
    assert len(cleaned) > 0


def test_unhandled_exception_policy_shutdown(flavor: Flavor, reports: Any) -> None:
    name = unique_name()
    rt = flavor.builder().thread_name(name).unhandled_exception("shutdown").build()

    async def main() -> None:
        freerun.spawn(fails).detach()
        await for_ever()

    with pytest.raises(freerun.RuntimeShutdown) as caught:
        rt.block_on(main)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert is_closed(rt)
    rt.shutdown()
    assert not threads_named(name)
