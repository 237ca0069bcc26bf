"""`LocalPool` and `spawn_pinned`: Tokio's spawn_pinned.rs, and what Python adds."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
import weakref
from typing import Any

import pytest
from support import PATIENCE, check_script, every_flavor, is_freed, is_parked, run_script, until, wait_until

import freerun
from freerun.task import LocalPool, spawn_local, spawn_pinned


def pool_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("freerun-local-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    yield
    wait_until(lambda: gc.collect() is not None and not pool_threads())


async def where() -> int:
    return threading.get_ident()


async def waits() -> None:
    await freerun.time.sleep(3600)


@every_flavor
async def test_can_drop_future_and_still_get_output() -> None:
    """The task runs on when the handle's awaiter is cancelled."""
    async with LocalPool(1) as pool:
        task = pool.spawn_pinned(where)
        with pytest.raises(TimeoutError):
            await freerun.time.timeout(0, waits)
        assert await task != threading.get_ident()


@every_flavor
async def test_tasks_stay_on_their_thread() -> None:
    async def stays(n: int) -> tuple[int, int]:
        local = threading.local()
        local.here = n
        before = threading.get_ident()
        for _ in range(5):
            await freerun.time.sleep(0.001)
            assert local.here == n and threading.get_ident() == before
        assert await spawn_local(where) == before
        assert await freerun.spawn(where) == before
        return n, before

    async with LocalPool(3) as pool:
        assert pool.num_threads() == 3
        tasks = [pool.spawn_pinned(stays, n, name=f"task {n}") for n in range(30)]
        assert tasks[3].name == "task 3"
        results = [await task for task in tasks]
    assert [n for n, _ in results] == list(range(30))
    assert len({thread for _, thread in results}) == 3


@every_flavor
async def test_tasks_are_balanced() -> None:
    async with LocalPool(2) as pool:
        await until(lambda: pool.get_task_loads_for_each_worker() == [0, 0])
        long = pool.spawn_pinned(waits)
        assert sorted(pool.get_task_loads_for_each_worker()) == [0, 1]
        busy = pool.get_task_loads_for_each_worker().index(1)
        idle_thread = await pool.spawn_pinned_by_idx(1 - busy, where)
        for _ in range(5):
            await until(lambda: sum(pool.get_task_loads_for_each_worker()) == 1)
            assert await pool.spawn_pinned(where) == idle_thread
        four = [pool.spawn_pinned(waits) for _ in range(4)]
        assert sorted(pool.get_task_loads_for_each_worker()) == [2, 3]
        for each in (*four, long):
            each.abort()
        await until(lambda: pool.get_task_loads_for_each_worker() == [0, 0])


@every_flavor
async def test_spawn_by_idx() -> None:
    async with LocalPool(3) as pool:
        threads = [await pool.spawn_pinned_by_idx(i, where) for i in range(3)]
        assert len(set(threads)) == 3
        assert threads == [await pool.spawn_pinned_by_idx(i, where) for i in range(3)]
        with pytest.raises(IndexError, match="argument 'index'"):
            pool.spawn_pinned_by_idx(3, where)
        with pytest.raises(ValueError, match="argument 'index'"):
            pool.spawn_pinned_by_idx(-1, where)
        with pytest.raises(TypeError, match="argument 'index'"):
            pool.spawn_pinned_by_idx("1", where)  # type: ignore[arg-type]


@every_flavor
async def test_failures_and_aborts_cross() -> None:
    async def fails() -> None:
        await freerun.yield_now()
        raise KeyError("oh")

    log: list[int] = []

    async def cleans_up() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            log.append(threading.get_ident())

    async with LocalPool(1) as pool:
        thread = await pool.spawn_pinned(where)
        with pytest.raises(KeyError):
            await pool.spawn_pinned(fails)
        task = pool.spawn_pinned(cleans_up)
        await until(lambda: is_parked(task))
        assert task.abort()
        with pytest.raises(freerun.JoinError) as caught:
            await task
        assert caught.value.is_cancelled()
        assert log == [thread]
        assert await pool.spawn_pinned(where) == thread


@every_flavor
async def test_a_task_that_exits_does_not_take_the_thread_along(caplog: pytest.LogCaptureFixture) -> None:
    async def exits() -> None:
        raise SystemExit(3)

    async with LocalPool(1) as pool:
        thread = await pool.spawn_pinned(where)
        with pytest.raises(SystemExit):
            await pool.spawn_pinned(exits)
        assert await pool.spawn_pinned(where) == thread
        await until(lambda: "raised what ends a program" in caplog.text)


@every_flavor
async def test_channels_and_context_cross() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("outside")

    async def echo(rx: Any, tx: Any) -> str:
        async for n in rx:
            await tx.send(n + 1)
        tx.close()
        return variable.get()

    async with LocalPool(1) as pool:
        to, rx = freerun.sync.mpsc.channel(2)
        tx, back = freerun.sync.mpsc.channel(2)
        task = pool.spawn_pinned(echo, rx, tx)
        for n in range(100):
            await to.send(n)
            assert await back.recv() == n + 1
        to.close()
        assert await task == "outside"


@every_flavor
async def test_refuses() -> None:
    async with LocalPool(1) as pool:
        for spawn in (pool.spawn_pinned, spawn_pinned):
            with pytest.raises(TypeError, match="not a coroutine.*pass the function"):
                spawn(where())  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="argument 'async_fn'"):
                spawn(1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="returned int"):
            await pool.spawn_pinned(lambda: 1)  # type: ignore[arg-type,return-value]
        with pytest.raises(RuntimeError, match="async with"):
            pool.shutdown()
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match="argument 'threads'"):
            LocalPool(bad)  # type: ignore[arg-type]


