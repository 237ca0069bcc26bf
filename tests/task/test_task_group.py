"""`TaskGroup`: asyncio's contract. The cases of CPython's test_taskgroups.py, by behaviour, and what threads add."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import CURRENT, Flavor, check_script, every_flavor, in_threads, is_freed, is_parked, only, until

import freerun
from freerun import Cancelled, CancelScope, TaskGroup
from freerun.lowlevel import park
from freerun.sync import Barrier, oneshot
from freerun.time import sleep, timeout


class Boom(Exception):
    pass


class BaseBoom(BaseException):
    pass


async def never() -> None:
    while True:
        await park()


async def value(x: Any) -> Any:
    await freerun.yield_now()
    return x


async def boom(error: BaseException | None = None) -> None:
    await freerun.yield_now()
    raise error or Boom


def kinds(group: BaseExceptionGroup[Any]) -> list[type]:
    return [type(each) for each in group.exceptions]


async def aborted(handle: freerun.JoinHandle[Any]) -> bool:
    """Whether that is how it ended."""
    assert handle.is_finished()
    try:
        await handle
    except freerun.JoinError as error:
        return error.is_cancelled()
    return False


# ---- success ----


@every_flavor
async def test_waits_for_all() -> None:
    async with TaskGroup() as group:
        first = group.spawn(value, 42)
        await freerun.yield_now()
        second = group.spawn(value(11), name="second")
        third = group.create_task(value(7), name="third")
        blocking = group.spawn_blocking(sum, [1, 2])
    assert [handle.is_finished() for handle in (first, second, third, blocking)] == [True] * 4
    assert [await first, await second, await third, await blocking] == [42, 11, 7, 3]
    assert (second.name, third.name) == ("second", "third")


@every_flavor
async def test_empty() -> None:
    async with TaskGroup():
        pass
    async with TaskGroup():
        await freerun.yield_now()
    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup():
            raise Boom
    assert kinds(caught.value) == [Boom]


@every_flavor
async def test_an_aborted_task_is_no_failure() -> None:
    async with TaskGroup() as group:
        first = group.spawn(never)
        await freerun.yield_now()
        first.abort()
        second = group.spawn(value, 11)
    assert await aborted(first)
    assert await second == 11


@every_flavor
async def test_tasks_spawn_tasks() -> None:
    done = []

    async def leaf(n: int) -> None:
        await freerun.yield_now()
        done.append(n)

    async def root(group: TaskGroup) -> None:
        await freerun.yield_now()
        for n in range(10):
            group.spawn(leaf, n)

    async with TaskGroup() as group:
        group.spawn(root, group)
    assert sorted(done) == list(range(10))


@every_flavor
async def test_a_long_lived_group_keeps_nothing_of_what_succeeded() -> None:
    class Result:
        pass

    async def work() -> Result:
        return Result()

    refs = []
    async with TaskGroup() as group:
        for _ in range(50):
            handle = group.spawn(work)
            refs.append(weakref.ref(await handle))
            del handle
        await until(lambda: group._count() == 0)
        await until(lambda: all(map(is_freed, refs)))


# ---- failures ----


@every_flavor
async def test_the_first_failure_cancels_the_rest() -> None:
    log = []

    async def sibling() -> None:
        try:
            await never()
        except Cancelled:
            await freerun.yield_now()
            log.append("sibling")
            raise

    with pytest.raises(ExceptionGroup, match="unhandled errors in a TaskGroup") as caught:
        async with TaskGroup() as group:
            rest = group.spawn(sibling)
            await until(lambda: is_parked(rest))
            group.spawn(boom)
        log.append("not reached")
    assert kinds(caught.value) == [Boom]
    assert log == ["sibling"]
    assert await aborted(rest)


@every_flavor
async def test_the_first_failure_cancels_the_body() -> None:
    log = []
    barrier = Barrier(3)

    async def boom_together() -> None:
        await barrier.wait()
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            rest = group.spawn(never)
            await until(lambda: is_parked(rest))
            for _ in range(3):
                group.spawn(boom_together)
            try:
                await never()
            except Cancelled:
                log.append("cancelled")
                await freerun.yield_now()  # it may await, and is not cancelled again
                log.append("cleaned up")
                raise
    assert set(kinds(caught.value)) == {Boom}  # one at least; the others may have been aborted before
    assert log == ["cancelled", "cleaned up"]
    assert await aborted(rest)
    await freerun.yield_now()


@every_flavor
async def test_the_body_fails(rt: freerun.Runtime) -> None:
    for wait in (True, False):
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as group:
                handles = [group.spawn(never) for _ in range(2)]
                if wait:
                    await until(lambda handles=handles: all(map(is_parked, handles)))
                raise Boom
        assert kinds(caught.value) == [Boom]
        assert [await aborted(handle) for handle in handles] == [True, True]


@every_flavor
async def test_the_bodys_own_failure_comes_last() -> None:
    for error, group_type in ((Boom(), ExceptionGroup), (BaseBoom(), BaseExceptionGroup)):
        with pytest.raises(group_type) as caught:
            async with TaskGroup() as group:
                group.spawn(boom, ValueError())
                try:
                    await never()
                finally:
                    raise error
        assert type(caught.value) is group_type
        assert kinds(caught.value) == [ValueError, type(error)]
    with pytest.raises(BaseExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.spawn(boom, BaseBoom())
            try:
                await never()
            finally:
                raise Boom
    assert kinds(caught.value) == [BaseBoom, Boom]


@every_flavor
async def test_failures_of_cleanup_are_in_the_group() -> None:
    async def clumsy() -> None:
        try:
            await never()
        finally:
            await freerun.yield_now()
            raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            handles = [group.spawn(clumsy) for _ in range(2)]
            await until(lambda: all(map(is_parked, handles)))
            group.spawn(boom)
    assert kinds(caught.value) == [Boom, ValueError, ValueError]


@every_flavor
async def test_failures_are_not_reported_twice(reports: Any) -> None:
    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            kept = [group.spawn(boom)]
            await never()
    kept.clear()
    gc.collect()
    for _ in range(3):
        await freerun.yield_now()
    assert reports.messages == []


@every_flavor
async def test_a_body_that_swallows_cancelled_goes_on() -> None:
    log = []
    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.spawn(boom)
            try:
                await never()
            except Cancelled:
                log.append("swallowed")
            await freerun.yield_now()
            log.append("went on")
            with pytest.raises(RuntimeError, match="shutting down"):
                group.spawn(value, 1)
    assert kinds(caught.value) == [Boom]
    assert log == ["swallowed", "went on"]


@every_flavor
async def test_a_failure_while_the_body_is_over_already() -> None:
    tx, rx = oneshot.channel()

    async def late() -> None:
        await rx
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.spawn(late)
            rest = group.spawn(never)
            tx.send(None)
    assert kinds(caught.value) == [Boom]
    assert await aborted(rest)


# ---- nested ----


@every_flavor
async def test_nested_the_outer_one_fails() -> None:
    tx, rx = oneshot.channel()

    async def crash() -> None:
        await rx
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as outer:
            outer.spawn(crash)
            async with TaskGroup() as inner:
                rest = inner.spawn(never)
                tx.send(None)
    assert kinds(caught.value) == [Boom]
    assert await aborted(rest)


@every_flavor
async def test_nested_the_inner_one_fails() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as outer:
            rest = outer.spawn(never)
            async with TaskGroup() as inner:
                inner.spawn(boom)
    assert kinds(caught.value) == [ExceptionGroup]
    assert kinds(caught.value.exceptions[0]) == [Boom]
    assert await aborted(rest)


@every_flavor
async def test_nested_an_inner_failure_that_is_handled() -> None:
    async with TaskGroup() as outer:
        kept = outer.spawn(value, 5)
        try:
            async with TaskGroup() as inner:
                inner.spawn(boom)
        except* Boom:
            pass
        await freerun.yield_now()  # the outer one is none the worse
        more = outer.spawn(value, 6)
    assert (await kept, await more) == (5, 6)


@every_flavor
async def test_nested_both_fail() -> None:
    """The inner failure is handled; the outer one's cancelling of the body is not lost with it."""
    log = []
    barrier = Barrier(2)

    async def fails(error: Exception) -> None:
        await barrier.wait()
        raise error

    for _ in range(20):
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as outer:
                try:
                    async with TaskGroup() as inner:
                        inner.spawn(fails, ValueError())
                        outer.spawn(fails, Boom())
                        await never()
                except* ValueError:
                    log.append("inner")
                await never()  # cancelled, now or by and by
        assert kinds(caught.value) == [Boom]
        await freerun.yield_now()
    assert set(log) <= {"inner"}  # the inner task may have been aborted before it failed


