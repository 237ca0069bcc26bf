"""`sync.Semaphore`: Tokio's cases (see docs/sync-tests.md), every way out, order, threads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, every_flavor, in_threads, is_parked, run_script, seeded, until
from sync_support import parked, put_in_line

import freerun
from freerun.sync import AcquireError, Semaphore, WouldBlock

MAX = 2**61 - 1


@every_flavor
async def test_acquire_and_release() -> None:
    semaphore = Semaphore(3)
    permit = await semaphore.acquire()
    assert (permit.num_permits(), semaphore.available_permits()) == (1, 2)
    more = await semaphore.acquire(2)
    assert (more.num_permits(), semaphore.available_permits()) == (2, 0)
    more.release()
    more.release()  # harmless
    assert semaphore.available_permits() == 2
    assert more.num_permits() == 0
    permit.release()
    assert semaphore.available_permits() == 3


@every_flavor
async def test_try_acquire() -> None:
    semaphore = Semaphore(2)
    first = semaphore.try_acquire()
    with pytest.raises(WouldBlock, match="2 permits wanted, 1 free"):
        semaphore.try_acquire(2)
    second = semaphore.try_acquire(k=1)
    with pytest.raises(WouldBlock, match="1 permit wanted, 0 free"):
        semaphore.try_acquire()
    first.release()
    third = semaphore.try_acquire()
    assert semaphore.available_permits() == 0
    second.release()
    third.release()
    assert semaphore.available_permits() == 2


@every_flavor
async def test_waits_for_a_release() -> None:
    semaphore = Semaphore(1)
    held = await semaphore.acquire()
    task = await parked(semaphore.acquire())
    held.release()
    permit = await task
    assert (permit.num_permits(), semaphore.available_permits()) == (1, 0)


@every_flavor
async def test_none_to_begin_with() -> None:
    semaphore = Semaphore(0)
    assert semaphore.available_permits() == 0
    task = await parked(semaphore.acquire())
    semaphore.add_permits(1)
    await task


@every_flavor
async def test_no_permits_wanted() -> None:
    """Zero permits are always there, also for who comes behind others, until the semaphore is closed."""
    semaphore = Semaphore(0)
    assert (await semaphore.acquire(0)).num_permits() == 0
    waiting = await parked(semaphore.acquire())
    semaphore.try_acquire(0).release()
    waiting.abort()
    semaphore.close()
    with pytest.raises(AcquireError):
        await semaphore.acquire(0)
    with pytest.raises(AcquireError):
        semaphore.try_acquire(0)


@every_flavor
async def test_many_at_once_do_not_starve() -> None:
    """Who asks for many takes what comes until it has enough; nobody overtakes."""
    semaphore = Semaphore(2)
    many = await parked(semaphore.acquire(5))
    assert semaphore.available_permits() == 0
    one = await parked(semaphore.acquire())
    with pytest.raises(WouldBlock):
        semaphore.try_acquire()
    semaphore.add_permits(2)
    assert is_parked(many)
    assert is_parked(one)
    semaphore.add_permits(3)
    assert (await many).num_permits() == 5
    assert (await one).num_permits() == 1
    assert semaphore.available_permits() == 1


@every_flavor
async def test_first_come_first_served() -> None:
    semaphore = Semaphore(0)
    order: list[int] = []

    async def take(i: int) -> None:
        async with semaphore:
            order.append(i)

    tasks = [await parked(take(i)) for i in range(20)]
    semaphore.add_permits(1)
    for task in tasks:
        await task
    assert order == list(range(20))
    assert semaphore.available_permits() == 1


@every_flavor
async def test_forget() -> None:
    semaphore = Semaphore(2)
    permit = await semaphore.acquire()
    permit.forget()
    assert permit.num_permits() == 0
    assert semaphore.available_permits() == 1
    permit.release()
    assert semaphore.available_permits() == 1
    with pytest.raises(RuntimeError, match="released already"):
        permit.forget()
    assert semaphore.forget_permits(5) == 1
    assert semaphore.forget_permits(5) == 0
    assert semaphore.available_permits() == 0
    async with semaphore.acquire(0) as empty:
        empty.forget()


@every_flavor
async def test_closed_ones_count_and_forget() -> None:
    semaphore = Semaphore(3)
    permit = await semaphore.acquire()
    semaphore.close()
    assert semaphore.forget_permits(1) == 1
    semaphore.add_permits(4)
    permit.release()
    assert semaphore.available_permits() == 6
    with pytest.raises(AcquireError):
        semaphore.try_acquire()


@every_flavor
async def test_merge_and_split() -> None:
    semaphore = Semaphore(5)
    one, other = await semaphore.acquire(2), await semaphore.acquire(3)
    one.merge(other)
    assert (one.num_permits(), other.num_permits()) == (5, 0)
    part = one.split(2)
    assert (one.num_permits(), part.num_permits()) == (3, 2)
    assert one.semaphore is other.semaphore is part.semaphore is semaphore
    with pytest.raises(ValueError, match="'k' must be at most 3"):
        one.split(4)
    with pytest.raises(ValueError, match="'k' must be at least 0"):
        one.split(-1)
    assert one.split(0).num_permits() == 0
    one.release()
    assert semaphore.available_permits() == 3
    rest = part.split(1)
    part.forget()
    rest.release()
    assert semaphore.available_permits() == 4


@every_flavor
async def test_merge_of_what_does_not_belong_together() -> None:
    one, other = Semaphore(3), Semaphore(3)
    mine = one.try_acquire()
    with pytest.raises(ValueError, match="another semaphore"):
        mine.merge(other.try_acquire())
    with pytest.raises(ValueError, match="this very permit"):
        mine.merge(mine)
    with pytest.raises(TypeError, match="'other' must be a Permit"):
        mine.merge(1)  # type: ignore[arg-type]
    gone = one.try_acquire()
    gone.release()
    with pytest.raises(RuntimeError, match="released already"):
        mine.merge(gone)
    with pytest.raises(RuntimeError, match="released already"):
        gone.merge(mine)
    with pytest.raises(RuntimeError, match="await it first"):
        mine.merge(one.acquire())
    assert mine.num_permits() == 1


@every_flavor
async def test_close() -> None:
    semaphore = Semaphore(1)
    held = await semaphore.acquire()
    tasks = [await parked(semaphore.acquire(k)) for k in (1, 3, 1)]
    assert not semaphore.is_closed()
    semaphore.close()
    semaphore.close()
    assert semaphore.is_closed()
    for task in tasks:
        with pytest.raises(AcquireError, match="closed"):
            await task
    with pytest.raises(AcquireError):
        await semaphore.acquire()
    with pytest.raises(AcquireError):
        semaphore.try_acquire()
    with pytest.raises(AcquireError):
        async with semaphore:
            pytest.fail("it must not get in")
    held.release()
    assert semaphore.available_permits() == 1


@every_flavor
async def test_close_gives_back_what_was_granted_in_part() -> None:
    semaphore = Semaphore(2)
    task = await parked(semaphore.acquire(3))
    semaphore.close()
    with pytest.raises(AcquireError):
        await task
    assert semaphore.available_permits() == 2


@every_flavor
async def test_blocks() -> None:
    semaphore = Semaphore(3)
    async with semaphore as nothing:
        assert nothing is None
        assert semaphore.available_permits() == 2
    async with semaphore.acquire(2) as permit:
        assert permit.num_permits() == 2
    with await semaphore.acquire(3) as permit:
        assert semaphore.available_permits() == 0
    with semaphore.try_acquire(3) as permit:
        assert semaphore.available_permits() == 0
    async with await semaphore.acquire() as permit:
        permit.release()  # early
        assert semaphore.available_permits() == 3
    async with semaphore.acquire() as permit:
        permit.forget()
    assert semaphore.available_permits() == 2
    with pytest.raises(KeyError):
        async with semaphore:
            raise KeyError
    with pytest.raises(KeyError):
        async with semaphore.acquire(2):
            raise KeyError
    assert semaphore.available_permits() == 2
    with pytest.raises(RuntimeError, match="await it first"), semaphore.acquire():
        pytest.fail("it was not awaited")
    with pytest.raises(RuntimeError, match="released already"), permit:
        pytest.fail("it was released")


@every_flavor
async def test_awaited_again() -> None:
    semaphore = Semaphore(2)
    permit = await semaphore.acquire()
    assert await permit is permit
    assert semaphore.available_permits() == 1
    permit.release()
    with pytest.raises(RuntimeError, match="call acquire\\(\\) again"):
        await permit


@every_flavor
async def test_not_awaited() -> None:
    semaphore = Semaphore(1)
    for use in ("release", "forget"):
        with pytest.raises(RuntimeError, match="await it first"):
            getattr(semaphore.acquire(), use)()
    assert semaphore.acquire().num_permits() == 0
    assert semaphore.available_permits() == 1


@every_flavor
async def test_a_dropped_permit_comes_back() -> None:
    semaphore = Semaphore(2)
    permit = await semaphore.acquire(2)
    del permit
    await until(lambda: gc.collect() is not None and semaphore.available_permits() == 2)
    await semaphore.acquire(2)  # dropped at once
    await semaphore.acquire(2)
    # The task may have moved: an object that another thread made is freed when that one gets round to it.
    await until(lambda: gc.collect() is not None and semaphore.available_permits() == 2)
    assert semaphore.try_acquire(2).num_permits() == 2


@every_flavor
async def test_a_cancelled_waiter_gives_on_what_it_has() -> None:
    for hand_over in (False, True):
        semaphore = Semaphore(2)
        first = await parked(semaphore.acquire(3))  # has two of its three
        second = await parked(semaphore.acquire(2))
        if hand_over:
            semaphore.add_permits(1)  # and now all: it may see that, or the abort, first
        first.abort()
        try:
            permit = await first
        except freerun.JoinError:
            pass
        else:
            permit.release()
        assert (await second).num_permits() == 2
        assert semaphore.available_permits() == (1 if hand_over else 0)


@every_flavor
async def test_a_cancelled_block_gives_back() -> None:
    semaphore = Semaphore(1)

    async def hold() -> None:
        async with semaphore:
            await freerun.time.sleep(PATIENCE)

    task = await parked(hold())
    assert semaphore.available_permits() == 0
    task.abort()
    async with semaphore:
        pass
    assert semaphore.available_permits() == 1


@every_flavor
async def test_an_acquire_goes_to_another_task() -> None:
    """The leaf of a task that is over may be awaited on by another one; of one that lives, not."""
    semaphore = Semaphore(0)
    leaf = semaphore.acquire()

    await freerun.spawn(put_in_line, leaf)
    task = await parked(leaf)
    with pytest.raises(RuntimeError, match="another task is awaiting this very object"):
        await leaf
    semaphore.add_permits(1)
    assert await task is leaf


@every_flavor
async def test_spurious_wake_ups() -> None:
    semaphore = Semaphore(0)
    wakers: list[freerun.lowlevel.Waker] = []

    async def take() -> None:
        wakers.append(freerun.lowlevel.current_waker())
        async with semaphore:
            pass

    task = await parked(take())
    for _ in range(5):
        wakers[0].wake()
        await until(lambda: is_parked(task))
    semaphore.add_permits(1)
    await task
    assert semaphore.available_permits() == 1


def test_bounds() -> None:
    semaphore = Semaphore(MAX)
    with pytest.raises(ValueError, match="'k' is too large"):
        semaphore.add_permits(1)
    assert semaphore.available_permits() == MAX
    permit = semaphore.try_acquire(MAX)
    assert (permit.num_permits(), semaphore.available_permits()) == (MAX, 0)
    permit.release()
    assert semaphore.available_permits() == MAX
    assert semaphore.forget_permits(MAX) == MAX
    semaphore.add_permits(MAX)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda s: Semaphore(-1), ValueError, "'permits' must be at least 0: -1"),
        (lambda s: Semaphore(MAX + 1), ValueError, "'permits' must be at most 2\\*\\*61 - 1"),
        (lambda s: Semaphore(10**30), ValueError, "'permits' must be at most"),
        (lambda s: Semaphore(1.5), TypeError, "'permits' must be an int, not float: 1.5"),
        (lambda s: Semaphore(True), TypeError, "'permits' must be an int, not bool"),
        (lambda s: Semaphore(), TypeError, "permits"),
        (lambda s: s.acquire("2"), TypeError, "'k' must be an int, not str: '2'"),
        (lambda s: s.acquire(-(10**30)), ValueError, "'k' must be at least 0"),
        (lambda s: s.acquire(1, 2), TypeError, "acquire\\(\\) takes one argument, 'k', not 2"),
        (lambda s: s.acquire(n=1), TypeError, "unexpected keyword argument 'n'; its only one is 'k'"),
        (lambda s: s.try_acquire(k=-1), ValueError, "'k' must be at least 0"),
        (lambda s: s.blocking_acquire(None), TypeError, "'k' must be an int"),
        (lambda s: s.add_permits(-1), ValueError, "'k' must be at least 0"),
        (lambda s: s.forget_permits(-1), ValueError, "'k' must be at least 0"),
        (lambda s: type(s.acquire())(), TypeError, "cannot create"),
    ],
)
def test_bad_arguments(make: Callable[[Any], object], error: type[Exception], says: str) -> None:
    semaphore = Semaphore(2)
    with pytest.raises(error, match=says):
        make(semaphore)
    assert semaphore.available_permits() == 2


def test_outside_a_task() -> None:
    semaphore = Semaphore(1)
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(semaphore.acquire())
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(semaphore.__aenter__())  # type: ignore[call-overload]
    assert semaphore.available_permits() == 1


def test_names() -> None:
    semaphore = Semaphore(permits=2)
    assert repr(semaphore) == "<freerun.sync.Semaphore available=2>"
    semaphore.close()
    assert repr(semaphore) == "<freerun.sync.Semaphore available=2 closed>"
    ref = weakref.ref(semaphore)
    assert ref() is semaphore
    del semaphore
    assert ref() is None


def test_blocking_acquire(rt: freerun.Runtime) -> None:
    semaphore = Semaphore(0)
    got: list[int] = []

    def take(_: int) -> None:
        with semaphore.blocking_acquire(2) as permit:
            got.append(permit.num_permits())

    async def give() -> None:
        semaphore.add_permits(1)
        await freerun.time.sleep(0.001)
        semaphore.add_permits(1)

    with in_threads(3, take):
        rt.block_on(give)
    assert got == [2, 2, 2]
    assert semaphore.available_permits() == 2
    with semaphore.blocking_acquire():
        assert semaphore.available_permits() == 1


def test_blocking_acquire_of_a_closed_one(rt: freerun.Runtime) -> None:
    semaphore = Semaphore(1)
    closed: list[bool] = []

    def take(_: int) -> None:
        with pytest.raises(AcquireError):
            semaphore.blocking_acquire(2)
        closed.append(True)

    async def close() -> None:
        await until(lambda: semaphore.available_permits() == 0)
        semaphore.close()

    with in_threads(1, take):
        rt.block_on(close)
    assert closed == [True]
    assert semaphore.available_permits() == 1
    with pytest.raises(AcquireError):
        semaphore.blocking_acquire()


@every_flavor
async def test_blocking_acquire_in_a_task() -> None:
    semaphore = Semaphore(1)
    with pytest.raises(RuntimeError, match="would block a worker: inside a task, await acquire"):
        semaphore.blocking_acquire()
    permit = await freerun.spawn_blocking(semaphore.blocking_acquire)
    assert permit.num_permits() == 1


def test_a_signal_ends_a_blocking_acquire() -> None:
    done = run_script(
        """
        import signal, threading, os
        from freerun.sync import Semaphore
        semaphore = Semaphore(1)
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            semaphore.blocking_acquire(2)
        except KeyboardInterrupt:
            print(semaphore.available_permits())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_at_exit_and_after_fork() -> None:
    """What waits when the interpreter ends, or in the parent of a fork, hurts nobody."""
    done = run_script(
        """
        import os, warnings
        import freerun
        from freerun.sync import Semaphore
        warnings.simplefilter("ignore")
        semaphore = Semaphore(1)
        rt = freerun.Builder().worker_threads(1).build()
        held = semaphore.try_acquire()
        task = rt.spawn(semaphore.acquire())
        while "waiting" not in repr(task):
            pass
        if (child := os.fork()) == 0:
            held.release()                # to the task of the parent, which will never look
            assert semaphore.available_permits() == 0
            semaphore.add_permits(1)
            assert semaphore.blocking_acquire().num_permits() == 1
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


@every_flavor
async def test_storm() -> None:
    """Tasks that acquire, split, merge, forget, give up and are aborted: not one permit is lost or made."""
    random = seeded()
    total = 5
    semaphore = Semaphore(total)
    lock = threading.Lock()
    inside = 0

    def count(k: int) -> None:
        nonlocal inside
        with lock:
            inside += k
            assert 0 <= inside <= total

    async def take(k: int, how: int, yields: int) -> None:
        permit = await semaphore.acquire(k)
        count(k)
        try:
            for _ in range(yields):
                await freerun.yield_now()
            if how == 1 and k > 1:
                permit.merge(permit.split(1))
        finally:
            count(-k)  # first: from the next line on another task may have them
            if how == 2:
                permit.forget()
                semaphore.add_permits(k)
            permit.release()

    for _ in range(12):
        tasks = [
            freerun.spawn(take, random.randint(1, total), random.randrange(4), random.randrange(3)) for _ in range(25)
        ]
        for task in tasks:
            if random.random() < 0.4:
                task.abort()
            if random.random() < 0.2:
                await freerun.yield_now()
        for task in tasks:
            try:
                await task
            except freerun.JoinError:
                pass
        assert semaphore.available_permits() == total or await settled(semaphore, total)


async def settled(semaphore: Semaphore, total: int) -> bool:
    """An aborted task may have had a permit that only the collector finds."""
    await until(lambda: gc.collect() is not None and semaphore.available_permits() == total)
    return True