def test_shutdown_runs_the_cleanup_on_the_threads() -> None:
    log: list[int] = []

    async def cleans_up() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.time.sleep(0.001)
            log.append(threading.get_ident())

    with LocalPool(2) as pool:
        threads = [pool.spawn_pinned_by_idx(i, where).blocking_result(PATIENCE) for i in range(2)]
        tasks = [pool.spawn_pinned(cleans_up) for _ in range(4)]
        wait_until(lambda: all(map(is_parked, tasks)))
    assert sorted(log) == sorted(threads * 2)
    assert all(task.is_finished() for task in tasks)
    assert "shut down" in repr(pool)
    pool.shutdown()
    with pytest.raises(freerun.RuntimeShutdown):
        pool.spawn_pinned(where)
    assert pool.get_task_loads_for_each_worker() == [0, 0]


def test_shutdown_with_a_stuck_task(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    inside = threading.Event()

    async def stuck() -> None:
        inside.set()
        assert release.wait(PATIENCE)

    pool = LocalPool(1)
    pool.spawn_pinned(stuck)
    assert inside.wait(PATIENCE)
    pool.shutdown(timeout=0.01)
    assert "freerun-local-0" in caplog.text
    release.set()


def test_shutdown_background_and_dropping() -> None:
    pool = LocalPool(2)
    task = pool.spawn_pinned(waits)
    pool.shutdown_background()
    wait_until(task.is_finished)
    pool.shutdown()
    dropped = LocalPool(2)
    ref, task = weakref.ref(dropped), dropped.spawn_pinned(waits)
    del dropped
    assert is_freed(ref)
    wait_until(task.is_finished)


# ---- the runtime's own pool ----


def test_the_default_pool_belongs_to_the_runtime() -> None:
    log: list[str] = []

    async def cleans_up() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.time.sleep(0.001)
            log.append(threading.current_thread().name)

    async def main() -> list[int]:
        task = spawn_pinned(cleans_up, name="pinned")
        await until(lambda: is_parked(task))
        return [await spawn_pinned(where) for _ in range(3)]

    for runs in (freerun.run, lambda fn: freerun.run(fn, flavor="current_thread")):
        assert threading.get_ident() not in runs(main)
        assert len(log) == 1 and log.pop().startswith("freerun-local-")
        assert not pool_threads()
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        spawn_pinned(where)


def test_two_runtimes_have_two_pools() -> None:
    async def threads() -> set[int]:
        return {await spawn_pinned(where) for _ in range(20)}

    with freerun.Runtime() as a, freerun.Runtime() as b:
        of_a, of_b = a.block_on(threads), b.block_on(threads)
        assert not of_a & of_b
        assert a.block_on(threads) == of_a


def test_no_pool_once_the_runtime_ends() -> None:
    errors: list[BaseException] = []

    async def late() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            try:
                spawn_pinned(where)
            except freerun.RuntimeShutdown as error:
                errors.append(error)

    async def main() -> None:
        freerun.spawn(late)
        await freerun.time.sleep(0.01)

    freerun.run(main)
    assert len(errors) == 1


def test_many_ask_for_the_pool_at_once() -> None:
    async def main() -> int:
        tasks = [freerun.spawn(ask) for _ in range(50)]
        return len({await task for task in tasks} & {each.ident for each in pool_threads()})

    async def ask() -> int:
        return await spawn_pinned(where)

    with freerun.Builder().worker_threads(4).build() as rt:
        found = rt.block_on(main)
        assert found >= 1
        assert len(pool_threads()) == found or len(pool_threads()) <= 64


@pytest.mark.parametrize("how", ["default", "pool", "stuck"])
def test_at_exit_with_work_in_flight(how: str) -> None:
    began = time.monotonic()
    done = run_script(
        """
        import sys, threading, time
        import freerun
        from freerun.task import LocalPool, spawn_pinned

        async def cleans_up(ready):
            try:
                ready.set()
                await freerun.time.sleep(3600)
            finally:
                await freerun.time.sleep(0.001)
                print("cleaned up", flush=True)

        async def stuck(ready):
            ready.set()
            time.sleep(3600)

        async def main(ready):
            spawn_pinned(cleans_up, ready)

        ready = threading.Event()
        if sys.argv[1] == "default":
            rt = freerun.Runtime()
            rt.block_on(main, ready)
        else:
            pool = LocalPool(2)
            pool.spawn_pinned(stuck if sys.argv[1] == "stuck" else cleans_up, ready)
        ready.wait()
        """,
        how,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if how == "stuck" else "cleaned up\n")
    assert ("did not end" in done.stderr) == (how == "stuck"), done.stderr
    assert time.monotonic() - began < PATIENCE


def test_after_a_fork() -> None:
    check_script(
        """
        import os, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import freerun
        from freerun.task import LocalPool, spawn_pinned

        async def where():
            return threading.get_ident()

        async def main():
            return await spawn_pinned(where)

        with freerun.Runtime() as rt:
            rt.block_on(main)
            pid = os.fork()
            if pid == 0:
                ok = freerun.run(main) != threading.get_ident()
                os._exit(0 if ok else 1)
            assert os.waitpid(pid, 0)[1] == 0
            rt.block_on(main)
        """
    )
