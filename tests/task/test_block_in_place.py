"""`block_in_place`: the worker's queue goes to another thread while this one blocks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support import CURRENT, MULTI, PATIENCE, every_flavor, is_parked, only, thread_count, until

import freerun


@only(*MULTI)
def test_others_go_on(rt: freerun.Runtime) -> None:
    """On one worker too: what waited behind the blocking task runs."""
    release = threading.Event()

    async def sets() -> None:
        await freerun.time.sleep(0.001)
        release.set()

    async def main() -> Any:
        freerun.spawn(sets)
        return freerun.block_in_place(release.wait, PATIENCE)

    assert rt.block_on(main) is True


@only(*MULTI)
def test_result_arguments_failure(rt: freerun.Runtime) -> None:
    async def main() -> None:
        assert freerun.block_in_place(int, "17", base=8) == 15
        with pytest.raises(ZeroDivisionError):
            freerun.block_in_place(lambda: 1 // 0)
        with pytest.raises(TypeError, match="argument 'fn'"):
            freerun.block_in_place(5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'fn'"):
            freerun.block_in_place()  # type: ignore[call-arg]
        await freerun.yield_now()

    rt.block_on(main)


@only(*MULTI)
def test_nested_and_repeated(rt: freerun.Runtime) -> None:
    def inner() -> int:
        return freerun.block_in_place(lambda: freerun.block_in_place(threading.get_ident))

    async def main() -> None:
        for _ in range(20):
            here = threading.get_ident()
            assert freerun.block_in_place(inner) == here
            assert threading.get_ident() == here
            await freerun.yield_now()

    rt.block_on(main)


@only(*MULTI)
def test_the_task_works_on_without_its_worker(rt: freerun.Runtime) -> None:
    """Between block_in_place and the next await the task has no worker, yet may do everything a task does."""

    async def child() -> int:
        return 1

    async def main() -> int:
        tx, rx = freerun.sync.oneshot.channel()
        freerun.block_in_place(int)
        handle = freerun.spawn(child)
        tx.send(1)
        assert freerun.task.current().id
        freerun.spawn_blocking(int)
        return await handle + await rx + await freerun.spawn(child)

    assert rt.block_on(main) == 3


@only(*MULTI)
def test_abort_meanwhile(rt: freerun.Runtime) -> None:
    inside, release = threading.Event(), threading.Event()
    log: list[str] = []

    def block() -> None:
        inside.set()
        release.wait(PATIENCE)

    async def blocks() -> None:
        try:
            freerun.block_in_place(block)
            log.append("not interrupted")
            await freerun.time.sleep(3600)
        except freerun.Cancelled:
            log.append("cancelled")
            raise

    async def main() -> None:
        task = freerun.spawn(blocks)
        await until(inside.is_set)
        assert task.abort()
        release.set()
        with pytest.raises(freerun.JoinError):
            await task

    rt.block_on(main)
    assert log == ["not interrupted", "cancelled"]


@only(*MULTI)
def test_many_at_once(rt: freerun.Runtime) -> None:
    """More blocked tasks than workers: each gives its core on to a new thread."""
    barrier = threading.Barrier(12)

    async def blocks() -> int:
        place: int = freerun.block_in_place(barrier.wait, PATIENCE)
        await freerun.yield_now()
        return place

    async def main() -> set[int]:
        handles = [freerun.spawn(blocks) for _ in range(12)]
        return {await handle for handle in handles}

    before = thread_count()
    assert rt.block_on(main) == set(range(12))
    assert thread_count() <= before + 12


@only(*MULTI)
def test_threads_do_not_pile_up(rt: freerun.Runtime) -> None:
    async def main() -> None:
        for _ in range(200):
            freerun.block_in_place(int)
            await freerun.yield_now()

    before = thread_count()
    rt.block_on(main)
    assert thread_count() <= before + 20


@only(*MULTI)
def test_the_parked_stay_parked(rt: freerun.Runtime) -> None:
    async def main() -> None:
        task = freerun.spawn(parks)
        await until(lambda: is_parked(task))
        freerun.block_in_place(int)
        await freerun.yield_now()
        assert is_parked(task)
        task.abort()

    async def parks() -> None:
        await freerun.time.sleep(3600)

    rt.block_on(main)


@only(*MULTI)
def test_in_a_plain_thread(rt: freerun.Runtime) -> None:
    assert freerun.block_in_place(max, 1, 2) == 2
    with rt.handle().enter():
        assert freerun.block_in_place(max, 1, 2) == 2


@only(*MULTI)
def test_in_a_blocking_call(rt: freerun.Runtime) -> None:
    async def main() -> int:
        return await freerun.spawn_blocking(freerun.block_in_place, max, 1, 2)

    assert rt.block_on(main) == 2


@only(CURRENT)
@every_flavor
async def test_current_thread_refuses() -> None:
    with pytest.raises(RuntimeError, match="spawn_blocking"):
        freerun.block_in_place(int)
    await freerun.yield_now()
