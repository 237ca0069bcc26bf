"""`sync.mpsc`: Tokio's cases (see docs/sync-tests.md), for bounded and unbounded channels alike where they are."""

from __future__ import annotations

import ctypes
import gc
import pickle
import sysconfig
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, check_script, every_flavor, in_threads, is_freed, is_parked, until
from sync_support import parked, put_in_line

import freerun
from freerun.sync import RecvError, SendError, SendTimeoutError, TrySendError, WouldBlock, mpsc

both = pytest.mark.parametrize(
    "make", [lambda: mpsc.channel(100), mpsc.unbounded_channel], ids=["bounded", "unbounded"]
)


class Thing:
    pass


async def send(tx: Any, value: Any) -> None:
    """Send to a channel of either kind."""
    waiting = tx.send(value)
    if waiting is not None:
        await waiting


async def drop(*ends: Any) -> None:
    """What the caller has deleted is gone, wherever it was made."""
    gc.collect()


# --- Sending and receiving ----------------------------------------------------------------------


@both
@every_flavor
async def test_in_order_until_the_senders_are_gone(make: Callable[[], Any]) -> None:
    tx, rx = make()
    for n in range(70):  # more than a block
        await send(tx, n)
    assert [await rx.recv() for _ in range(70)] == list(range(70))
    await send(tx, None)  # None is a value like any other
    assert await rx.recv() is None
    del tx
    await drop()
    with pytest.raises(RecvError, match="closed"):
        await rx.recv()


@every_flavor
async def test_all_ways_to_send() -> None:
    tx, rx = mpsc.channel(16)
    permit = await tx.reserve()
    permit.send(1)
    tx.try_send(2)
    await tx.send(3)
    await tx.send_timeout(4, 10)
    assert await rx.recv_many(10) == [1, 2, 3, 4]


@both
@every_flavor
async def test_from_another_task(make: Callable[[], Any]) -> None:
    tx, rx = make()

    async def produce(tx: Any) -> None:
        with tx:
            await send(tx, 1)
            await freerun.yield_now()
            await send(tx, 2)

    freerun.spawn(produce, tx)
    assert [n async for n in rx] == [1, 2]
    with pytest.raises(RecvError):
        await rx.recv()


@every_flavor
async def test_a_full_channel_makes_senders_wait() -> None:
    tx, rx = mpsc.channel(2)
    await tx.send(0)
    await tx.send(1)
    third, fourth = await parked(tx.send(2)), await parked(tx.send(3))
    assert (len(rx), tx.capacity()) == (2, 0)
    assert await rx.recv() == 0
    await third
    assert is_parked(fourth)
    assert await rx.recv() == 1
    await fourth
    assert await rx.recv_many(10) == [2, 3]
    assert tx.capacity() == 2


@every_flavor
async def test_capacity_one() -> None:
    tx, rx = mpsc.channel(1)

    async def produce(tx: Any) -> None:
        for n in range(300):
            await tx.send(n)
        tx.close()

    freerun.spawn(produce, tx)
    assert [n async for n in rx] == list(range(300))


@both
@every_flavor
async def test_recv_many(make: Callable[[], Any]) -> None:
    tx, rx = make()
    for n in range(50):
        await send(tx, n)
    assert await rx.recv_many(0) == []
    assert await rx.recv_many(3) == [0, 1, 2]
    assert await rx.recv_many(1000) == list(range(3, 50))
    waiting = await parked(rx.recv_many(5))
    await send(tx, "more")
    assert await waiting == ["more"]
    tx.close()
    with pytest.raises(RecvError):
        await rx.recv_many(5)
    assert await rx.recv_many(0) == []
    with pytest.raises(ValueError, match="'limit' must be at least 0"):
        rx.recv_many(-1)


@every_flavor
async def test_recv_many_makes_room() -> None:
    tx, rx = mpsc.channel(2)

    async def produce(tx: Any) -> None:
        with tx:
            for n in (1, 2, 7):
                await tx.send(n)

    freerun.spawn(produce, tx)
    received: list[int] = []
    while True:
        try:
            part = await rx.recv_many(16)
        except RecvError:
            break
        assert 1 <= len(part) <= 2
        received += part
    assert received == [1, 2, 7]


@both
@every_flavor
async def test_try_recv(make: Callable[[], Any]) -> None:
    tx, rx = make()
    with pytest.raises(WouldBlock, match="empty"):
        rx.try_recv()
    for n in range(100):
        await send(tx, n)
    assert [rx.try_recv() for _ in range(100)] == list(range(100))
    with pytest.raises(WouldBlock):
        rx.try_recv()
    await send(tx, "last")
    tx.close()
    assert rx.try_recv() == "last"
    with pytest.raises(RecvError):
        rx.try_recv()


