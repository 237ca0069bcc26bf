"""`select`: the first of several, polled in one task; the others are cancelled and awaited."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest
from conftest import Reports
from support import CURRENT, every_flavor, only, run_script, until

import freerun
from freerun import Cancelled
from freerun.sync import oneshot
from freerun.time import sleep


class BoomError(Exception):
    """What branches fail with."""


async def value(n: Any) -> Any:
    return n


async def later(n: Any, yields: int = 1) -> Any:
    for _ in range(yields):
        await freerun.yield_now()
    return n


async def fail(error: BaseException, yields: int = 0) -> Any:
    for _ in range(yields):
        await freerun.yield_now()
    raise error


async def forever() -> None:
    await sleep(3600)


@every_flavor
async def test_the_first_wins() -> None:
    assert await freerun.select(sleep(3600), sleep(0.001)) == (1, None)
    assert await freerun.select(forever(), later("b", 3), forever()) == (1, "b")
    assert await freerun.select(value(1)) == (0, 1)


@every_flavor
async def test_names() -> None:
    assert await freerun.select(a=value(5)) == ("a", 5)
    assert await freerun.select(slow=forever(), fast=later(2)) == ("fast", 2)
    assert await freerun.select(slow=forever(), fast=later(2), biased=True) == ("fast", 2)
    many = {f"branch_{i}": forever() for i in range(40)}
    assert await freerun.select(**many, quick=later(3)) == ("quick", 3)


@every_flavor
async def test_every_kind_of_awaitable() -> None:
    tx, rx = oneshot.channel()
    tx.send("one")
    assert await freerun.select(forever(), rx) == (1, "one")
    assert await freerun.select(forever, freerun.spawn(value, "task")) == (1, "task")
    assert await freerun.select(forever, freerun.yield_now()) == (1, None)
    assert await freerun.select(forever, freerun.yield_now(), freerun.yield_now(), biased=True) == (1, None)
    mutex = freerun.sync.Mutex(7)
    which, guard = await freerun.select(forever, mutex.lock())
    assert (which, guard.value) == (1, 7)
    guard.release()
    assert await freerun.select(forever, freerun.time.timeout(60, later(4))) == (1, 4)
    assert await freerun.select(forever, freerun.select(forever, later(5))) == (1, (1, 5))
    assert await freerun.select(forever, freerun.join(later(6), later(7))) == (1, (6, 7))


@every_flavor
async def test_a_branch_that_is_done_already() -> None:
    """It wins without waiting; what comes after it in a biased select is not even started."""
    started: list[int] = []

    async def other() -> None:
        started.append(1)

    handle = freerun.spawn(value, 1)
    await until(handle.is_finished)
    assert await freerun.select(handle, other(), biased=True) == (0, 1)
    assert started == []


@every_flavor
async def test_losers_are_cancelled_and_awaited() -> None:
    log: list[str] = []

    async def loser(name: str) -> None:
        try:
            await forever()
        except Cancelled:
            log.append(f"{name} cancelled")
            await later(None, 3)
            await sleep(0.001)
            log.append(f"{name} clean")
            raise

    assert await freerun.select(loser("a"), later("won", 2), loser("c")) == (1, "won")
    assert sorted(log) == ["a cancelled", "a clean", "c cancelled", "c clean"]


@every_flavor
async def test_a_loser_that_swallows_cancelled_is_waited_for() -> None:
    """Its value is dropped, and the winner's stands."""
    log: list[int] = []

    async def stubborn() -> str:
        try:
            await forever()
        except Cancelled:
            log.append(1)
        await sleep(0.001)
        log.append(2)
        return "late"

    assert await freerun.select(stubborn(), later("won"), biased=True) == (1, "won")
    assert log == [1, 2]


