"""Cancelling a task that is in `join` or `select`, or a part of it: aborts, limits around and inside, cleanup."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import Reports
from support import every_flavor, is_parked, seeded, until

import freerun
from freerun import Cancelled
from freerun.lowlevel import cancel_shielded_checkpoint, park
from freerun.time import sleep, timeout


class BoomError(Exception):
    """What branches fail with."""


async def never() -> None:
    while True:
        await park()


async def later(n: Any, yields: int = 1) -> Any:
    for _ in range(yields):
        await freerun.yield_now()
    return n


GROUPS = pytest.mark.parametrize("group", [freerun.join, freerun.try_join, freerun.select])


async def in_group(group: Any, *branches: Any) -> Any:
    return await group(*branches)


async def parked(aw: Any) -> freerun.JoinHandle[Any]:
    handle = freerun.spawn(aw)
    await until(lambda: is_parked(handle))
    return handle


async def is_cancelled(handle: freerun.JoinHandle[Any]) -> bool:
    with pytest.raises(freerun.JoinError) as caught:
        await handle
    return caught.value.is_cancelled()


class Cleanup:
    """Branches that wait, and clean up with an await; what they did."""

    def __init__(self) -> None:
        self.cancelled: list[Any] = []
        self.clean: list[Any] = []
        self.cut: list[Any] = []

    async def __call__(self, name: Any, pause: Callable[[], Awaitable[Any]] | None = None) -> None:
        try:
            await never()
        except Cancelled:
            self.cancelled.append(name)
            try:
                await (pause() if pause else later(None, 2))
            except Cancelled:
                self.cut.append(name)
                raise
            self.clean.append(name)
            raise


@GROUPS
@every_flavor
async def test_abort(group: Any) -> None:
    """Each branch gets Cancelled once, all clean up, and then the task is over."""
    branch = Cleanup()
    task = await parked(in_group(group, branch(1), branch(2), branch(3)))
    assert task.abort()
    assert await is_cancelled(task)
    assert sorted(branch.cancelled) == sorted(branch.clean) == [1, 2, 3]


@GROUPS
@every_flavor
async def test_abort_before_the_branches_start(group: Any) -> None:
    """Those that have not started never do."""
    ran: list[int] = []

    async def runs() -> None:
        ran.append(1)
        await never()

    async def main() -> None:
        freerun.task.current().abort()
        await group(runs(), runs())

    task = freerun.spawn(main)
    assert await is_cancelled(task)
    assert len(ran) in {0, 2}  # its turn may have been over


@GROUPS
@every_flavor
async def test_a_second_abort_changes_nothing(group: Any) -> None:
    """As for any task: an abort is thrown once, and cleanup is not disturbed by another one."""
    branch = Cleanup()
    go = freerun.sync.Notify()
    task = await parked(in_group(group, branch(1, go.notified), branch(2)))
    assert task.abort()
    await until(lambda: branch.clean == [2])
    assert not task.abort()
    for _ in range(10):
        await freerun.yield_now()
    assert not task.is_finished()
    go.notify_one()
    assert await is_cancelled(task)
    assert (sorted(branch.clean), branch.cut) == ([1, 2], [])


@every_flavor
async def test_abort_while_losers_clean_up() -> None:
    """The winner's value is lost, and the cleanup that is going on is cancelled as any other await."""
    branch = Cleanup()
    task = await parked(in_group(freerun.select, branch("loser", never), later("won", 2)))
    assert branch.cancelled == ["loser"]
    task.abort()
    assert await is_cancelled(task)
    assert (branch.clean, branch.cut) == ([], ["loser"])


@GROUPS
@every_flavor
async def test_an_abort_is_stronger_than_branches_that_swallow_it(group: Any) -> None:
    """Each swallows its own Cancelled only."""

    async def stubborn() -> str:
        try:
            await never()
        except Cancelled:
            await later(None)
        return "went on"

    task = await parked(in_group(group, stubborn(), stubborn()))
    task.abort()
    assert await is_cancelled(task)


@GROUPS
@every_flavor
async def test_a_failing_cleanup_is_stronger_than_the_abort(group: Any, reports: Reports) -> None:
    """As in a task without branches. The first is raised, the second reported."""

    async def fails(text: str, yields: int) -> None:
        try:
            await never()
        finally:
            await later(None, yields)
            raise BoomError(text)

    task = await parked(in_group(group, fails("second", 3), fails("first", 1)))
    task.abort()
    with pytest.raises(BoomError, match="first"):
        await task
    assert [str(each.exc_info[1]) for each in reports] == ["second"]  # type: ignore[index]