@every_flavor
async def test_try_send() -> None:
    tx, rx = mpsc.channel(1)
    tx.try_send("hello")
    value = Thing()
    with pytest.raises(TrySendError.Full, match="full") as full:
        tx.try_send(value)
    assert full.value.value is value
    assert isinstance(full.value, WouldBlock | TrySendError | SendError)
    assert isinstance(full.value, WouldBlock)
    assert await rx.recv() == "hello"
    tx.try_send("goodbye")
    rx.close()
    with pytest.raises(TrySendError.Closed, match="closed") as closed:
        tx.try_send(value)
    assert closed.value.value is value
    assert not isinstance(closed.value, WouldBlock)
    assert rx.try_recv() == "goodbye"


def test_errors_are_values() -> None:
    for kind in (SendError, SendTimeoutError, TrySendError.Full, TrySendError.Closed):
        again = pickle.loads(pickle.dumps(kind([1])))
        assert (type(again), again.value, str(again)) == (kind, [1], str(kind([1])))
    assert repr(TrySendError.Full(1)).startswith("Full(")
    assert TrySendError.Full.__qualname__ == "TrySendError.Full"


# --- Room that is reserved ----------------------------------------------------------------------


@every_flavor
async def test_reserve() -> None:
    tx, rx = mpsc.channel(2)
    one, two = await tx.reserve(), await tx.reserve()
    third = await parked(tx.reserve())
    fourth = await parked(tx.clone().reserve())
    one.send(1)
    assert is_parked(third), "a message takes the room over"
    assert await rx.recv() == 1
    permit = await third
    assert is_parked(fourth)
    two.release()
    two.release()  # harmless
    (await fourth).send(4)
    permit.send(3)
    assert await rx.recv_many(5) == [4, 3], "in the order in which they were sent"
    with pytest.raises(RuntimeError, match="used or released"):
        permit.send(5)
    with pytest.raises(RuntimeError, match="used or released"):
        await permit
    permit.release()
    assert tx.capacity() == 2


@every_flavor
async def test_reserve_in_blocks() -> None:
    tx, rx = mpsc.channel(3)
    async with tx.reserve() as permit:
        assert tx.capacity() == 2
        permit.send("a")
    assert tx.capacity() == 2
    async with tx.reserve():
        assert tx.capacity() == 1
    with await tx.reserve():
        assert tx.capacity() == 1
    with pytest.raises(KeyError):
        async with tx.reserve():
            raise KeyError
    async with tx.reserve_many(2) as permits:
        next(permits).send("b")
        assert len(permits) == 1
        assert tx.capacity() == 0
    assert tx.capacity() == 1
    with await tx.reserve_many(1) as permits:
        assert tx.capacity() == 0
    with tx.try_reserve_many(1):
        assert tx.capacity() == 0
    with pytest.raises(RuntimeError, match="await it first"), tx.reserve():
        pytest.fail("it was not awaited")
    with pytest.raises(RuntimeError, match="await it first"):
        tx.reserve().send(1)
    with pytest.raises(RuntimeError, match="await reserve_many"):
        tx.reserve_many(1).send(1)
    assert tx.capacity() == 1
    assert await rx.recv_many(5) == ["a", "b"]


@every_flavor
async def test_reserve_many() -> None:
    for n in (1, 2, 5, 40):
        for used in range(0, n, 3):
            tx, rx = mpsc.channel(n)
            permits = await tx.reserve_many(n)
            assert (len(permits), tx.capacity()) == (n, 0)
            with pytest.raises(TrySendError.Full):
                tx.try_reserve_many(1)
            for i, permit in zip(range(used), permits, strict=False):
                permit.send(i)
            permits.release()
            assert tx.capacity() == n - used
            tx.try_reserve_many(1).release()
            with pytest.raises(TrySendError.Full):
                tx.try_reserve_many(n - used + 1 if used else n).release()
                raise TrySendError.Full
            if used:
                assert await rx.recv_many(n) == list(range(used))
            assert tx.capacity() == n


@every_flavor
async def test_reserve_nothing() -> None:
    tx, rx = mpsc.channel(1)
    assert list(await tx.reserve_many(0)) == []
    await tx.send(1)
    assert list(await tx.reserve_many(0)) == []
    assert list(tx.try_reserve_many(0)) == []
    rx.close()
    with pytest.raises(SendError):
        await tx.reserve_many(0)
    with pytest.raises(TrySendError.Closed):
        tx.try_reserve_many(0)


