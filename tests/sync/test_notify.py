"""`sync.Notify`: Tokio's cases (see docs/sync-tests.md), tasks and threads, notifications that must not get lost."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import pytest
from support import PATIENCE, every_flavor, in_threads, is_parked, seeded, until
from sync_support import parked, put_in_line

import freerun
from freerun.sync import Notified, Notify


def is_told(notified: Notified) -> bool:
    """Whether awaiting it would not wait; it gives up if it would."""
    told = notified.enable()
    notified.close()
    return told


@every_flavor
async def test_one_is_stored() -> None:
    notify = Notify()
    for _ in range(3):
        notify.notify_one()
        notify.notify_last()
    await notify.notified()
    task = await parked(notify.notified())
    notify.notify_one()
    assert await task is None


@every_flavor
async def test_first_come_first_served() -> None:
    notify = Notify()
    tasks = [await parked(notify.notified()) for _ in range(5)]
    for task in tasks:
        assert is_parked(task)
        notify.notify_one()
        await task
    assert not is_told(notify.notified())


@every_flavor
async def test_last_come_first_served() -> None:
    notify = Notify()
    tasks = [await parked(notify.notified()) for _ in range(5)]
    for task in reversed(tasks):
        assert is_parked(task)
        notify.notify_last()
        await task


@every_flavor
async def test_all_of_them() -> None:
    notify = Notify()
    tasks = [await parked(notify.notified()) for _ in range(70)]
    notify.notify_waiters()
    for task in tasks:
        await task
    assert not is_told(notify.notified()), "nothing is stored"


@every_flavor
async def test_made_before_the_call_counts() -> None:
    notify = Notify()
    before = notify.notified()
    notify.notify_waiters()
    assert not is_told(notify.notified())
    await before
    await before  # it has been told; that stays so


@every_flavor
async def test_what_was_stored_is_kept_for_who_needs_it() -> None:
    """Tokio's unpolled_future_completed_by_notify_waiters_preserves_notify_one_permit."""
    notify = Notify()
    before = notify.notified()
    notify.notify_waiters()
    notify.notify_one()
    assert is_told(before)
    assert is_told(notify.notified())
    assert not is_told(notify.notified())


@every_flavor
async def test_who_leaves_with_a_notification_gives_it_on() -> None:
    for how, order in (("notify_one", (0, 1, 2)), ("notify_last", (2, 1, 0))):
        notify = Notify()
        leaves = [notify.notified() for _ in range(3)]
        assert [leaf.enable() for leaf in leaves] == [False] * 3
        getattr(notify, how)()
        leaves[order[0]].close()  # it was told, and never looked
        assert leaves[order[1]].enable() is True
        assert leaves[order[2]].enable() is False
        leaves[order[2]].close()
        notify.notify_one()
        del leaves
        assert is_told(notify.notified())


@every_flavor
async def test_who_leaves_after_a_call_for_all_gives_nothing_on() -> None:
    notify = Notify()
    leaf = notify.notified()
    assert leaf.enable() is False
    notify.notify_waiters()
    leaf.close()
    assert not is_told(notify.notified())
    other = notify.notified()
    assert other.enable() is False
    notify.notify_waiters()
    notify.notify_one()
    other.close()
    assert is_told(notify.notified())


@every_flavor
async def test_freed_with_a_notification() -> None:
    notify = Notify()
    leaf = notify.notified()
    assert leaf.enable() is False
    second = await parked(notify.notified())
    notify.notify_one()
    del leaf
    await until(lambda: gc.collect() is not None and second.is_finished())


@every_flavor
async def test_an_aborted_task_gives_it_on() -> None:
    for told_first in (False, True):
        notify = Notify()
        first, second = await parked(notify.notified()), await parked(notify.notified())
        if told_first:
            notify.notify_one()
            first.abort()
        else:
            first.abort()
            notify.notify_one()
        try:
            await first
        except freerun.JoinError:
            await second
        else:
            assert is_parked(second)
            notify.notify_one()
            await second


@every_flavor
async def test_enable() -> None:
    notify = Notify()
    early = notify.notified()
    assert early.enable() is False
    assert early.enable() is False
    later = await parked(notify.notified())
    notify.notify_one()
    assert is_parked(later)
    assert early.enable() is True
    await early
    assert early.enable() is True
    notify.notify_one()
    await later


@every_flavor
async def test_enable_uses_up_what_is_stored() -> None:
    notify = Notify()
    notify.notify_one()
    first, second = notify.notified(), notify.notified()
    assert first.enable() is True
    assert second.enable() is False
    notify.notify_waiters()
    assert second.enable() is True


@every_flavor
async def test_awaited_after_enable() -> None:
    notify = Notify()
    leaf = notify.notified()
    assert leaf.enable() is False
    task = await parked(leaf)
    assert leaf.enable() is False  # after a poll
    notify.notify_one()
    await task


def test_enable_outside_a_task() -> None:
    notify = Notify()
    leaf = notify.notified()
    assert leaf.enable() is False
    notify.notify_one()
    assert leaf.enable() is True
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(leaf)


@every_flavor
async def test_a_leaf_goes_to_another_task() -> None:
    notify = Notify()
    leaf = notify.notified()

    await freerun.spawn(put_in_line, leaf)
    task = await parked(leaf)
    with pytest.raises(RuntimeError, match="another task is awaiting this very object"):
        await leaf
    notify.notify_one()
    await task


@every_flavor
async def test_spurious_wake_ups() -> None:
    notify = Notify()
    wakers: list[freerun.lowlevel.Waker] = []

    async def wait() -> None:
        wakers.append(freerun.lowlevel.current_waker())
        await notify.notified()

    task = await parked(wait())
    for _ in range(5):
        wakers[0].wake()
        await until(lambda: is_parked(task))
    notify.notify_waiters()
    await task


def test_names() -> None:
    notify = Notify()
    ref = weakref.ref(notify)
    del notify
    assert ref() is None
    with pytest.raises(TypeError):
        Notify(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        type(Notify().notified())()


def test_shutdown_with_waiters() -> None:
    notify = Notify()
    rt = freerun.Builder().worker_threads(2).build()
    tasks = [rt.spawn(notify.notified()) for _ in range(10)]
    for task in tasks:
        while not is_parked(task):
            pass
    notify.notify_one()  # to one of them, which may have looked or not
    rt.shutdown(PATIENCE)
    notify.notify_waiters()


@every_flavor
async def test_storm() -> None:
    """Work from threads, one notification each, takers that are aborted at random: none of it is left lying."""
    random = seeded()
    notify = Notify()
    lock = threading.Lock()
    left = taken = given = 0

    def take() -> bool:
        nonlocal left, taken
        with lock:
            if not left:
                return False
            left, taken = left - 1, taken + 1
            return True

    async def taker() -> None:
        while True:
            notified = notify.notified()
            if not take():
                await notified

    def give(_: int) -> None:
        nonlocal left, given
        for i in range(300):
            with lock:
                left, given = left + 1, given + 1
            if i % 17 == 0:
                notify.notify_waiters()
                notify.notify_one()
            elif i % 3:
                notify.notify_one()
            else:
                notify.notify_last()

    takers = [freerun.spawn(taker) for _ in range(6)]
    with in_threads(2, give):
        while taken < 600:
            if random.random() < 0.2:
                i = random.randrange(6)
                takers[i].abort()
                with contextlib.suppress(freerun.JoinError):
                    await takers[i]
                takers[i] = freerun.spawn(taker)
            await freerun.time.sleep(0)
    assert (taken, left) == (600, 0)
    for task in takers:
        task.abort()
