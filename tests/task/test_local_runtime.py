"""`LocalRuntime` and `spawn_local`: tasks that never leave their thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, every_flavor, in_threads, is_parked, run_script, wait_until

import freerun
from freerun.task import LocalRuntime, spawn_local


class Pinned:
    """An object that notices when another thread touches it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.touched = 0

    def touch(self) -> None:
        assert threading.get_ident() == self.thread, "touched by another thread"
        self.touched += 1

    def __del__(self) -> None:
        self.touch()


def on_a_thread(work: Callable[[], Any]) -> Any:
    """What it returns or raises there."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


async def touch(pinned: Pinned, times: int) -> int:
    for _ in range(times):
        pinned.touch()
        await freerun.time.sleep(0.001)
    return threading.get_ident()


def test_tasks_stay_on_the_thread() -> None:
    async def main() -> None:
        pinned = [Pinned() for _ in range(20)]
        tasks = [spawn_local(touch, each, 5) for each in pinned] + [spawn_local(touch(pinned[0], 5), name="named")]
        assert tasks[-1].name == "named"
        assert {await task for task in tasks} == {threading.get_ident()}
        assert await freerun.spawn(touch, pinned[0], 1) == threading.get_ident()

    with LocalRuntime() as local:
        local.block_on(main)
        local.block_on(main())


def test_wakes_from_other_threads() -> None:
    rxs: list[Any] = []

    async def main() -> int:
        pinned = Pinned()
        total = 0
        tx, rx = freerun.sync.mpsc.channel(10)
        rxs.append(tx)
        for _ in range(300):
            total += await rx.recv()
            pinned.touch()
        return total

    def send(_i: int) -> None:
        wait_until(lambda: rxs)
        for _ in range(100):
            rxs[0].blocking_send(1)

    with LocalRuntime() as local, in_threads(3, send):
        assert local.block_on(main) == 300


def test_handle_spawns_from_other_threads() -> None:
    with LocalRuntime() as local:
        handle = local.handle()
        over = freerun.sync.Notify()

        async def made_there() -> int:
            return threading.get_ident()

        def work(_i: int) -> None:
            assert handle.spawn(made_there).blocking_result(PATIENCE) == owner
            assert local.spawn(made_there).blocking_result(PATIENCE) == owner
            over.notify_one()

        owner = threading.get_ident()
        with in_threads(1, work):
            local.block_on(wait_for, over)


async def wait_for(notify: freerun.sync.Notify) -> None:
    await notify.notified()


def test_another_thread_may_not_run_it() -> None:
    async def main() -> None:
        pass

    with LocalRuntime() as local:
        for work in (
            lambda: local.block_on(main),
            lambda: local.block_on(main()),
            lambda: local.handle().block_on(main),
            lambda: local._runtime.block_on(main),
            lambda: local.spawn_local(main),
            lambda: local.spawn_local(main()),
            local.shutdown,
        ):
            with pytest.raises(RuntimeError, match="only on the thread that made it"):
                on_a_thread(work)
        local.block_on(main)  # it is as good as before
        assert on_a_thread(local.metrics).num_workers == 1
        assert "another thread" in on_a_thread(lambda: repr(local))
        assert "this thread" in repr(local)
    assert "shut down" in repr(local)


@every_flavor
async def test_spawn_local_outside() -> None:
    async def nothing() -> None:
        pass

    for call in (lambda: spawn_local(nothing), lambda: spawn_local(nothing())):
        with pytest.raises(RuntimeError, match="LocalRuntime.*spawn_pinned"):
            call()
        with pytest.raises(RuntimeError, match="LocalRuntime.*spawn_pinned"):
            await freerun.spawn_blocking(call)


def test_spawn_local_in_the_with_block_and_on_the_blocking_pool() -> None:
    async def one() -> int:
        return 1

    async def main() -> int:
        with pytest.raises(RuntimeError, match="LocalRuntime"):
            await freerun.spawn_blocking(spawn_local, one)
        return await task

    with LocalRuntime() as local:
        task = spawn_local(one)
        assert local.block_on(main) == 1
    with pytest.raises(RuntimeError, match="LocalRuntime"):
        spawn_local(one)
    with pytest.raises(freerun.RuntimeShutdown):
        local.spawn_local(one)


def test_block_on_inside() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="inside a task"):
            local.block_on(main)
        with pytest.raises(RuntimeError, match="task cannot call it"):
            local.shutdown()

    with LocalRuntime() as local:
        local.block_on(main)


def test_shutdown_runs_the_cleanup_here() -> None:
    log: list[int] = []

    async def cleans_up(pinned: Pinned) -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            pinned.touch()
            log.append(threading.get_ident())

    async def main() -> None:
        for _ in range(3):
            spawn_local(cleans_up, Pinned())
        await freerun.yield_now()

    with LocalRuntime() as local:
        local.block_on(main)
    assert log == [threading.get_ident()] * 3


def test_shutdown_background_from_another_thread() -> None:
    """The tasks are cancelled; whoever is in block_on runs their cleanup, here."""
    log: list[int] = []

    async def main() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            log.append(threading.get_ident())

    def end(_i: int) -> None:
        wait_until(lambda: local.metrics().alive_tasks == 1)
        local.shutdown_background()

    local = LocalRuntime()
    with in_threads(1, end), pytest.raises(freerun.JoinError):
        local.block_on(main)
    assert log == [threading.get_ident()]
    local.shutdown()


def test_its_thread_is_gone() -> None:
    """What nobody can run any more is closed, at once."""

    async def waits() -> None:
        await freerun.time.sleep(3600)

    def make() -> tuple[LocalRuntime, freerun.JoinHandle[None]]:
        local = LocalRuntime()
        return local, local.spawn_local(waits)

    local, task = on_a_thread(make)
    local.shutdown_background()
    wait_until(task.is_finished)


def test_build_local() -> None:
    async def name() -> str:
        return "here"

    builder = freerun.Builder.new_current_thread().start_paused()
    with builder.build_local() as local:
        assert local.block_on(name) == "here"
        local.block_on(freerun.time.sleep, 3600)
    with pytest.raises(ValueError, match="new_current_thread"):
        freerun.Builder().build_local()


def test_a_handle_awaited_in_another_runtime(rt: freerun.Runtime) -> None:
    """The task runs here, and its result and its abort cross."""

    async def works(n: int) -> int:
        await freerun.time.sleep(0.001)
        return n

    async def waits() -> None:
        await freerun.time.sleep(3600)

    async def asks(handle: freerun.Handle) -> int:
        long = handle.spawn(waits)
        result = await handle.spawn(works, 5)
        long.abort()
        with pytest.raises(freerun.JoinError):
            await long
        return result

    async def serve(asked: freerun.JoinHandle[int]) -> int:
        return await asked

    if "current_thread" in repr(rt):
        with LocalRuntime() as local:
            over = freerun.sync.oneshot.channel()
            thread = threading.Thread(target=lambda: over[0].send(rt.block_on(asks, local.handle())), daemon=True)
            thread.start()
            assert local.block_on(receive, over[1]) == 5
            thread.join(PATIENCE)
    else:
        with LocalRuntime() as local:
            assert local.block_on(serve, rt.spawn(asks, local.handle())) == 5


async def receive(rx: Any) -> Any:
    return await rx


def test_at_exit_with_work_in_flight() -> None:
    """Without a hang. What can be run no more, since its thread is gone, is closed and named."""
    done = run_script(
        """
        import threading
        import freerun
        from freerun.task import LocalRuntime

        async def waits():
            await freerun.time.sleep(3600)

        def on_thread():
            local = LocalRuntime()
            local.spawn_local(waits)
            keep.append(local)
            ready.set()

        keep = []
        ready = threading.Event()
        local = LocalRuntime()
        local.spawn_local(waits)
        keep.append(local)
        thread = threading.Thread(target=on_thread)
        thread.start()
        thread.join()
        assert ready.is_set()
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 2 and "in on_thread" in done.stderr, done.stderr


def test_task_state_is_seen() -> None:
    """Between two block_on()s the tasks wait, and keep their state."""

    async def counts(log: list[int]) -> None:
        for n in range(3):
            log.append(n)
            await freerun.yield_now()

    async def turn() -> None:
        await freerun.yield_now()

    with LocalRuntime() as local:
        log: list[int] = []
        task = local.spawn_local(counts, log)
        assert log == []
        while not task.is_finished():
            local.block_on(turn)
        assert log == [0, 1, 2]
        assert not is_parked(task)