@every_flavor
async def test_reserve_more_than_there_can_be() -> None:
    tx, _rx = mpsc.channel(3)
    for call in (tx.reserve_many, tx.try_reserve_many):
        for n in (4, 2**61 - 1, 2**70):
            with pytest.raises(ValueError, match="'n' must be at most"):
                call(n)
        with pytest.raises(ValueError, match="'n' must be at least 0"):
            call(-1)
        with pytest.raises(TypeError, match="'n' must be an int"):
            call("1")


@every_flavor
async def test_try_reserve() -> None:
    tx, rx = mpsc.channel(1)
    permit = tx.try_reserve()
    with pytest.raises(TrySendError.Full):
        tx.try_reserve()
    permit.send("foo")
    assert await rx.recv() == "foo"
    tx.try_reserve().release()
    tx.try_reserve()  # dropped
    await until(lambda: gc.collect() is not None and tx.capacity() == 1)
    rx.close()
    with pytest.raises(TrySendError.Closed):
        tx.try_reserve()


@every_flavor
async def test_a_dropped_permit_gives_its_room_to_the_next() -> None:
    tx, _rx = mpsc.channel(3)
    permit = await tx.reserve()
    permits = await tx.reserve_many(2)
    first = await parked(tx.reserve())
    del permit
    await until(lambda: gc.collect() is not None and first.is_finished())
    second = await parked(tx.reserve_many(2))
    del permits
    await until(lambda: gc.collect() is not None and second.is_finished())


@every_flavor
async def test_who_gives_up_lets_the_next_go() -> None:
    """Tokio's start_send_past_cap: an abandoned reserve() has no room to lose."""
    tx, rx = mpsc.channel(1)
    tx.try_send(0)
    first, second = await parked(tx.reserve()), await parked(tx.reserve())
    first.abort()
    with pytest.raises(freerun.JoinError):
        await first
    assert await rx.recv() == 0
    (await second).release()
    assert tx.capacity() == 1


@every_flavor
async def test_many_reserved_in_part_and_cancelled() -> None:
    tx, _rx = mpsc.channel(4)
    held = await tx.reserve()
    many = await parked(tx.reserve_many(4))  # has three of them
    one = await parked(tx.reserve())
    assert tx.capacity() == 0
    many.abort()
    (await one).release()
    held.release()
    assert tx.capacity() == 4


# --- Timeouts -----------------------------------------------------------------------------------


@every_flavor
async def test_send_timeout() -> None:
    tx, rx = mpsc.channel(1)
    await tx.send_timeout(1, 0)
    value = Thing()
    with pytest.raises(SendTimeoutError, match="in time") as late:
        await tx.send_timeout(value, 0.002)
    assert late.value.value is value
    assert isinstance(late.value, TimeoutError)
    assert tx.capacity() == 0
    waiting = await parked(tx.send_timeout(2, PATIENCE))
    assert await rx.recv() == 1
    await waiting
    assert await rx.recv() == 2
    await tx.send(3)
    waiting = await parked(tx.send_timeout(4, PATIENCE))
    rx.close()
    with pytest.raises(SendError) as closed:
        await waiting
    assert (type(closed.value), closed.value.value) == (SendError, 4)
    with pytest.raises(SendError):
        await tx.send_timeout(5, PATIENCE)
    for bad, error in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="'seconds'"):
            tx.send_timeout(1, bad)
    with pytest.raises(TypeError, match="two arguments"):
        tx.send_timeout(1)


@every_flavor
async def test_a_cancelled_send_timeout_leaves_nothing() -> None:
    tx, rx = mpsc.channel(1)
    await tx.send(1)
    waiting = await parked(tx.send_timeout(2, PATIENCE))
    waiting.abort()
    with pytest.raises(freerun.JoinError):
        await waiting
    assert await rx.recv() == 1
    assert tx.capacity() == 1


# --- Closing ------------------------------------------------------------------------------------


@both
@every_flavor
async def test_receiver_closes_an_empty_channel(make: Callable[[], Any]) -> None:
    tx, rx = make()
    assert not rx.is_closed()
    assert not tx.is_closed()
    rx.close()
    rx.close()
    assert rx.is_closed()
    assert tx.is_closed()
    with pytest.raises(RecvError):
        await rx.recv()
    with pytest.raises(RecvError):
        rx.try_recv()
    value = Thing()
    with pytest.raises(SendError) as caught:
        await send(tx, value)
    assert caught.value.value is value
    assert [n async for n in rx] == []


@both
@every_flavor
async def test_what_was_sent_before_the_close_is_received(make: Callable[[], Any]) -> None:
    tx, rx = make()
    for n in range(3):
        await send(tx, n)
    rx.close()
    assert (rx.is_closed(), rx.is_empty(), len(rx)) == (True, False, 3)
    with pytest.raises(SendError):
        await send(tx, 3)
    assert await rx.recv() == 0
    assert rx.try_recv() == 1
    assert [n async for n in rx] == [2]
    assert (rx.is_empty(), len(rx)) == (True, 0)


