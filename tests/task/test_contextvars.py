"""contextvars: a copy at spawn, the task's own from then on, on whatever worker it runs."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest
from support import CURRENT, MULTI, Flavor, every_flavor, is_freed, only, until

import freerun
from freerun.sync import oneshot

var: contextvars.ContextVar[Any] = contextvars.ContextVar("var", default="unset")


async def read() -> Any:
    return var.get()


@every_flavor
async def test_spawn_copies() -> None:
    var.set("parent")
    by_function, by_coroutine = freerun.spawn(read), freerun.spawn(read())
    var.set("later")
    assert await by_function == "parent"
    assert await by_coroutine == "parent"


@every_flavor
async def test_changes_stay_inside() -> None:
    async def change() -> Any:
        var.set("child")
        await freerun.yield_now()
        return var.get()

    var.set("parent")
    assert await freerun.spawn(change) == "child"
    assert var.get() == "parent"


def test_block_on_copies_and_keeps_changes_inside(rt: freerun.Runtime) -> None:
    async def change() -> Any:
        before = var.get()
        var.set("main")
        return before

    def outside() -> None:
        var.set("outside")
        assert rt.block_on(change) == "outside"
        assert var.get() == "outside"

    contextvars.copy_context().run(outside)


@every_flavor
async def test_spawn_blocking_carries_it() -> None:
    def call() -> Any:
        before = var.get()
        var.set("pool")
        return before

    var.set("task")
    assert await freerun.spawn_blocking(call) == "task"
    assert var.get() == "task"


@only(*MULTI)
def test_block_in_place_keeps_it(rt: freerun.Runtime) -> None:
    async def main() -> None:
        var.set("task")
        assert freerun.block_in_place(var.get) == "task"
        freerun.block_in_place(var.set, "inside")
        assert var.get() == "inside"  # it is the same task
        await freerun.yield_now()
        assert var.get() == "inside"

    rt.block_on(main)


@every_flavor
async def test_across_awaits_and_workers() -> None:
    async def task(i: int) -> set[int]:
        threads = set()
        var.set(i)
        for n in range(50):
            await (freerun.yield_now() if n % 3 else freerun.time.sleep(0.0002))
            assert var.get() == i
            threads.add(threading.get_ident())
        token = var.set("inner")
        await freerun.yield_now()
        var.reset(token)  # the same context, whatever the thread
        assert var.get() == i
        return threads

    handles = [freerun.spawn(task, i) for i in range(40)]
    seen = set().union(*[await handle for handle in handles])
    assert seen


@every_flavor
async def test_cleanup_sees_it() -> None:
    seen: list[Any] = []

    async def task() -> None:
        var.set("mine")
        try:
            await freerun.lowlevel.park()
        finally:
            seen.append(var.get())

    handle = freerun.spawn(task)
    await freerun.time.sleep(0.001)
    handle.abort()
    while not handle.is_finished():
        await freerun.yield_now()
    assert seen in (["mine"], [])  # [] when it was aborted before its first poll


@every_flavor
async def test_values_are_released_with_the_task() -> None:
    import weakref

    class Value:
        pass

    refs: list[weakref.ref[Value]] = []

    async def task() -> None:
        value = Value()
        refs.append(weakref.ref(value))
        var.set(value)
        await freerun.yield_now()

    handle = freerun.spawn(task)
    await handle
    await until(lambda: is_freed(refs[0]))


@every_flavor
async def test_a_context_held_elsewhere() -> None:
    """A task whose context somebody else has entered fails by itself; it does not take the worker down."""
    entered = threading.Event()
    contexts: list[contextvars.Context] = []
    done = threading.Event()

    async def grab() -> None:
        contexts.append(contextvars.copy_context())

    await freerun.spawn(grab)
    # copy_context() gives a copy, so entering it disturbs nobody
    thread = threading.Thread(target=contexts[0].run, args=(lambda: (entered.set(), done.wait(30)),))
    thread.start()
    entered.wait(30)
    assert await freerun.spawn(read) == "unset"
    done.set()
    thread.join()


def without_variables(rt: freerun.Runtime, main: Any) -> Any:
    """Run a main task from a context in which no variable is set: its tasks share one until they set one."""
    return contextvars.Context().run(rt.block_on, main)


def test_a_task_that_sets_one_leaves_the_others_without(rt: freerun.Runtime) -> None:
    async def sets(i: int) -> None:
        await freerun.yield_now()
        var.set(i)
        await freerun.yield_now()
        assert var.get() == i

    async def sets_none() -> None:
        for _ in range(4):
            assert len(contextvars.copy_context()) == 0
            await freerun.yield_now()

    async def main() -> None:
        for each in [freerun.spawn(sets, i) if i % 3 else freerun.spawn(sets_none) for i in range(60)]:
            await each
        await sets_none()

    without_variables(rt, main)


def test_a_variable_set_and_reset_in_one_step_is_unset(rt: freerun.Runtime) -> None:
    async def sets_and_resets() -> contextvars.Token[Any]:
        first, second = var.set(1), var.set(2)
        var.reset(first)  # nothing is set now, and the other Token still belongs here
        await freerun.yield_now()
        assert var.get() == "unset"
        return second

    async def resets(token: contextvars.Token[Any]) -> None:
        with pytest.raises(ValueError, match="different Context"):
            var.reset(token)
        assert var.get() == "unset"

    async def main() -> None:
        for _ in range(10):
            await freerun.spawn(resets, await freerun.spawn(sets_and_resets))

    without_variables(rt, main)


def test_one_that_raises_or_blocks_after_setting(rt: freerun.Runtime) -> None:
    async def fails() -> None:
        var.set("failed")
        raise LookupError

    async def blocks() -> None:
        freerun.block_in_place(var.set, "in place")
        await freerun.yield_now()
        assert var.get() == "in place"

    async def main() -> None:
        for _ in range(10):
            with pytest.raises(LookupError):
                await freerun.spawn(fails)
            if rt.metrics().num_workers > 1:
                await freerun.spawn(blocks)
            await freerun.spawn_blocking(var.set, "pool")
            assert await freerun.spawn_blocking(var.get) == "unset"
            assert await freerun.spawn(read) == "unset"

    without_variables(rt, main)


def test_one_that_is_cancelled_by_the_shutdown(flavor: Flavor) -> None:
    """At the end of the runtime coroutines are stepped one last time."""
    seen: list[Any] = []

    async def waits() -> None:
        try:
            await freerun.lowlevel.park()
        finally:
            seen.append(var.get())
            var.set("closing")

    async def main() -> None:
        for _ in range(5):
            freerun.spawn(waits)
        await freerun.yield_now()

    with flavor.builder().build() as rt:
        without_variables(rt, main)
    assert set(seen) <= {"unset"}


class SetsWhenDropped:
    """Its destructor sets the variable wherever it runs."""

    def __del__(self) -> None:
        var.set("dropped")


@only(CURRENT, MULTI[0])  # an object that another thread drops may be freed within some task's step
def test_what_a_destructor_sets_between_two_steps_reaches_no_task(rt: freerun.Runtime) -> None:
    """It runs when a poll is over: what the last await returned is dropped then, and a result that nobody wants."""
    seen: list[int] = []

    async def looks() -> None:
        await freerun.yield_now()
        seen.append(len(contextvars.copy_context()))

    async def returns() -> SetsWhenDropped:
        await looks()
        return SetsWhenDropped()

    async def receives(rx: oneshot.Receiver[SetsWhenDropped]) -> None:
        await rx
        await looks()

    async def main() -> None:
        for _ in range(30):
            tx, rx = oneshot.channel()
            receiver = freerun.spawn(receives, rx)
            await looks()
            tx.send(SetsWhenDropped())
            await receiver
            freerun.spawn(returns)
            await looks()
            await looks()

    without_variables(rt, main)
    assert len(seen) >= 120
    assert set(seen) == {0}


@only(CURRENT, MULTI[0])
def test_what_a_destructor_sets_before_the_worker_sleeps_reaches_no_task(rt: freerun.Runtime) -> None:
    seen: list[Any] = []

    async def returns() -> SetsWhenDropped:
        await freerun.time.sleep(0.001)
        return SetsWhenDropped()

    async def looks() -> None:
        await until(dropped.is_finished)
        await freerun.time.sleep(0.002)  # the worker sleeps: that is what this is about
        seen.append(var.get())

    for _ in range(10):
        dropped = contextvars.Context().run(rt.spawn, returns).abort_handle()
        without_variables(rt, looks)
    assert seen == ["unset"] * 10


@only(CURRENT, MULTI[0])
def test_a_destructor_in_a_context_of_its_own(rt: freerun.Runtime, reports: Any) -> None:
    """Between two steps it has the engine report a failure, from within Context.run(): the tasks notice nothing."""

    class Drops:
        def __init__(self, handle: freerun.JoinHandle[None]) -> None:
            self.handles = [handle]

        def __del__(self) -> None:
            contextvars.Context().run(self.handles.clear)

    async def fails() -> None:
        raise LookupError

    async def returns() -> Drops:
        handle = freerun.spawn(fails)
        await until(handle.is_finished)
        return Drops(handle)

    async def innocent() -> None:
        await until(lambda: reports)
        await freerun.yield_now()

    async def main() -> None:
        others = [freerun.spawn(innocent) for _ in range(3)]
        freerun.spawn(returns)
        for handle in others:
            await handle

    without_variables(rt, main)
    assert len(reports) == 1


def test_hooks_run_in_the_context_of_their_thread() -> None:
    """What runs a current-thread runtime is the caller: its hooks see what it has set, whatever has run before."""
    seen: dict[str, list[Any]] = {"park": [], "unpark": [], "terminate": []}
    builder = (
        freerun.Builder.new_current_thread()
        .on_thread_park(lambda: seen["park"].append(var.get()))
        .on_thread_unpark(lambda: seen["unpark"].append(var.get()))
        .on_task_terminate(lambda _: seen["terminate"].append(var.get()))
    )

    async def sets_none() -> None:
        for _ in range(3):
            await freerun.yield_now()
            assert len(contextvars.copy_context()) == 0

    async def sleeps() -> None:
        await freerun.time.sleep(0.002)

    async def fails() -> None:
        raise LookupError

    def outside() -> None:
        var.set("outside")
        with builder.build() as rt:
            for _ in range(5):
                handles = [contextvars.Context().run(rt.spawn, sets_none) for _ in range(3)]
                rt.block_on(sleeps)
                assert var.get() == "outside"
                assert all(handle.is_finished() for handle in handles)
                with pytest.raises(LookupError):
                    contextvars.Context().run(rt.spawn, sets_none)
                    rt.block_on(fails)
                assert var.get() == "outside"
        assert var.get() == "outside"

    contextvars.copy_context().run(outside)
    for hook, values in seen.items():
        assert values, hook
        assert set(values) == {"outside"}, hook
