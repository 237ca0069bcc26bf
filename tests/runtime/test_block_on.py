"""`block_on`: results, errors, several threads at once, several runtimes."""

from __future__ import annotations

import contextvars
import functools
import threading
import warnings
from typing import Any

import pytest
from engine_support import drive
from support import CURRENT, PATIENCE, Flavor, in_threads, only

import freerun
from freerun.sync import oneshot


async def value(x: int = 1) -> int:
    await freerun.yield_now()
    return x


async def fails() -> None:
    await freerun.yield_now()
    raise LookupError("mine")


def test_takes_what_spawn_takes(rt: freerun.Runtime) -> None:
    assert rt.block_on(value(2)) == 2
    assert rt.block_on(value, 3) == 3
    assert rt.block_on(functools.partial(value, x=4)) == 4
    assert rt.handle().block_on(value, 5) == 5
    with pytest.raises(TypeError):
        rt.block_on()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="coro"):
        rt.block_on(7)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="async function"):
        rt.block_on(int)


def test_waits_for_a_handle(rt: freerun.Runtime) -> None:
    async def join(handle: freerun.JoinHandle[int]) -> int:
        return await handle

    assert rt.block_on(join, rt.spawn(value, 6)) == 6


def test_raises_what_the_task_raises(rt: freerun.Runtime, reports: Any) -> None:
    with pytest.raises(LookupError, match="mine"):
        rt.block_on(fails)
    assert rt.block_on(value) == 1
    assert len(reports) == 0  # it was raised, not lost


def test_aborted_main(rt: freerun.Runtime) -> None:
    async def main() -> None:
        freerun.lowlevel.current_task().abort()
        await freerun.yield_now()

    with pytest.raises(freerun.JoinError) as caught:
        rt.block_on(main)
    assert caught.value.is_cancelled()


def test_inside_a_task(rt: freerun.Runtime) -> None:
    async def main() -> None:
        for call in (rt.block_on, rt.handle().block_on, freerun.run):
            with pytest.raises(RuntimeError, match=r"inside a task"):
                call(value)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(RuntimeError, match=r"inside a task"):
                    call(value())

    rt.block_on(main)
    rt.spawn(main)
    assert rt.block_on(value, 9) == 9


def test_another_runtime_inside_a_task(rt: freerun.Runtime) -> None:
    """It would block the worker just the same."""

    async def main() -> None:
        with freerun.Builder().worker_threads(1).build() as other:
            with pytest.raises(RuntimeError, match="inside a task"):
                other.block_on(value)
            assert await other.spawn(value, 8) == 8

    rt.block_on(main)


def test_in_a_blocking_call(rt: freerun.Runtime) -> None:
    """A pool thread is no worker: it may wait."""

    async def main() -> int:
        return await freerun.spawn_blocking(rt.block_on, value, 4)

    assert rt.block_on(main) == 4


def test_several_threads_at_once(rt: freerun.Runtime) -> None:
    """On a current-thread runtime one of them runs everybody's tasks, and hands over when it is done."""
    results: list[int] = []
    meet = threading.Barrier(6)

    def block(i: int) -> None:
        meet.wait()
        for k in range(50):
            results.append(rt.block_on(value, i * 1000 + k))

    with in_threads(6, block):
        pass
    assert sorted(results) == sorted(i * 1000 + k for i in range(6) for k in range(50))


def test_threads_that_wait_for_each_other(rt: freerun.Runtime) -> None:
    """A ring of main tasks, each on its own thread, none of which can end alone."""
    n = 8
    pairs: list[Any] = [oneshot.channel() for _ in range(n)]
    results: list[int] = []

    async def main(i: int) -> int:
        if i == 0:
            pairs[1][0].send(1)
            return await pairs[0][1]
        received: int = await pairs[i][1]
        await freerun.time.sleep(0.001)
        pairs[(i + 1) % n][0].send(received + 1)
        return received

    with in_threads(n, lambda i: results.append(rt.block_on(main, i))):
        pass
    assert sorted(results) == list(range(1, n + 1))