@every_flavor
async def test_a_loser_that_fails_is_reported(reports: Reports) -> None:
    """The winner's result stands, and the failure is not lost."""

    async def fails() -> None:
        try:
            await forever()
        finally:
            await later(None)
            raise BoomError("in cleanup")

    assert await freerun.select(fails(), later("won"), biased=True) == (1, "won")
    assert len(reports) == 1
    assert "failed" in reports.messages[0]
    assert isinstance(reports[0].exc_info[1], BoomError)  # type: ignore[index]


@only(CURRENT)
def test_the_policy_hears_of_it(flavor: Any) -> None:
    heard: list[tuple[BaseException, str | None]] = []
    builder = flavor.builder().unhandled_exception(lambda error, task: heard.append((error, task.name)))

    async def fails() -> None:
        try:
            await forever()
        finally:
            raise BoomError

    async def main() -> Any:
        return await freerun.select(fails, later("won"), biased=True)

    async def outer() -> Any:
        return await freerun.spawn(main, name="me")

    with builder.build() as rt:
        assert rt.block_on(outer) == (1, "won")
    assert [(type(error), name) for error, name in heard] == [(BoomError, "me")]


@every_flavor
async def test_an_exception_is_a_result(reports: Reports) -> None:
    """The losers are cancelled and awaited before it is raised; what they raise is reported."""
    log: list[str] = []

    async def loser() -> None:
        try:
            await forever()
        finally:
            await later(None)
            log.append("clean")
            raise ValueError("too")

    with pytest.raises(BoomError, match="first"):
        await freerun.select(loser(), fail(BoomError("first"), 1), biased=True)
    assert log == ["clean"]
    assert [type(each.exc_info[1]) for each in reports] == [ValueError]  # type: ignore[index]


@every_flavor
async def test_the_start_is_random() -> None:
    winners = Counter([(await freerun.select(value(0), value(1), value(2)))[0] for _ in range(600)])
    assert set(winners) == {0, 1, 2}
    assert min(winners.values()) > 100  # 200 expected; one in 10 ** 17 fails


@every_flavor
async def test_biased() -> None:
    for _ in range(50):
        assert (await freerun.select(value(0), value(1), value(2), biased=True))[0] == 0
        assert (await freerun.select(later(0), later(1), later(2), biased=True))[0] == 0


@every_flavor
async def test_biased_looks_in_order_at_what_was_woken_together() -> None:
    channels = [oneshot.channel() for _ in range(5)]

    async def send() -> None:
        for tx, _ in reversed(channels):
            tx.send(None)

    freerun.spawn(send)
    which, _ = await freerun.select(*[rx for _, rx in channels], biased=True)
    assert which in range(5)
    # Woken by this very task, all of them are there when it looks.
    channels = [oneshot.channel() for _ in range(5)]

    async def wake_all() -> None:
        for tx, _ in reversed(channels):
            tx.send(None)
        await forever()

    which, _ = await freerun.select(*[rx for _, rx in channels], wake_all(), biased=True)
    assert which == 0


@every_flavor
async def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"select\(\) needs at least one branch"):
        freerun.select()
    with pytest.raises(ValueError, match=r"select\(\) needs at least one branch"):
        freerun.select(biased=True)
    with pytest.raises(TypeError, match="'biased' must be a bool, not int"):
        freerun.select(freerun.yield_now(), biased=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="by position or by name, not both"):
        freerun.select(freerun.yield_now(), a=freerun.yield_now())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="'branch 1' must be a coroutine, another awaitable or an async function"):
        freerun.select(freerun.yield_now(), 5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="'late' must be .* not NoneType"):
        freerun.select(late=None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="calling .* returned int"):
        freerun.select(lambda: 5)  # type: ignore[call-overload]


