"""`JoinHandle` and `AbortHandle`: awaiting, aborting, dropping."""

from __future__ import annotations

import copy
import datetime as dt
import gc
import pickle
import threading
import time
import weakref
from typing import Any

import pytest
from support import CURRENT, MULTI, PATIENCE, every_flavor, in_threads, is_freed, is_parked, only, until

import freerun
from freerun.sync import oneshot


async def value(x: Any = 1) -> Any:
    return x


async def forever() -> None:
    while True:
        await freerun.time.sleep(3600)


@every_flavor
async def test_awaited_by_many() -> None:
    tx, rx = oneshot.channel()

    async def waits() -> object:
        return await rx

    result = object()
    task = freerun.spawn(waits)

    async def awaits() -> object:
        return await task

    waiters = [freerun.spawn(awaits) for _ in range(50)]
    await until(lambda: all(map(is_parked, waiters)))
    tx.send(result)
    assert {id(await waiter) for waiter in waiters} == {id(result)}
    assert await task is result


@every_flavor
async def test_failure_awaited_by_many() -> None:
    async def fails() -> None:
        await freerun.yield_now()
        raise ValueError("x")

    task = freerun.spawn(fails)

    async def awaits() -> None:
        await task

    waiters = [freerun.spawn(awaits) for _ in range(20)]
    for waiter in waiters:
        with pytest.raises(ValueError, match="x"):
            await waiter
    with pytest.raises(ValueError, match="x"):
        await task


@every_flavor
async def test_one_of_two_waiters_is_aborted() -> None:
    tx, rx = oneshot.channel()

    async def waits() -> object:
        return await rx

    task = freerun.spawn(waits)

    async def awaits() -> object:
        return await task

    stays, goes = freerun.spawn(awaits), freerun.spawn(awaits)
    await until(lambda: is_parked(stays) and is_parked(goes))
    goes.abort()
    with pytest.raises(freerun.JoinError):
        await goes
    assert not task.is_finished(), "aborting a waiter must not abort what it waits for"
    tx.send(5)
    assert await stays == 5


@every_flavor
async def test_after_it_ended() -> None:
    task = freerun.spawn(value, 5)
    await until(task.is_finished)
    assert await task == 5
    assert await task == 5
    assert task.blocking_result is not None


@every_flavor
async def test_itself() -> None:
    handles: list[freerun.JoinHandle[None]] = []

    async def awaits_itself() -> None:
        await until(lambda: handles)
        await handles[0]

    handles.append(freerun.spawn(awaits_itself))
    with pytest.raises(RuntimeError, match="await itself"):
        await handles[0]
    handles.clear()


@every_flavor
async def test_two_that_await_each_other_can_be_aborted() -> None:
    handles: list[freerun.JoinHandle[None]] = []

    async def awaits(i: int) -> None:
        await until(lambda: len(handles) == 2)
        await handles[i]

    handles.append(freerun.spawn(awaits, 1))
    handles.append(freerun.spawn(awaits, 0))
    await until(lambda: all(map(is_parked, handles)))
    handles[0].abort()
    for handle in handles:
        with pytest.raises(freerun.JoinError):
            await handle
    handles.clear()


@every_flavor
async def test_awaited_in_another_runtime() -> None:
    with freerun.Builder().worker_threads(1).build() as other:
        assert await other.spawn(value, 3) == 3
        slow = other.spawn(freerun.time.sleep, 0.01)
        assert await slow is None
        with pytest.raises(freerun.JoinError):
            stuck = other.spawn(forever)
            stuck.abort()
            await stuck


@every_flavor
async def test_join_error() -> None:
    task = freerun.spawn(forever, name="stuck")
    assert task.abort()
    with pytest.raises(freerun.JoinError, match=f"task {task.id} ") as caught:
        await task
    assert caught.value.is_cancelled()
    assert not caught.value.is_panic()
    assert caught.value.id == task.id
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.id, again.is_cancelled()) == (str(caught.value), task.id, True)