@every_flavor
async def test_a_failure_before_the_abort_is_reported(reports: Reports) -> None:
    """The abort takes its place, as Cancelled does that interrupts an `except` block."""

    async def fails() -> None:
        await later(None)
        raise BoomError("before")

    branch = Cleanup()
    task = await parked(in_group(freerun.try_join, fails(), branch(1, never)))
    assert branch.cancelled == [1]
    task.abort()
    assert await is_cancelled(task)
    assert [str(each.exc_info[1]) for each in reports] == ["before"]  # type: ignore[index]


@GROUPS
@every_flavor
async def test_an_abort_that_is_swallowed_around_it(group: Any) -> None:
    """The task goes on, and can use branches again."""

    async def main() -> Any:
        branch = Cleanup()
        try:
            await group(branch(1), branch(2))
        except Cancelled:
            assert sorted(branch.clean) == [1, 2]
        return await freerun.join(later(1), later(2))

    task = await parked(main)
    task.abort()
    assert await task == (1, 2)


@GROUPS
@every_flavor
async def test_a_limit_around_it(group: Any) -> None:
    for form in range(3):
        branch = Cleanup()
        with pytest.raises(TimeoutError):
            if form == 0:
                await timeout(0.002, group(branch(1), branch(2)))
            elif form == 1:
                async with timeout(0.002):
                    await group(branch(1), branch(2))
            else:
                await timeout(60, in_group(timeout, 0.002, group(branch(1), branch(2))))
        assert sorted(branch.clean) == [1, 2]


@GROUPS
@every_flavor
async def test_a_limit_inside_ends_its_branch_only(group: Any) -> None:
    branch = Cleanup()

    async def limited() -> str:
        try:
            async with timeout(0.002):
                await branch("limited")
        except TimeoutError:
            await later(None)
            return "timed out"
        return "?"

    assert await freerun.join(limited(), sleep(0.005), limited()) == ("timed out", None, "timed out")
    assert branch.clean == ["limited", "limited"]
    with pytest.raises(TimeoutError):
        await group(timeout(0.002, branch("awaited")))
    assert await freerun.select(never(), limited()) == (1, "timed out")


@every_flavor
async def test_limits_of_siblings_do_not_mix() -> None:
    """Blocks that are entered and left in turns, by branches of one task."""
    random = seeded()

    async def one(n: int) -> bool:
        late = n % 3 == 0
        try:
            async with timeout(0.001 if late else 3600):
                for _ in range(random.randrange(4)):
                    async with timeout(3600):
                        await freerun.yield_now()
                if late:
                    await never()
        except TimeoutError:
            return late
        return not late

    assert all(await freerun.join(*[one(n) for n in range(60)]))


@every_flavor
async def test_the_outer_limit_wins() -> None:
    log: list[str] = []

    async def inner() -> None:
        try:
            async with timeout(0.02):
                await never()
        except TimeoutError:
            log.append("inner")
            raise

    with pytest.raises(TimeoutError):
        async with timeout(0.001):
            await freerun.join(inner(), inner())
    assert log == []


@every_flavor
async def test_a_limit_that_is_due_while_its_branch_cleans_up() -> None:
    """The loser's own limit does not turn select's Cancelled into a TimeoutError."""
    seen: list[str] = []

    async def loser() -> None:
        try:
            async with timeout(0.01) as scope:
                await never()
        except BaseException as error:
            seen.append(type(error).__name__)
            scope.cancel()
            raise

    assert await freerun.select(loser(), later("won"), biased=True) == (1, "won")
    assert seen == ["Cancelled"]


@every_flavor
async def test_a_scope_cancelled_from_elsewhere() -> None:
    """From a sibling, and from another task, while its branch waits."""
    scopes: list[Any] = []

    async def body() -> str:
        try:
            async with timeout(3600) as scope:
                scopes.append(scope)
                await never()
        except TimeoutError:
            return "cut"
        return "?"

    async def sibling() -> None:
        await until(lambda: scopes)
        scopes[0].cancel()

    assert await freerun.join(body(), sibling()) == ("cut", None)
    scopes.clear()
    task = freerun.spawn(sibling)
    assert await freerun.join(body(), later(1)) == ("cut", 1)
    await task


