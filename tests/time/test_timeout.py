"""`await timeout(s, aw)`: polled in the same task, a value that is ready wins, cleanup is waited for."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import math
import threading
import types
import warnings
from collections.abc import Generator
from typing import Any

import pytest
from support import Flavor, every_flavor, is_parked, until

import freerun
from freerun import Cancelled
from freerun.lowlevel import park
from freerun.sync import oneshot
from freerun.time import Instant, advance, pause, sleep, timeout, timeout_at


async def value(result: Any) -> Any:
    return result


async def never() -> None:
    while True:
        await park()


class Ready:
    """An awaitable whose iterator is a plain one: it has no throw() and no close()."""

    def __init__(self, tokens: list[Any]) -> None:
        self.tokens = iter(tokens)

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Ready:
        return self

    def __next__(self) -> Any:
        return next(self.tokens)


@every_flavor
async def test_result() -> None:
    """Whatever can be awaited, and an async function with its arguments; any result."""
    marker = object()
    for result in (marker, None, (1, 2), StopIteration(3), (), 0):
        assert await timeout(10, value(result)) is result
        assert await timeout(10, value, result) is result
        assert await timeout_at(Instant.now() + 10, value(result)) is result
        assert await timeout_at(Instant.now() + 10, value, result) is result
    assert await timeout(10, freerun.spawn(value, 5)) == 5
    assert await timeout(10, sleep(0.001)) is None
    assert await timeout(10, freerun.yield_now()) is None
    assert await timeout(10, timeout(10, timeout(10, value(6)))) == 6
    assert await timeout(10, Ready([])) is None
    assert await timeout(dt.timedelta(seconds=10), value(7)) == 7
    tx, rx = oneshot.channel()
    tx.send(8)
    assert await timeout(10, rx) == 8


@types.coroutine
def old_style() -> Generator[Any, Any, int]:
    yield from sleep(0.001).__await__()
    return 9


@every_flavor
async def test_generator_based_coroutine() -> None:
    assert await timeout(10, old_style()) == 9
    assert await timeout(10, old_style) == 9


@every_flavor
async def test_error() -> None:
    """The awaited's own exception comes out, before and after it has waited, `TimeoutError` and `Cancelled` too."""

    async def fails(error: BaseException, waits: bool) -> None:
        if waits:
            await sleep(0.001)
        raise error

    for waits in (False, True):
        for error in (
            KeyError("x"),
            TimeoutError("its own"),
            Cancelled("its own"),
            GeneratorExit(),
            StopAsyncIteration(),
        ):
            with pytest.raises(type(error)) as caught:
                await timeout(10, fails, error, waits)
            assert caught.value is error


@every_flavor
async def test_expires() -> None:
    start = Instant.now()
    with pytest.raises(TimeoutError, match=r"^not done within 0\.01 s$") as caught:
        await timeout(0.01, never())
    assert start.elapsed() >= 0.01
    assert type(caught.value) is TimeoutError
    assert isinstance(caught.value.__cause__, Cancelled)
    with pytest.raises(TimeoutError, match="the deadline has passed"):
        await timeout_at(Instant.now() + 0.005, never)
    await sleep(0)  # the task is none the worse


@every_flavor
async def test_same_task() -> None:
    """Nothing is spawned: context variables and the current task are the caller's."""
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)

    async def look() -> int:
        variable.set(1)
        await sleep(0.001)
        return freerun.task.current().id

    assert await timeout(10, look()) == freerun.task.current().id
    assert variable.get() == 1


@every_flavor
async def test_zero_lets_it_run_once() -> None:
    for limit in (timeout(0, value(1)), timeout_at(Instant.now(), value(1)), timeout_at(Instant(-5), value(1))):
        assert await limit == 1
    seen: list[str] = []

    async def waits() -> None:
        seen.append("ran")
        try:
            await freerun.yield_now()
        finally:
            seen.append("cancelled")
        raise AssertionError("it had no second turn")

    for limit in (timeout(0, waits()), timeout_at(Instant.now(), waits()), timeout_at(Instant.now() - 1000, waits())):
        with pytest.raises(TimeoutError):
            await limit
    assert seen == ["ran", "cancelled"] * 3