@every_flavor
async def test_cancelled_raised_by_the_task_itself() -> None:
    async def gives_up() -> None:
        raise freerun.Cancelled

    with pytest.raises(freerun.JoinError):
        await freerun.spawn(gives_up)


def test_cancelled_is_no_exception() -> None:
    assert issubclass(freerun.Cancelled, BaseException)
    assert not issubclass(freerun.Cancelled, Exception)


@every_flavor
async def test_abort_is_thrown_once() -> None:
    """Cleanup may await: a second abort does not disturb it."""
    log: list[str] = []

    async def cleans_up() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            log.append("begins")
            await freerun.time.sleep(0.005)
            await freerun.yield_now()
            await freerun.spawn_blocking(time.sleep, 0.001)
            log.append("done")

    task = freerun.spawn(cleans_up)
    await until(lambda: is_parked(task))
    assert task.abort()
    assert not task.abort()
    await until(lambda: log)
    assert not task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert log == ["begins", "done"]


@every_flavor
async def test_abort_handles() -> None:
    task = freerun.spawn(forever)
    aborters = [task.abort_handle() for _ in range(3)]
    assert not any(aborter.is_finished() for aborter in aborters)
    assert [aborter.abort() for aborter in aborters] == [True, False, False]
    with pytest.raises(freerun.JoinError):
        await task
    assert all(aborter.is_finished() for aborter in aborters)
    assert not hasattr(aborters[0], "__await__")


@every_flavor
async def test_abort_from_many_threads_at_once() -> None:
    for _ in range(30):
        task = freerun.spawn(forever)
        aborter = task.abort_handle()
        wins: list[bool] = []
        start = threading.Barrier(4)

        def abort(_: int, aborter: Any = aborter, wins: list[bool] = wins, start: Any = start) -> None:
            start.wait(PATIENCE)
            wins.append(aborter.abort())

        with in_threads(4, abort):
            with pytest.raises(freerun.JoinError):
                await task
        assert sorted(wins) == [False, False, False, True]


@every_flavor
async def test_detach() -> None:
    ended = threading.Event()

    async def ends() -> None:
        await freerun.time.sleep(0.001)
        ended.set()

    handle = freerun.spawn(ends)
    assert handle.detach() is None
    del handle
    await until(ended.is_set)


@every_flavor
async def test_dropped_handle_lets_the_task_run() -> None:
    ended: list[int] = []

    async def ends(i: int) -> None:
        await freerun.yield_now()
        ended.append(i)

    for i in range(100):
        freerun.spawn(ends, i)
    await until(lambda: len(ended) == 100)
    assert sorted(ended) == list(range(100))


class Result:
    pass


@every_flavor
async def test_result_is_released_with_the_handle() -> None:
    async def make() -> Result:
        return Result()

    task = freerun.spawn(make)
    ref = weakref.ref(await task)
    assert ref() is not None, "the handle keeps it"
    del task
    await until(lambda: is_freed(ref))


@every_flavor
async def test_result_nobody_wants_is_released_at_once() -> None:
    refs: list[weakref.ref[Result]] = []

    async def make() -> Result:
        result = Result()
        refs.append(weakref.ref(result))
        return result

    freerun.spawn(make)
    await until(lambda: refs and is_freed(refs[0]))


@every_flavor
async def test_arguments_are_released_when_the_task_ends() -> None:
    argument = Result()
    ref = weakref.ref(argument)

    async def takes(x: Result) -> None:
        await freerun.yield_now()

    for task in (freerun.spawn(takes, argument), freerun.spawn(takes(argument))):
        await task
    del argument
    await until(lambda: is_freed(ref))
    assert task.is_finished()  # and the handle still lives