# ---- nesting, in every combination ----


def wrap_join(aw: Any) -> Any:
    async def run() -> Any:
        return (await freerun.join(aw, later(0)))[0]

    return run()


def wrap_try_join(aw: Any) -> Any:
    async def run() -> Any:
        return (await freerun.try_join(later(0), aw))[1]

    return run()


def wrap_select(aw: Any) -> Any:
    async def run() -> Any:
        return (await freerun.select(never(), aw))[1]

    return run()


def wrap_timeout(aw: Any) -> Any:
    return timeout(3600, aw)


def wrap_scope(aw: Any) -> Any:
    async def run() -> Any:
        async with timeout(3600):
            return await aw

    return run()


def wrap_task(aw: Any) -> Any:
    return freerun.spawn(aw)


def wrap_unconstrained(aw: Any) -> Any:
    return freerun.task.unconstrained(aw)


WRAPS = [wrap_join, wrap_try_join, wrap_select, wrap_timeout, wrap_scope, wrap_unconstrained]
NAMES = [each.__name__ for each in WRAPS]


@pytest.mark.parametrize("outer", WRAPS, ids=NAMES)
@pytest.mark.parametrize("inner", WRAPS, ids=NAMES)
@every_flavor
async def test_nested(outer: Any, inner: Any) -> None:
    assert await outer(inner(later("value", 3))) == "value"

    async def fails() -> None:
        await later(None, 2)
        raise BoomError

    with pytest.raises(BoomError):
        await outer(inner(fails()))
    branch = Cleanup()
    task = await parked(outer(inner(branch(1))))
    task.abort()
    assert await is_cancelled(task)
    assert branch.clean == [1]
    with pytest.raises(TimeoutError):
        await timeout(0.001, outer(inner(branch(2))))
    assert branch.clean == [1, 2]
    assert await freerun.select(outer(inner(branch(3))), later("won", 3), biased=True) == (1, "won")
    assert branch.clean == [1, 2, 3]
    assert branch.cut == []


@every_flavor
async def test_random_nests() -> None:
    random = seeded()
    for _ in range(60):
        branch = Cleanup()
        wraps = [random.choice([*WRAPS, wrap_task]) for _ in range(random.randrange(1, 12))]
        ends = random.choice(["value", "abort", "limit"])
        aw: Any = later("value", random.randrange(4)) if ends == "value" else branch(1)
        for wrap in wraps:
            aw = wrap(aw)
        if ends == "value":
            assert await aw == "value"
        elif ends == "limit":
            with pytest.raises(TimeoutError):
                await timeout(0.001, aw)
        else:
            task = await parked(aw)
            task.abort()
            assert await is_cancelled(task)
        if ends != "value" and wrap_task not in wraps:
            assert branch.clean == [1]


# ---- cancel_shielded_checkpoint ----


@every_flavor
async def test_shielded_checkpoint() -> None:
    """An abort that is there already waits until the task waits for something else."""
    log: list[str] = []

    async def main() -> None:
        freerun.task.current().abort()
        for _ in range(5):
            await cancel_shielded_checkpoint()
        log.append("through")
        await freerun.yield_now()
        log.append("?")

    task = freerun.spawn(main)
    assert await is_cancelled(task)
    assert log == ["through"]


@every_flavor
async def test_shielded_checkpoint_lets_others_run() -> None:
    ran: list[int] = []

    async def other() -> None:
        ran.append(1)

    task = freerun.spawn(other)
    while not ran:
        await cancel_shielded_checkpoint()
    await task


@every_flavor
async def test_shielded_in_branches_and_limits() -> None:
    log: list[str] = []

    async def shielded(scope: Any = None) -> None:
        if scope:
            scope.cancel()
        for _ in range(5):
            await cancel_shielded_checkpoint()
        log.append("through")
        await never()

    assert await freerun.select(shielded(), later("won"), biased=True) == (1, "won")
    assert log == ["through"]
    with pytest.raises(TimeoutError):
        await timeout(0, shielded())
    with pytest.raises(TimeoutError):
        async with timeout(3600) as scope:
            await shielded(scope)
    with pytest.raises(TimeoutError):
        async with timeout(3600) as scope:
            await freerun.join(shielded(scope), later(1))
    assert log == ["through"] * 4


def test_shielded_outside_a_task() -> None:
    with pytest.raises(RuntimeError, match="inside a freerun task only"):
        cancel_shielded_checkpoint().send(None)
