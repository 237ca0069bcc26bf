"""`testing.task_spawn`: awaitables that a test polls by hand."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from support import every_flavor, in_threads, is_freed

import freerun
from freerun.sync import Mutex, Notify, mpsc, oneshot
from freerun.testing import PENDING, Spawn, task_spawn
from freerun.time import advance, sleep


async def value(n: int) -> int:
    await freerun.yield_now()
    return n


def int_channel() -> tuple[oneshot.Sender[int], oneshot.Receiver[int]]:
    return oneshot.channel()


@every_flavor
async def test_a_coroutine_step_by_step() -> None:
    task = task_spawn(value(1))
    assert not task.is_woken() and not task.is_done
    assert task.poll() is PENDING
    assert task.is_woken()  # it has yielded
    assert task.poll() == 1
    assert task.is_done and not task.is_woken()
    with pytest.raises(RuntimeError, match="has ended"):
        task.poll()


@every_flavor
async def test_functions_leaves_and_bad_arguments() -> None:
    assert task_spawn(freerun.yield_now).poll() is PENDING
    ready = task_spawn(sleep(0))
    while ready.poll() is PENDING:
        assert ready.is_woken()
    with_argument = task_spawn(value, 2)
    assert (with_argument.poll(), with_argument.poll()) == (PENDING, 2)
    for bad in (1, None, "x"):
        with pytest.raises(TypeError, match="awaitable"):
            task_spawn(bad)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes no arguments"):
        task_spawn(value(1), 2)  # type: ignore[call-overload]


@every_flavor
async def test_what_it_raises() -> None:
    async def fails() -> None:
        await freerun.yield_now()
        raise KeyError("x")

    task = task_spawn(fails)
    assert task.poll() is PENDING
    with pytest.raises(KeyError, match="x"):
        task.poll()
    with pytest.raises(RuntimeError, match="has ended"):
        task.poll()


@every_flavor
async def test_the_right_event_wakes_it() -> None:
    first, second = Notify(), Notify()

    async def both() -> str:
        await first.notified()
        await second.notified()
        return "both"

    task = task_spawn(both)
    assert task.poll() is PENDING and not task.is_woken()
    second.notify_one()
    assert not task.is_woken()
    first.notify_one()
    assert task.is_woken()
    assert task.poll() == "both"


@every_flavor
async def test_polled_without_being_woken() -> None:
    """It is resumed, and looks again: a coroutine that counts its steps sees each."""
    steps = 0

    async def counting() -> None:
        nonlocal steps
        while True:
            steps += 1
            await freerun.lowlevel.park()

    task = task_spawn(counting)
    for n in range(1, 5):
        assert task.poll() is PENDING
        assert steps == n
        assert not task.is_woken()
    tx, rx = int_channel()
    receiving = task_spawn(rx)
    assert receiving.poll() is PENDING
    assert receiving.poll() is PENDING
    tx.send(3)
    assert receiving.is_woken() and receiving.poll() == 3


@every_flavor
async def test_woken_from_other_tasks_and_threads() -> None:
    tx, rx = mpsc.channel(1)
    with task_spawn(rx.recv) as receiving:
        assert receiving.poll() is PENDING
        await freerun.spawn(tx.send, 1)
        assert receiving.is_woken() and receiving.poll() == 1
    with task_spawn(rx.recv) as receiving:
        assert receiving.poll() is PENDING
        await freerun.spawn_blocking(tx.blocking_send, 2)
        assert receiving.is_woken() and receiving.poll() == 2


@every_flavor
async def test_closed_half_done_it_gives_back_what_it_was_granted() -> None:
    mutex = Mutex(None)
    guard = await mutex.lock()
    waiting = task_spawn(mutex.lock)
    assert waiting.poll() is PENDING
    guard.release()
    assert waiting.is_woken()  # the mutex is its now
    with pytest.raises(freerun.sync.WouldBlock):
        mutex.try_lock()
    waiting.close()
    waiting.close()
    mutex.try_lock().release()
    assert waiting.is_done and not waiting.is_woken()
    with pytest.raises(RuntimeError, match="was closed"):
        waiting.poll()


@every_flavor
async def test_a_coroutine_is_closed() -> None:
    closed = []

    async def body() -> None:
        try:
            await freerun.lowlevel.park()
        finally:
            closed.append(True)

    with task_spawn(body) as task:
        assert task.poll() is PENDING
    assert closed == [True]
    task_spawn(body()).close()  # never begun: nothing to clean up, and no complaint
    assert closed == [True]
    dropped = task_spawn(body)
    assert dropped.poll() is PENDING
    del dropped
    gc.collect()
    assert closed == [True, True]


def test_outside_a_task() -> None:
    with task_spawn(value, 1) as task, pytest.raises(RuntimeError, match="task"):
        task.poll()


@every_flavor
async def test_its_task_goes_on_undisturbed() -> None:
    """Wakes of what is polled by hand wake the task around it too, which may wait for something else."""
    gate = Notify()
    task = task_spawn(gate.notified)
    assert task.poll() is PENDING
    yielding = task_spawn(freerun.yield_now)
    assert yielding.poll() is PENDING
    tx, rx = int_channel()

    async def other() -> None:
        gate.notify_one()
        await sleep(0.001)
        tx.send(5)

    helper = freerun.spawn(other)
    assert await rx == 5
    assert task.is_woken() and task.poll() is None
    await helper


@every_flavor
async def test_a_long_turn_makes_no_difference() -> None:
    """A leaf that is ready would yield where the budget of the test's own turn is spent."""
    tx, rx = mpsc.unbounded_channel()
    for n in range(300):
        tx.send(n)
    assert [task_spawn(rx.recv).poll() for _ in range(300)] == list(range(300))
    time.sleep(0.005)  # longer than a turn
    tx.send(1)
    assert task_spawn(rx.recv).poll() == 1


@freerun.test(start_paused=True)
async def test_time() -> None:
    task = task_spawn(sleep(10))
    assert task.poll() is PENDING
    await advance(9)
    assert not task.is_woken() and task.poll() is PENDING
    await advance(1.1)
    assert task.is_woken() and task.poll() is None


@every_flavor
async def test_no_leak() -> None:
    class Captured:
        pass

    async def keeps(what: Captured) -> None:
        await freerun.lowlevel.park()
        print(what)

    captured = Captured()
    kept = weakref.ref(captured)
    task: Spawn[None] = task_spawn(keeps, captured)
    assert task.poll() is PENDING
    del captured
    assert kept() is not None
    del task
    assert is_freed(kept)


@every_flavor
async def test_one_at_a_time() -> None:
    """Several tasks poll one awaitable: each poll works, or is refused because another is at it."""
    gate = Notify()
    task = task_spawn(gate.notified)
    assert task.poll() is PENDING
    refused = 0

    async def poller() -> None:
        nonlocal refused
        for _ in range(200):
            try:
                assert task.poll() is PENDING
                task.is_woken()
            except RuntimeError:
                refused += 1
            await freerun.yield_now()

    for each in [freerun.spawn(poller) for _ in range(4)]:
        await each
    gate.notify_one()
    assert task.poll() is None
    assert refused < 800


def test_from_threads() -> None:
    """Made anywhere, and closed anywhere."""
    with in_threads(4, lambda n: task_spawn(value, n).close()):
        pass