@only(*MULTI)
def test_blocking_result(rt: freerun.Runtime) -> None:
    async def fails() -> None:
        raise KeyError("k")

    assert rt.spawn(value, 4).blocking_result() == 4
    assert rt.spawn(value, 4).blocking_result(PATIENCE) == 4
    assert rt.spawn(value, 4).blocking_result(timeout=dt.timedelta(seconds=PATIENCE)) == 4
    with pytest.raises(KeyError):
        rt.spawn(fails).blocking_result()
    stuck = rt.spawn(forever)
    for timeout in (0, 0.01, dt.timedelta(milliseconds=1)):
        with pytest.raises(TimeoutError, match=f"task {stuck.id} "):
            stuck.blocking_result(timeout)
    assert not stuck.is_finished(), "a time-out does not abort the task"
    stuck.abort()
    with pytest.raises(freerun.JoinError):
        stuck.blocking_result()
    assert rt.spawn_blocking(max, 1, 2).blocking_result() == 2


@only(*MULTI)
def test_blocking_result_in_many_threads(rt: freerun.Runtime) -> None:
    tx, rx = oneshot.channel()

    async def waits() -> object:
        return await rx

    task = rt.spawn(waits)
    results: list[object] = []
    with in_threads(8, lambda _: results.append(task.blocking_result(PATIENCE))):
        tx.send("x")
    assert results == ["x"] * 8


@only(CURRENT)
def test_blocking_result_while_another_thread_runs_the_core(rt: freerun.Runtime) -> None:
    results: list[object] = []
    task = rt.spawn(value, 9)

    async def main() -> None:
        await until(lambda: results)

    with in_threads(1, lambda _: results.append(task.blocking_result(PATIENCE))):
        rt.block_on(main)
    assert results == [9]


def test_blocking_result_bad_arguments(rt: freerun.Runtime) -> None:
    task = rt.spawn(value)
    for bad, error in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="argument 'timeout'"):
            task.blocking_result(bad)
        with pytest.raises(error, match="argument 'timeout'"):
            task.blocking_result(timeout=bad)
    with pytest.raises(TypeError, match="timeout"):
        task.blocking_result(1, 2)
    with pytest.raises(TypeError, match="timeout"):
        task.blocking_result(tiemout=2)
    with pytest.raises(TypeError):
        task.blocking_result(1, timeout=2)


@every_flavor
async def test_blocking_result_in_a_task() -> None:
    with pytest.raises(RuntimeError, match="await the handle"):
        freerun.spawn(value).blocking_result()


def test_handles_cannot_be_made_or_copied(rt: freerun.Runtime) -> None:
    for kind in (freerun.JoinHandle, freerun.AbortHandle):
        with pytest.raises(TypeError):
            kind()
    task = rt.spawn(value)
    with pytest.raises(TypeError):
        copy.copy(task)
    with pytest.raises(TypeError):
        pickle.dumps(task)
    assert freerun.JoinHandle[int].__origin__ is freerun.JoinHandle


@every_flavor
async def test_handle_in_a_cycle_is_collected() -> None:
    class Holder:
        pass

    async def returns(x: Any) -> Any:
        return x

    holder: Any = Holder()
    holder.task = freerun.spawn(returns, holder)  # result -> handle -> result
    await until(holder.task.is_finished)
    ref = weakref.ref(holder)
    del holder
    await until(lambda: is_freed(ref))


@every_flavor
async def test_the_failure_of_a_handle_in_a_cycle_is_reported(reports: Any) -> None:
    class Node:
        handle: Any

    async def fails() -> None:
        raise ValueError("lost")

    node = Node()
    node.handle = [freerun.spawn(fails), node]
    await until(node.handle[0].is_finished)
    del node
    await until(lambda: gc.collect() is None or reports.messages)
    assert len(reports.messages) == 1


@every_flavor
async def test_the_same_await_object_is_no_second_wait() -> None:
    """An await that another task takes over is simply waited for there."""
    tx, rx = oneshot.channel()

    async def waits() -> object:
        return await rx

    leaf: Any = freerun.spawn(waits).__await__()

    async def drive() -> object:
        class Again:
            def __await__(self) -> Any:
                return leaf

        return await Again()

    first = freerun.spawn(drive)
    await until(lambda: is_parked(first))
    first.abort()
    with pytest.raises(freerun.JoinError):
        await first
    second = freerun.spawn(drive)
    await until(lambda: is_parked(second))
    tx.send(8)
    assert await second == 8