@every_flavor
async def test_a_context_manager_that_raises_as_it_is_left() -> None:
    @contextlib.asynccontextmanager
    async def database() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            async with database():
                group.spawn(boom)
                await never()
    assert kinds(caught.value) == [Boom, ValueError]


@every_flavor
async def test_nested_in_tasks() -> None:
    async def leaf(depth: int) -> None:
        if depth == 0:
            raise Boom
        async with TaskGroup() as group:
            group.spawn(leaf, depth - 1)
            group.spawn(never)

    with pytest.raises(ExceptionGroup) as caught:
        await leaf(4)
    error: Any = caught.value
    for _ in range(4):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    assert type(error) is Boom


# ---- cancelled from outside ----


@every_flavor
@pytest.mark.parametrize("in_body", [True, False])
async def test_the_parent_is_aborted(in_body: bool) -> None:
    log = []
    inside, entered = oneshot.channel()

    async def child() -> None:
        try:
            await never()
        finally:
            await freerun.yield_now()
            log.append("child")

    async def parent() -> None:
        async with TaskGroup() as group:
            handles = [group.spawn(child) for _ in range(5)]
            await until(lambda: all(map(is_parked, handles)))
            inside.send(None)
            if in_body:
                try:
                    await never()
                finally:
                    log.append("body")
        log.append("not reached")

    handle = freerun.spawn(parent)
    await entered
    await until(lambda: is_parked(handle))
    assert handle.abort()
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == ["body"] * in_body + ["child"] * 5


