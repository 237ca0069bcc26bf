"""`join` and `try_join`: every branch to its end, polled in one task."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
from conftest import Reports
from support import every_flavor, run_script, until

import freerun
from freerun import Cancelled
from freerun.sync import Mutex, Notify, mpsc, oneshot
from freerun.time import sleep


class BoomError(Exception):
    """What branches fail with."""


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


JOINS = pytest.mark.parametrize("join", [freerun.join, freerun.try_join])


@JOINS
@every_flavor
async def test_results_in_order(join: Any) -> None:
    assert await join(later(1, 3), sleep(0.001), later("x", 0)) == (1, None, "x")
    assert await join() == ()
    assert await join(later([], 0)) == ([],)


@JOINS
@every_flavor
async def test_every_kind_of_awaitable(join: Any) -> None:
    tx, rx = oneshot.channel()
    mutex = Mutex(1)

    async def send() -> None:
        await freerun.yield_now()
        tx.send("one")

    one, _, handle, guard, limited, inner, nothing = await join(
        rx,
        send,
        freerun.spawn(later, "task"),
        mutex.lock(),
        freerun.time.timeout(60, later, "in time"),
        join(later(1), later(2)),
        freerun.yield_now(),
    )
    assert (one, handle, guard.value, limited, inner, nothing) == ("one", "task", 1, "in time", (1, 2), None)
    guard.release()


@every_flavor
async def test_the_branches_take_turns() -> None:
    """A yield of one lets the others run, each yield its own."""
    log: list[str] = []

    async def steps(name: str) -> None:
        for n in range(3):
            log.append(f"{name}{n}")
            await freerun.yield_now()

    task = freerun.spawn(freerun.join(steps("a"), steps("b"), steps("c")))
    await task
    for n in range(3):
        assert sorted(log[3 * n : 3 * n + 3]) == [f"a{n}", f"b{n}", f"c{n}"]


@every_flavor
async def test_branches_feed_each_other() -> None:
    tx, rx = mpsc.channel(1)

    async def produce() -> None:
        with tx:
            for n in range(1000):
                await tx.send(n)

    async def consume() -> int:
        return sum([n async for n in rx])

    assert await freerun.join(produce(), consume()) == (None, 499500)


@every_flavor
async def test_join_runs_all_to_their_end_then_raises_the_first(reports: Reports) -> None:
    log: list[str] = []

    async def ends() -> None:
        await sleep(0.002)
        log.append("end")

    with pytest.raises(BoomError, match="first"):
        await freerun.join(ends(), fail(ValueError("second"), 5), fail(BoomError("first"), 1))
    assert log == ["end"]
    assert [str(each.exc_info[1]) for each in reports] == ["second"]  # type: ignore[index]


@every_flavor
async def test_try_join_cancels_the_rest(reports: Reports) -> None:
    log: list[str] = []

    async def rest(name: str, fails: bool) -> None:
        try:
            await forever()
        finally:
            await later(None, 2)
            log.append(name)
            if fails:
                raise ValueError(name)

    with pytest.raises(BoomError, match="first"):
        await freerun.try_join(rest("a", False), fail(BoomError("first"), 2), rest("b", True))
    assert sorted(log) == ["a", "b"]
    assert [str(each.exc_info[1]) for each in reports] == ["b"]  # type: ignore[index]


@every_flavor
async def test_try_join_does_not_start_what_comes_after_a_failure() -> None:
    ran: list[int] = []

    async def runs() -> None:
        ran.append(1)

    with pytest.raises(BoomError):
        await freerun.try_join(fail(BoomError()), runs())
    assert ran == []


@JOINS
@every_flavor
async def test_a_cancelled_that_nobody_threw(join: Any, reports: Reports) -> None:
    """Is a failure, but a lesser one than any other."""
    with pytest.raises(Cancelled):
        await join(fail(Cancelled()), later(1))
    with pytest.raises(BoomError):
        await freerun.join(fail(Cancelled()), fail(BoomError(), 1))
    assert list(reports) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@JOINS
def test_what_ends_the_process(rt: freerun.Runtime, join: Any, kind: type[BaseException]) -> None:
    """Cancels the others and takes the place of any other failure."""
    log: list[str] = []

    async def clean() -> None:
        try:
            await forever()
        finally:
            await later(None)
            log.append("clean")

    async def fails_then() -> None:
        raise kind

    async def main() -> None:
        await join(clean(), fails_then(), later(1))

    with pytest.raises(kind):
        rt.block_on(main)
    assert log == ["clean"]


@JOINS
@every_flavor
async def test_wrong_arguments(join: Any) -> None:
    with pytest.raises(TypeError, match="'branch 1' must be a coroutine"):
        join(freerun.yield_now(), 7)
    coro = later(1)
    with pytest.raises(ValueError, match=rf"branches 0 and 1 of {join.__name__}\(\) are the same awaitable"):
        await join(coro, coro)
    assert await coro == 1
    once = join(later(1))
    await once
    with pytest.raises(RuntimeError, match=rf"this {join.__name__}\(\) has been awaited already"):
        await once
    with pytest.raises(TypeError, match="keyword"):
        join(a=later)


@every_flavor
async def test_the_task_of_a_branch() -> None:
    """It is the task that awaits, in its context."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="before")
    me = freerun.task.current().id

    async def branch(n: int) -> tuple[int, str]:
        seen = variable.get()
        variable.set(f"by {n}")
        inner = (await freerun.join(freerun.time.timeout(60, whoami)))[0]
        assert inner == freerun.task.current().id
        return freerun.task.current().id, seen

    async def whoami() -> int:
        await freerun.yield_now()
        return freerun.task.current().id

    (first, seen), (second, after) = await freerun.join(branch(1), branch(2))
    assert first == second == me
    assert seen == "before"
    assert after == "by 1"  # they share it: what one branch sets the others see
    assert variable.get() == "by 2"