@only(CURRENT)
def test_the_core_is_handed_over(rt: freerun.Runtime) -> None:
    """The thread that runs the tasks leaves while another one's main task still waits."""
    tx, rx = oneshot.channel()
    inside = threading.Event()
    results: list[str] = []

    async def first() -> None:
        while not inside.is_set():
            await freerun.yield_now()

    async def second() -> str:
        inside.set()
        await freerun.time.sleep(0.01)
        received: str = await rx
        return received

    with in_threads(1, lambda _: rt.block_on(first)):
        with in_threads(1, lambda _: results.append(rt.block_on(second))):
            assert inside.wait(PATIENCE)
            tx.send("handed over")
    assert results == ["handed over"]


def test_several_runtimes(flavor: Flavor) -> None:
    """Handles are awaited across runtimes, in both directions."""
    with flavor.builder().build() as one, freerun.Builder().worker_threads(2).build() as two:

        async def outer(x: int) -> int:
            return await two.spawn(inner, x) + 1

        async def inner(x: int) -> int:
            await freerun.time.sleep(0.001)
            return await one.spawn(value, x) + 1

        assert [one.block_on(outer, x) for x in range(20)] == [x + 2 for x in range(20)]


def test_with_nests(flavor: Flavor) -> None:
    with flavor.builder().build() as outer:
        assert freerun.Handle.current() == outer.handle()
        with flavor.builder().build() as inner:
            assert freerun.Handle.current() == inner.handle()
            assert outer.block_on(where) == outer.handle()
            assert inner.block_on(where) == inner.handle()
        assert freerun.Handle.current() == outer.handle()
    assert freerun.Handle.try_current() is None


async def where() -> freerun.Handle:
    await freerun.yield_now()
    return freerun.Handle.current()


def test_nothing_is_current_afterwards(rt: freerun.Runtime) -> None:
    rt.block_on(value)
    assert freerun.Handle.try_current() is None
    with pytest.raises(LookupError):
        rt.block_on(fails)
    assert freerun.Handle.try_current() is None


def test_context_variables(rt: freerun.Runtime) -> None:
    """The main task sees the caller's, in a copy."""
    var = contextvars.ContextVar("var", default="default")
    var.set("caller's")

    async def main() -> str:
        seen = var.get()
        var.set("main's")
        return seen

    assert rt.block_on(main) == "caller's"
    assert var.get() == "caller's"


def test_on_a_runtime_that_was_shut_down(flavor: Flavor) -> None:
    rt = flavor.builder().build()
    rt.shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with pytest.raises(freerun.RuntimeShutdown):
                rt.block_on(value)
            with pytest.raises(freerun.RuntimeShutdown):
                rt.block_on(value())


def test_other_tasks_go_on_or_wait(rt: freerun.Runtime, flavor: Flavor) -> None:
    """Between two calls a multi-thread runtime runs; a current-thread one stands still."""
    steps = []

    async def task() -> None:
        while len(steps) < 10:
            steps.append(1)
            await freerun.yield_now()

    handle = rt.spawn(task)
    if flavor.current_thread:
        assert steps == []
        drive(rt, handle.is_finished)
    handle.blocking_result(PATIENCE)
    assert len(steps) == 10


def test_main_ends_before_what_it_spawned(rt: freerun.Runtime) -> None:
    async def main() -> freerun.JoinHandle[int]:
        return freerun.spawn(value, 11)

    handle = rt.block_on(main)
    drive(rt, handle.is_finished)
    assert handle.blocking_result() == 11


def test_descriptors_are_not_used_up(rt: freerun.Runtime) -> None:
    from support import open_fds

    rt.block_on(value)
    before = len(open_fds())
    for _ in range(200):
        rt.block_on(value)
    assert len(open_fds()) <= before