@every_flavor
async def test_the_parent_is_aborted_in_nested_groups() -> None:
    async def parent() -> None:
        async with TaskGroup() as outer:
            outer.spawn(never)
            async with TaskGroup() as inner:
                for _ in range(5):
                    inner.spawn(never)
                await never()

    handle = freerun.spawn(parent)
    await until(lambda: is_parked(handle))
    handle.abort()
    with pytest.raises(freerun.JoinError):
        await handle


@every_flavor
async def test_the_parent_is_aborted_and_the_body_raises() -> None:
    async def parent() -> None:
        async with TaskGroup():
            try:
                await never()
            except Cancelled:
                raise Boom from None

    handle = freerun.spawn(parent)
    await until(lambda: is_parked(handle))
    handle.abort()
    with pytest.raises(ExceptionGroup) as caught:
        await handle
    assert kinds(caught.value) == [Boom]


@every_flavor
async def test_failures_come_before_an_abort_which_comes_again() -> None:
    """The parent is aborted, and a task's cleanup fails: the failures are raised, the abort is not forgotten."""
    log = []

    async def clumsy() -> None:
        try:
            await never()
        finally:
            raise Boom

    async def parent() -> None:
        try:
            async with TaskGroup() as group:
                group.spawn(clumsy)
                await never()
        except* Boom:
            log.append("failures")
        try:
            await freerun.yield_now()
        except Cancelled:
            log.append("abort")
            raise
        log.append("not reached")

    handle = freerun.spawn(parent)
    await until(lambda: is_parked(handle))
    await freerun.yield_now()
    handle.abort()
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == ["failures", "abort"]


@every_flavor
async def test_failures_come_before_an_outer_scope_which_comes_again() -> None:
    async def clumsy() -> None:
        try:
            await never()
        finally:
            raise Boom

    log = []
    with CancelScope() as scope:
        try:
            async with TaskGroup() as group:
                child = group.spawn(clumsy)
                await until(lambda: is_parked(child))
                scope.cancel()
                await never()
        except* Boom:
            log.append("failures")
        await never()
    assert log == ["failures"]
    assert scope.cancelled_caught
    await freerun.yield_now()  # and that was it

    with CancelScope() as scope:
        try:
            async with TaskGroup() as group:
                child = group.spawn(clumsy)
                await until(lambda: is_parked(child))
                scope.cancel()
                await never()
        except* Boom:
            log.append("again")
    await freerun.yield_now()  # the scope is left: nothing comes any more
    assert log == ["failures", "again"]