@every_flavor
async def test_reserved_room_outlives_the_close() -> None:
    for use in ("send", "release", "drop"):
        tx, rx = mpsc.channel(1)
        permit = await tx.reserve()
        waiting = await parked(tx.clone().reserve())
        rx.close()
        with pytest.raises(SendError):
            await waiting
        with pytest.raises(WouldBlock):
            rx.try_recv()
        receiving = await parked(rx.recv())
        if use == "send":
            permit.send(123)
            assert await receiving == 123
            receiving = freerun.spawn(rx.recv())
        elif use == "release":
            permit.release()
        else:
            del permit
            await until(lambda task=receiving: gc.collect() is not None and task.is_finished())
        with pytest.raises(RecvError):
            await receiving
        with pytest.raises(RecvError):
            rx.try_recv()


@every_flavor
async def test_the_last_of_many_permits_ends_a_closed_channel() -> None:
    for use in ("send", "release"):
        tx, rx = mpsc.channel(5)
        permits = await tx.reserve_many(3)
        last = next(permits)
        rx.close()
        receiving = await parked(rx.recv())
        permits.release()
        assert is_parked(receiving)
        if use == "send":
            last.send(1)
            assert await receiving == 1
            receiving = freerun.spawn(rx.recv())
        else:
            last.release()
        with pytest.raises(RecvError):
            await receiving


@every_flavor
async def test_room_that_a_waiter_gives_back_ends_a_closed_channel() -> None:
    """Tokio's failed_reserve…/cancelled_reserve…: whoever had part of it, and hears of the close, or never looks."""
    for how in ("fails", "aborted", "closed"):
        tx, rx = mpsc.channel(2)
        permit = tx.try_reserve()
        leaf = tx.reserve_many(2)  # takes the other one and waits
        if how == "closed":
            await put_in_line(leaf)
        else:
            many = await parked(leaf)
        if how == "aborted":
            many.abort()
        rx.close()
        receiving = freerun.spawn(rx.recv())
        permit.release()
        if how == "closed":
            await until(lambda task=receiving: is_parked(task))
            leaf.close()
        else:
            with pytest.raises((SendError, freerun.JoinError)):
                await many
        with pytest.raises(RecvError):
            await receiving


@both
@pytest.mark.parametrize("how", ["drop", "close", "with"])
@every_flavor
async def test_senders_leave(make: Callable[[], Any], how: str) -> None:
    tx, rx = make()
    other = tx.clone()
    await send(tx, 1)
    receiving = [await rx.recv(), await parked(rx.recv())][1]
    for each in (tx, other):
        assert is_parked(receiving)
        if how == "close":
            each.close()
            each.close()
        elif how == "with":
            with each as same:
                assert same is each
    del tx, other, each
    await until(lambda: gc.collect() is not None and receiving.is_finished())
    with pytest.raises(RecvError):
        await receiving
    assert rx.is_closed()
    with pytest.raises(RecvError):
        await rx.recv()


@both
@every_flavor
async def test_a_closed_sender(make: Callable[[], Any]) -> None:
    tx, rx = make()
    other = tx.clone()
    tx.close()
    assert (tx.is_closed(), other.is_closed()) == (True, False)
    value = Thing()
    with pytest.raises(SendError) as caught:
        await send(tx, value)
    assert caught.value.value is value
    with pytest.raises(RuntimeError, match="clone it before"):
        tx.clone()
    await send(other, 1)
    assert await rx.recv() == 1
    if hasattr(tx, "try_send"):
        with pytest.raises(TrySendError.Closed):
            tx.try_send(1)
        with pytest.raises(TrySendError.Closed):
            tx.try_reserve()
        with pytest.raises(SendError):
            await tx.reserve()
        with pytest.raises(SendError):
            await tx.send_timeout(1, 1)


@every_flavor
async def test_a_sender_closed_under_those_who_wait() -> None:
    tx, rx = mpsc.channel(2)
    permit = await tx.reserve()
    await tx.send(0)
    waiting = await parked(tx.send("kept"))
    tx.close()
    with pytest.raises(SendError) as caught:
        await waiting
    assert caught.value.value == "kept"
    with pytest.raises(SendError) as caught:
        permit.send("kept, too")
    assert caught.value.value == "kept, too"
    assert await rx.recv() == 0
    with pytest.raises(RecvError):
        await rx.recv()


