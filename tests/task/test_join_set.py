"""`JoinSet`, `JoinMap` and `AbortOnDropHandle`. Tokio: tests/task_join_set.rs, tokio-util's task_join_map.rs and
abort_on_drop.rs."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from typing import Any

import pytest
from support import PATIENCE, Flavor, every_flavor, in_threads, is_freed, is_parked, seeded, until

import freerun
from freerun import Cancelled, JoinSet
from freerun.lowlevel import park
from freerun.sync import oneshot
from freerun.task import AbortOnDropHandle, JoinMap
from freerun.time import sleep, timeout


class Boom(Exception):
    pass


async def never() -> None:
    while True:
        await park()


async def value(x: Any) -> Any:
    await freerun.yield_now()
    return x


async def boom(x: Any = None) -> None:
    await freerun.yield_now()
    raise Boom(x)


async def ended(*handles: freerun.JoinHandle[Any]) -> None:
    await until(lambda: all(handle.is_finished() for handle in handles))


# ---- JoinSet ----


@every_flavor
async def test_in_the_order_in_which_they_end() -> None:
    gates = [oneshot.channel() for _ in range(10)]

    async def wait(n: int) -> int:
        await gates[n][1]
        return n

    tasks: JoinSet[int] = JoinSet()
    for n in range(10):
        tasks.spawn(wait, n)
    assert len(tasks) == 10
    order = list(range(10))
    seeded().shuffle(order)
    for n in order:
        gates[n][0].send(None)
        assert await tasks.join_next() == n
    assert len(tasks) == 0
    assert tasks.is_empty()
    assert not tasks


@every_flavor
async def test_empty() -> None:
    tasks: JoinSet[int] = JoinSet()
    assert tasks.is_empty()
    for wait in (tasks.join_next, tasks.join_next_with_id, tasks.join_next_handle):
        with pytest.raises(IndexError, match="this JoinSet is empty"):
            await wait()
    with pytest.raises(IndexError):
        tasks.try_join_next()
    assert [result async for result in tasks] == []
    assert await tasks.join_all() == []
    tasks.abort_all()
    tasks.detach_all()
    await tasks.shutdown()
    async with JoinSet[int]() as tasks:
        pass
    with pytest.raises(TypeError):
        JoinSet(1)  # type: ignore[call-arg]


@every_flavor
async def test_what_is_spawned() -> None:
    tasks: JoinSet[Any] = JoinSet()
    named = tasks.spawn(value, 1, name="first")
    assert named.name == "first"
    assert await tasks.join_next_with_id() == (named.id, 1)
    assert await named == 1  # the handle tells as well
    tasks.spawn(value(2))
    assert await tasks.join_next() == 2
    tasks.spawn_blocking(divmod, 7, 4)
    assert await tasks.join_next() == (1, 3)
    tasks.spawn_blocking(dict, a=1)
    assert await tasks.join_next() == {"a": 1}
    kept = tasks.spawn(value, 3)
    assert await tasks.join_next_handle() is kept
    coro = value(1)
    with pytest.raises(TypeError, match="argument 'coro'"):
        tasks.spawn(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="argument 'args'"):
        tasks.spawn(coro, 3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="argument 'name'"):
        tasks.spawn(coro, name=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="argument 'fn'"):
        tasks.spawn_blocking(value, 3)
    with pytest.raises(TypeError, match="missing 1 required"):
        tasks.spawn()  # type: ignore[call-overload]
    assert tasks.is_empty()  # none of them has a place
    assert await coro == 1


@every_flavor
async def test_spawned_at_is_the_callers_line() -> None:
    tasks: JoinSet[str | None] = JoinSet()
    mapped: JoinMap[int, str | None] = JoinMap()

    async def where() -> str | None:
        return freerun.task.current().spawned_at

    tasks.spawn(where)
    mapped.spawn(1, where)
    for site in (await tasks.join_next(), (await mapped.join_next())[1]):
        assert site is not None
        assert __file__ in site


@every_flavor
async def test_failures() -> None:
    tasks: JoinSet[Any] = JoinSet()
    tasks.spawn(boom, 1)
    with pytest.raises(Boom):
        await tasks.join_next()
    failing = tasks.spawn(boom, 2)
    with pytest.raises(Boom):
        await tasks.join_next_with_id()
    with pytest.raises(Boom):
        await failing
    aborted = tasks.spawn(never)
    aborted.abort()
    with pytest.raises(freerun.JoinError) as caught:
        await tasks.join_next()
    assert caught.value.id == aborted.id
    assert caught.value.is_cancelled()
    tasks.spawn(boom, 3)
    handle = await tasks.join_next_handle()
    assert handle.is_finished()
    with pytest.raises(Boom):
        await handle
    assert tasks.is_empty()


@every_flavor
async def test_iterating_past_a_failure() -> None:
    tasks: JoinSet[int] = JoinSet()
    for n in range(5):
        tasks.spawn(value, n)
    tasks.spawn(boom)
    seen, failures = [], 0
    while tasks:
        try:
            async for result in tasks:
                seen.append(result)
        except Boom:
            failures += 1
    assert sorted(seen) == list(range(5))
    assert failures == 1


@every_flavor
async def test_try_join_next() -> None:
    tasks: JoinSet[int] = JoinSet()
    tx, rx = oneshot.channel()

    async def wait() -> int:
        return await rx

    handle = tasks.spawn(wait)
    with pytest.raises(freerun.WouldBlock):
        tasks.try_join_next()
    tx.send(5)
    await ended(handle)
    await until(lambda: tasks._count() == 1)
    result = None
    while result is None:
        try:
            result = tasks.try_join_next()
        except freerun.WouldBlock:  # it is finished a moment before it is in the list
            await freerun.yield_now()
    assert result == 5
    with pytest.raises(IndexError):
        tasks.try_join_next()
    handle = tasks.spawn(boom)
    with pytest.raises(Boom):
        while True:
            try:
                tasks.try_join_next()
            except freerun.WouldBlock:
                await freerun.yield_now()


@every_flavor
async def test_try_join_next_with_id_and_handle() -> None:
    async def taken(take: Any) -> Any:
        while True:
            try:
                return take()
            except freerun.WouldBlock:
                await freerun.yield_now()

    tasks: JoinSet[int] = JoinSet()
    for take in (tasks.try_join_next_with_id, tasks.try_join_next_handle):
        with pytest.raises(IndexError):
            take()
        waiting = tasks.spawn(never)
        with pytest.raises(freerun.WouldBlock):
            take()
        waiting.abort()
        assert await tasks.join_next_handle() is waiting
    handle = tasks.spawn(value, 5)
    assert await taken(tasks.try_join_next_with_id) == (handle.id, 5)
    handle = tasks.spawn(boom)
    with pytest.raises(Boom):
        await taken(tasks.try_join_next_with_id)
    handle = tasks.spawn(boom)
    assert await taken(tasks.try_join_next_handle) is handle
    with pytest.raises(Boom):
        await handle
    assert tasks.is_empty()


@every_flavor
async def test_spawn_on(flavor: Flavor) -> None:
    """A set, or a map, whose tasks are in several runtimes."""

    async def where(_key: Any) -> tuple[Any, str | None]:
        await freerun.yield_now()
        return freerun.Handle.current(), freerun.task.current().name

    here = freerun.Handle.current()
    with flavor.builder().build() as other, here.enter():  # `with other` enters it until this poll ends
        there = other.handle()
        tasks: JoinSet[Any] = JoinSet()
        for runtime in (other, there):
            tasks.spawn_on(runtime, where, 1, name="a")
            tasks.spawn_on(runtime, where(1), name="a")
            tasks.spawn_blocking_on(runtime, lambda: (freerun.Handle.current(), "a"))
            assert freerun.Handle.current() == here
        by_key: JoinMap[str, Any] = JoinMap()
        by_key.spawn_on("function", there, where, 1)
        by_key.spawn_on("coroutine", other, where(1))
        replaced = by_key.spawn_blocking_on("call", there, lambda: (freerun.Handle.current(), None))
        by_key.spawn_blocking_on("call", other, lambda: (freerun.Handle.current(), None))
        if flavor.current_thread:  # somebody must run it
            driving = freerun.spawn_blocking(there.block_on, until, lambda: len(tasks) == 0 and not by_key)
        assert [each async for each in tasks] == [(there, "a")] * 6
        found = {key: await handle async for key, handle in _handles(by_key)}
        assert found == dict.fromkeys(["function", "coroutine", "call"], (there, None))
        await until(replaced.is_finished)
        if flavor.current_thread:
            await driving
        coro = value(1)
        with pytest.raises(TypeError, match="'handle' must be a Handle or a runtime, not int"):
            tasks.spawn_on(3, coro)  # type: ignore[call-overload]
        await freerun.spawn_blocking(other.shutdown)
        for spawn in (tasks.spawn_on, tasks.spawn_blocking_on):
            with pytest.raises(freerun.RuntimeShutdown):
                spawn(there, value if spawn == tasks.spawn_on else max, 1)
    assert tasks.is_empty()


async def _handles(tasks: JoinMap[str, Any]) -> Any:
    while not tasks.is_empty():
        yield await tasks.join_next_handle()


@every_flavor
async def test_join_all() -> None:
    tasks: JoinSet[Any] = JoinSet()
    for n in range(100):
        tasks.spawn(value, n)
    assert sorted(await tasks.join_all()) == list(range(100))
    log = []

    async def slow() -> None:
        try:
            await never()
        finally:
            await freerun.yield_now()
            log.append("cleaned up")

    running = tasks.spawn(slow)
    await until(lambda: is_parked(running))
    tasks.spawn(boom)
    with pytest.raises(Boom):
        await tasks.join_all()
    assert log == ["cleaned up"]
    assert tasks.is_empty()
    tasks.spawn(value, 1)  # it may be used again
    assert await tasks.join_all() == [1]


@every_flavor
async def test_abort_all_and_shutdown() -> None:
    tasks: JoinSet[Any] = JoinSet()
    done = tasks.spawn(value, 1)
    await ended(done)
    running = [tasks.spawn(never) for _ in range(50)]
    tasks.abort_all()
    assert len(tasks) == 51
    outcomes: Counter[str] = Counter()
    while tasks:
        try:
            await tasks.join_next()
            outcomes["result"] += 1
        except freerun.JoinError:
            outcomes["aborted"] += 1
    assert outcomes == {"result": 1, "aborted": 50}
    running = [tasks.spawn(never) for _ in range(50)]
    await tasks.shutdown()
    assert tasks.is_empty()
    assert all(handle.is_finished() for handle in running)
    tasks.spawn(value, 2)
    assert await tasks.join_next() == 2


@every_flavor
async def test_spawn_while_it_shuts_down() -> None:
    tasks: JoinSet[Any] = JoinSet()
    log = []

    async def stubborn() -> None:
        try:
            await never()
        finally:
            with pytest.raises(RuntimeError, match="this JoinSet is shutting down"):
                tasks.spawn(value, 1)
            await freerun.yield_now()
            log.append("done")

    handle = tasks.spawn(stubborn)
    await until(lambda: is_parked(handle))
    await tasks.shutdown()
    assert log == ["done"]
    async with JoinSet[Any]() as tasks:
        handle = tasks.spawn(stubborn)
        await until(lambda: is_parked(handle))
    assert log == ["done", "done"]
    with pytest.raises(RuntimeError, match="this JoinSet is finished"):
        tasks.spawn(value, 1)


@every_flavor
async def test_detach_all() -> None:
    tasks: JoinSet[Any] = JoinSet()
    gate, opened = oneshot.channel()
    log = []

    async def wait() -> None:
        await opened
        log.append("went on")

    handle = tasks.spawn(wait)
    await ended(tasks.spawn(value, 1))
    tasks.detach_all()
    assert tasks.is_empty()
    del tasks
    gc.collect()
    gate.send(None)
    await handle
    assert log == ["went on"]


@every_flavor
async def test_leaving_the_block_aborts_and_waits() -> None:
    log = []

    async def work() -> None:
        try:
            await never()
        finally:
            await freerun.yield_now()
            log.append("cleaned up")

    async with JoinSet[None]() as tasks:
        handle = tasks.spawn(work)
        await until(lambda: is_parked(handle))
    assert log == ["cleaned up"]
    with pytest.raises(KeyError):
        async with JoinSet[None]() as tasks:
            handle = tasks.spawn(work)
            await until(lambda: is_parked(handle))
            raise KeyError
    assert len(log) == 2


@every_flavor
async def test_aborted_while_it_leaves_the_block() -> None:
    log = []
    gate, opened = oneshot.channel()

    async def slow() -> None:
        try:
            await never()
        finally:
            log.append("cleaning")
            await opened
            log.append("cleaned")

    async def parent() -> None:
        async with JoinSet[None]() as tasks:
            child = tasks.spawn(slow)
            await until(lambda: is_parked(child))

    handle = freerun.spawn(parent)
    await until(lambda: log == ["cleaning"])
    await until(lambda: is_parked(handle))
    handle.abort()
    await sleep(0.003)
    assert not handle.is_finished()
    gate.send(None)
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == ["cleaning", "cleaned"]


@every_flavor
async def test_dropped_set_aborts() -> None:
    tasks: JoinSet[Any] = JoinSet()
    running = [tasks.spawn(never) for _ in range(20)]
    await until(lambda: all(map(is_parked, running)))
    del tasks
    gc.collect()
    await ended(*running)
    for handle in running:
        with pytest.raises(freerun.JoinError):
            await handle


@every_flavor
async def test_a_set_in_a_cycle_with_its_results_is_collected() -> None:
    class Node:
        tasks: Any
        result: Any

    async def work() -> Node:
        return node

    node = Node()
    ref = weakref.ref(node)
    node.tasks = JoinSet()
    await ended(node.tasks.spawn(work))
    del node  # the set, the handle in it, its result, and the set again
    work.__closure__[0].cell_contents = None  # type: ignore[index]
    await until(lambda: is_freed(ref))


@every_flavor
async def test_results_that_are_taken_are_let_go() -> None:
    class Result:
        pass

    async def work() -> Result:
        return Result()

    tasks: JoinSet[Result] = JoinSet()
    refs = []
    for _ in range(20):
        tasks.spawn(work)
        refs.append(weakref.ref(await tasks.join_next()))
    await until(lambda: all(map(is_freed, refs)))


@every_flavor
async def test_failures_that_nobody_took_are_reported(reports: Any) -> None:
    tasks: JoinSet[Any] = JoinSet()
    await ended(tasks.spawn(boom, "lost"))
    assert reports.messages == []
    tasks.detach_all()
    gc.collect()
    await until(lambda: reports.messages)
    assert len(reports.messages) == 1


@every_flavor
async def test_join_next_is_cancel_safe() -> None:
    """It is given up over and over while tasks end: each result comes once."""
    tasks: JoinSet[int] = JoinSet()
    for n in range(200):
        tasks.spawn(value, n)
    seen: list[int] = []

    async def consume(how_long: float) -> None:
        while tasks:
            try:
                seen.append(await timeout(how_long, tasks.join_next()))
            except TimeoutError:
                continue
            except IndexError:
                return

    consumers = [freerun.spawn(consume, 0.0005) for _ in range(3)]
    rng = seeded()
    for _ in range(50):
        victim = freerun.spawn(consume, 10.0)
        for _ in range(rng.randrange(3)):
            await freerun.yield_now()
        victim.abort()
        try:
            await victim
        except freerun.JoinError:
            pass
    for consumer in consumers:
        await consumer
    assert sorted(seen) == list(range(200))


@every_flavor
async def test_several_wait_at_once() -> None:
    tasks: JoinSet[int] = JoinSet()
    gates = [oneshot.channel() for _ in range(30)]

    async def wait(n: int) -> int:
        return await gates[n][1]

    for n in range(30):
        tasks.spawn(wait, n)
    seen: list[int] = []

    async def consume() -> None:
        async for n in tasks:
            seen.append(n)

    consumers = [freerun.spawn(consume) for _ in range(40)]  # more than there is
    await until(lambda: all(map(is_parked, consumers)))
    for n in range(30):
        gates[n][0].send(n)
    for consumer in consumers:
        await consumer
    assert sorted(seen) == list(range(30))


@every_flavor
async def test_a_waiter_that_is_woken_and_leaves_wakes_the_next() -> None:
    tasks: JoinSet[int] = JoinSet()
    gate, opened = oneshot.channel()

    async def wait() -> int:
        return await opened

    tasks.spawn(wait)

    async def next_one() -> int:
        return await tasks.join_next()

    first = freerun.spawn(next_one)
    await until(lambda: is_parked(first))
    second = freerun.spawn(next_one)
    await until(lambda: is_parked(second))
    gate.send(7)
    first.abort()  # it may have been woken for the result, or not yet
    try:
        assert await first == 7
    except freerun.JoinError:
        assert await second == 7
    else:
        with pytest.raises(IndexError):
            await second


def test_from_threads(flavor: Flavor) -> None:
    """Spawned, aborted and taken by plain threads."""
    with flavor.builder().build() as rt:
        tasks: JoinSet[int] = JoinSet()
        seen: list[int] = []

        def work(i: int) -> None:
            with rt.handle().enter():
                for n in range(100):
                    tasks.spawn(value, i * 100 + n)

        async def drain() -> None:
            while len(seen) < 300:
                try:
                    seen.append(await tasks.join_next())
                except IndexError:
                    await freerun.yield_now()

        with in_threads(3, work):
            rt.block_on(drain)
        assert sorted(seen) == list(range(300))
    coro = value(1)
    with pytest.raises(RuntimeError, match="no freerun runtime on this thread"):
        tasks.spawn(coro)
    coro.close()


def test_after_shutdown(flavor: Flavor) -> None:
    rt = flavor.builder().build()
    tasks: JoinSet[Any] = JoinSet()
    with rt:
        handle = tasks.spawn(never)
        rt.shutdown()
        assert handle.is_finished()
        with pytest.raises(freerun.RuntimeShutdown):
            tasks.spawn(value, 1)
    assert len(tasks) == 1
    with pytest.raises(freerun.JoinError):
        tasks.try_join_next()
    with flavor.builder().build() as other:

        async def use() -> int:
            tasks.spawn(value, 3)
            result: int = await tasks.join_next()
            return result

        assert other.block_on(use) == 3


def test_shutdown_with_blocking_calls(flavor: Flavor) -> None:
    inside, release = threading.Event(), threading.Event()
    with flavor.builder().max_blocking_threads(1).build() as rt:
        tasks: JoinSet[Any] = JoinSet()

        def runs() -> bool:
            inside.set()
            return release.wait(PATIENCE)

        async def main() -> None:
            running = tasks.spawn_blocking(runs)
            queued = tasks.spawn_blocking(time.sleep, 0)
            await until(inside.is_set)
            tasks.abort_all()
            release.set()
            await ended(running, queued)
            outcomes = []
            for handle in (running, queued):
                try:
                    outcomes.append(await handle)
                except freerun.JoinError:
                    outcomes.append("aborted")
            assert outcomes == [True, "aborted"]
            await tasks.shutdown()

        rt.block_on(main)


@every_flavor
async def test_closed_by_hand() -> None:
    kept: list[Any] = []

    async def body() -> None:
        async with JoinSet[Any]() as tasks:
            kept.append(tasks.spawn(never))
            await never()

    async def drive() -> None:
        coro = body()
        coro.send(None)
        coro.close()

    await freerun.spawn(drive)
    await ended(kept[0])


@every_flavor
async def test_ten_thousand() -> None:
    tasks: JoinSet[int] = JoinSet()
    for n in range(10_000):
        tasks.spawn(value, n)
    total = 0
    async for n in tasks:
        total += n
    assert total == sum(range(10_000))


@every_flavor
async def test_one_await_object_in_two_tasks() -> None:
    tasks: JoinSet[int] = JoinSet()
    gate, opened = oneshot.channel()

    async def wait() -> int:
        return await opened

    tasks.spawn(wait)
    shared = tasks.join_next()

    async def use() -> int:
        return await shared

    first = freerun.spawn(use)
    await until(lambda: is_parked(first))
    with pytest.raises(RuntimeError, match="another task is awaiting"):
        await freerun.spawn(use)
    gate.send(1)
    assert await first == 1


# ---- JoinMap ----


@every_flavor
async def test_map_results_with_keys() -> None:
    tasks: JoinMap[str, int] = JoinMap()
    for n, key in enumerate("abc"):
        tasks.spawn(key, value, n)
    assert len(tasks) == 3
    assert sorted(tasks.keys()) == ["a", "b", "c"]
    assert "a" in tasks
    assert tasks.contains_key("b")
    assert not tasks.contains_key("x")
    assert dict([pair async for pair in tasks]) == {"a": 0, "b": 1, "c": 2}
    assert tasks.is_empty()
    with pytest.raises(IndexError):
        await tasks.join_next()
    handle = tasks.spawn("d", value(9), name="ninth")
    assert tasks.contains_task(handle.id)
    assert await tasks.join_next() == ("d", 9)
    assert not tasks.contains_task(handle.id)
    tasks.spawn_blocking("e", max, 3, 4)
    assert await tasks.join_next() == ("e", 4)


@every_flavor
async def test_map_replacing_a_key_aborts_the_old_one() -> None:
    tasks: JoinMap[str, Any] = JoinMap()
    old = tasks.spawn("key", never)
    await until(lambda: is_parked(old))
    tasks.spawn("key", value, "new")
    assert len(tasks) == 1
    assert await tasks.join_next() == ("key", "new")
    with pytest.raises(freerun.JoinError):
        await old
    assert [pair async for pair in tasks] == []
    # one that has ended already gives way as well
    await ended(tasks.spawn("key", value, "old"))
    tasks.spawn("key", value, "new")
    assert [pair async for pair in tasks] == [("key", "new")]


@every_flavor
async def test_map_abort() -> None:
    tasks: JoinMap[int, Any] = JoinMap()
    handles = [tasks.spawn(n, never) for n in range(6)]
    await until(lambda: all(map(is_parked, handles)))
    assert not tasks.abort(17)
    assert tasks.abort(0)
    assert not tasks.abort(0)
    key, handle = await tasks.join_next_handle()
    assert (key, handle) == (0, handles[0])
    tasks.abort_matching(lambda key: key % 2 == 0)
    keys = {(await tasks.join_next_handle())[0] for _ in range(2)}
    assert keys == {2, 4}
    with pytest.raises(freerun.JoinError):
        tasks.abort(1)
        await tasks.join_next()
    tasks.abort_all()
    assert len(tasks) == 2
    await tasks.shutdown()
    assert tasks.is_empty()
    assert all(handle.is_finished() for handle in handles)


@every_flavor
async def test_map_block_detach_and_drop() -> None:
    async with JoinMap[int, Any]() as tasks:
        old = tasks.spawn(1, never)
        new = tasks.spawn(1, never)
    assert old.is_finished()  # replaced ones are waited for, too
    assert new.is_finished()
    tasks = JoinMap()
    gate, opened = oneshot.channel()

    async def wait() -> Any:
        return await opened

    kept = tasks.spawn(1, wait)
    tasks.detach_all()
    assert tasks.is_empty()
    gate.send(4)
    assert await kept == 4
    dropped = tasks.spawn(1, never)
    await until(lambda: is_parked(dropped))
    del tasks
    gc.collect()
    await ended(dropped)


@every_flavor
async def test_map_try_join_next_handle() -> None:
    tasks: JoinMap[str, Any] = JoinMap()
    with pytest.raises(IndexError):
        tasks.try_join_next_handle()
    old = tasks.spawn("key", value, "old")
    await ended(old)
    new = tasks.spawn("key", never)
    await until(lambda: tasks._tasks._count() == 2)
    with pytest.raises(freerun.WouldBlock):
        tasks.try_join_next_handle()  # the one that was replaced does not count
    tasks.abort("key")
    await ended(new)
    while True:
        try:
            assert tasks.try_join_next_handle() == ("key", new)
            break
        except freerun.WouldBlock:
            await freerun.yield_now()
    assert tasks.is_empty()


@every_flavor
async def test_map_a_result_is_not_lost_where_the_budget_ends() -> None:
    """Between taking the task out and looking at its result there must be nothing that can be cancelled."""
    for spent in range(120, 130):
        for how in (JoinMap.join_next, JoinMap.__anext__):
            tasks: JoinMap[int, int] = JoinMap()
            results: list[Any] = []
            await ended(tasks.spawn(0, value, 7))

            async def take(tasks: Any = tasks, results: Any = results, how: Any = how, spent: int = spent) -> None:
                for _ in range(spent):
                    await freerun.task.consume_budget()
                results.append(await how(tasks))

            taking = freerun.spawn(take)
            await freerun.yield_now()
            taking.abort()
            await ended(taking)
            assert (results or [await tasks.join_next()]) == [(0, 7)]


@every_flavor
async def test_map_bad_keys_and_failures() -> None:
    tasks: JoinMap[Any, Any] = JoinMap()
    coro = value(1)
    with pytest.raises(TypeError, match="unhashable"):
        tasks.spawn([], coro)
    assert await coro == 1
    running = tasks.spawn(1, never)
    with pytest.raises(TypeError):
        tasks.spawn(1, 3)  # type: ignore[call-overload]
    await freerun.yield_now()
    assert not running.is_finished()  # nothing was replaced
    tasks.abort_all()
    with pytest.raises(freerun.JoinError):
        await tasks.join_next()
    tasks.spawn(2, boom)
    with pytest.raises(Boom):
        await tasks.join_next()


@every_flavor
async def test_map_one_key_from_many_threads() -> None:
    """Whoever comes last stays; all the others are aborted, none is forgotten."""
    tasks: JoinMap[int, Any] = JoinMap()
    core = freerun.Handle.current()
    handles: list[Any] = []

    def work(i: int) -> None:
        with core.enter():
            for _ in range(50):
                handles.append(tasks.spawn(0, never))

    with in_threads(3, work):
        await until(lambda: len(handles) == 150)
    assert len(tasks) == 1
    await until(lambda: sum(handle.is_finished() for handle in handles) == 149)
    tasks.abort_all()
    with pytest.raises(freerun.JoinError):
        await tasks.join_next()
    await ended(*handles)


# ---- AbortOnDropHandle ----


@every_flavor
async def test_abort_on_drop() -> None:
    task = freerun.spawn(never)
    guard: Any = AbortOnDropHandle(task)
    await until(lambda: is_parked(task))
    assert not guard.is_finished()
    assert (guard.id, guard.name) == (task.id, task.name)
    assert guard.abort_handle().id == task.id
    del guard
    gc.collect()
    await ended(task)
    with pytest.raises(freerun.JoinError):
        await task
    assert await AbortOnDropHandle(freerun.spawn(value, 3)) == 3
    with pytest.raises(TypeError, match="argument 'handle' must be a JoinHandle"):
        AbortOnDropHandle(3)  # type: ignore[arg-type]


@every_flavor
async def test_abort_on_drop_detached() -> None:
    gate, opened = oneshot.channel()

    async def wait() -> Any:
        return await opened

    guard = AbortOnDropHandle(freerun.spawn(wait))
    task = guard.detach()
    with pytest.raises(RuntimeError, match="detached"):
        guard.detach()
    with guard:
        pass
    async with guard:
        pass
    del guard
    gc.collect()
    gate.send(1)
    assert await task == 1


@every_flavor
async def test_abort_on_drop_blocks() -> None:
    log = []

    async def work() -> None:
        try:
            await never()
        finally:
            await freerun.yield_now()
            log.append("cleaned up")

    task = freerun.spawn(work)
    await until(lambda: is_parked(task))
    async with AbortOnDropHandle(task):
        pass
    assert log == ["cleaned up"]
    task = freerun.spawn(work)
    await until(lambda: is_parked(task))
    with AbortOnDropHandle(task):
        pass
    await ended(task)
    with pytest.raises(Boom):
        async with AbortOnDropHandle(freerun.spawn(boom)) as guard:
            await until(guard.is_finished)
    with pytest.raises(KeyError) as caught:
        async with AbortOnDropHandle(freerun.spawn(boom)) as guard:
            await until(guard.is_finished)
            raise KeyError
    assert "Boom" in caught.value.__notes__[0]


@every_flavor
async def test_abort_on_drop_aborted_while_it_waits() -> None:
    gate, opened = oneshot.channel()
    log = []

    async def slow() -> None:
        try:
            await never()
        finally:
            log.append("cleaning")
            await opened

    async def parent() -> None:
        task = freerun.spawn(slow)
        await until(lambda: is_parked(task))
        async with AbortOnDropHandle(task):
            pass

    handle = freerun.spawn(parent)
    await until(lambda: log and is_parked(handle))
    handle.abort()
    await sleep(0.003)
    assert not handle.is_finished()
    gate.send(None)
    with pytest.raises(freerun.JoinError):
        await handle


@every_flavor
async def test_cancelled_passes_through_the_iteration() -> None:
    tasks: JoinSet[None] = JoinSet()
    child = tasks.spawn(never)
    log = []

    async def consume() -> None:
        try:
            async for _ in tasks:
                pass
        except Cancelled:
            log.append("cancelled")
            raise

    handle = freerun.spawn(consume)
    await until(lambda: is_parked(handle))
    handle.abort()
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == ["cancelled"]
    assert not child.is_finished()  # it is the set's, not the consumer's
    await tasks.shutdown()
