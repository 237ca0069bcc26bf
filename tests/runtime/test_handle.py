"""`Handle`, `dump_tasks()`, `metrics()`: a runtime looked at from anywhere."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import pytest
from support import CURRENT, MULTI, PATIENCE, Flavor, every_flavor, in_threads, is_parked, only, until

import freerun
from freerun.sync import oneshot


async def value(x: Any = 1) -> Any:
    return x


def test_enter(rt: freerun.Runtime) -> None:
    handle = rt.handle()
    assert freerun.Handle.try_current() is None
    with handle.enter() as entered:
        assert entered == handle == freerun.Handle.current()
        task = freerun.spawn(value)
        with pytest.raises(RuntimeError, match="inside a freerun task"):
            next(iter(freerun.yield_now().__await__()))
    assert freerun.Handle.try_current() is None
    assert rt.block_on(_await(task)) == 1


async def _await(task: Any) -> Any:
    return await task


def test_enter_nests(rt: freerun.Runtime) -> None:
    other = freerun.Builder.new_current_thread().build()
    with rt.handle().enter():
        with other.handle().enter():
            assert freerun.Handle.current() == other.handle()
            with rt.handle().enter():
                assert freerun.Handle.current() == rt.handle()
            assert freerun.Handle.current() == other.handle()
        assert freerun.Handle.current() == rt.handle()
    other.shutdown()


def test_enter_is_of_its_thread(rt: freerun.Runtime) -> None:
    def look(_: int) -> None:
        assert freerun.Handle.try_current() is None
        with rt.handle().enter():
            assert freerun.Handle.current() == rt.handle()

    with rt.handle().enter(), in_threads(4, look):
        pass


def test_enter_left_by_an_exception(rt: freerun.Runtime) -> None:
    with pytest.raises(ZeroDivisionError), rt.handle().enter():
        1 // 0
    assert freerun.Handle.try_current() is None


def test_with_runtime_enters(flavor: Flavor) -> None:
    with flavor.builder().build() as rt:
        assert freerun.Handle.current() == rt.handle()
        handle = freerun.spawn(value, 4)
        assert rt.block_on(_await(handle)) == 4
        assert freerun.spawn_blocking(int).blocking_result() == 0
    assert freerun.Handle.try_current() is None


def test_handles_compare(rt: freerun.Runtime) -> None:
    assert rt.handle() == rt.handle()
    assert hash(rt.handle()) == hash(rt.handle())
    assert rt.handle() != 5
    other = freerun.Builder.new_current_thread().build()
    assert rt.handle() != other.handle()
    other.shutdown()
    with pytest.raises(TypeError):
        freerun.Handle(5)  # type: ignore[arg-type]


def test_a_handle_does_not_keep_the_runtime() -> None:
    rt = freerun.Builder().worker_threads(1).build()
    handle = rt.handle()
    rt.shutdown()
    for call in (handle.metrics, handle.dump_tasks, lambda: handle.spawn(value), lambda: handle.spawn_blocking(int)):
        with pytest.raises(freerun.RuntimeShutdown):
            call()
    with pytest.raises(freerun.RuntimeShutdown), handle.enter():
        freerun.spawn(value)


@every_flavor
async def test_dump_names_every_waiting_task() -> None:
    tx, rx = oneshot.channel()

    async def innermost() -> None:
        await rx

    async def middle() -> None:
        await innermost()

    async def sleeper() -> None:
        await freerun.time.sleep(3600)

    async def joiner(task: Any) -> None:
        await task

    async def generator() -> Any:
        await freerun.time.sleep(3600)
        yield 1

    async def iterates() -> None:
        async for _ in generator():
            pass

    tasks = [freerun.spawn(middle, name="deep"), freerun.spawn(sleeper), freerun.spawn(iterates, name="iterates")]
    tasks.append(freerun.spawn(joiner, tasks[1], name="joiner"))
    await until(lambda: all(map(is_parked, tasks)))
    dump = freerun.Handle.current().dump_tasks()
    sections = {int(part.split(",")[0].split()[0]): part for part in dump.split("\ntask ")[1:]}
    for task in tasks:
        assert "(waiting)" in sections[task.id]
        assert "test_handle.py" in sections[task.id]
        assert "spawned at" in sections[task.id]
    deep = sections[tasks[0].id]
    assert "'deep'" in deep
    assert deep.index("middle") < deep.index("innermost")
    assert "await rx" in deep
    assert "await freerun.time.sleep(3600)" in sections[tasks[1].id]
    assert "generator" in sections[tasks[2].id]
    assert "await task" in sections[tasks[3].id]
    assert len(sections) >= 4
    assert dump.startswith(f"{len(sections) + 1} tasks\n") or dump.split()[1] == "tasks"
    for task in tasks:
        task.abort()
    tx.close()


@only(*MULTI)
def test_dump_shows_what_runs(rt: freerun.Runtime) -> None:
    inside, release = threading.Event(), threading.Event()

    async def computes() -> None:
        inside.set()
        release.wait(PATIENCE)

    task = rt.spawn(computes, name="busy")
    inside.wait(PATIENCE)
    call = rt.spawn_blocking(release.wait, PATIENCE)
    dump = rt.handle().dump_tasks()
    release.set()
    assert "'busy'" in dump
    assert "(running)" in dump
    assert "in computes" in dump.split("threads\n")[1]
    assert f"blocking call {call.id}" in dump
    task.blocking_result()


@every_flavor
async def test_dump_while_everything_moves() -> None:
    """Tasks are held while they are looked at, and none is lost by it."""
    stop = False

    async def busy() -> int:
        count = 0
        while not stop:
            await (freerun.yield_now() if count % 5 else freerun.time.sleep(0.0001))
            count += 1
        return count

    tasks = [freerun.spawn(busy) for _ in range(20)]
    handle = freerun.Handle.current()

    def dumps() -> int:
        return sum(len(handle.dump_tasks()) > 0 for _ in range(30))

    calls = [freerun.spawn_blocking(dumps) for _ in range(2)]
    for call in calls:
        assert await call == 30
    stop = True
    for task in tasks:
        assert await task > 0


@only(CURRENT)
def test_dump_of_what_has_not_started(rt: freerun.Runtime) -> None:
    rt.spawn(value, name="not yet")
    dump = rt.handle().dump_tasks()
    assert "'not yet'" in dump
    assert dump.startswith("1 task\n")


@every_flavor
async def test_metrics(flavor: Flavor) -> None:
    handle = freerun.Handle.current()
    before = handle.metrics()
    assert before.num_workers == len(before.workers) == max(1, flavor.workers)
    assert before.alive_tasks == 1
    release = threading.Event()
    tasks = [freerun.spawn(freerun.time.sleep(3600)) for _ in range(10)]
    call = freerun.spawn_blocking(release.wait, PATIENCE)
    await until(lambda: all(map(is_parked, tasks)))
    await until(lambda: handle.metrics().blocking_queue_depth == 0)
    now = handle.metrics()
    assert now.alive_tasks == 12
    assert now.spawned_tasks - before.spawned_tasks == 11
    assert now.num_blocking_threads == 1
    assert now.num_idle_blocking_threads == 0
    assert sum(worker.polls for worker in now.workers) >= 10
    release.set()
    await call
    for task in tasks:
        task.abort()
    await until(lambda: handle.metrics().alive_tasks == 1)
    await until(lambda: handle.metrics().num_idle_blocking_threads == 1)
    after = handle.metrics()
    for one, two in zip(now.workers, after.workers, strict=True):
        for counter in ("polls", "parks", "steals", "steal_attempts", "overflows", "lifo_hits", "driver_turns"):
            assert getattr(one, counter) <= getattr(two, counter), counter
    assert dataclasses.is_dataclass(after)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.alive_tasks = 5  # type: ignore[misc]


@every_flavor
async def test_metrics_of_io() -> None:
    handle = freerun.Handle.current()
    before = handle.metrics().io_registered
    async with freerun.net.TcpListener.bind("127.0.0.1:0"):
        assert handle.metrics().io_registered == before + 1
    await until(lambda: handle.metrics().io_registered == before)


@only(MULTI[1], MULTI[2])
def test_metrics_count_steals_and_overflows(rt: freerun.Runtime) -> None:
    def work() -> None:
        deadline = time.monotonic() + 0.0002
        while time.monotonic() < deadline:
            pass

    async def child() -> None:
        work()

    async def main() -> None:
        for handle in [freerun.spawn(child) for _ in range(1500)]:
            await handle

    for _ in range(20):
        rt.block_on(main)
        workers = rt.metrics().workers
        if sum(worker.steals for worker in workers) and sum(worker.overflows for worker in workers):
            break
    else:
        raise AssertionError(f"nothing was ever stolen: {workers}")


def test_task_info(flavor: Flavor) -> None:
    seen: list[Any] = []

    async def fails() -> None:
        raise ValueError("x")

    async def main() -> None:
        freerun.spawn(fails, name="failing")
        await until(lambda: seen)

    with flavor.builder().unhandled_exception(lambda error, task: seen.append(task)).build() as rt:
        rt.block_on(main)
    (task,) = seen
    assert (task.name, task.kind, task.state, task.cancelled) == ("failing", "async", "finished", False)
    assert "test_handle.py" in task.spawned_at
    assert "in test_task_info.<locals>.main" in task.spawned_at or " in main" in task.spawned_at
    assert str(task).startswith(f"task {task.id} 'failing', spawned at ")
