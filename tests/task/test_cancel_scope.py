"""`CancelScope`: cancelling a part of a task, and keeping a part from being cancelled."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from support import CURRENT, Flavor, every_flavor, in_threads, is_parked, only, seeded, until

import freerun
from freerun import Cancelled, CancelScope, JoinSet, TaskGroup
from freerun.lowlevel import park
from freerun.sync import Mutex, mpsc, oneshot
from freerun.time import Instant, sleep, timeout, timeout_at


async def never() -> None:
    while True:
        await park()


# ---- cancelling ----


@every_flavor
async def test_cancel() -> None:
    log = []
    async with CancelScope() as scope:
        assert not scope.cancel_called
        scope.cancel()
        assert scope.cancel_called
        try:
            await never()
        except Cancelled:
            await freerun.yield_now()  # once
            log.append("cleaned up")
            raise
    assert log == ["cleaned up"]
    assert scope.cancelled_caught
    with CancelScope() as scope:
        scope.cancel()
        scope.cancel()
        await freerun.yield_now()
    assert scope.cancelled_caught
    await freerun.yield_now()


@every_flavor
async def test_in_peace() -> None:
    with CancelScope() as scope:
        await freerun.yield_now()
    assert not scope.cancel_called
    assert not scope.cancelled_caught
    with CancelScope() as scope:
        scope.cancel()  # there is no await any more
    assert scope.cancel_called
    assert not scope.cancelled_caught
    await freerun.yield_now()
    with CancelScope(deadline=3600) as scope:
        await freerun.yield_now()
    assert not scope.cancel_called
    scope.cancel()  # it is over
    assert not scope.cancel_called
    with pytest.raises(KeyError):
        with CancelScope() as scope:
            scope.cancel()
            try:
                await never()
            finally:
                raise KeyError
    assert not scope.cancelled_caught


@every_flavor
async def test_cancelled_before_it_is_entered() -> None:
    scope = CancelScope()
    scope.cancel()
    assert scope.cancel_called
    reached = []
    with scope:
        reached.append("body")
        await freerun.yield_now()
        reached.append("no further")
    assert reached == ["body"]
    assert scope.cancelled_caught


@every_flavor
async def test_swallowed() -> None:
    log = []
    with CancelScope() as scope:
        scope.cancel()
        try:
            await never()
        except Cancelled:
            log.append("swallowed")
        await freerun.yield_now()
        log.append("went on")
    assert log == ["swallowed", "went on"]
    assert scope.cancel_called
    assert not scope.cancelled_caught


@every_flavor
async def test_from_another_thread_and_task() -> None:
    for _ in range(20):
        scope = CancelScope()

        def cancel(i: int, scope: CancelScope = scope) -> None:
            scope.cancel()

        with in_threads(2, cancel):
            with scope:
                await never()
        assert scope.cancelled_caught

    async def canceller(scope: CancelScope) -> None:
        scope.cancel()

    with CancelScope() as scope:
        freerun.spawn(canceller, scope)
        await never()
    assert scope.cancelled_caught


# ---- deadlines ----


@every_flavor
@pytest.mark.parametrize("make", [float, lambda s: dt.timedelta(seconds=s), lambda s: Instant.now() + s])
async def test_deadline(make: Any) -> None:
    with CancelScope(deadline=make(0.01)) as scope:
        assert isinstance(scope.deadline, Instant)
        await never()
    assert scope.cancelled_caught
    assert scope.cancel_called
    with CancelScope(deadline=make(3600)) as scope:
        await freerun.yield_now()
    assert not scope.cancelled_caught


@every_flavor
async def test_a_deadline_in_seconds_counts_from_the_entry() -> None:
    scope = CancelScope(deadline=0.05)
    assert scope.deadline is None
    before = Instant.now()
    with scope:
        assert scope.deadline is not None
        assert scope.deadline >= before + 0.05


@every_flavor
async def test_setting_the_deadline() -> None:
    with CancelScope() as scope:
        assert scope.deadline is None
        scope.deadline = Instant.now() + 3600
        scope.deadline = None
        await sleep(0.001)
        scope.deadline = 0.005  # from now on
        await never()
    assert scope.cancelled_caught
    for set_it in (0, Instant.now()):
        with CancelScope(deadline=3600) as scope:
            scope.deadline = set_it  # type: ignore[assignment]
            await freerun.yield_now()
            await never()
        assert scope.cancelled_caught
    with pytest.raises(RuntimeError, match="over, or has been cancelled"):
        scope.deadline = None
    scope = CancelScope()
    scope.deadline = 0.005
    assert scope.deadline is None
    instant = Instant.now() + 3600
    scope.deadline = instant
    assert scope.deadline == instant
    scope.deadline = dt.timedelta(milliseconds=5)
    with scope:
        await never()
    assert scope.cancelled_caught


@every_flavor
async def test_the_deadline_set_by_a_thread() -> None:
    with CancelScope() as scope:

        def hurry(i: int) -> None:
            scope.deadline = 0.001 * i

        with in_threads(1, hurry):
            await never()
    assert scope.cancelled_caught


def test_without_timers() -> None:
    with freerun.Builder.new_current_thread().enable_io().build() as rt:

        async def main() -> None:
            with CancelScope() as scope:
                with pytest.raises(RuntimeError, match="without timers"):
                    scope.deadline = 1
                scope.cancel()
                await never()
            assert scope.cancelled_caught
            with pytest.raises(RuntimeError, match="without timers"):
                with CancelScope(deadline=1):
                    pass

        rt.block_on(main)


# ---- nesting ----


@every_flavor
async def test_the_inner_one() -> None:
    log = []
    with CancelScope() as outer:
        with CancelScope() as inner:
            inner.cancel()
            await never()
        log.append("between")
        await freerun.yield_now()
    assert log == ["between"]
    assert inner.cancelled_caught
    assert not outer.cancel_called


@every_flavor
async def test_the_outer_one() -> None:
    with CancelScope() as outer:
        with CancelScope() as inner:
            outer.cancel()
            await never()
    assert outer.cancelled_caught
    assert not inner.cancel_called
    assert not inner.cancelled_caught


@every_flavor
async def test_both_the_outermost_wins() -> None:
    for first, second in ((0, 1), (1, 0)):
        with CancelScope() as outer:
            with CancelScope() as inner:
                scopes = (outer, inner)
                scopes[first].cancel()
                scopes[second].cancel()
                await never()
        assert outer.cancelled_caught
        assert not inner.cancelled_caught


@every_flavor
async def test_the_outer_one_while_the_inner_one_cleans_up() -> None:
    log = []
    with CancelScope() as outer:
        with CancelScope() as inner:
            try:
                inner.cancel()
                await never()
            finally:
                outer.cancel()
                try:
                    await never()
                except Cancelled:
                    log.append("again")
                    raise
        log.append("not reached")
    assert log == ["again"]
    assert outer.cancelled_caught
    assert not inner.cancelled_caught


@every_flavor
async def test_with_timeouts() -> None:
    with pytest.raises(TimeoutError):
        async with timeout(0.005):
            with CancelScope() as scope:
                await never()
    assert not scope.cancelled_caught
    async with timeout(3600):
        with CancelScope(deadline=0.005) as scope:
            await never()
        assert scope.cancelled_caught
    with CancelScope(deadline=0.005) as scope:
        async with timeout(3600):
            await timeout(3600, never())
    assert scope.cancelled_caught


# ---- an abort ----


@every_flavor
async def test_abort_passes() -> None:
    log = []

    async def work() -> None:
        with CancelScope() as scope:
            try:
                await never()
            finally:
                log.append(scope.cancel_called)
        log.append("not reached")

    handle = freerun.spawn(work)
    await until(lambda: is_parked(handle))
    handle.abort()
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == [False]


# ---- shields ----


@every_flavor
@pytest.mark.parametrize("nested", ["plain", "timeout", "twice"])
async def test_a_shield_holds_back_an_abort(nested: str) -> None:
    log = []
    gate, opened = oneshot.channel()

    async def shielded() -> str:
        with CancelScope(shield=True):
            result: str = await opened
            await freerun.yield_now()
            log.append("undisturbed")
        return result

    async def work() -> None:
        if nested == "plain":
            result = await shielded()
        elif nested == "timeout":
            result = await timeout(3600, shielded())
        else:
            result = await timeout(3600, timeout(3600, shielded()))
        log.append(result)  # what it has waited for is not lost
        try:
            await freerun.yield_now()
        except Cancelled:
            log.append("cancelled")
            await freerun.yield_now()
            raise
        log.append("not reached")

    handle = freerun.spawn(work)
    await until(lambda: is_parked(handle))
    assert handle.abort()
    await sleep(0.002)
    assert not handle.abort()
    assert not handle.is_finished()
    gate.send("result")
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == ["undisturbed", "result", "cancelled"]


@every_flavor
async def test_what_was_held_back_arrives_inside_of_a_timeout() -> None:
    """The shield is left within the awaited, which waits on: Cancelled comes there, and takes the limit away."""

    async def inner(begin: Instant, opened: oneshot.Receiver[None], limit: float, log: list[str]) -> None:
        with CancelScope(shield=True):
            await opened
        try:
            await never()
        except Cancelled:
            log.append("in time" if begin.elapsed() < limit else "too late")
            while begin.elapsed() < 1.2 * limit:
                await sleep(0.001)
            log.append("cleaned up")
            raise

    async def attempt(limit: float) -> list[str]:
        log: list[str] = []
        gate, opened = oneshot.channel()
        handle = freerun.spawn(timeout(limit, inner(Instant.now(), opened, limit, log)))
        await until(lambda: is_parked(handle))
        handle.abort()
        gate.send(None)
        try:
            await handle
        except freerun.JoinError:
            log.append("aborted")
        except TimeoutError:
            log.append("timed out")
        return log

    for limit in (0.02, 0.2, 2, 20):  # a busy machine may be too late for a short one
        if (log := await attempt(limit))[:1] != ["too late"]:
            break
    assert log == ["in time", "cleaned up", "aborted"]


@every_flavor
async def test_a_shield_holds_back_outer_scopes() -> None:
    log = []
    with CancelScope() as outer:
        with CancelScope(shield=True):
            outer.cancel()
            await sleep(0.001)
            log.append("undisturbed")
        log.append("left")
        await never()
    assert log == ["undisturbed", "left"]
    assert outer.cancelled_caught
    with pytest.raises(TimeoutError):
        async with timeout(0.002):
            with CancelScope(shield=True):
                await sleep(0.01)
                log.append("undisturbed")
            await never()
    with pytest.raises(TimeoutError):
        await timeout(0.002, _shielded_then_never(log))
    assert log == ["undisturbed", "left", "undisturbed", "undisturbed"]
    with CancelScope() as outer:  # through an awaited line
        outer.cancel()
        await timeout(3600, _shielded_then_never(log))
    assert outer.cancelled_caught
    assert log[4:] == ["undisturbed"]


async def _shielded_then_never(log: list[str]) -> None:
    with CancelScope(shield=True):
        await sleep(0.01)
        log.append("undisturbed")
    await never()


@every_flavor
async def test_what_is_left_in_time_is_not_cancelled() -> None:
    """The outer scope was cancelled, but there was no await between the shield and its end."""
    with CancelScope() as outer:
        with CancelScope(shield=True):
            outer.cancel()
            await sleep(0.001)
    assert outer.cancel_called
    assert not outer.cancelled_caught
    await freerun.yield_now()

    async def inner() -> str:
        with CancelScope(shield=True):
            await sleep(0.01)
        return "done"

    assert await timeout(0.002, inner()) == "done"
    with CancelScope() as outer:
        outer.cancel()
        await freerun.yield_now()
    with CancelScope() as outer:

        async def cancel_it() -> None:
            outer.cancel()

        freerun.spawn(cancel_it)
        assert await timeout(3600, inner()) == "done"  # held back in the line, which ends
    assert outer.cancel_called
    assert not outer.cancelled_caught
    await freerun.yield_now()  # it does not leak out of the scope that it was for
    await sleep(0.001)


@every_flavor
async def test_a_shields_own_cancel_and_what_is_inside_of_it_work() -> None:
    with CancelScope(shield=True) as shield:
        shield.cancel()
        await never()
    assert shield.cancelled_caught
    with CancelScope(shield=True, deadline=0.005) as shield:
        await never()
    assert shield.cancelled_caught
    with CancelScope(shield=True) as shield:
        with CancelScope() as inner:
            inner.cancel()
            await never()
        assert inner.cancelled_caught
        with pytest.raises(TimeoutError):
            await timeout(0.002, never())
        with pytest.raises(TimeoutError):
            async with timeout(0.002):
                await never()
        await freerun.yield_now()
    assert not shield.cancel_called


@every_flavor
async def test_cancelled_together_with_what_is_outside() -> None:
    log = []
    with CancelScope() as outer:
        with CancelScope(shield=True) as shield:
            outer.cancel()
            shield.cancel()
            await never()
        assert shield.cancelled_caught  # it was its own: the outer one's is held back
        log.append("between")
        await never()
    assert log == ["between"]
    assert outer.cancelled_caught


@every_flavor
async def test_nested_shields() -> None:
    log = []
    with CancelScope() as outer:
        with CancelScope(shield=True):
            with CancelScope(shield=True):
                outer.cancel()
                await sleep(0.001)
            await sleep(0.001)
            log.append("still shielded")
        await never()
    assert log == ["still shielded"]
    assert outer.cancelled_caught


@every_flavor
async def test_a_shield_that_is_lowered() -> None:
    log = []
    with CancelScope() as outer:
        with CancelScope(shield=True) as shield:
            assert shield.shield
            outer.cancel()
            await sleep(0.001)
            shield.shield = False
            log.append("lowered")
            await never()
    assert log == ["lowered"]
    assert outer.cancelled_caught

    async def work() -> None:
        with CancelScope() as scope:
            scope.shield = True
            await opened
            scope.shield = False
            log.append("again")
            await never()

    gate, opened = oneshot.channel()
    handle = freerun.spawn(work)
    await until(lambda: is_parked(handle))
    handle.abort()
    await sleep(0.002)
    assert not handle.is_finished()
    gate.send(None)
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == ["lowered", "again"]


@every_flavor
async def test_an_abort_while_it_computes_in_a_shield() -> None:
    """Nothing was held back at a step: the abort comes within the very poll that leaves the shield."""

    async def work() -> str:
        with CancelScope(shield=True):
            freerun.task.current().abort()
        try:
            await freerun.yield_now()
        except Cancelled:
            return "cancelled"
        return "not cancelled"

    assert await freerun.spawn(work) == "cancelled"


@every_flavor
async def test_shielded_cleanup_of_a_group() -> None:
    """A group in a shield waits in peace; its children are aborted when it lets the abort through."""
    log = []
    gate, opened = oneshot.channel()

    async def child() -> None:
        await opened
        log.append("child")

    async def parent() -> None:
        with CancelScope(shield=True):
            async with TaskGroup() as group:
                group.spawn(child)
        log.append("parent")
        await never()

    handle = freerun.spawn(parent)
    await until(lambda: is_parked(handle))
    handle.abort()
    await sleep(0.002)
    gate.send(None)
    with pytest.raises(freerun.JoinError):
        await handle
    assert log == ["child", "parent"]


@every_flavor
async def test_shielded_in_sets_and_channels() -> None:
    """A lock that was granted and a message that was received in a shield are kept."""
    mutex: Mutex[int] = Mutex(0)
    tx, rx = mpsc.channel(1)
    log: list[Any] = []

    async def work() -> None:
        with CancelScope(shield=True):
            async with mutex.lock() as guard:
                guard.value += 1
                log.append(await rx.recv())
        await never()

    held = await mutex.lock()
    async with JoinSet[None]() as tasks:
        handle = tasks.spawn(work)
        await until(lambda: is_parked(handle))
        handle.abort()
        await sleep(0.002)
        held.release()
        await tx.send("message")
        with pytest.raises(freerun.JoinError):
            await tasks.join_next()
    assert log == ["message"]
    async with mutex.lock() as guard:
        assert guard.value == 1


@every_flavor
async def test_shields_in_branches() -> None:
    """A branch in a shield is cancelled when it leaves it, and the others at once; all are waited for."""
    log: list[str] = []

    async def shielded(then_wait: bool) -> str:
        with CancelScope(shield=True):
            await sleep(0.01)
            log.append("undisturbed")
        if then_wait:
            try:
                await never()
            finally:
                log.append("cancelled")
        return "whole"

    async def other() -> None:
        try:
            await never()
        finally:
            log.append("other")

    async def quick() -> str:
        await freerun.yield_now()
        return "quick"

    assert await freerun.select(shielded(True), quick()) == (1, "quick")
    assert log == ["undisturbed", "cancelled"]
    assert await freerun.select(timeout(3600, shielded(True)), quick()) == (1, "quick")
    assert log[2:] == ["undisturbed", "cancelled"]
    for then_wait in (True, False):
        log.clear()

        async def joined(then_wait: bool = then_wait) -> None:
            await freerun.join(shielded(then_wait), other())

        handle = freerun.spawn(joined)
        await until(lambda handle=handle: is_parked(handle))
        handle.abort()
        with pytest.raises(freerun.JoinError):
            await handle
        assert log == ["other", "undisturbed"] + ["cancelled"] * then_wait
    log.clear()
    with CancelScope(deadline=0.002) as outer:
        await freerun.join(shielded(True), other())
    assert outer.cancelled_caught
    assert log == ["other", "undisturbed", "cancelled"]


@every_flavor
async def test_groups_and_sets_in_branches() -> None:
    async def in_group() -> str:
        async with TaskGroup() as group:
            handle = group.spawn(_value, "group")
        result: str = await handle
        return result

    async def in_set() -> str:
        async with JoinSet[str]() as tasks:
            tasks.spawn(_value, "set")
            tasks.spawn(_value, "set")
            return await tasks.join_next()

    async def fails() -> None:
        async with TaskGroup() as group:
            group.spawn(_fail)
            await never()

    assert await freerun.join(in_group(), in_set()) == ("group", "set")
    with pytest.raises(ExceptionGroup):
        await freerun.try_join(fails(), in_group(), never())
    assert await freerun.select(in_group(), never()) == (0, "group")


async def _value(x: str) -> str:
    await freerun.yield_now()
    return x


async def _fail() -> None:
    await freerun.yield_now()
    raise KeyError


def test_shutdown_waits_for_shields_until_its_deadline(flavor: Flavor) -> None:
    log = []

    async def polite() -> None:
        with CancelScope(shield=True):
            await sleep(0.02)
            log.append("shielded")
        await never()

    async def stubborn() -> None:
        try:
            with CancelScope(shield=True):
                await never()
        finally:
            log.append("closed")

    rt = flavor.builder().build()
    handles = [rt.spawn(polite), rt.spawn(stubborn)]
    rt.block_on(until, lambda: all(map(is_parked, handles)))
    rt.shutdown(0.5)
    assert sorted(log) == ["closed", "shielded"]
    assert all(handle.is_finished() for handle in handles)


# ---- used in the wrong way ----


@every_flavor
async def test_bad_use() -> None:
    with pytest.raises(TypeError, match="argument 'shield'"):
        CancelScope(shield=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 'deadline'"):
        CancelScope(deadline="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 'deadline'"):
        CancelScope(deadline=True)
    with pytest.raises(ValueError, match="argument 'deadline'"):
        CancelScope(deadline=-1)
    with pytest.raises(ValueError, match="argument 'deadline'"):
        CancelScope(deadline=float("nan"))
    with pytest.raises(TypeError):
        CancelScope(1)  # type: ignore[misc]
    scope = CancelScope()
    with pytest.raises(TypeError, match="is not awaited"):
        await scope  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="has not been entered"):
        scope.__exit__(None, None, None)
    with scope:
        with pytest.raises(RuntimeError, match="CancelScope has been entered before"):
            with scope:
                pass
        with pytest.raises(TypeError):
            scope.shield = 3  # type: ignore[assignment]
        with pytest.raises(AttributeError):
            del scope.shield
        with pytest.raises(AttributeError):
            del scope.deadline
        with pytest.raises(AttributeError):
            scope.cancel_called = True  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="entered before"):
        with scope:
            pass


@every_flavor
async def test_a_shield_is_its_tasks_own() -> None:
    async def meddle(scope: CancelScope) -> None:
        scope.shield = True

    with CancelScope() as scope:
        with pytest.raises(RuntimeError, match="by the task that is in it"):
            await freerun.spawn(meddle, scope)
        assert not scope.shield


def test_outside_a_task(rt: freerun.Runtime) -> None:
    with rt, pytest.raises(RuntimeError, match="inside a freerun task"):
        CancelScope().__enter__()


@every_flavor
async def test_left_in_another_task() -> None:
    scope = CancelScope()

    async def leave() -> None:
        scope.__exit__(None, None, None)

    with pytest.raises(RuntimeError, match="this CancelScope is left in another task"):
        with scope:
            await freerun.spawn(leave)
            raise AssertionError("not reached")
    await freerun.yield_now()


@every_flavor
async def test_entered_and_never_left() -> None:
    """A task that ends in its shield: nothing of it stays behind, and the abort is void."""

    async def work() -> str:
        CancelScope(shield=True).__enter__()
        CancelScope(deadline=3600).__enter__()
        await freerun.yield_now()
        freerun.task.current().abort()
        await freerun.yield_now()
        return "done"

    for _ in range(20):
        assert await freerun.spawn(work) == "done"


@only(CURRENT)
def test_repr(rt: freerun.Runtime) -> None:
    async def main() -> list[str]:
        scope = CancelScope(shield=True)
        seen = [repr(scope)]
        with scope:
            seen.append(repr(scope))
            scope.cancel()
            seen.append(repr(scope))
            await never()
        return [*seen, repr(scope)]

    assert rt.block_on(main) == [
        "<CancelScope created shield>",
        "<CancelScope active shield>",
        "<CancelScope active shield cancel called>",
        "<CancelScope finished shield cancelled>",
    ]


# ---- load ----


@every_flavor
async def test_random_trees() -> None:
    """Scopes, shields and timeouts in each other, cancelled at random by threads: whoever is left alone goes on."""
    rng = seeded()

    async def body(depth: int, scopes: list[CancelScope]) -> int:
        if depth == 0:
            for _ in range(rng.randrange(4)):
                await freerun.yield_now()
            return 1
        scope = CancelScope(shield=rng.random() < 0.3)
        scopes.append(scope)
        done = 0
        with scope:
            if rng.random() < 0.3:
                done += await timeout(3600, body(depth - 1, scopes))
            elif rng.random() < 0.3:
                async with timeout_at(Instant.now() + 3600):
                    done += await body(depth - 1, scopes)
            else:
                done += await body(depth - 1, scopes)
            await freerun.yield_now()
        assert scope.cancel_called or not scope.cancelled_caught
        await freerun.yield_now()
        return done

    async def one() -> None:
        scopes: list[CancelScope] = []
        aborted = rng.random() < 0.3
        handle = freerun.spawn(body, 5, scopes)

        def meddle(i: int) -> None:
            for scope in list(scopes):
                if hash((id(scope), i)) % 3 == 0:
                    scope.cancel()
            if aborted:
                handle.abort()

        with in_threads(1, meddle):
            try:
                assert await handle in (0, 1)
                assert not aborted or not handle.abort()
            except freerun.JoinError:
                assert aborted
        for scope in scopes:
            assert not (scope.cancelled_caught and not scope.cancel_called)

    for _ in range(60):
        await one()