@every_flavor
async def test_the_time_counts_from_the_await() -> None:
    later = timeout(0.02, sleep(0.001))
    await sleep(0.03)
    await later


@every_flavor
async def test_computing_before_the_first_wait_counts() -> None:
    import time

    async def computes() -> None:
        time.sleep(0.04)
        await freerun.yield_now()

    with pytest.raises(TimeoutError):
        await timeout(0.01, computes())


@freerun.test(start_paused=True)
async def test_paused_clock() -> None:
    start = Instant.now()
    with pytest.raises(TimeoutError):
        await timeout(3600, never())
    assert 3600 <= start.elapsed() <= 3600.001
    assert await timeout(1, sleep(0.5)) is None
    with pytest.raises(TimeoutError):
        await timeout(0.5, sleep(1))
    start = Instant.now()
    assert await timeout(1_000_000, value(1)) == 1
    assert start.elapsed() == 0, "a limit that is not reached moves no clock"


@freerun.test(start_paused=True)
async def test_a_wake_up_before_the_deadline() -> None:
    tx, rx = oneshot.channel()
    limited = freerun.spawn(timeout(0.1, rx))
    await freerun.yield_now()
    await advance(0.09)
    assert not limited.is_finished()
    tx.send("in time")
    assert await limited == "in time"
    _tx, rx = oneshot.channel()
    limited = freerun.spawn(timeout(0.3, rx))
    await freerun.yield_now()
    await advance(0.301)
    with pytest.raises(TimeoutError):
        await limited


@freerun.test(start_paused=True)
async def test_a_value_that_is_ready_wins() -> None:
    """Both the value and the deadline are there when the task runs again."""
    tx, rx = oneshot.channel()
    limited = freerun.spawn(timeout(1, rx))
    await freerun.yield_now()
    tx.send(1)
    freerun.time.resume()
    pause()
    await advance(2)
    assert await limited == 1


@pytest.mark.parametrize("seconds", [1e9, 1e18, 1e300, math.inf, dt.timedelta.max], ids=repr)
def test_huge(rt: freerun.Runtime, seconds: Any) -> None:
    async def main() -> None:
        task = freerun.spawn(timeout(seconds, never()))
        await until(lambda: is_parked(task))
        await sleep(0.002)
        assert not task.is_finished()
        task.abort()
        with pytest.raises(freerun.JoinError):
            await task
        assert await timeout(seconds, sleep(0.001)) is None
        assert await timeout_at(Instant.now() + 1e30, sleep(0.001)) is None

    rt.block_on(main)


@pytest.mark.parametrize(("bad", "error"), [
    (-1, ValueError), (-1e-9, ValueError), (math.nan, ValueError), (-math.inf, ValueError),
    (dt.timedelta(seconds=-1), ValueError), ("1", TypeError), (None, TypeError), (True, TypeError), (1j, TypeError),
], ids=repr)  # fmt: skip
def test_bad_durations(bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="argument 'seconds'"):
        timeout(bad)
    with pytest.raises(error, match="argument 'seconds'"):
        timeout(bad, sleep(1))


@pytest.mark.parametrize("bad", [1, "x", [], int, lambda: 5], ids=lambda bad: type(bad).__name__)
def test_bad_awaitables(bad: Any) -> None:
    with pytest.raises(TypeError, match="argument 'awaitable'"):
        timeout(1, bad)
    with pytest.raises(TypeError, match="argument 'awaitable'"):
        timeout_at(Instant.now(), bad)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="'seconds'"):
        timeout()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="'deadline' must be a freerun.time.Instant, not float"):
        timeout_at(1.5, sleep(1))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="'args'"):
        timeout(1, sleep(1), 5)  # type: ignore[call-overload]

    async def numbers() -> Any:
        yield 1

    with pytest.raises(TypeError, match="async[_ ]generator"):
        timeout(1, numbers())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="async[_ ]generator"):
        timeout(1, numbers)
    with pytest.raises(ZeroDivisionError):
        timeout(1, lambda: 1 / 0)  # type: ignore[arg-type,return-value]


def test_outside_a_task() -> None:
    coro = value(1)
    with pytest.raises(RuntimeError, match="inside a freerun task only"):
        asyncio.run(awaits(timeout(1, coro)))
    coro.close()


async def awaits(what: Any) -> Any:
    return await what