@every_flavor
async def test_a_task_cannot_await_itself_in_a_branch() -> None:
    handles: list[freerun.JoinHandle[Any]] = []

    async def me() -> None:
        await until(lambda: handles)
        await freerun.join(handles[0], later(1))

    handles.append(freerun.spawn(me))
    with pytest.raises(RuntimeError, match="cannot await itself"):
        await handles[0]


@every_flavor
async def test_a_thousand_branches() -> None:
    notify = Notify()
    waiting = 0

    async def branch(n: int) -> int:
        nonlocal waiting
        waiting += 1
        await notify.notified()
        await freerun.yield_now()
        await sleep(0.001 * (n % 3))
        return n

    async def go() -> None:
        await until(lambda: waiting == 1000)
        await freerun.yield_now()
        notify.notify_waiters()

    async def all_of_them() -> Any:
        return await freerun.join(*[branch(n) for n in range(1000)])

    task = freerun.spawn(all_of_them)
    while not task.is_finished():
        freerun.spawn(go)
        await sleep(0.02)
        notify.notify_waiters()
    assert await task == tuple(range(1000))


@every_flavor
async def test_woken_from_everywhere() -> None:
    """Many threads wake many branches, while the task polls them: no wake is lost."""
    for _ in range(20):
        channels = [oneshot.channel() for _ in range(60)]

        async def send(first: int, channels: Any = channels) -> None:
            for n in range(first, 60, 6):
                channels[n][0].send(n)
                if n % 2:
                    await freerun.yield_now()

        async def receive(rx: Any) -> int:
            got = await rx
            await freerun.yield_now()
            return got

        senders = [freerun.spawn(send, first) for first in range(6)]
        assert await freerun.join(*[receive(rx) for _, rx in channels]) == tuple(range(60))
        for sender in senders:
            await sender


def test_a_dump_shows_a_branch(rt: freerun.Runtime) -> None:
    async def inside_a_branch() -> None:
        await forever()

    async def main() -> str:
        task = freerun.spawn(freerun.join(inside_a_branch()))
        await until(lambda: "waiting" in repr(task))
        text = freerun.Handle.current().dump_tasks()
        task.abort()
        return text

    assert "inside_a_branch" in rt.block_on(main)


@every_flavor
async def test_block_in_place_in_a_branch() -> None:
    """The worker's queue goes to another thread, and the branches stay here."""

    async def blocks(n: int) -> int:
        await freerun.yield_now()
        try:
            return freerun.block_in_place(later_blocking, n)
        except RuntimeError:  # a current-thread runtime has no other thread
            return n

    def later_blocking(n: int) -> int:
        return n

    assert await freerun.join(*[blocks(n) for n in range(5)], later(5)) == (0, 1, 2, 3, 4, 5)


def test_fork_in_a_branch() -> None:
    """The child goes on to the next await of that branch; the others of it are the parent's."""
    source = """
        import os, sys, freerun
        log = []

        async def forks():
            pid = os.fork()
            if pid == 0:
                await freerun.yield_now()
                os._exit(3)
            log.append(os.waitpid(pid, 0)[1])

        async def other(where):
            if os.getpid() != where:
                os._exit(9)
            log.append("other")

        async def main():
            where = os.getpid()
            # Without a budget: a fork takes so long that the turn would be over.
            await freerun.task.unconstrained(freerun.join(forks(), other(where), other(where)))

        try:
            freerun.run(main, flavor=sys.argv[1])
        except RuntimeError:
            os._exit(4)  # the child's block_on
        assert log[0] != 9 << 8 and log[1:] == ["other", "other"], log
    """
    for flavor in ("current_thread", "multi_thread"):
        done = run_script(source, flavor)
        assert done.returncode == 0, done.stderr
