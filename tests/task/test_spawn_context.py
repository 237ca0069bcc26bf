"""`spawn(..., context=)`: asyncio's keyword. The task runs in that very context; several take turns in it."""

from __future__ import annotations

import contextvars
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import CURRENT, MULTI, PATIENCE, every_flavor, only, until, wait_until

import freerun
from freerun.task import JoinMap, LocalRuntime, TaskTracker, spawn_local

var: contextvars.ContextVar[Any] = contextvars.ContextVar("var", default=0)


async def change(value: Any) -> Any:
    before = var.get()
    await freerun.yield_now()
    var.set(value)
    return before


@every_flavor
async def test_it_is_that_context_and_not_a_copy() -> None:
    """CPython's test_taskgroup_task_context."""
    context = contextvars.copy_context()
    async with freerun.TaskGroup() as group:
        for spawn in (group.create_task, group.spawn):
            context.run(var.set, 0)
            assert await spawn(change(1), context=context) == 0
            assert context[var] == 1
            assert await spawn(change, 2, name="second", context=context) == 1
            assert context[var] == 2
        assert await group.spawn(change, 3, context=None) == 0  # a copy of this one's
    assert (var.get(), context[var]) == (0, 2)


@every_flavor
async def test_whatever_spawns(rt: freerun.Runtime) -> None:
    tasks: freerun.JoinSet[Any] = freerun.JoinSet()
    by_key: JoinMap[str, Any] = JoinMap()
    tracker = TaskTracker()
    here = freerun.Handle.current()

    def under_a_key(*args: Any, **kwargs: Any) -> freerun.JoinHandle[Any]:
        return by_key.spawn("key", *args, **kwargs)

    def on_itself(*args: Any, **kwargs: Any) -> freerun.JoinHandle[Any]:
        return tasks.spawn_on(here, *args, **kwargs)

    def tracked_on_itself(*args: Any, **kwargs: Any) -> freerun.JoinHandle[Any]:
        return tracker.spawn_on(here, *args, **kwargs)

    spawners: list[Callable[..., freerun.JoinHandle[Any]]] = [
        freerun.spawn,
        rt.spawn,
        here.spawn,
        tasks.spawn,
        on_itself,
        under_a_key,
        tracker.spawn,
        tracked_on_itself,
    ]
    for n, spawn in enumerate(spawners):
        context = contextvars.Context()
        assert await spawn(change, n, name="name", context=context) == 0
        assert context[var] == n
        assert await spawn(change(-n), context=context) == n
        assert context[var] == -n


def test_local_ones() -> None:
    async def main() -> list[Any]:
        return [await spawn_local(change, 1, context=context), await local.spawn_local(change, 2, context=context)]

    context = contextvars.Context()
    with LocalRuntime() as local:
        assert local.block_on(main) == [0, 1]
    assert context[var] == 2


@every_flavor
async def test_tasks_that_share_one_take_turns() -> None:
    """A poll has the context for itself: what is read and written in one poll counts exactly."""
    context = contextvars.Context()

    async def count() -> None:
        for _ in range(50):
            var.set(var.get() + 1)
            await freerun.yield_now()
            before = var.get()
            for _ in range(20):
                assert var.get() == before
            var.set(before + 1)

    tasks = [freerun.spawn(count, context=context) for _ in range(12)]
    for task in tasks:
        await task
    assert context[var] == 12 * 100


@only(*MULTI[1:])
@every_flavor
async def test_while_it_waits_for_its_turn_others_run_and_it_can_be_aborted() -> None:
    context = contextvars.Context()
    inside, release = threading.Event(), threading.Event()

    async def hog() -> None:
        inside.set()
        assert release.wait(PATIENCE)

    first = freerun.spawn(hog, context=context)
    await until(inside.is_set)
    second, third = freerun.spawn(change, 1, context=context), freerun.spawn(change, 2, context=context)
    for _ in range(20):
        await freerun.spawn(freerun.lowlevel.checkpoint)
    many = [freerun.spawn(change, "many", context=context) for _ in range(100)]  # more than are woken in one go
    await freerun.spawn(freerun.lowlevel.checkpoint)
    assert not second.is_finished()
    third.abort()
    many[50].abort()
    release.set()
    await first
    assert await second in (0, "many")
    with pytest.raises(freerun.JoinError):
        await third
    results = []
    for n, each in enumerate(many):
        if n != 50:
            results.append(await each)
    assert set(results) <= {0, 1, "many"}
    assert len(results) == 99
    with pytest.raises(freerun.JoinError):
        await many[50]
    assert context[var] in (1, "many")


@pytest.mark.parametrize("by_function", [True, False])
def test_one_that_other_code_is_in(rt: freerun.Runtime, by_function: bool, recwarn: pytest.WarningsRecorder) -> None:
    """asyncio's task never runs then. Here it fails, and says why."""
    context = contextvars.copy_context()

    async def main() -> Any:
        task = freerun.spawn(*(change, 1) if by_function else (change(1),), context=context)
        with pytest.raises(RuntimeError, match="is already entered"):
            await task
        return await freerun.spawn(change, 2)

    assert context.run(rt.block_on, main) == 0
    gc.collect()
    assert [str(each.message) for each in recwarn] == []


@every_flavor
async def test_cleanup_is_in_it() -> None:
    context = contextvars.Context()
    seen: list[Any] = []

    async def work() -> None:
        var.set("mine")
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            seen.append(var.get())

    task = freerun.spawn(work, context=context)
    await until(lambda: context.get(var) == "mine" and "waiting" in repr(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert seen == ["mine"]


@only(CURRENT, *MULTI)
def test_closed_at_the_shutdown(flavor: Any) -> None:
    """What does not end by itself is closed in its context, or, when that is not to be had, without."""
    free, taken = contextvars.Context(), contextvars.Context()
    seen: list[Any] = []
    rt = flavor.builder().build()

    async def work(value: str) -> None:
        var.set(value)
        while True:
            try:
                await freerun.time.sleep(3600)
            except freerun.Cancelled:
                continue
            finally:
                seen.append(var.get())

    tasks = [rt.spawn(work, "one", context=free), rt.spawn(work, "two", context=taken)]
    rt.block_on(until, lambda: all("waiting" in repr(task) for task in tasks))
    taken.run(rt.shutdown, 0.05)
    assert all(task.is_finished() for task in tasks)
    wait_until(lambda: "one" in seen)
    assert set(seen) <= {"one", "two", 0}
    assert len(seen) >= 3  # each is aborted or closed, and the closing reached both


@every_flavor
async def test_bad_ones() -> None:
    with pytest.raises(TypeError, match="'context' must be a contextvars.Context or None, not dict"):
        freerun.spawn(change, 1, context={})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="only 'name' and 'context' are spawn's own"):
        freerun.spawn(change, 1, contex=None)  # type: ignore[call-overload]