@every_flavor
async def test_the_same_awaitable_twice() -> None:
    """Nothing has run by then."""
    ran: list[int] = []

    async def runs() -> None:
        ran.append(1)

    coro = runs()
    with pytest.raises(ValueError, match=r"branches 0 and 2 of select\(\) are the same awaitable"):
        await freerun.select(coro, runs(), coro)
    await coro
    assert ran == [1]
    leaf = sleep(60)
    with pytest.raises(ValueError, match="branches 'a' and 'c' of"):
        await freerun.select(a=leaf, b=runs(), c=leaf)
    many = [runs() for _ in range(100)]
    with pytest.raises(ValueError, match="branches 41 and 100 of"):
        await freerun.select(*many, many[41])
    for each in many:
        each.close()
    handle = freerun.spawn(value, 1)  # awaiting it twice is nothing wrong
    assert (await freerun.select(handle, handle))[1] == 1
    assert ran == [1]


@every_flavor
async def test_a_coroutine_that_runs_elsewhere() -> None:
    started = False

    async def runs() -> int:
        nonlocal started
        started = True
        return await later(5, 5)

    coro = runs()
    task = freerun.spawn(coro)
    await until(lambda: started)
    try:
        with pytest.raises(RuntimeError, match="another task runs already"):
            await freerun.select(forever(), coro)
    except BaseException:
        assert task.is_finished()  # it was too late to see the two collide
    assert await task == 5


@every_flavor
async def test_twice_awaited() -> None:
    once = freerun.select(value(1))
    assert await once == (0, 1)
    with pytest.raises(RuntimeError, match=r"this select\(\) has been awaited already"):
        await once


@every_flavor
async def test_an_async_generator_in_a_branch() -> None:
    """A loser is cancelled where it waits; a generator that lets that pass is over, one that was not asked goes on."""
    log: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(100):
                await later(None)
                yield n
                if n == 1:
                    await forever()
        finally:
            await later(None)
            log.append("closed")

    generator = numbers()
    assert await freerun.select(anext(generator), forever(), biased=True) == (0, 0)
    assert await freerun.select(forever(), generator.asend(None), biased=True) == (1, 1)
    assert await freerun.select(anext(generator), later("other", 5), biased=True) == (1, "other")
    assert log == ["closed"]
    with pytest.raises(StopAsyncIteration):
        await anext(generator)

    other = numbers()
    assert await anext(other) == 0
    with pytest.raises(RuntimeError, match="already running"):
        await freerun.select(anext(other), anext(other), biased=True)
    await other.aclose()
    assert log == ["closed", "closed"]


