"""Hooks of threads and tasks."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from support import Flavor, until, wait_until

import freerun


async def value() -> int:
    await freerun.yield_now()
    return 1


def test_threads_start_and_stop(flavor: Flavor) -> None:
    events: list[tuple[str, int]] = []
    builder = flavor.builder()
    builder.on_thread_start(lambda: events.append(("start", threading.get_ident())))
    builder.on_thread_stop(lambda: events.append(("stop", threading.get_ident())))

    async def main() -> int:
        return await freerun.spawn_blocking(threading.get_ident)

    with builder.build() as rt:
        pool_thread = rt.block_on(main)
        wait_until(lambda: len(events) >= flavor.workers + 1)
        assert all(kind == "start" for kind, _ in events)
        assert ("start", pool_thread) in events
    counts = Counter(kind for kind, _ in events)
    assert counts["start"] == counts["stop"] == flavor.workers + 1
    assert {ident for kind, ident in events if kind == "start"} == {ident for kind, ident in events if kind == "stop"}
    assert threading.get_ident() not in {ident for _, ident in events}, "the caller's thread is not the runtime's"


def test_park_and_unpark(flavor: Flavor) -> None:
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def count(what: str) -> None:
        with lock:
            counts[what] += 1

    async def main() -> None:
        for _ in range(5):
            await freerun.time.sleep(0.001)

    builder = flavor.builder().on_thread_park(lambda: count("park")).on_thread_unpark(lambda: count("unpark"))
    with builder.build() as rt:
        rt.block_on(main)
    assert counts["park"] >= 5
    assert counts["unpark"] == counts["park"], "who has parked has come back"


def test_tasks(flavor: Flavor) -> None:
    spawned: list[int] = []
    ended: list[int] = []

    async def fails() -> None:
        raise ValueError

    async def main() -> list[int]:
        good, bad, gone = freerun.spawn(value), freerun.spawn(fails), freerun.spawn(freerun.time.sleep(3600))
        gone.abort()
        ids = [handle.id for handle in (good, bad, gone)]
        for handle in (good, bad, gone):
            try:
                await handle
            except (ValueError, freerun.JoinError):
                pass
            assert handle.id in ended, "told before anybody can see the task as finished"
        return [*ids, freerun.task.current().id]

    with flavor.builder().on_task_spawn(spawned.append).on_task_terminate(ended.append).build() as rt:
        ids = rt.block_on(main)
    assert sorted(spawned) == sorted(ended) == sorted(ids)


def test_tasks_cancelled_by_shutdown_are_told(flavor: Flavor) -> None:
    spawned: list[int] = []
    ended: list[int] = []

    async def main() -> None:
        for _ in range(20):
            freerun.spawn(freerun.time.sleep(3600))

    with flavor.builder().on_task_spawn(spawned.append).on_task_terminate(ended.append).build() as rt:
        rt.block_on(main)
    assert len(spawned) == 21
    assert sorted(spawned) == sorted(ended)


@pytest.mark.parametrize("hook", [
    "on_thread_start", "on_thread_stop", "on_thread_park", "on_thread_unpark", "on_task_spawn", "on_task_terminate",
])  # fmt: skip
def test_a_hook_that_fails_is_unraisable(flavor: Flavor, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: unraisable.append(type(args.exc_value)))

    def fails(*args: Any) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        await freerun.spawn_blocking(int)
        await freerun.spawn(value)
        await freerun.time.sleep(0.001)

    with getattr(flavor.builder(), hook)(fails).build() as rt:
        rt.block_on(main)
    assert unraisable
    assert set(unraisable) == {ZeroDivisionError}


def test_a_hook_may_use_the_runtime(flavor: Flavor) -> None:
    """on_task_spawn spawns: each task but those it spawned itself gets a companion."""
    companions: list[int] = []
    inside = threading.local()

    async def companion(task: int) -> None:
        companions.append(task)

    def hook(task: int) -> None:
        if not getattr(inside, "hook", False):
            inside.hook = True
            freerun.spawn(companion, task)
            inside.hook = False

    async def main() -> None:
        for _ in range(5):
            await freerun.spawn(value)
        await until(lambda: len(companions) >= 5)

    with flavor.builder().on_task_spawn(hook).build() as rt, rt.handle().enter():
        rt.block_on(main)
