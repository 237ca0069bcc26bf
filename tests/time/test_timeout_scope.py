"""`async with timeout(s)`: a deadline for a part of a task."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest
from support import Flavor, every_flavor, in_threads, is_parked, until

import freerun
from freerun import Cancelled
from freerun._core._native import current_core
from freerun.lowlevel import park
from freerun.sync import mpsc, oneshot
from freerun.time import Instant, Timeout, advance, sleep, timeout, timeout_at


async def never() -> None:
    while True:
        await park()


@every_flavor
async def test_in_time() -> None:
    async with timeout(60) as scope:
        await sleep(0.001)
        assert not scope.expired()
    assert not scope.expired()
    assert isinstance(scope, Timeout)
    async with timeout(60):
        pass
    async with timeout_at(Instant.now() + 60):
        await freerun.yield_now()
    with pytest.raises(KeyError):
        async with timeout(60):
            raise KeyError


@every_flavor
async def test_expires() -> None:
    start = Instant.now()
    with pytest.raises(TimeoutError, match=r"^not done within 0\.01 s$") as caught:
        async with timeout(0.01) as scope:
            await never()
    assert start.elapsed() >= 0.01
    assert scope.expired()
    assert type(caught.value) is TimeoutError
    assert isinstance(caught.value.__cause__, Cancelled)
    with pytest.raises(TimeoutError, match="the deadline has passed"):
        async with timeout_at(Instant.now() + 0.005):
            await never()
    await sleep(0.001)  # the task is none the worse


@every_flavor
async def test_zero_ends_at_the_first_wait() -> None:
    for make in (lambda: timeout(0), lambda: timeout_at(Instant.now()), lambda: timeout_at(Instant(-1))):
        async with make() as scope:
            pass  # it did not have to wait
        assert not scope.expired()
        for wait in (freerun.yield_now, never):
            with pytest.raises(TimeoutError):
                async with make() as scope:
                    await wait()
            assert scope.expired()


@every_flavor
async def test_busy_bodies() -> None:
    """It does not wait, it gives way; or it computes for longer than the limit and then waits."""
    with pytest.raises(TimeoutError):
        async with timeout(0.005):
            while True:
                await freerun.yield_now()
    import time

    with pytest.raises(TimeoutError):
        async with timeout(0.005):
            time.sleep(0.02)
            await never()


@every_flavor
async def test_expiry_after_the_body_does_nothing() -> None:
    import time

    async with timeout(0.002) as scope:
        time.sleep(0.01)  # the time is up, but there is no await any more
    assert not scope.expired()
    await sleep(0.005)
    await freerun.yield_now()


@every_flavor
async def test_cleanup_may_await() -> None:
    log: list[str] = []
    with pytest.raises(TimeoutError):
        async with timeout(0.005):
            try:
                await never()
            finally:
                for _ in range(3):
                    await sleep(0.003)
                    log.append("cleanup")
    assert log == ["cleanup"] * 3


@every_flavor
async def test_what_the_body_ends_with_decides() -> None:
    async with timeout(0.002) as scope:
        try:
            await never()
        except Cancelled:
            await sleep(0.001)  # swallowed: the timeout with it
    assert scope.expired()
    with pytest.raises(KeyError):
        async with timeout(0.002):
            try:
                await never()
            finally:
                raise KeyError
    with pytest.raises(Cancelled):  # nobody's timeout
        async with timeout(60) as scope:
            raise Cancelled
    assert not scope.expired()


@every_flavor
async def test_cancelled_once() -> None:
    """A body that swallows it goes on without a limit."""
    async with timeout(0.002):
        try:
            await never()
        except Cancelled:
            pass
        for _ in range(5):
            await sleep(0.002)


@every_flavor
async def test_used_in_the_wrong_way() -> None:
    scope = timeout(60)
    with pytest.raises(RuntimeError, match="not been entered"):
        await scope.__aexit__(None, None, None)
    async with scope:
        with pytest.raises(RuntimeError, match="entered before"):
            async with scope:
                pass
    with pytest.raises(RuntimeError, match="entered before"):
        async with scope:
            pass
    with pytest.raises(TypeError, match="async with"):
        await timeout(60)  # type: ignore[misc]
    with pytest.raises(TypeError, match="3 arguments"):
        scope.__aexit__()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        type(scope)()


def test_outside_a_task() -> None:
    async def enters() -> None:
        async with timeout(1):
            pass

    with pytest.raises(RuntimeError, match="inside a freerun task only"):
        asyncio.run(enters())


@every_flavor
async def test_left_in_another_task() -> None:
    scope = timeout(0.01)

    async def leaves() -> None:
        await scope.__aexit__(None, None, None)

    await scope.__aenter__()
    with pytest.raises(RuntimeError, match="another task"):
        await freerun.spawn(leaves)
    await sleep(0.02)  # nothing fires any more
    async with timeout(60):
        await freerun.yield_now()
    assert await scope.__aexit__(None, None, None) is None  # type: ignore[func-returns-value]


@every_flavor
async def test_entered_and_never_left() -> None:
    """The task ends with it: nothing is left behind."""

    async def forgets() -> Timeout:
        scope = timeout(0.002)
        return await scope.__aenter__()

    scope = await freerun.spawn(forgets)
    await sleep(0.005)
    assert not scope.expired()


@every_flavor
async def test_left_out_of_order() -> None:
    outer, inner, third = timeout(0.01), timeout(60), timeout(60)
    await outer.__aenter__()
    await inner.__aenter__()
    await outer.__aexit__(None, None, None)
    await sleep(0.02)  # the outer one is over
    await third.__aenter__()
    await inner.__aexit__(None, None, None)
    third.cancel()
    with pytest.raises(Cancelled) as caught:
        await never()
    with pytest.raises(TimeoutError):
        await third.__aexit__(Cancelled, caught.value, None)


@every_flavor
async def test_in_an_asynchronous_generator() -> None:
    """A scope that is open while its generator is not running belongs to whoever iterates, and may end elsewhere."""

    async def numbers() -> Any:
        async with timeout(60):
            yield 1
            yield 2

    found = [n async for n in numbers()]
    assert found == [1, 2]
    for _ in range(5):
        async for _ in numbers():
            break
        async with timeout(60):
            await freerun.yield_now()

    async def first() -> Any:
        generator = numbers()
        await anext(generator)
        return generator

    generator = await freerun.spawn(first)
    await generator.aclose()  # in another task


@freerun.test(start_paused=True)
async def test_when_and_reschedule() -> None:
    start = Instant.now()
    scope = timeout(10)
    assert scope.when() is None
    async with scope:
        assert scope.when() == start + 10
        scope.reschedule(start + 20)
        assert scope.when() == start + 20
        await sleep(15)
        scope.reschedule(None)
        assert scope.when() is None
        await sleep(1000)
        scope.reschedule(Instant.now() + 5)
    assert start.elapsed() < 1016
    with pytest.raises(TimeoutError, match="the deadline has passed"):
        async with timeout(10) as scope:
            scope.reschedule(Instant.now() + 1)
            now = Instant.now()
            await never()
    assert 1 <= now.elapsed() < 1.002
    assert scope.when() == now + 1
    for make in (lambda: timeout(math.inf), lambda: timeout_at(Instant.now() + 1e40)):
        async with make() as scope:
            assert scope.when() is None
            await sleep(1e6)
    before = timeout(1)
    before.reschedule(Instant.now() + 5)
    async with before:
        await sleep(3)


@every_flavor
async def test_reschedule_into_the_past() -> None:
    with pytest.raises(TimeoutError):
        async with timeout(60) as scope:
            scope.reschedule(Instant.now() - 1)
            assert scope.expired()
            await never()
    for wrong in (1.5, 0, "x"):
        with pytest.raises(TypeError, match="'when'"):
            scope.reschedule(wrong)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="cannot be rescheduled"):
        scope.reschedule(None)
    async with timeout(60) as scope:
        pass
    with pytest.raises(RuntimeError, match="cannot be rescheduled"):
        scope.reschedule(Instant.now() + 1)


@every_flavor
async def test_cancel() -> None:
    with pytest.raises(TimeoutError, match="cancel"):
        async with timeout(60) as scope:
            scope.cancel()
            scope.cancel()
            await never()
    assert scope.expired()
    async with timeout(60) as scope:
        pass
    scope.cancel()
    assert not scope.expired()
    before = timeout(60)
    before.cancel()
    with pytest.raises(TimeoutError):
        async with before:
            await never()
    assert before.when() is None


@every_flavor
async def test_cancel_and_reschedule_from_threads() -> None:
    """One of them ends the body, from outside; the task notices, whatever it is doing."""
    for n in range(20):
        scope = timeout(60)

        def work(i: int, scope: Timeout = scope, n: int = n) -> None:
            threading.Event().wait(0.0005 * (n % 4))
            if i == 0:
                scope.cancel()
                return
            try:
                scope.reschedule(Instant.now() + 30)
                scope.when()
                scope.expired()
            except RuntimeError:
                assert scope.expired()

        with in_threads(3, work):
            with pytest.raises(TimeoutError):
                async with scope:
                    while True:
                        await (sleep(60) if n % 2 else freerun.yield_now())


@every_flavor
async def test_rescheduled_while_its_task_is_woken_and_waits() -> None:
    """By other threads and tasks, all the time: the alarm that they set is the task's, whose turn goes on meanwhile."""
    tx, rx = mpsc.channel(4)
    scopes: list[Timeout] = []
    over = threading.Event()

    async def consumer() -> None:
        async with timeout(1000) as scope:
            scopes.append(scope)
            for n in range(1500):
                assert await rx.recv() == n

    def reschedule(_: int = 0) -> None:
        while not over.is_set():
            try:
                for _ in range(30):
                    scopes[0].reschedule(Instant.now() + 1000)
            except RuntimeError:  # it has been left
                return

    async def producer() -> None:
        for n in range(1500):
            await tx.send(n)
            if n % 100 == 0:
                scopes[0].reschedule(Instant.now() + 999)

    consuming = freerun.spawn(consumer)
    while not scopes:
        await freerun.yield_now()
    with in_threads(2, reschedule):
        try:
            await freerun.spawn(producer)
            await consuming
        finally:
            over.set()