def test_without_timers(flavor: Flavor) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="enable_time"):
            await timeout(1, value(1))
        with pytest.raises(RuntimeError, match="enable_time"):
            async with timeout(1):
                pass
        await freerun.yield_now()

    with flavor.builder().enable_io().build() as rt:
        rt.block_on(main)


def test_dropped_unawaited() -> None:
    """As with any coroutine that was never awaited, Python says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        timeout(1, value(1))
        gc.collect()
    assert ["never awaited" in str(each.message) for each in caught] == [True]


@every_flavor
async def test_cleanup_may_await() -> None:
    """The awaited is waited for, however long its cleanup takes; it is cancelled once."""
    log: list[str] = []

    async def body() -> None:
        try:
            await never()
        except Cancelled:
            for _ in range(3):
                await sleep(0.005)  # beyond the limit
                log.append("cleanup")
            raise

    with pytest.raises(TimeoutError):
        await timeout(0.005, body())
    assert log == ["cleanup"] * 3


@every_flavor
async def test_what_cleanup_ends_with_decides() -> None:
    async def swallows() -> str:
        try:
            await never()
        except Cancelled:
            await sleep(0.001)
        return "a value after all"

    async def fails() -> None:
        try:
            await never()
        finally:
            raise KeyError("cleanup failed")

    assert await timeout(0.002, swallows()) == "a value after all"
    with pytest.raises(KeyError, match="cleanup failed"):
        await timeout(0.002, fails())


@every_flavor
async def test_a_busy_body_is_interrupted() -> None:
    """It never waits for anything; it only gives way, or spends its budget."""

    async def yields() -> None:
        while True:
            await freerun.yield_now()

    async def spends() -> None:
        while True:
            await freerun.task.consume_budget()

    for body in (yields, spends):
        with pytest.raises(TimeoutError):
            await timeout(0.005, body)


@every_flavor
async def test_a_spent_budget_is_no_wait() -> None:
    """What was ready, but had to give way first, is ready in time; but only once."""

    async def spends(count: int) -> str:
        import time

        turn = time.monotonic() + 0.002
        while time.monotonic() < turn:
            pass
        for _ in range(count):
            await freerun.task.consume_budget()
        return "ready"

    await freerun.yield_now()
    assert await timeout(0, spends(1)) == "ready"

    async def computes_for_ever() -> None:
        while True:
            await spends(1)

    with pytest.raises(TimeoutError):
        await timeout(0.005, computes_for_ever())


@every_flavor
async def test_plain_iterators() -> None:
    """One that has no throw() just ends."""
    with pytest.raises(TimeoutError):
        await timeout(0.002, Endless())

    async def aborted() -> None:
        await timeout(10, Endless())

    task = freerun.spawn(aborted)
    await until(lambda: is_parked(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task


class Endless:
    def __await__(self) -> Any:
        return EndlessIterator()


class EndlessIterator:
    def __iter__(self) -> EndlessIterator:
        return self

    def __next__(self) -> Any:
        return next(iter(park().__await__()))


@every_flavor
async def test_foreign_tokens() -> None:
    """A foreign awaitable is refused inside of a timeout as everywhere, and the limit stays."""

    class Foreign:
        def __await__(self) -> Any:
            yield "token of another loop"

    async def goes_on() -> str:
        with pytest.raises(TypeError, match="another event loop"):
            await Foreign()
        await never()
        return "never"

    with pytest.raises(TypeError, match="another event loop"):
        await timeout(10, Foreign())
    with pytest.raises(TimeoutError):
        await timeout(0.005, goes_on())


@every_flavor
async def test_no_iterator() -> None:
    class Wrong:
        def __await__(self) -> Any:
            return 5

    class Broken:
        def __await__(self) -> Any:
            raise ZeroDivisionError

    with pytest.raises(TypeError, match="no iterator"):
        await timeout(1, Wrong())
    with pytest.raises(ZeroDivisionError):
        await timeout(1, Broken())


@every_flavor
async def test_awaited_twice() -> None:
    once = timeout(1, value(1))
    assert await once == 1
    with pytest.raises(RuntimeError, match="awaited already"):
        await once


@freerun.test(start_paused=True)
async def test_abort_is_passed_on_and_takes_the_limit_away() -> None:
    log: list[str] = []

    async def body() -> None:
        try:
            await never()
        finally:
            await sleep(0.03)  # longer than the limit
            log.append("cleaned up")

    task = freerun.spawn(timeout(0.02, body()))
    await freerun.yield_now()
    task.abort()
    with pytest.raises(freerun.JoinError) as caught:
        await task
    assert caught.value.is_cancelled()
    assert log == ["cleaned up"]


@every_flavor
async def test_abort_during_cleanup() -> None:
    """The time was up, then comes an abort: the abort it is."""
    log: list[str] = []

    async def body() -> None:
        try:
            await never()
        except Cancelled:
            log.append("timeout")
            await never()

    async def outer() -> None:
        try:
            await timeout(0.002, body())
        except TimeoutError:
            log.append("TimeoutError")

    task = freerun.spawn(outer)
    await until(lambda: log and is_parked(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert log == ["timeout"]


@every_flavor
async def test_moved_to_another_task() -> None:
    """It is awaited in one task, which ends, then in another: the deadline stays."""
    limited = timeout(0.02, sleep(3600))

    async def polls_once() -> None:
        iterator: Any = limited.__await__()
        next(iterator)

    start = Instant.now()
    await freerun.spawn(polls_once)
    with pytest.raises(TimeoutError):
        await freerun.spawn(awaits, limited)
    assert start.elapsed() >= 0.02


@every_flavor
async def test_moved_in_time() -> None:
    limited = timeout(3600, sleep(0.01))

    async def polls_once() -> None:
        iterator: Any = limited.__await__()
        next(iterator)

    await freerun.spawn(polls_once)
    await freerun.spawn(awaits, limited)


@every_flavor
async def test_two_tasks_await_one() -> None:
    """The second one is refused, the first is none the worse."""
    limited = timeout(0.05, sleep(3600))
    first = freerun.spawn(awaits, limited)
    await until(lambda: is_parked(first))
    with pytest.raises(RuntimeError, match="another task is awaiting this very object"):
        await freerun.spawn(awaits, limited)
    with pytest.raises(TimeoutError):
        await first


@every_flavor
async def test_a_coroutine_that_somebody_else_runs() -> None:
    coro = never()
    task = freerun.spawn(coro)
    await until(lambda: is_parked(task))
    with pytest.raises(RuntimeError, match="runs already"):
        await timeout(1, coro)
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task

    go = freerun.sync.Notify()

    async def body() -> None:
        await go.notified()

    shared = body()
    limited = freerun.spawn(timeout(3600, shared))
    await until(lambda: is_parked(limited))
    for other in (freerun.spawn(awaits, timeout(1, shared)),):
        with pytest.raises(RuntimeError, match=r"runs already|being awaited already"):
            await other
    go.notify_one()
    await limited
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await timeout(1, shared)

    coro = never()
    waiting = freerun.spawn(awaits, coro)
    await until(lambda: is_parked(waiting))
    with pytest.raises(RuntimeError, match="being awaited already"):
        await timeout(1, coro)
    waiting.abort()
    with pytest.raises(freerun.JoinError):
        await waiting


@every_flavor
async def test_by_hand() -> None:
    """throw() and close(), as a coroutine that awaits it calls them."""
    unstarted: Any = timeout(1, value(1))
    with pytest.raises(KeyError):
        unstarted.throw(KeyError())
    with pytest.raises(RuntimeError, match="awaited already"):
        await unstarted
    closed: Any = timeout(1, value(1))
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="awaited already"):
        await closed

    async def stubborn() -> str:
        try:
            await never()
        except KeyError:
            await sleep(0.002)
            return "caught"
        return "never"

    async def throws(limited: Any) -> str:
        next(limited)
        limited.throw(KeyError())
        return await limited

    assert await throws(timeout(10, stubborn())) == "caught"


@every_flavor
async def test_closed_with_its_coroutine() -> None:
    log: list[str] = []

    async def body() -> None:
        try:
            await never()
        except GeneratorExit:
            log.append("closed")
            raise

    async def outer() -> None:
        await timeout(10, body())

    async def polls_once_and_closes() -> None:
        coro = outer()
        coro.send(None)
        coro.close()

    await freerun.spawn(polls_once_and_closes)
    assert log == ["closed"]


def test_closed_by_the_shutdown(flavor: Flavor) -> None:
    """A body that does not end when it is cancelled is closed, the timeout with it."""
    log: list[str] = []

    async def stubborn() -> None:
        try:
            while True:
                try:
                    await never()
                except Cancelled:
                    log.append("cancelled")
        finally:
            log.append("closed")

    rt = flavor.builder().build()
    task = rt.spawn(timeout(3600, stubborn()))

    async def main() -> None:
        await until(lambda: is_parked(task))

    rt.block_on(main)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says what held it up
        rt.shutdown(timeout=0.05)
    assert log == ["cancelled", "closed"]


@every_flavor
async def test_outlives_its_runtime() -> None:
    kept: list[Any] = []

    async def body() -> None:
        kept.append(limited)
        await limited

    def other_runtime() -> None:
        with freerun.Builder().worker_threads(1).build() as rt:
            task = rt.spawn(body)
            while not is_parked(task):
                threading.Event().wait(0.0005)

    limited = timeout(3600, never())
    await freerun.spawn_blocking(other_runtime)
    kept.clear()
    del limited
    await sleep(0.001)


@every_flavor
async def test_thousands_at_once() -> None:
    async def one(n: int) -> bool:
        try:
            await timeout(0.005 if n % 2 else 60, sleep(60 if n % 2 else 0.005))
        except TimeoutError:
            return True
        return False

    tasks = [freerun.spawn(one, n) for n in range(2000)]
    assert [await task for task in tasks] == [bool(n % 2) for n in range(2000)]


@every_flavor
async def test_race_of_value_and_deadline() -> None:
    """Whichever comes first: the value is either received or still there."""

    async def race() -> None:
        for n in range(25):
            tx, rx = oneshot.channel()
            limited = freerun.spawn(timeout(0.002, rx))
            await sleep(0.001 if n % 2 else 0.002)
            tx.send(n)
            try:
                assert await limited == n
            except TimeoutError:
                assert rx.try_recv() == n

    await freerun.join(*[race() for _ in range(4)])


@every_flavor
async def test_race_of_abort_and_deadline() -> None:
    """The task ends aborted or with the TimeoutError, and its body got what it got once."""

    async def race() -> None:
        log: list[str] = []

        async def body() -> None:
            log.append("begin")
            try:
                await never()
            finally:
                log.append("end")

        task = freerun.spawn(timeout(0.002, body()))
        while not log:  # a task that is aborted before it begins never runs
            await freerun.yield_now()
        await sleep(0.002)
        first = task.abort()
        try:
            await task
        except TimeoutError:
            pass
        except freerun.JoinError as error:
            assert first
            assert error.is_cancelled()
        else:
            raise AssertionError("it never ends by itself")
        assert log == ["begin", "end"]

    for _ in range(15):
        await freerun.join(*[race() for _ in range(4)])


def test_deep_nesting_is_no_crash(rt: freerun.Runtime) -> None:
    async def main() -> None:
        deep: Any = value(1)
        for _ in range(50):
            deep = timeout(10, deep)
        assert await deep == 1
        coro = value(1)
        deep = coro
        for _ in range(100_000):
            deep = timeout(10, deep)
        with pytest.raises(RecursionError):
            await deep
        del deep
        coro.close()

    rt.block_on(main)


@every_flavor
async def test_dump_shows_what_is_awaited(rt: freerun.Runtime) -> None:
    async def innermost() -> None:
        await never()

    task = freerun.spawn(timeout(60, timeout(60, innermost())))
    await until(lambda: is_parked(task))
    assert "innermost" in rt.handle().dump_tasks()
    task.abort()


@every_flavor
async def test_cycles_are_collected() -> None:
    """A timeout that its own body refers to is freed by the collector, and its timer with it."""
    import weakref

    class Marker:
        pass

    async def body(box: list[Any], marker: Marker) -> None:
        await never()

    async def polls_once() -> weakref.ref[Marker]:
        box: list[Any] = []
        marker = Marker()
        box.append(timeout(3600, body(box, marker)))
        next(box[0].__await__())
        return weakref.ref(marker)

    ref = await freerun.spawn(polls_once)
    await until(lambda: gc.collect() >= 0 and ref() is None)