@every_flavor
async def test_a_group_in_the_cleanup_of_an_aborted_task() -> None:
    """The abort came before the group: it does not come again."""
    log = []

    async def parent() -> str:
        try:
            await never()
        except Cancelled:
            try:
                async with TaskGroup() as group:
                    group.spawn(boom)
                    await never()
            except* Boom:
                log.append("failures")
            await freerun.yield_now()
            log.append("went on")
        return "swallowed"

    handle = freerun.spawn(parent)
    await until(lambda: is_parked(handle))
    handle.abort()
    assert await handle == "swallowed"
    assert log == ["failures", "went on"]


@every_flavor
async def test_aborted_while_it_waits_for_cleanup() -> None:
    """A task has failed, another one cleans up, and then the parent is aborted: the cleanup is waited for."""
    log = []
    release, released = oneshot.channel()

    async def slow() -> None:
        try:
            await never()
        finally:
            log.append("cleaning")
            await released
            log.append("cleaned")

    async def parent() -> None:
        async with TaskGroup() as group:
            child = group.spawn(slow)
            await until(lambda: is_parked(child))
            group.spawn(boom)

    handle = freerun.spawn(parent)
    await until(lambda: log == ["cleaning"])
    await until(lambda: is_parked(handle))
    assert handle.abort()
    await freerun.yield_now()
    await until(lambda: is_parked(handle))
    assert not handle.is_finished()
    release.send(None)
    with pytest.raises(ExceptionGroup):
        await handle
    assert log == ["cleaning", "cleaned"]


@every_flavor
async def test_in_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with timeout(0.01), TaskGroup() as group:
            inner = group.spawn(never)
    assert await aborted(inner)

    async def body() -> None:
        async with TaskGroup() as group:
            group.spawn(never)

    with pytest.raises(TimeoutError):
        await timeout(0.01, body())
    async with TaskGroup() as group:  # and a timeout in a group
        rest = group.spawn(value, 1)
        with pytest.raises(TimeoutError):
            async with timeout(0.005):
                await never()
    assert await rest == 1


# ---- cancel() ----


@every_flavor
async def test_cancel() -> None:
    log = []
    async with TaskGroup() as group:
        child = group.spawn(never)
        group.cancel()
        with pytest.raises(RuntimeError, match="shutting down"):
            group.spawn(value, 1)
        try:
            await never()
        finally:
            log.append("body")
    assert log == ["body"]
    assert await aborted(child)
    await freerun.yield_now()

    async with TaskGroup() as group:  # by a task, while the body waits for it at its end
        child = group.spawn(never)

        async def stop(group: TaskGroup = group) -> None:
            group.cancel()

        group.spawn(stop)
    assert await aborted(child)
    with pytest.raises(ExceptionGroup) as caught:  # failures are raised all the same
        async with TaskGroup() as group:
            group.cancel()
            raise Boom
    assert kinds(caught.value) == [Boom]


@every_flavor
async def test_cancel_and_spawn_from_threads() -> None:
    started = []

    async def child() -> None:
        started.append(None)
        await never()

    refused = []

    def work(i: int) -> None:
        while True:
            try:
                group.spawn(child)
            except RuntimeError as error:
                refused.append(str(error))
                return
            if i == 0 and len(started) > 20:
                group.cancel()

    async with TaskGroup() as group:
        with in_threads(3, work):
            with pytest.raises(Cancelled):
                while True:
                    await sleep(0.001)
        assert len(refused) == 3
    assert {"shutting down" in each or "finished" in each for each in refused} == {True}