@both
@pytest.mark.parametrize("how", ["drop", "with"])
@every_flavor
async def test_the_receiver_leaves(make: Callable[[], Any], how: str) -> None:
    tx, rx = make()
    things = [Thing() for _ in range(70)]
    refs = [weakref.ref(thing) for thing in things]
    for thing in things:
        await send(tx, thing)
    del things, thing
    closed = await parked(tx.closed())
    permit = tx.try_reserve() if hasattr(tx, "try_reserve") else None
    if how == "with":
        with rx as same:
            assert same is rx
            del same
        with pytest.raises(RecvError):
            await rx.recv()
        assert len(rx) == 0
    del rx
    await until(lambda: all(map(is_freed, refs)))
    await closed
    assert tx.is_closed()
    with pytest.raises(SendError):
        await send(tx, 1)
    if permit:
        with pytest.raises(SendError) as caught:
            permit.send("kept")
        assert caught.value.value == "kept"


@both
@every_flavor
async def test_awaiting_the_close(make: Callable[[], Any]) -> None:
    tx, rx = make()
    waiting = [await parked(end.closed()) for end in (tx, tx, tx.clone())]
    waiting[1].abort()
    rx.close()
    await waiting[0]
    await waiting[2]
    await tx.closed()
    with pytest.raises(freerun.JoinError):
        await waiting[1]


@every_flavor
async def test_a_destructor_that_uses_the_channel() -> None:
    """Messages are dropped under no lock: their destructors may send, receive and close."""
    tx, rx = mpsc.unbounded_channel()
    seen: list[str] = []

    class Nosy:
        def __del__(self) -> None:
            try:
                tx.send(1)
            except SendError:
                seen.append("closed")

    for _ in range(40):
        tx.send(Nosy())
    del rx
    await until(lambda: gc.collect() is not None and len(seen) == 40)


@every_flavor
async def test_a_destructor_that_raises(capsys: pytest.CaptureFixture[str]) -> None:
    """Tokio's drop_all_elements_during_panic: the others are dropped all the same."""
    tx, rx = mpsc.unbounded_channel()
    dropped: list[int] = []

    class Bad:
        def __del__(self) -> None:
            dropped.append(1)
            raise KeyError("meant to be")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", lambda unraisable: None)
        for _ in range(3):
            tx.send(Bad())
        del rx
        await until(lambda: gc.collect() is not None and len(dropped) == 3)


# --- Weak senders -------------------------------------------------------------------------------


@both
@every_flavor
async def test_weak_senders(make: Callable[[], Any]) -> None:
    tx, rx = make()
    weak = tx.downgrade()
    also = weak.clone()
    assert (tx.strong_count(), tx.weak_count()) == (1, 2)
    other = weak.upgrade()
    assert (weak.strong_count(), weak.weak_count()) == (2, 2)
    assert (rx.sender_strong_count(), rx.sender_weak_count()) == (2, 2)
    assert other.same_channel(tx)
    await send(other, 1)
    tx.close()
    assert not rx.is_closed()
    await send(other, 2)
    other.close()
    assert rx.is_closed()
    assert [n async for n in rx] == [1, 2]
    for each in (weak, also):
        with pytest.raises(SendError):
            each.upgrade()
    del also, each
    await until(lambda: gc.collect() is not None and weak.weak_count() == 1)
    assert weak.strong_count() == 0


@both
@every_flavor
async def test_a_weak_sender_does_not_keep_the_channel_open(make: Callable[[], Any]) -> None:
    tx, rx = make()
    weak = tx.downgrade()
    receiving = await parked(rx.recv())
    del tx
    await until(lambda: gc.collect() is not None and receiving.is_finished())
    with pytest.raises(RecvError):
        await receiving
    with pytest.raises(SendError):
        weak.upgrade()


@every_flavor
async def test_a_permit_keeps_the_channel_open() -> None:
    tx, rx = mpsc.channel(10)
    weak = tx.downgrade()
    permit = await tx.reserve()
    del tx
    gc.collect()
    assert not rx.is_closed()
    weak.upgrade().close()
    permit.send(1)
    assert await rx.recv() == 1


@every_flavor
async def test_an_actor_with_a_weak_sender_to_itself() -> None:
    """Tokio's actor_weak_sender: the actor ends when the last handle from outside goes."""

    async def actor(rx: Any, weak: Any) -> list[str]:
        log: list[str] = []
        async for message in rx:
            log.append(message)
            if message == "again":
                with weak.upgrade() as tx:
                    await tx.send("once more")
        return log

    tx, rx = mpsc.channel(10)
    task = freerun.spawn(actor, rx, tx.downgrade())
    await tx.send("again")
    await until(lambda: tx.capacity() == 10)
    await tx.send("last")
    tx.close()
    assert await task == ["again", "once more", "last"]


