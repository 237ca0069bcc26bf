"""`spawn`: what it takes, what it refuses, where the task runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import threading
import types
import warnings
import weakref
from typing import Any

import pytest
from support import CURRENT, MULTI, Flavor, every_flavor, in_threads, is_freed, is_parked, only, until, wait_until

import freerun

NO_RUNTIME = 'there is no freerun runtime on this thread; call it from a task, or from inside "with runtime:"'


async def value(x: int = 1) -> int:
    return x


async def agen() -> Any:
    yield 1


@every_flavor
async def test_coroutine_and_async_function() -> None:
    assert await freerun.spawn(value(2)) == 2
    assert await freerun.spawn(value, 3) == 3
    assert await freerun.spawn(value) == 1


@every_flavor
async def test_everything_that_makes_a_coroutine() -> None:
    class Callable:
        async def __call__(self, x: int) -> int:
            return x

        async def method(self, x: int) -> int:
            return -x

    @types.coroutine
    def old_style() -> Any:
        yield from freerun.yield_now().__await__()
        return "old"

    assert await freerun.spawn(Callable(), 4) == 4
    assert await freerun.spawn(Callable().method, 4) == -4
    assert await freerun.spawn(functools.partial(value, x=5)) == 5
    assert await freerun.spawn(functools.partial(value), 5) == 5
    assert await freerun.spawn(old_style()) == "old"
    assert await freerun.spawn(old_style) == "old"
    assert await freerun.spawn(lambda: value(6)) == 6


@every_flavor
async def test_any_number_of_arguments() -> None:
    async def gather(*args: object) -> tuple[object, ...]:
        await freerun.yield_now()
        return args

    for count in range(7):
        args = [object() for _ in range(count)]
        assert await freerun.spawn(gather, *args) == tuple(args)


@pytest.mark.parametrize("count", range(6))
def test_arguments_are_released(flavor: Flavor, count: int) -> None:
    """Of a task that has run, of one whose function refuses them, and of one that was aborted before it began."""

    class Argument:
        pass

    refs: list[weakref.ref[Argument]] = []

    def arguments() -> list[Argument]:
        args = [Argument() for _ in range(count)]
        refs.extend(map(weakref.ref, args))
        return args

    async def takes(*args: Argument) -> int:
        return len(args)

    async def refuses(*, keyword: int) -> None: ...

    async def main() -> None:
        assert await freerun.spawn(takes, *arguments()) == count
        with pytest.raises(TypeError):
            await freerun.spawn(refuses, *arguments())
        handle = freerun.spawn(takes, *arguments())
        handle.abort()
        with contextlib.suppress(freerun.JoinError):
            await handle

    with flavor.builder().build() as rt:
        rt.block_on(main)
    assert len(refs) == 3 * count
    wait_until(lambda: all(map(is_freed, refs)))


@every_flavor
async def test_name_and_id() -> None:
    named, anonymous = freerun.spawn(value, name="näme"), freerun.spawn(value())
    assert named.name == "näme"
    assert anonymous.name is None
    assert named.id != anonymous.id
    assert named.abort_handle().name == "näme"
    assert named.abort_handle().id == named.id
    assert "näme" in repr(named)
    assert await named == await anonymous == 1
    assert "finished" in repr(named)
    assert named.name == "näme"


@every_flavor
async def test_ids_are_unique_across_workers() -> None:
    async def spawner() -> list[int]:
        handles = [freerun.spawn(value) for _ in range(300)]
        return [handle.id for handle in handles if await handle]

    ids = [each for handle in [freerun.spawn(spawner) for _ in range(8)] for each in await handle]
    assert len(ids) == len(set(ids)) == 2400


@every_flavor
async def test_other_awaitables() -> None:
    """Whatever can be awaited can be spawned."""

    class Wraps:
        def __await__(self) -> Any:
            return value(8).__await__()

    assert await freerun.spawn(freerun.time.sleep(0.001)) is None
    assert await freerun.spawn(freerun.time.sleep, 0.001) is None
    assert await freerun.spawn(freerun.yield_now) is None
    assert await freerun.spawn(Wraps()) == 8
    assert await freerun.spawn(Wraps) == 8
    inner = freerun.spawn(value, 9)
    assert await freerun.spawn(inner) == 9
    stuck = freerun.spawn(freerun.time.sleep(3600))
    await until(lambda: is_parked(stuck))
    stuck.abort()
    with pytest.raises(freerun.JoinError):
        await stuck
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(TypeError, match="another event loop"):
        await freerun.spawn(loop.create_future())


@pytest.mark.parametrize("what", [1, None, "text", [], object()], ids=repr)
def test_what_cannot_be_spawned(rt: freerun.Runtime, what: Any) -> None:
    with pytest.raises(TypeError, match="argument 'coro' must be a coroutine"):
        rt.spawn(what)
    with pytest.raises(TypeError, match="argument 'coro'"):
        rt.block_on(what)


def test_async_generators_are_no_coroutines(rt: freerun.Runtime) -> None:
    for what in (agen, agen()):
        with pytest.raises(TypeError, match=r"argument 'coro' must be .*async_generator|async generator"):
            rt.spawn(what)


@every_flavor
async def test_function_that_makes_no_coroutine() -> None:
    with pytest.raises(TypeError, match="argument 'coro' must be.*spawn_blocking"):
        await freerun.spawn(lambda: 5)
    with pytest.raises(TypeError):  # the call itself fails, in the task
        await freerun.spawn(value, 1, 2, 3)


def test_bad_arguments(rt: freerun.Runtime) -> None:
    with pytest.raises(TypeError, match="'coro'"):
        rt.spawn()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="'name'"):
        rt.spawn(value, name=5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        rt.spawn(value, x=5)  # type: ignore[call-overload]
    coro = value()
    with pytest.raises(TypeError, match="argument 'args'"):
        rt.spawn(coro, 1)  # type: ignore[call-overload]
    coro.close()


@pytest.mark.parametrize("call", [
    lambda: freerun.spawn(value),
    lambda: freerun.spawn_blocking(print),
    freerun.Handle.current,
], ids=["spawn", "spawn_blocking", "Handle.current"])  # fmt: skip
def test_outside_a_runtime(call: Any) -> None:
    with pytest.raises(RuntimeError) as caught:
        call()
    assert str(caught.value) == NO_RUNTIME
    assert freerun.Handle.try_current() is None


def test_spawn_coroutine_outside_a_runtime_leaves_it_usable() -> None:
    coro = value(7)
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        freerun.spawn(coro)
    assert freerun.run(coro) == 7


def test_leaves_outside_a_task() -> None:
    for leaf in (freerun.yield_now(), freerun.time.sleep(0), freerun.lowlevel.park(), freerun.task.consume_budget()):
        with pytest.raises(RuntimeError, match="inside a freerun task"):
            next(iter(leaf.__await__()))
    with pytest.raises(RuntimeError):
        freerun.task.current()
    with pytest.raises(RuntimeError):
        freerun.lowlevel.current_waker()


def test_after_shutdown(flavor: Any) -> None:
    rt = flavor.builder().build()
    handle = rt.handle()
    rt.shutdown()
    for spawn in (rt.spawn, handle.spawn, rt.block_on, handle.block_on):
        with pytest.raises(freerun.RuntimeShutdown):
            spawn(value)
    with pytest.raises(freerun.RuntimeShutdown):
        rt.spawn_blocking(print)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "was never awaited": the caller still has it
        with pytest.raises(freerun.RuntimeShutdown):
            rt.spawn(value())
        gc.collect()


@every_flavor
@pytest.mark.parametrize("function", [freerun.yield_now, freerun.task.consume_budget])
async def test_an_awaitable_that_all_share(function: Any) -> None:
    """What these return is one object without a state of its own: any number of tasks may await it at once."""
    handles = [freerun.spawn(each) for each in [function] * 10 + [function() for _ in range(10)]]
    assert [await handle for handle in handles] == [None] * 20


@every_flavor
async def test_spawned_twice() -> None:
    async def waits() -> int:
        await freerun.time.sleep(0.005)
        return 1

    coro = waits()
    first = freerun.spawn(coro)
    with pytest.raises((RuntimeError, ValueError)):
        await freerun.spawn(coro)
    assert await first == 1
    with pytest.raises(RuntimeError, match="already"):  # "cannot reuse already awaited coroutine"
        await freerun.spawn(coro)
    with pytest.raises(RuntimeError, match="already"):
        await coro


@every_flavor
async def test_awaited_while_it_runs_as_a_task() -> None:
    async def waits() -> int:
        for _ in range(50):
            await freerun.yield_now()
        return 1

    for _ in range(20):
        coro = waits()
        task = freerun.spawn(coro)
        await freerun.yield_now()
        for awaited in (coro, task):  # which of the two is refused depends on who comes first
            try:
                assert await awaited in {1, None}
            except (RuntimeError, ValueError):
                pass
        assert task.is_finished()


@every_flavor
async def test_finished_coroutine() -> None:
    coro = value()
    assert await coro == 1
    with pytest.raises(RuntimeError, match="already awaited"):
        await freerun.spawn(coro)
    closed = value()
    closed.close()
    with pytest.raises(RuntimeError, match="already awaited"):
        await freerun.spawn(closed)


@only(CURRENT)
def test_current_thread_runs_on_the_caller(rt: freerun.Runtime) -> None:
    async def ident() -> int:
        return threading.get_ident()

    async def main() -> set[int]:
        return {await freerun.spawn(ident) for _ in range(10)} | {threading.get_ident()}

    assert rt.block_on(main) == {threading.get_ident()}


@only(*MULTI)
def test_multi_thread_runs_elsewhere(rt: freerun.Runtime) -> None:
    async def ident() -> int:
        return threading.get_ident()

    assert rt.block_on(ident) != threading.get_ident()


@only(MULTI[1], MULTI[2])
def test_parallel_polls(rt: freerun.Runtime) -> None:
    """Two polls at the same moment: each waits, without awaiting, for the other."""
    barrier = threading.Barrier(2)

    async def meet() -> int:
        return barrier.wait(30)

    async def main() -> set[int]:
        handles = [freerun.spawn(meet) for _ in range(2)]
        return {await handle for handle in handles}

    assert rt.block_on(main) == {0, 1}


def test_from_foreign_threads(rt: freerun.Runtime) -> None:
    results: list[int] = []

    async def add(i: int) -> None:
        results.append(i)

    async def main() -> None:
        await until(lambda: len(results) == 800)

    def spawner(n: int) -> None:
        for i in range(100):
            rt.spawn(add, n * 100 + i)

    with in_threads(8, spawner):
        rt.block_on(main)
    assert sorted(results) == list(range(800))


@every_flavor
async def test_a_chain_of_spawns() -> None:
    async def link(n: int) -> int:
        return 1 + await freerun.spawn(link, n - 1) if n else 0

    assert await link(300) == 300


@every_flavor
async def test_many() -> None:
    async def double(i: int) -> int:
        await freerun.yield_now()
        return 2 * i

    handles = [freerun.spawn(double, i) for i in range(5000)]  # more than a ring holds
    assert [await handle for handle in handles] == [2 * i for i in range(5000)]