# ---- KeyboardInterrupt, SystemExit ----


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_fatal_ones_of_the_body_are_raised_as_they_are(flavor: Flavor, kind: type[BaseException]) -> None:
    log = []

    async def child() -> None:
        try:
            await never()
        finally:
            log.append("child")

    async def main() -> None:
        try:
            async with TaskGroup() as group:
                handle = group.spawn(child)
                await until(lambda: is_parked(handle))
                group.spawn(boom)
                try:
                    await never()
                finally:
                    raise kind("now")
        except kind:
            log.append(kind.__name__)
            raise

    with flavor.builder().build() as rt, pytest.raises(kind, match="now"):
        rt.block_on(main)
    assert log == ["child", kind.__name__]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_fatal_ones_of_a_task_are_raised_as_they_are(flavor: Flavor, kind: type[BaseException]) -> None:
    seen = []

    async def main() -> None:
        try:
            async with TaskGroup() as group:
                group.spawn(boom, kind("task"))
                group.spawn(never)
                await never()
        except BaseException as error:
            seen.append(type(error))
            raise

    with flavor.builder().build() as rt, pytest.raises(kind, match="task"):
        rt.block_on(main)
    assert seen == [kind]


# ---- used in the wrong way ----


@every_flavor
async def test_not_entered_entered_twice_and_finished() -> None:
    group = TaskGroup()
    coro = value(1)
    with pytest.raises(RuntimeError, match="has not been entered"):
        group.spawn(coro)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await coro  # it was closed
    async with group:
        with pytest.raises(RuntimeError, match="entered before"):
            async with group:
                pass
    with pytest.raises(RuntimeError, match="is finished"):
        group.spawn(value, 1)
    with pytest.raises(RuntimeError, match="entered before"):
        async with group:
            pass
    with pytest.raises(TypeError):
        TaskGroup(1)  # type: ignore[call-arg]
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="argument 'coro'"):
            group.spawn(1)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            group.spawn()  # type: ignore[call-overload]


def test_outside_a_task(rt: freerun.Runtime) -> None:
    group = TaskGroup()
    with rt:
        step = group.__aenter__()
        with pytest.raises(RuntimeError):
            step.send(None)


@every_flavor
async def test_closed_by_hand() -> None:
    """A coroutine that is closed aborts the tasks and does not wait."""

    async def body() -> None:
        async with TaskGroup() as group:
            kept.append(group.spawn(never))
            await never()

    kept: list[Any] = []

    async def drive() -> None:
        coro = body()
        coro.send(None)
        coro.close()

    await freerun.spawn(drive)
    await until(kept[0].is_finished)
    assert await aborted(kept[0])


@every_flavor
async def test_dropped() -> None:
    """A group that nobody leaves any more."""
    group = TaskGroup()
    await group.__aenter__()
    child = group.spawn(never)
    await until(lambda: is_parked(child))
    del group
    gc.collect()
    await until(child.is_finished)
    assert await aborted(child)


# ---- what stays behind ----


@only(CURRENT)
@every_flavor
async def test_no_reference_cycles() -> None:
    """As CPython's test_exception_refcycles_*: what was raised dies with its handler, without the collector."""

    class Payload:
        pass

    async def fails(payload: Payload) -> None:
        raise Boom(payload)

    async def child_fails() -> None:
        payload = Payload()
        refs.append(weakref.ref(payload))
        async with TaskGroup() as group:
            group.spawn(fails(payload))
            del payload

    async def body_fails() -> None:
        async with TaskGroup():
            payload = Payload()
            refs.append(weakref.ref(payload))
            raise Boom(payload)

    async def both_fail() -> None:
        async with TaskGroup() as group:
            payload = Payload()
            refs.append(weakref.ref(payload))
            group.spawn(fails(payload))
            try:
                await never()
            finally:
                raise Boom(payload)

    async def cancelled() -> None:
        payload = Payload()
        refs.append(weakref.ref(payload))
        async with TaskGroup() as group:
            group.spawn(never)
            await never()
            del payload

    async def interrupted() -> None:
        async with TaskGroup() as group:
            group.spawn(never)
            payload = Payload()
            refs.append(weakref.ref(payload))
            raise KeyboardInterrupt(payload)

    refs: list[weakref.ref[Payload]] = []
    gc.collect()
    gc.disable()
    try:
        for make in (child_fails, body_fails, both_fail):
            try:
                await make()
            except* Boom:
                pass
            await freerun.yield_now()  # the poll that has thrown Cancelled in is over
            assert refs[-1]() is None, make.__name__
        handle = freerun.spawn(cancelled)
        await until(lambda: is_parked(handle))
        handle.abort()
        with pytest.raises(freerun.JoinError):
            await handle
        assert refs[-1]() is None
        try:
            await interrupted()
        except KeyboardInterrupt:
            pass
        await freerun.yield_now()
        assert refs[-1]() is None
    finally:
        gc.enable()


