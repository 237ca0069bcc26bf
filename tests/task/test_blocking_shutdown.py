"""The blocking pool when its runtime ends, and with calls that misbehave."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import FLAVORS, PATIENCE, Flavor, all_at_once, check_script, every_flavor, thread_count, until, wait_until

import freerun
from freerun import fs


@every_flavor
async def test_ten_thousand_queued(rt: freerun.Runtime) -> None:
    """The pool grows to its limit, the rest waits in line, all are run once and in order of their start."""
    release = threading.Event()
    ran: Counter[int] = Counter()
    lock = threading.Lock()

    def call(i: int) -> int:
        assert release.wait(PATIENCE)
        with lock:
            ran[i] += 1
        return i

    with freerun.Builder().worker_threads(1).max_blocking_threads(8).build() as small:
        handles = [small.spawn_blocking(call, i) for i in range(10_000)]
        metrics = small.metrics()
        assert metrics.num_blocking_threads == 8
        await until(lambda: small.metrics().blocking_queue_depth == 10_000 - 8)
        release.set()
        assert [await handle for handle in handles] == list(range(10_000))
        assert small.metrics().blocking_queue_depth == 0
    assert set(ran.values()) == {1}
    assert len(ran) == 10_000


def test_shutdown_with_ten_thousand_queued(flavor: Flavor, reports: Any) -> None:
    """What has not begun is cancelled, each with an error that says so; what runs is waited for."""
    release, entered = threading.Event(), threading.Event()
    ran: list[int] = []

    def first() -> str:
        entered.set()
        assert release.wait(PATIENCE)
        return "done"

    rt = flavor.builder().max_blocking_threads(1).build()
    running = rt.spawn_blocking(first)
    assert entered.wait(PATIENCE)
    queued = [rt.spawn_blocking(ran.append, i) for i in range(10_000)]
    closing = threading.Thread(target=rt.shutdown)
    closing.start()
    wait_until(lambda: all(handle.is_finished() for handle in queued))
    assert not running.is_finished()
    release.set()
    closing.join(PATIENCE)
    assert running.blocking_result() == "done"
    for handle in queued[::1000]:
        with pytest.raises(freerun.JoinError, match="blocking call .* was cancelled before it had started") as caught:
            handle.blocking_result()
        assert caught.value.is_cancelled()
    assert ran == []
    assert len(reports) == 0
    with pytest.raises(freerun.RuntimeShutdown):
        rt.spawn_blocking(int)


def test_file_writes_are_never_dropped(flavor: Flavor, tmp_path: Path) -> None:
    """Queued behind a call that takes long, while the runtime shuts down: each is run, others are not."""
    release, entered = threading.Event(), threading.Event()
    ran: list[int] = []

    def first() -> None:
        entered.set()
        assert release.wait(PATIENCE)

    rt = flavor.builder().max_blocking_threads(1).build()

    async def main() -> list[freerun.JoinHandle[None]]:
        rt.spawn_blocking(first)
        await until(entered.is_set)
        writing = [freerun.spawn(fs.write, tmp_path / str(i), b"%d" % i) for i in range(50)]
        for i in range(50):
            freerun.spawn_blocking(ran.append, i)
        await until(lambda: rt.metrics().blocking_queue_depth == 100)
        return writing

    writing = rt.block_on(main)
    closing = threading.Thread(target=rt.shutdown)
    closing.start()
    wait_until(lambda: rt.metrics().blocking_queue_depth == 50)
    wait_until(lambda: all(task.is_finished() for task in writing))  # cancelled; their calls are not
    release.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(i): str(i) for i in range(50)}
    assert ran == []


def test_cleanup_may_use_files(flavor: Flavor, tmp_path: Path) -> None:
    """A task that a shutdown cancels still writes its last words, and reads."""
    path = tmp_path / "x"
    serving: list[bool] = []

    async def service() -> None:
        async with fs.File.create(path) as file:
            try:
                serving.append(True)
                await freerun.time.sleep(3600)
            finally:
                await file.write_all(b"last words")
                assert await fs.read(path) == b"last words"
                await fs.rename(path, tmp_path / "done")
                with pytest.raises(freerun.RuntimeShutdown):
                    freerun.spawn_blocking(int)

    async def main() -> freerun.JoinHandle[None]:
        task = freerun.spawn(service)
        await until(lambda: bool(serving))
        return task

    for _ in range(40):  # of two workers one in fourteen had its request cancelled, as the tasks were gone through
        serving.clear()
        with flavor.builder().build() as rt:
            task = rt.block_on(main)
        assert (tmp_path / "done").read_bytes() == b"last words"
        (tmp_path / "done").unlink()
    with pytest.raises(freerun.JoinError):
        task.blocking_result()


@all_at_once(*FLAVORS)
def test_a_call_that_does_not_return(flavor: Flavor, reports: Any) -> None:
    """Others go on; the shutdown names it and leaves it behind; a write in line behind it is named, and made late."""
    release, entered = threading.Event(), threading.Event()
    wrote = threading.Event()

    def stuck() -> None:
        entered.set()
        release.wait(PATIENCE)

    rt = flavor.builder().max_blocking_threads(2).build()
    handles = [rt.spawn_blocking(stuck) for _ in range(2)]
    assert entered.wait(PATIENCE)
    wait_until(lambda: rt.metrics().blocking_queue_depth == 0)

    async def writes() -> None:
        from freerun._core._native import spawn_file_call

        spawn_file_call(True, wrote.set)

    rt.block_on(writes)
    rt.shutdown(0.01)
    (report,) = [record for record in reports if record.thread == threading.get_ident()]
    assert report.getMessage().count(f"spawned at {__file__}") == 3
    assert "blocking call" in report.getMessage()
    assert not wrote.is_set()
    release.set()
    assert wrote.wait(PATIENCE)
    assert [handle.blocking_result(PATIENCE) for handle in handles] == [None, None]


@every_flavor
async def test_a_call_that_spawns(rt: freerun.Runtime) -> None:
    """Tasks and calls, from within calls, deeper than the pool is wide: nobody waits for a thread."""

    async def child(x: int) -> int:
        await freerun.yield_now()
        return x

    def call(depth: int) -> freerun.JoinHandle[Any]:
        if depth == 0:
            return freerun.spawn(child, 42)
        return freerun.spawn_blocking(call, depth - 1)

    with freerun.Builder().worker_threads(1).max_blocking_threads(1).build() as one:
        result: Any = one.spawn_blocking(call, 100)
        while isinstance(result, freerun.JoinHandle):
            result = await result
    assert result == 42


@every_flavor
async def test_context_variables_are_carried() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("caller's")

    def call() -> str:
        seen = variable.get()
        variable.set("the call's own")
        return seen

    handles = [freerun.spawn_blocking(call) for _ in range(20)]
    assert {await handle for handle in handles} == {"caller's"}
    assert variable.get() == "caller's"


def test_system_exit_ends_block_on_and_not_the_pool(flavor: Flavor) -> None:
    async def main() -> None:
        freerun.spawn_blocking(sys.exit, 3)
        await freerun.time.sleep(3600)

    with flavor.builder().build() as rt:
        with pytest.raises(SystemExit) as caught:
            rt.block_on(main)
        assert caught.value.code == 3
        assert rt.block_on(lambda: freerun.spawn_blocking(int, "5")) == 5


def test_system_exit_while_nobody_blocks(flavor: Flavor, reports: Any) -> None:
    with flavor.builder().build() as rt:
        handle = rt.spawn_blocking(sys.exit, 3)
        with pytest.raises(SystemExit):
            handle.blocking_result(PATIENCE)
        assert rt.spawn_blocking(int).blocking_result(PATIENCE) == 0


def test_idle_threads_leave_in_the_end(flavor: Flavor) -> None:
    """After a burst, the threads are gone when keep-alive is over, and their names said what they were."""
    before = thread_count()
    names: set[str] = set()
    together = threading.Barrier(16)

    def call() -> None:
        names.add(Path("/proc/thread-self/comm").read_text().strip())
        together.wait(PATIENCE)

    with flavor.builder().thread_name("burst").thread_keep_alive(0.01).build() as rt:
        started = thread_count()
        for handle in [rt.spawn_blocking(call) for _ in range(16)]:
            handle.blocking_result(PATIENCE)
        wait_until(lambda: rt.metrics().num_blocking_threads == 0)
        wait_until(lambda: thread_count() <= started)
    assert names == {f"burst-b{i}" for i in range(16)}
    wait_until(lambda: thread_count() <= before)


def test_at_exit(tmp_path: Path) -> None:
    """The interpreter's exit ends a runtime that nobody shut down: writes that wait in line are made."""
    check_script(
        """
        import sys, threading, time, freerun
        from freerun import fs

        started, release = threading.Event(), threading.Event()

        def occupy():
            started.set()
            release.wait()

        async def let_go():
            try:
                await freerun.time.sleep(3600)
            finally:  # the shutdown has begun
                release.set()

        async def main():
            freerun.spawn_blocking(occupy)
            freerun.spawn(let_go)
            while not started.is_set():  # else what is in line might be that call
                await freerun.yield_now()
            freerun.spawn(fs.write, sys.argv[1], b"made")
            while freerun.Handle.current().metrics().blocking_queue_depth != 1:
                await freerun.yield_now()

        rt = freerun.Builder().worker_threads(1).max_blocking_threads(1).build()
        rt.block_on(main)
        """,
        str(tmp_path / "x"),
    )
    assert (tmp_path / "x").read_bytes() == b"made"