@every_flavor
async def test_race_of_the_end_and_the_deadline() -> None:
    """Whether the body or the time ends first, what was to be received is received or still there."""

    async def race() -> None:
        for n in range(25):
            tx, rx = oneshot.channel()
            task = freerun.spawn(receives, rx)
            await sleep(0.001 if n % 2 else 0.002)
            tx.send(n)
            found = await task
            assert (rx.try_recv() if found is None else found) == n

    await freerun.join(*[race() for _ in range(4)])


async def receives(rx: oneshot.Receiver[int]) -> int | None:
    try:
        async with timeout(0.002) as scope:
            found = await rx
    except TimeoutError:
        assert scope.expired()
        return None
    return found


@freerun.test(start_paused=True)
async def test_abort() -> None:
    """An abort passes as it is, though the time runs out while the body cleans up."""
    log: list[str] = []

    async def body() -> None:
        async with timeout(0.03):
            try:
                await never()
            except Cancelled:
                log.append("abort")
                try:
                    await never()
                except Cancelled:
                    log.append("timeout")
                    raise

    task = freerun.spawn(body)
    await freerun.yield_now()
    task.abort()
    with pytest.raises(freerun.JoinError) as caught:
        await task
    assert caught.value.is_cancelled()
    assert log == ["abort", "timeout"]