# --- Looking ------------------------------------------------------------------------------------


@both
@every_flavor
async def test_len(make: Callable[[], Any]) -> None:
    tx, rx = make()
    assert (len(rx), rx.is_empty(), bool(rx)) == (0, True, True)
    for n in range(80):
        await send(tx, n)
        assert (len(rx), rx.is_empty()) == (n + 1, False)
    for n in range(80, 0, -1):
        assert len(rx) == n
        await rx.recv()
    assert (len(rx), rx.is_empty()) == (0, True)
    await send(tx, 1)
    tx.close()
    assert (len(rx), rx.is_empty(), rx.is_closed()) == (1, False, True)
    await rx.recv()
    assert (len(rx), rx.is_empty(), rx.is_closed()) == (0, True, True)


@every_flavor
async def test_capacity() -> None:
    tx, rx = mpsc.channel(100)
    assert (tx.capacity(), tx.max_capacity(), rx.capacity(), rx.max_capacity()) == (100,) * 4
    permit = await tx.reserve()
    assert tx.capacity() == 99
    permit.send(1)
    assert tx.capacity() == 99
    await tx.send(2)
    assert (tx.capacity(), rx.capacity()) == (98, 98)
    await rx.recv()
    await rx.recv()
    assert tx.capacity() == 100


@both
def test_same_channel(make: Callable[[], Any]) -> None:
    tx, _ = make()
    other, _ = make()
    assert tx.same_channel(tx.clone())
    assert not tx.same_channel(other)
    with pytest.raises(TypeError, match="'other' must be a freerun.sync.mpsc"):
        tx.same_channel(1)


def test_names() -> None:
    tx, rx = mpsc.channel(5)
    tx.try_send(1)
    assert repr(tx) == "<freerun.sync.mpsc.Sender len=1 of 5>"
    rx.close()
    assert repr(rx) == "<freerun.sync.mpsc.Receiver len=1 of 5 closed>"
    tx, rx = mpsc.unbounded_channel()
    assert repr(tx.downgrade()) == "<freerun.sync.mpsc.WeakUnboundedSender len=0>"
    for name in mpsc.__all__:
        kind = getattr(mpsc, name)
        if isinstance(kind, type) and not issubclass(kind, Exception):
            assert kind[int].__origin__ is kind  # type: ignore[index]
            with pytest.raises(TypeError):
                kind()


@pytest.mark.parametrize("capacity", [0, -1, 2**61, 10**30, True, 1.0, None])
def test_bad_capacity(capacity: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="'capacity' must be"):
        mpsc.channel(capacity)


# --- One receiver at a time ---------------------------------------------------------------------


@both
@every_flavor
async def test_two_tasks_that_receive(make: Callable[[], Any]) -> None:
    tx, rx = make()
    first = await parked(rx.recv())
    with pytest.raises(RuntimeError, match="another task is already waiting for this channel's messages"):
        await rx.recv()
    with pytest.raises(WouldBlock):
        rx.try_recv()
    await send(tx, 1)
    assert await first == 1
    await send(tx, 2)
    assert await rx.recv() == 2


@every_flavor
async def test_one_task_may_change_its_mind() -> None:
    """A leaf that was left behind by the same task, or by one that is over, is in nobody's way."""
    tx, rx = mpsc.channel(1)
    left, mine, waiting = rx.recv(), rx.recv(), rx.recv()
    await freerun.spawn(put_in_line, left)
    await put_in_line(mine)
    await put_in_line(waiting)
    await tx.send("x")
    assert await waiting == "x"


@every_flavor
async def test_a_leaf_goes_to_another_task() -> None:
    tx, rx = mpsc.channel(1)
    for make, finish in ((rx.recv, lambda: tx.send("x")), (tx.closed, lambda: freerun.spawn_blocking(rx.close))):
        leaf = make()
        await freerun.spawn(put_in_line, leaf)
        task = await parked(leaf)
        with pytest.raises(RuntimeError, match="another task"):
            await leaf
        await finish()
        assert await task in ("x", None)


@every_flavor
async def test_a_send_that_was_sent_is_not_sent_again() -> None:
    tx, rx = mpsc.channel(5)
    leaf = tx.send(1)
    await leaf
    with pytest.raises(RuntimeError, match="sent already"):
        await leaf
    assert await rx.recv_many(5) == [1]


@every_flavor
async def test_a_send_that_is_not_awaited_does_not_send() -> None:
    tx, rx = mpsc.channel(1)
    value = Thing()
    ref = weakref.ref(value)
    tx.send(value)
    del value
    assert rx.is_empty()
    await until(lambda: is_freed(ref))