@every_flavor
async def test_nothing_stays_behind() -> None:
    class Payload:
        pass

    async def work(payload: Payload) -> Payload:
        await freerun.yield_now()
        raise Boom(payload)

    refs = []
    for _ in range(10):
        payload = Payload()
        refs.append(weakref.ref(payload))
        try:
            async with TaskGroup() as group:
                group.spawn(work, payload)
                refs.append(weakref.ref(group))  # type: ignore[arg-type]
                await never()
        except* Boom:
            pass
    del payload, group
    await until(lambda: all(map(is_freed, refs)))


# ---- shutdown ----


def test_shutdown_with_groups_in_flight(flavor: Flavor) -> None:
    log = []
    children: list[Any] = []

    async def child() -> None:
        try:
            await never()
        finally:
            await freerun.yield_now()
            log.append("child")

    async def parent() -> None:
        try:
            async with TaskGroup() as outer:
                children.append(outer.spawn(child))
                async with TaskGroup() as inner:
                    children.append(inner.spawn(child))
        finally:
            log.append("parent")

    rt = flavor.builder().build()
    parents = [rt.spawn(parent) for _ in range(10)]
    rt.block_on(until, lambda: len(children) == 20 and all(map(is_parked, children + parents)))
    rt.shutdown()
    assert sorted(log) == ["child"] * 20 + ["parent"] * 10
    assert all(handle.is_finished() for handle in parents)


def test_shutdown_closes_what_does_not_end(flavor: Flavor) -> None:
    """The deadline passes while a group waits for a task that will not end: both are closed."""
    log = []

    async def stubborn() -> None:
        while True:
            try:
                await never()
            except Cancelled:
                pass
            finally:
                log.append("stubborn")

    async def parent() -> None:
        try:
            async with TaskGroup() as group:
                group.spawn(stubborn)
        finally:
            log.append("parent")

    rt = flavor.builder().build()
    handle = rt.spawn(parent)
    rt.block_on(until, lambda: is_parked(handle))
    rt.shutdown(0.05)
    assert handle.is_finished()
    assert "parent" in log


@pytest.mark.parametrize("flavor_name", ["current_thread", "multi_thread"])
def test_interpreter_exit_with_groups_in_flight(flavor_name: str) -> None:
    out = check_script(
        """
        import sys
        import freerun
        from freerun.lowlevel import park

        async def never():
            while True:
                await park()

        async def parent():
            try:
                async with freerun.TaskGroup() as group:
                    group.spawn(never)
                    async with freerun.JoinSet() as tasks:
                        tasks.spawn(never)
                        try:
                            await tasks.join_next()
                        except freerun.JoinError:
                            pass  # the shutdown may come to the child first
            finally:
                print("left", flush=True)

        make = freerun.Builder.new_multi_thread if sys.argv[1] == "multi_thread" else freerun.Builder.new_current_thread
        rt = make().build()
        handle = rt.spawn(parent)

        async def wait():
            while "waiting" not in repr(handle):
                await freerun.time.sleep(0.001)

        rt.block_on(wait)
        """,
        flavor_name,
    )
    assert out == "left\n"


# ---- load ----


@every_flavor
async def test_a_thousand_children() -> None:
    async with TaskGroup() as group:
        handles = [group.spawn(value, n) for n in range(1000)]
    assert sum([await handle for handle in handles]) == sum(range(1000))
    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            handles = [group.spawn(never) for _ in range(1000)]
            group.spawn(boom)
    assert kinds(caught.value) == [Boom]
    assert all(handle.is_finished() for handle in handles)


@every_flavor
async def test_hydra() -> None:
    heads = 0

    async def hydra(group: TaskGroup) -> None:
        nonlocal heads
        heads += 1
        await freerun.yield_now()
        group.spawn(hydra, group)
        if heads < 1000:
            group.spawn(hydra, group)

    async def hercules() -> None:
        while heads < 100:
            await freerun.yield_now()
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.spawn(hydra, group)
            group.spawn(hercules)
    assert {Boom} <= set(kinds(caught.value)) <= {Boom, RuntimeError}  # a head that spawned too late
    assert group._count() == 0