@freerun.test(start_paused=True)
async def test_abort_and_deadline_in_one_poll() -> None:
    """One Cancelled serves both, and it is the abort's."""
    log: list[str] = []

    async def body() -> None:
        try:
            async with timeout(1), timeout(2):
                try:
                    await never()
                finally:
                    await sleep(5)
                    log.append("cleaned up")
        except TimeoutError:
            log.append("TimeoutError")

    task = freerun.spawn(body)
    await freerun.yield_now()
    current_core().advance(3.0)  # as time.advance() does, but this task goes on
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert log == ["cleaned up"]


@every_flavor
async def test_abort_while_the_body_cleans_up() -> None:
    """The time is up first, then comes the abort: it is not lost, and is what the task ends with."""
    log: list[str] = []

    async def body() -> None:
        try:
            async with timeout(0.002):
                try:
                    await never()
                finally:
                    log.append("timeout")
                    await never()
        except TimeoutError:
            log.append("TimeoutError")

    task = freerun.spawn(body)
    await until(lambda: log and is_parked(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert log == ["timeout"]


@every_flavor
async def test_abort_after_the_timeout() -> None:
    """The TimeoutError was handled; the abort arrives at the next await."""
    log: list[str] = []

    async def body() -> None:
        try:
            async with timeout(0.002):
                await never()
        except TimeoutError:
            log.append("TimeoutError")
        await never()

    task = freerun.spawn(body)
    await until(lambda: log and is_parked(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task


@every_flavor
async def test_cleanup_after_an_abort_may_have_a_limit() -> None:
    log: list[str] = []

    async def body() -> None:
        try:
            await never()
        finally:
            try:
                async with timeout(0.005):
                    await never()
            except TimeoutError:
                log.append("gave up")

    task = freerun.spawn(body)
    await until(lambda: is_parked(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert log == ["gave up"]


@every_flavor
async def test_race_of_abort_and_deadline() -> None:
    """Exactly one outcome, and if the abort was in time it arrives, once, if only at the next await."""

    async def race() -> None:
        log: list[str] = []

        async def body() -> str:
            try:
                async with timeout(0.002):
                    await never()
            except TimeoutError:
                log.append("timeout")
            try:
                await sleep(0.001)
                await sleep(60)
            except Cancelled:
                log.append("abort")
                raise
            return "never"

        task = freerun.spawn(body)
        await sleep(0.002)
        assert task.abort()
        with pytest.raises(freerun.JoinError) as caught:
            await task
        assert caught.value.is_cancelled()
        assert log in ([], ["timeout", "abort"])

    for _ in range(15):
        await freerun.join(*[race() for _ in range(4)])


def test_shutdown_with_open_scopes(flavor: Flavor) -> None:
    log: list[str] = []

    async def body() -> None:
        try:
            async with timeout(3600):
                await never()
        except Cancelled:
            log.append("cancelled")
            raise

    async def main() -> None:
        task = freerun.spawn(body)
        await until(lambda: is_parked(task))

    with flavor.builder().build() as rt:
        rt.block_on(main)
    assert log == ["cancelled"]


@every_flavor
async def test_closed() -> None:
    """GeneratorExit passes; in a task or outside of any."""

    async def body() -> None:
        async with timeout(0.01):
            await never()

    async def polls_once(keep: bool) -> Any:
        coro = body()
        coro.send(None)
        if not keep:
            coro.close()
        return coro

    await freerun.spawn(polls_once, False)
    kept = await freerun.spawn(polls_once, True)
    kept.close()
    kept = await freerun.spawn(polls_once, True)
    thread = threading.Thread(target=kept.close)
    thread.start()
    thread.join()
    await sleep(0.015)


@freerun.test(start_paused=True)
async def test_paused_clock() -> None:
    start = Instant.now()
    with pytest.raises(TimeoutError):
        async with timeout(3600):
            await never()
    assert 3600 <= start.elapsed() <= 3600.001
    start = Instant.now()
    async with timeout(3600):
        await freerun.yield_now()
    assert start.elapsed() == 0

    async def body() -> None:
        async with timeout(10):
            await never()

    task = freerun.spawn(body)
    await freerun.yield_now()
    await advance(9.99)
    assert not task.is_finished()
    await advance(0.02)
    with pytest.raises(TimeoutError):
        await task


@every_flavor
async def test_many_at_once() -> None:
    async def one(n: int) -> bool:
        try:
            async with timeout(0.005 if n % 2 else 60):
                await sleep(60 if n % 2 else 0.005)
        except TimeoutError:
            return True
        return False

    tasks = [freerun.spawn(one, n) for n in range(2000)]
    assert [await task for task in tasks] == [bool(n % 2) for n in range(2000)]


def test_many_open_at_once(rt: freerun.Runtime) -> None:
    """A stack of a hundred thousand, left behind or left in order, is no recursion."""

    async def main() -> None:
        for leave in (False, True):
            scopes = [timeout(3600) for _ in range(100_000)]
            await freerun.spawn(opens, scopes, leave)
            del scopes

    async def opens(scopes: list[Timeout], leave: bool) -> None:
        for scope in scopes:
            await scope.__aenter__()
        await freerun.yield_now()
        while leave and scopes:
            await scopes.pop().__aexit__(None, None, None)

    rt.block_on(main)


def test_repr(rt: freerun.Runtime) -> None:
    async def main() -> None:
        scope = timeout(0.001)
        assert repr(scope) == "<Timeout created>"
        with pytest.raises(TimeoutError):
            async with scope:
                assert repr(scope) == "<Timeout active>"
                await never()
        assert repr(scope) == "<Timeout expired>"
        async with timeout(1) as scope:
            pass
        assert repr(scope) == "<Timeout finished>"

    rt.block_on(main)