# --- Cancelling ---------------------------------------------------------------------------------


@every_flavor
async def test_a_cancelled_send_did_not_send() -> None:
    for room_first in (False, True):
        tx, rx = mpsc.channel(1)
        await tx.send(0)
        task = await parked(tx.send(1))
        if room_first:
            assert await rx.recv() == 0
            task.abort()
        else:
            task.abort()
            assert await rx.recv() == 0
        try:
            await task
        except freerun.JoinError:
            assert rx.is_empty()
            assert tx.capacity() == 1
        else:
            assert await rx.recv() == 1


@both
@every_flavor
async def test_a_cancelled_receive_loses_nothing(make: Callable[[], Any]) -> None:
    tx, rx = make()
    for n in range(60):
        task = await parked(rx.recv())
        if n % 2:
            await send(tx, n)
            task.abort()
        else:
            task.abort()
            await send(tx, n)
        try:
            assert await task == n
        except freerun.JoinError:
            assert await rx.recv() == n


# --- Values and the collector -------------------------------------------------------------------


@both
@every_flavor
async def test_cycles_are_collected(make: Callable[[], Any]) -> None:
    tx, rx = make()
    thing: Any = Thing()
    thing.rx = rx
    ref = weakref.ref(thing)
    for _ in range(40):
        await send(tx, 1)
    await send(tx, thing)
    assert len(gc.get_referents(rx)) >= 40
    del thing, rx
    await until(lambda: is_freed(ref))
    assert tx.is_closed()


@every_flavor
async def test_an_unsent_message_in_a_cycle_is_collected() -> None:
    tx, rx = mpsc.channel(1)
    thing: Any = Thing()
    thing.leaf = tx.send(thing)
    ref = weakref.ref(thing)
    del thing
    await until(lambda: is_freed(ref))
    other: Any = Thing()
    other.leaf = rx.recv()
    ref = weakref.ref(other)
    await tx.send(other)
    del other, rx
    await until(lambda: is_freed(ref))


@every_flavor
async def test_received_values_are_released() -> None:
    tx, rx = mpsc.channel(100)
    for _ in range(50):
        await tx.send(Thing())
    refs = []
    for _ in range(50):
        value = await rx.recv()
        refs.append(weakref.ref(value))
        del value
    await freerun.yield_now()
    await until(lambda: all(map(is_freed, refs)))


where_counts_are_apart = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="with a GIL there is one count, and nothing to tell apart"
)


def shared_references(thing: object) -> int:
    """How many references to it were counted as shared, on a free-threaded build (PEP 703's ob_ref_shared)."""
    return ctypes.c_ssize_t.from_address(id(thing) + 16).value >> 2


@where_counts_are_apart
@freerun.test(worker_threads=2)
async def test_references_are_shared_where_another_thread_takes_them() -> None:
    """A channel knows which worker received last. Whoever that was, each of its values is freed."""
    tx, rx = mpsc.channel(4)

    def send_one() -> tuple[int, weakref.ref[Thing]]:
        thing = Thing()
        tx.try_send(thing)
        return shared_references(thing), weakref.ref(thing)

    def receive(_: int = 0) -> None:
        assert isinstance(rx.try_recv(), Thing)

    shared, refs = [], []
    for elsewhere in (False, False, True, True, False, False):
        count, ref = send_one()
        shared.append(count)
        refs.append(ref)
        if elsewhere:
            with in_threads(1, receive):
                pass
        else:
            receive()
    assert shared == [1, 0, 0, 1, 1, 0]
    await until(lambda: all(map(is_freed, refs)))


@where_counts_are_apart
def test_references_of_plain_threads_are_shared() -> None:
    """Nobody sees to it that such a thread frees what is left to it: whoever drops the last reference does."""
    tx, rx = mpsc.unbounded_channel()
    for _ in range(2):
        thing = Thing()
        tx.send(thing)
        assert shared_references(thing) == 1
        rx.try_recv()


# --- Threads ------------------------------------------------------------------------------------


@both
def test_blocking_recv(rt: freerun.Runtime, make: Callable[[], Any]) -> None:
    tx, rx = make()
    got: list[Any] = []

    def receive(_: int) -> None:
        got.append(rx.blocking_recv())
        got.extend(rx.blocking_recv_many(1))
        with pytest.raises(RecvError):
            rx.blocking_recv()
        with pytest.raises(RecvError):
            rx.blocking_recv_many(3)
        assert rx.blocking_recv_many(0) == []

    async def main() -> None:
        with tx:
            await send(tx, 1)
            await freerun.time.sleep(0.001)
            await send(tx, 2)
            await freerun.time.sleep(0.001)

    with in_threads(1, receive):
        rt.block_on(main)
    assert got == [1, 2]