@every_flavor
async def test_closing_a_generator_in_a_branch() -> None:
    log: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await later(None, 3)
            log.append(1)

    generator = numbers()
    assert await anext(generator) == 1
    assert await freerun.select(generator.aclose(), forever()) == (0, None)
    assert log == [1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("when", ["at once", "as a loser"])
def test_what_ends_the_process_is_raised(rt: freerun.Runtime, kind: type[BaseException], when: str) -> None:
    """Before any result; the others are cancelled and awaited first."""
    log: list[str] = []

    async def clean() -> None:
        try:
            await forever()
        finally:
            await later(None)
            log.append("clean")

    async def loser() -> None:
        try:
            await forever()
        finally:
            await later(None)
            raise kind

    async def main() -> None:
        if when == "at once":
            await freerun.select(clean(), fail(kind(), 2), biased=True)
        else:
            await freerun.select(clean(), loser(), later("won"), biased=True)

    with pytest.raises(kind):
        rt.block_on(main)
    assert log == ["clean"]


@every_flavor
async def test_a_foreign_awaitable_is_refused_in_its_branch() -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield "whatever"

    seen: list[str] = []

    async def meets() -> str:
        try:
            await Foreign()
        except TypeError as error:
            seen.append(str(error))
        return "went on"

    assert await freerun.select(forever(), meets()) == (1, "went on")
    assert "another event loop" in seen[0]
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(TypeError, match="cannot await"):
            await freerun.select(forever(), loop.create_future())
    finally:
        loop.close()


@every_flavor
async def test_in_a_loop_nothing_piles_up() -> None:
    """A leaf that lost can be awaited again."""
    tx, rx = freerun.sync.mpsc.channel(1)
    got: list[int] = []

    async def produce() -> None:
        with tx:
            for n in range(200):
                await tx.send(n)
                if n % 3 == 0:
                    await freerun.yield_now()

    task = freerun.spawn(produce)
    ticks = 0
    while True:
        try:
            which, message = await freerun.select(rx.recv(), later(None, 2))
        except freerun.RecvError:
            break
        if which == 0:
            got.append(message)
        else:
            ticks += 1
    await task
    assert got == list(range(200))


@every_flavor
async def test_a_thousand_branches() -> None:
    channels = [oneshot.channel() for _ in range(1000)]

    async def send() -> None:
        channels[777][0].send("here")

    freerun.spawn(send)
    assert await freerun.select(*[rx for _, rx in channels]) == (777, "here")


def test_outside_a_task() -> None:
    awaitable = freerun.select(freerun.yield_now())
    with pytest.raises(RuntimeError, match="inside a freerun task only"):
        next(awaitable.__await__())  # type: ignore[call-overload]


@every_flavor
async def test_dropped_without_being_awaited() -> None:
    """As a coroutine that is not awaited: Python says so for the coroutines in it."""
    with pytest.warns(RuntimeWarning, match="never awaited"):
        freerun.select(value(1), freerun.yield_now())


def test_coroutines_in_it_are_closed_when_the_runtime_is_over(flavor: Any) -> None:
    log: list[str] = []

    async def branch(name: str) -> None:
        try:
            try:
                await forever()
            except Cancelled:
                await forever()
        except GeneratorExit:
            log.append(name)
            raise

    async def main() -> None:
        await freerun.select(branch("a"), branch("b"))

    rt = flavor.builder().build()
    with rt.handle().enter():
        handle = freerun.spawn(main)
    rt.block_on(until(lambda: "waiting" in repr(handle)))
    rt.shutdown(timeout=0.05)
    assert sorted(log) == ["a", "b"]


def test_thrown_into_by_hand() -> None:
    """A coroutine that nobody polls is closed: there is no task in which its cleanup could wait."""
    log: list[str] = []

    async def branch() -> None:
        nonlocal started
        started += 1
        try:
            await forever()
        finally:
            log.append("closed")

    started = 0

    async def main() -> None:
        inner: Any = freerun.select(branch(), branch()).__await__()
        while started < 2:  # the task's turn may be over
            await freerun.yield_now()
            assert next(inner) is ...
        kept.append(inner)

    kept: list[Any] = []
    freerun.run(main, flavor="current_thread")
    with pytest.raises(BoomError):
        kept[0].throw(BoomError())
    assert log == ["closed", "closed"]


@pytest.mark.parametrize("make", [freerun.join, freerun.select])
@every_flavor
async def test_what_takes_a_whole_turn_around_it_does_not_starve_it(make: Callable[..., Any]) -> None:
    """As thousands of groups around it would."""

    class Slow:
        def __await__(self) -> Generator[Any, Any]:
            inner = make(three()).__await__()
            while True:
                end = time.perf_counter() + 0.005
                while time.perf_counter() < end:
                    pass
                try:
                    token = next(inner)
                except StopIteration:
                    return
                yield token

    async def three() -> None:
        for _ in range(3):
            await freerun.yield_now()

    await Slow()


def test_deep_nesting_is_no_crash() -> None:
    done = run_script("""
        import freerun

        async def leaf():
            await freerun.yield_now()
            return 1

        async def nested(depth):
            if depth == 0:
                return await leaf()
            return (await freerun.join(nested(depth - 1)))[0]

        async def directly(depth, make):
            aw = leaf()
            for _ in range(depth):
                aw = make(aw)
            await aw

        makers = [freerun.join, freerun.select, freerun.task.unconstrained, lambda aw: freerun.time.timeout(60, aw)]
        for flavor in ("current_thread", "multi_thread"):
            for depth in (50, 1000):
                try:
                    print(freerun.run(nested(depth), flavor=flavor))
                except RecursionError:
                    print("RecursionError")
                for make in makers:
                    for depth in (100, 1000, 100_000):
                        try:
                            freerun.run(directly(depth, make), flavor=flavor)
                            print(1)
                        except RecursionError:
                            print("RecursionError")
    """)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert set(lines) <= {"1", "RecursionError"}
    assert len(lines) == 2 * 2 * (1 + 4 * 3)
    assert lines[0] == "1"


def test_deep_nesting_gets_on() -> None:
    """Each turn goes down to where the last one stopped, which takes longer than a turn may, if the stack is large."""
    done = run_script("""
        import freerun

        async def ready():
            tx, rx = freerun.sync.mpsc.channel(2)
            await tx.send(1)
            await freerun.yield_now()
            return await rx.recv()

        async def nested(make):
            aw = ready()
            for _ in range(60_000):
                aw = make(aw)
            await aw

        makers = [freerun.join, freerun.select, lambda aw: freerun.time.timeout(3600, aw)]
        with freerun.Builder().worker_threads(1).thread_stack_size(1 << 30).build() as rt:
            for make in makers:
                try:
                    rt.block_on(nested(make))
                    print(1)
                except RecursionError:  # CPython 3.13 counts calls, whatever the stack
                    print("RecursionError")
    """)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3


@every_flavor
async def test_what_was_woken_is_polled_and_nothing_else() -> None:
    polls: Counter[int] = Counter()

    class Counting:
        def __init__(self, n: int, rx: Any) -> None:
            self.n, self.inner = n, rx.__await__()

        def __await__(self) -> Counting:
            return self

        def __iter__(self) -> Counting:
            return self

        def __next__(self) -> Any:
            polls[self.n] += 1
            return next(self.inner)

    channels = [oneshot.channel() for _ in range(50)]

    async def join_all() -> None:
        await freerun.join(*[Counting(n, rx) for n, (_, rx) in enumerate(channels)])

    task = freerun.spawn(join_all)
    await until(lambda: len(polls) == 50 and "waiting" in repr(task))
    for n, (tx, _) in enumerate(channels):
        before = dict(polls)
        tx.send(n)
        await until(lambda n=n, before=before: polls[n] > before[n])  # type: ignore[misc]
        await until(lambda: "waiting" in repr(task) or "finished" in repr(task))
        assert {k for k in before if polls[k] != before[k]} == {n}
    await task


CASES: list[Callable[[], Any]] = [lambda: sleep(3600), forever, lambda: freerun.sync.Notify().notified()]


@pytest.mark.parametrize("make", CASES)
@every_flavor
async def test_nothing_is_left_of_a_loser(make: Any) -> None:
    for _ in range(50):
        assert await freerun.select(make(), later(1)) == (1, 1)


@every_flavor
async def test_what_never_started_is_left_as_it_is() -> None:
    """A loser that has not started closes the coroutines in it, and not the ends of channels."""
    ran: list[int] = []

    async def runs() -> None:
        ran.append(1)

    tx, rx = oneshot.channel()
    makers: list[Callable[..., Any]] = [
        freerun.join,
        freerun.select,
        freerun.task.unconstrained,
        lambda *aws: freerun.time.timeout(60, aws[0]),
        lambda *aws: freerun.join(freerun.select(freerun.time.timeout(60, freerun.task.unconstrained(aws[0])))),
    ]
    for make in makers:
        assert await freerun.select(value(1), make(rx), make(runs()), biased=True) == (0, 1)
        make(rx).close()
        make(runs()).close()
        with pytest.raises(BoomError):
            make(runs()).throw(BoomError())
    tx.send("still open")
    assert await rx == "still open"
    assert ran == []