def test_blocking_send(rt: freerun.Runtime) -> None:
    tx, rx = mpsc.channel(1)

    def produce(_: int) -> None:
        with tx.clone() as mine:
            for n in range(50):
                mine.blocking_send(n)

    async def main() -> list[int]:
        return [await rx.recv() for _ in range(150)]

    with in_threads(3, produce):
        got = rt.block_on(main)
    assert sorted(got) == sorted([*range(50)] * 3)
    rx.close()
    with pytest.raises(SendError) as caught:
        tx.blocking_send("kept")
    assert caught.value.value == "kept"


def test_a_blocking_send_hears_of_the_close(rt: freerun.Runtime) -> None:
    tx, rx = mpsc.channel(1)
    tx.try_send(1)
    caught: list[Any] = []

    def produce(_: int) -> None:
        with pytest.raises(SendError) as error:
            tx.blocking_send(2)
        caught.append(error.value.value)

    async def main() -> None:
        await freerun.time.sleep(0.002)
        rx.close()

    with in_threads(1, produce):
        rt.block_on(main)
    assert caught == [2]


@every_flavor
async def test_blocking_calls_in_a_task() -> None:
    tx, rx = mpsc.channel(1)
    for call, instead in (
        (lambda: tx.blocking_send(1), "await send"),
        (rx.blocking_recv, "await recv"),
        (lambda: rx.blocking_recv_many(1), "await recv_many"),
    ):
        with pytest.raises(RuntimeError, match=f"would block a worker: inside a task, {instead}"):
            call()
    await freerun.spawn_blocking(tx.blocking_send, "x")
    assert await freerun.spawn_blocking(rx.blocking_recv) == "x"


def test_outside_a_task() -> None:
    tx, rx = mpsc.channel(2)
    tx.try_send(1)
    assert rx.try_recv() == 1
    for leaf in (tx.send(1), tx.reserve(), rx.recv(), tx.closed(), rx.__anext__()):
        with pytest.raises(RuntimeError, match="inside a freerun task"):
            next(leaf)  # type: ignore[call-overload]
    assert rx.is_empty()


@every_flavor
async def test_many_producers_many_workers() -> None:
    tx, rx = mpsc.channel(3)

    async def produce(tx: Any, k: int) -> None:
        with tx:
            for n in range(200):
                await tx.send((k, n))

    for k in range(6):
        freerun.spawn(produce, tx.clone(), k)
    tx.close()
    nexts = [0] * 6
    async for k, n in rx:
        assert nexts[k] == n
        nexts[k] += 1
    assert nexts == [200] * 6


@every_flavor
async def test_between_runtimes() -> None:
    tx, rx = mpsc.channel(1)

    async def sends(tx: Any) -> None:
        with tx:
            for n in range(50):
                await tx.send(n)

    other = freerun.Builder().worker_threads(1).build()
    try:
        other.spawn(sends, tx)
        assert [n async for n in rx] == list(range(50))
    finally:
        other.shutdown(PATIENCE)


def test_a_receiver_used_by_threads_at_once() -> None:
    """Misuse: it raises, or works; nothing is lost and nothing breaks."""
    tx, rx = mpsc.unbounded_channel()
    for n in range(3000):
        tx.send(n)
    got: list[int] = []
    lock = threading.Lock()

    def take(_: int) -> None:
        while True:
            try:
                value = rx.try_recv()
            except WouldBlock:
                return
            except RuntimeError:
                continue
            with lock:
                got.append(value)

    with in_threads(4, take):
        pass
    assert sorted(got) == list(range(3000))


def test_shutdown_with_waiters() -> None:
    tx, rx = mpsc.channel(1)
    tx.try_send(0)
    rt = freerun.Builder().worker_threads(2).build()
    tasks = [rt.spawn(tx.send(n)) for n in range(10)]
    for task in tasks:
        while not is_parked(task):
            pass
    rt.shutdown(PATIENCE)
    assert rx.try_recv() == 0
    del tasks, task
    gc.collect()
    assert tx.capacity() == 1
    assert rx.is_empty()


def test_at_exit() -> None:
    check_script(
        """
        import freerun
        from freerun.sync import mpsc
        tx, rx = mpsc.channel(1)
        rt = freerun.Builder().worker_threads(2).build()
        waiting = [rt.spawn(tx.send(n)) for n in range(5)]
        other_tx, other_rx = mpsc.unbounded_channel()
        receiving = rt.spawn(other_rx.recv())
        for _ in range(100):
            other_tx.send(object())
        """
    )
