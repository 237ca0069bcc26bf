"""`sync.broadcast`: Tokio's sync_broadcast.rs and sync_broadcast_weak.rs, and what Python adds."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest
from support import PATIENCE, every_flavor, in_threads, is_freed, seeded, wait_until
from waiting_support import Aborts, abort, gives_way, still_waits, waiting

import freerun
from freerun.sync import Lagged, RecvError, SendError, WouldBlock, broadcast


class Thing:
    pass


def assert_empty(rx: broadcast.Receiver[Any]) -> None:
    with pytest.raises(WouldBlock):
        rx.try_recv()


def assert_lagged(rx: broadcast.Receiver[Any], n: int) -> None:
    with pytest.raises(Lagged) as caught:
        rx.try_recv()
    assert caught.value.n == n


def assert_closed(rx: broadcast.Receiver[Any]) -> None:
    with pytest.raises(RecvError, match="every sender is closed"):
        rx.try_recv()


# --- Sending and receiving ---


def test_send_try_recv_bounded() -> None:
    tx, rx = broadcast.channel(16)
    assert_empty(rx)
    assert tx.send("hello") == 1
    assert rx.try_recv() == "hello"
    assert_empty(rx)


def test_send_two_recv() -> None:
    tx, rx1 = broadcast.channel(16)
    rx2 = tx.subscribe()
    assert_empty(rx1)
    assert_empty(rx2)
    assert tx.send("hello") == 2
    assert rx1.try_recv() == "hello"
    assert rx2.try_recv() == "hello"
    assert_empty(rx1)
    assert_empty(rx2)


@every_flavor
async def test_send_recv_bounded() -> None:
    tx, rx = broadcast.channel(16)
    recv = await waiting(rx.recv)
    tx.send("hello")
    assert await recv == "hello"


@every_flavor
async def test_send_two_recv_bounded() -> None:
    tx, rx1 = broadcast.channel(16)
    rx2 = tx.subscribe()
    recv1, recv2 = await waiting(rx1.recv), await waiting(rx2.recv)
    tx.send("hello")
    assert (await recv1, await recv2) == ("hello", "hello")
    recv1 = await waiting(rx1.recv)
    tx.send("world")
    assert (await recv1, await rx2.recv()) == ("world", "world")


@every_flavor
async def test_change_tasks() -> None:
    """One receiver, passed from one task to another; in ours both may even wait at once."""
    tx, rx = broadcast.channel(1)
    first = await waiting(rx.recv)
    await abort(first)
    second, third = await waiting(rx.recv), await waiting(rx.recv)
    tx.send("hello")
    while not (second.is_finished() or third.is_finished()):
        await freerun.yield_now()
    winner, other = (second, third) if second.is_finished() else (third, second)
    assert await winner == "hello"
    await still_waits(other)
    tx.send("again")
    assert await other == "again"


@every_flavor
async def test_send_slow_rx() -> None:
    tx, rx1 = broadcast.channel(16)
    rx2 = tx.subscribe()
    recv1, recv2 = await waiting(rx1.recv), await waiting(rx2.recv)
    tx.send("one")
    tx.send("two")
    assert await recv1 == "one"
    assert await rx1.recv() == "two"
    recv1 = await waiting(rx1.recv)
    tx.send("three")
    assert await recv1 == "three"
    assert await recv2 == "one"
    assert rx2.try_recv() == "two"
    assert rx2.try_recv() == "three"


def test_drop_rx_while_values_remain() -> None:
    tx, rx1 = broadcast.channel(16)
    rx2 = tx.subscribe()
    tx.send("one")
    tx.send("two")
    assert rx1.try_recv() == rx2.try_recv() == "one"
    del rx2
    assert len(tx) == 1
    rx1.close()
    assert len(tx) == 0


def test_lagging_rx() -> None:
    tx, rx1 = broadcast.channel(2)
    rx2 = tx.subscribe()
    tx.send("one")
    tx.send("two")
    assert rx1.try_recv() == "one"
    tx.send("three")
    assert_lagged(rx2, 1)
    assert rx2.try_recv() == "two"
    assert rx1.try_recv() == "two"
    assert rx1.try_recv() == "three"
    tx.send("four")
    tx.send("five")
    assert_lagged(rx2, 1)
    tx.send("six")
    assert_lagged(rx2, 1)


def test_send_no_rx() -> None:
    tx, rx = broadcast.channel(16)
    rx.close()
    with pytest.raises(SendError) as caught:
        tx.send("hello")
    assert caught.value.value == "hello"
    rx = tx.subscribe()
    tx.send("world")
    assert rx.try_recv() == "world"


@pytest.mark.parametrize("capacity", [0, -1])
def test_zero_capacity(capacity: int) -> None:
    with pytest.raises(ValueError, match="'capacity' must be at least 1"):
        broadcast.channel(capacity)


@pytest.mark.parametrize("capacity", [1.0, "16", None, True])
def test_capacity_of_another_type(capacity: Any) -> None:
    with pytest.raises(TypeError, match="'capacity' must be an int"):
        broadcast.channel(capacity)


def test_capacity_too_big() -> None:
    """Only what is kept takes memory, so no capacity is too big."""
    tx, rx = broadcast.channel(1 << 70)
    tx.send(1)
    assert rx.try_recv() == 1


@pytest.mark.parametrize("how", ["close", "drop", "with"])
@every_flavor
async def test_dropping_tx_notifies_rx(how: str) -> None:
    tx, rx1 = broadcast.channel(16)
    rx2 = tx.subscribe()
    tx2 = tx.clone()
    tasks = [await waiting(rx1.recv), await waiting(rx2.recv)]
    if how == "close":
        tx.close()
        tx.close()
    elif how == "with":
        with tx as same:
            assert same is tx
    else:
        del tx
    await still_waits(*tasks)
    if how == "close":
        tx2.close()
    elif how == "with":
        async with tx2:
            pass
    else:
        del tx2
        gc.collect()
    for task in tasks:
        with pytest.raises(RecvError):
            await task


@pytest.mark.parametrize("how", ["close", "drop", "with"])
def test_unconsumed_messages_are_dropped(how: str) -> None:
    tx, rx = broadcast.channel(16)
    thing = Thing()
    ref = weakref.ref(thing)
    tx.send(thing)
    del thing
    assert ref() is not None
    if how == "close":
        rx.close()
    elif how == "with":
        with rx:
            pass
    else:
        del rx
    assert is_freed(ref)


# --- Values are kept for the slowest receiver, and no longer ---


def test_released_when_the_slowest_has_passed() -> None:
    tx, fast = broadcast.channel(16)
    slow = tx.subscribe()
    refs = []
    for _ in range(3):
        thing = Thing()
        refs.append(weakref.ref(thing))
        tx.send(thing)
        del thing
    for _ in refs:
        fast.try_recv()
    assert all(ref() for ref in refs)
    for i in range(3):
        assert [is_freed(ref) for ref in refs] == [j < i for j in range(3)]
        slow.try_recv()
    assert all(map(is_freed, refs))


def test_released_when_overwritten() -> None:
    tx, rx = broadcast.channel(2)
    thing = Thing()
    ref = weakref.ref(thing)
    tx.send(thing)
    del thing
    tx.send(1)
    assert ref() is not None
    tx.send(2)
    assert is_freed(ref)
    assert_lagged(rx, 1)


def test_the_error_carries_the_only_reference() -> None:
    tx, rx = broadcast.channel(2)
    rx.close()
    thing = Thing()
    ref = weakref.ref(thing)
    with pytest.raises(SendError) as caught:
        tx.send(thing)
    assert caught.value.value is thing
    del caught, thing
    assert is_freed(ref)


def test_single_capacity_recvs() -> None:
    tx, rx = broadcast.channel(1)
    tx.send(1)
    assert rx.try_recv() == 1
    assert_empty(rx)


def test_single_capacity_recvs_after_drop_1() -> None:
    tx, rx = broadcast.channel(1)
    tx.send(1)
    del tx
    assert rx.try_recv() == 1
    assert_closed(rx)


def test_single_capacity_recvs_after_drop_2() -> None:
    tx, rx = broadcast.channel(1)
    tx.send(1)
    tx.send(2)
    tx.close()
    assert_lagged(rx, 1)
    assert rx.try_recv() == 2
    assert_closed(rx)
    assert_closed(rx)


def test_dropping_sender_does_not_overwrite() -> None:
    tx, rx = broadcast.channel(2)
    tx.send(1)
    tx.send(2)
    tx.close()
    assert [rx.try_recv(), rx.try_recv()] == [1, 2]
    assert_closed(rx)


@pytest.mark.parametrize("sent", [3, 4])
@pytest.mark.parametrize("closed", [True, False])
def test_lagging_receiver_recovers_after_wrap(sent: int, closed: bool) -> None:
    """..._closed_1, ..._closed_2, ..._open."""
    tx, rx = broadcast.channel(2)
    for i in range(1, sent + 1):
        tx.send(i)
    if closed:
        tx.close()
    assert_lagged(rx, sent - 2)
    assert [rx.try_recv(), rx.try_recv()] == [sent - 1, sent]
    (assert_closed if closed else assert_empty)(rx)


def test_receiver_len_with_lagged() -> None:
    """Tokio's capacity of 3 is 4; ours is 3, or 4 if one says so."""
    tx, rx = broadcast.channel(4)
    for value in (10, 20, 30, 40):
        tx.send(value)
    assert len(rx) == 4
    assert rx.try_recv() == 10
    tx.send(50)
    tx.send(60)
    assert len(rx) == 5
    assert_lagged(rx, 1)
    assert len(rx) == 4


def test_lag_uses_the_capacity_exactly() -> None:
    """lag_uses_power_of_two_buffer_length, without the power of two."""
    tx, rx = broadcast.channel(3)
    for i in range(1, 4):
        tx.send(i)
    assert len(rx) == 3
    assert rx.try_recv() == 1
    tx.send(4)
    assert len(rx) == 3
    tx.send(5)
    assert len(rx) == 4
    assert_lagged(rx, 1)
    assert [rx.try_recv() for _ in range(3)] == [3, 4, 5]
    assert_empty(rx)


@pytest.mark.parametrize("capacity", [1, 5, 64, 1000])
def test_far_behind(capacity: int) -> None:
    """Receivers that come, go, read in bursts and lag: much is kept, and each has a place of its own in it."""
    random = seeded()
    tx, rx = broadcast.channel(capacity)
    receivers = [rx]
    places = [0]
    sent = 0
    for _ in range(400):
        match random.randrange(6):
            case 0 if len(receivers) < 5:
                receivers.append(tx.subscribe())
                places.append(sent)
            case 1 if len(receivers) > 1:
                which = random.randrange(len(receivers))
                receivers.pop(which).close()
                places.pop(which)
            case 2 | 3:
                which = random.randrange(len(receivers))
                for _ in range(random.randrange(150)):
                    oldest = max(places[which], sent - capacity)
                    if places[which] < oldest:
                        assert_lagged(receivers[which], oldest - places[which])
                        places[which] = oldest
                    elif oldest < sent:
                        assert receivers[which].try_recv() == oldest
                        places[which] += 1
                    else:
                        assert_empty(receivers[which])
            case _:
                for _ in range(random.randrange(150)):
                    assert tx.send(sent) == len(receivers)
                    sent += 1
        assert len(tx) == min(capacity, sent - min(places))
        assert [len(each) for each in receivers] == [sent - place for place in places]


def test_sent_and_read_in_the_middle_of_a_close() -> None:
    """A receiver that leaves with much unread passes it in pieces; what comes between does not count it any more, and
    may be read by all others before it is through."""
    tx, leaves = broadcast.channel(1000)
    stays = tx.subscribe()
    got: list[Any] = []

    class Value:
        def __del__(self) -> None:
            if not got:
                tx.send("in between")
                got.append(stays.try_recv())

    for _ in range(100):
        tx.send(Value())
    for _ in range(100):
        stays.try_recv()
    assert not got
    leaves.close()
    assert got == ["in between"]
    assert len(tx) == len(stays) == 0
    for number in range(3):
        tx.send(number)
        assert stays.try_recv() == number
        assert len(tx) == 0


@pytest.mark.parametrize("leavers", [1, 3])
def test_left_while_others_send_and_read(leavers: int) -> None:
    """From several threads: who stays gets everything, in order, and then nothing is kept."""
    rounds, each = 30, 500
    tx, stays = broadcast.channel(1 << 20)
    failures: list[Any] = []

    def read() -> None:
        for wanted in range(rounds * 2 * each):
            if (value := stays.blocking_recv()) != wanted:
                failures.append((wanted, value))
                return

    reader = threading.Thread(target=read)
    reader.start()
    for round in range(rounds):
        leaving = [tx.subscribe() for _ in range(leavers)]
        for number in range(each):
            tx.send(2 * each * round + number)
        closing = [threading.Thread(target=rx.close) for rx in leaving]
        for thread in closing:
            thread.start()
        for number in range(each, 2 * each):
            tx.send(2 * each * round + number)
        for thread in closing:
            thread.join()
    reader.join()
    assert not failures
    assert len(tx) == len(stays) == 0


def test_a_receiver_that_was_never_made_whole() -> None:
    tx, _rx = broadcast.channel(4)

    class Fails(broadcast.Receiver[int]):
        def __init__(self, *_: Any) -> None:
            raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            Fails(tx._channel.ring)
    gc.collect()
    assert tx.receiver_count() == 1


@pytest.mark.parametrize("end", ["tx", "rx"])
def test_ends_are_not_copied(end: str) -> None:
    tx, rx = broadcast.channel(4)
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"cannot be copied or pickled; clone\(\) and subscribe\(\)"):
            make({"tx": tx, "rx": rx}[end])
    tx.send(1)
    assert rx.try_recv() == 1


# --- Resubscribing ---


def test_resubscribe_points_to_tail() -> None:
    tx, rx = broadcast.channel(3)
    tx.send(1)
    again = rx.resubscribe()
    assert_empty(again)
    assert rx.try_recv() == 1
    tx.send(2)
    assert again.try_recv() == 2
    tx.send(3)
    assert [rx.try_recv(), rx.try_recv()] == [2, 3]
    assert_empty(rx)
    assert again.try_recv() == 3
    assert_empty(again)


def test_resubscribe_lagged() -> None:
    tx, rx = broadcast.channel(1)
    tx.send(1)
    tx.send(2)
    again = rx.resubscribe()
    assert_lagged(rx, 1)
    assert_empty(again)
    assert rx.try_recv() == 2
    assert_empty(rx)
    assert_empty(again)


def test_resubscribe_to_closed_channel() -> None:
    tx, rx = broadcast.channel(2)
    tx.close()
    assert_closed(rx.resubscribe())


# --- Lengths ---


def test_sender_len() -> None:
    tx, rx1 = broadcast.channel(4)
    rx2 = tx.subscribe()
    assert (len(tx), tx.is_empty(), bool(tx)) == (0, True, True)
    for i in (1, 2, 3):
        tx.send(i)
    assert (len(tx), tx.is_empty()) == (3, False)
    rx1.try_recv()
    rx1.try_recv()
    assert len(tx) == 3
    rx2.try_recv()
    assert (len(tx), tx.is_empty()) == (2, False)
    for i in (4, 5, 6):
        tx.send(i)
    assert len(tx) == 4


def test_sender_len_random() -> None:
    random = seeded()
    tx, rx1 = broadcast.channel(16)
    rx2 = tx.subscribe()
    for _ in range(1000):
        match random.randrange(4):
            case 0 | 1 as which:
                try:
                    (rx1, rx2)[which].try_recv()
                except (WouldBlock, Lagged):
                    pass
            case _:
                tx.send(0)
        longest = max(len(rx1), len(rx2))
        assert len(tx) == min(longest, 16)
        assert rx1.is_empty() == (len(rx1) == 0)


# --- Wakers and finalizers: send_in_waker_drop ---


@pytest.mark.parametrize("what", ["send", "close"])
@every_flavor
async def test_a_finalizer_sends_or_closes(what: str) -> None:
    """A value whose finalizer uses the channel, released by the channel itself: no deadlock, nothing lost."""
    tx, rx = broadcast.channel(2)

    class Bomb:
        def __del__(self) -> None:
            if what == "send":
                tx.send("from a finalizer")
            else:
                rx.close()

    tx.send(Bomb())
    tx.send(1)
    recv = tx.subscribe()
    tx.send(2)  # overwrites the bomb
    gc.collect()
    if what == "send":
        assert_lagged(rx, 2)
        assert [rx.try_recv(), rx.try_recv()] == [2, "from a finalizer"]
        assert [await recv.recv(), await recv.recv()] == [2, "from a finalizer"]
    else:
        with pytest.raises(RecvError, match="this receiver is closed"):
            rx.try_recv()
        assert tx.receiver_count() == 1


def test_a_finalizer_in_the_middle_of_everything() -> None:
    """A collection may run at any call: its finalizers send, subscribe and close under the channel's own lock."""
    tx, rx = broadcast.channel(4)
    sent = 0

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.rx = tx.subscribe()

        def __del__(self) -> None:
            nonlocal sent
            sent += 1
            tx.send(("finalizer", sent))

    before = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    try:
        for i in range(1000):
            Cycle()
            tx.send(i)
            try:
                while True:
                    rx.try_recv()
            except (WouldBlock, Lagged):
                pass
    finally:
        gc.set_threshold(*before)
    gc.collect()
    wait_until(lambda: gc.collect() is not None and sent == 1000, "every cycle was collected")
    wait_until(lambda: tx.receiver_count() == 1)
    try:
        while True:
            try:
                rx.try_recv()
            except Lagged:
                pass
    except WouldBlock:
        pass
    assert (len(tx), len(rx)) == (0, 0)


@every_flavor
async def test_receiver_recv_is_cooperative() -> None:
    tx, rx = broadcast.channel(8)

    async def work() -> None:
        tx.send(None)
        await rx.recv()

    await gives_way(work)


# --- closed() ---


@every_flavor
async def test_broadcast_sender_closed() -> None:
    tx, rx = broadcast.channel(1)
    rx2 = tx.subscribe()
    task = await waiting(tx.closed)
    rx.close()
    await still_waits(task)
    rx2.close()
    assert await task is None


@every_flavor
async def test_broadcast_sender_closed_with_extra_subscribe() -> None:
    tx, rx = broadcast.channel(1)
    task = await waiting(tx.closed)
    rx.close()
    await task
    await tx.closed()
    rx = tx.subscribe()
    task = await waiting(tx.closed)
    await still_waits(task)
    del rx
    gc.collect()
    await task


@every_flavor
async def test_broadcast_sender_new_must_be_closed() -> None:
    tx: broadcast.Sender[int] = broadcast.Sender(1)
    assert tx.receiver_count() == 0
    await tx.closed()
    rx = tx.subscribe()
    task = await waiting(tx.closed)
    await still_waits(task)
    rx.close()
    await task


# --- Lagging semantics ---


def test_slow_receiver_within_capacity_does_not_lag() -> None:
    tx, slow = broadcast.channel(2)
    fast = tx.subscribe()
    tx.send(1)
    tx.send(2)
    assert [fast.try_recv(), fast.try_recv()] == [1, 2]
    assert_empty(fast)
    assert [slow.try_recv(), slow.try_recv()] == [1, 2]
    assert_empty(slow)


def test_lagged_count_matches_number_of_overwritten_messages() -> None:
    tx, rx = broadcast.channel(4)
    for i in range(1, 5):
        tx.send(i)
    assert rx.try_recv() == 1
    for i in range(5, 9):
        tx.send(i)
    assert_lagged(rx, 3)
    assert [rx.try_recv() for _ in range(4)] == [5, 6, 7, 8]
    assert_empty(rx)


@every_flavor
async def test_async_recv_lagged_then_resumes_from_oldest_retained() -> None:
    tx, rx = broadcast.channel(2)
    for value in (10, 20, 30):
        tx.send(value)
    with pytest.raises(Lagged) as caught:
        await rx.recv()
    assert caught.value.n == 1
    assert [await rx.recv(), await rx.recv()] == [20, 30]


def test_lag_catch_up_then_lag_again() -> None:
    tx, rx = broadcast.channel(2)
    for first in (1, 4):
        for i in range(first, first + 3):
            tx.send(i)
        assert_lagged(rx, 1)
        assert [rx.try_recv(), rx.try_recv()] == [first + 1, first + 2]
        assert_empty(rx)


def test_lag_is_per_receiver() -> None:
    tx, slow = broadcast.channel(2)
    fast = tx.subscribe()
    for first in (1, 3):
        tx.send(first)
        tx.send(first + 1)
        assert [fast.try_recv(), fast.try_recv()] == [first, first + 1]
    assert_lagged(slow, 2)
    assert [slow.try_recv(), slow.try_recv()] == [3, 4]
    assert_empty(slow)
    assert_empty(fast)


def test_lag_again_before_reading_retained_messages() -> None:
    tx, rx = broadcast.channel(2)
    for i in (1, 2, 3):
        tx.send(i)
    assert_lagged(rx, 1)
    for i in (4, 5, 6):
        tx.send(i)
    assert_lagged(rx, 3)
    assert [rx.try_recv(), rx.try_recv()] == [5, 6]
    assert_empty(rx)


def test_single_slot_capacity_lag_semantics() -> None:
    tx, rx = broadcast.channel(1)
    tx.send(1)
    assert rx.try_recv() == 1
    tx.send(2)
    tx.send(3)
    assert_lagged(rx, 1)
    assert rx.try_recv() == 3
    assert_empty(rx)


def test_receiver_len_after_lag_error_advances_cursor() -> None:
    tx, rx = broadcast.channel(2)
    for i in range(1, 5):
        tx.send(i)
    assert len(rx) == 4
    assert_lagged(rx, 2)
    lengths = []
    for value in (3, 4):
        lengths.append(len(rx))
        assert rx.try_recv() == value
    assert (lengths, len(rx)) == ([2, 1], 0)


# --- Weak senders: sync_broadcast_weak.rs ---


@every_flavor
async def test_weak_sender() -> None:
    tx, rx = broadcast.channel(11)

    async def work(tx: broadcast.Sender[int]) -> broadcast.WeakSender[int]:
        with tx:
            weak = tx.downgrade()
            for i in range(10):
                tx.send(i)
            with weak.upgrade() as strong:
                strong.send(20)
                return strong.downgrade()

    weak = await freerun.spawn(work, tx)
    assert [value async for value in rx] == [*range(10), 20]
    with pytest.raises(SendError):
        weak.upgrade()


def test_downgrade_upgrade_sender_failure() -> None:
    tx, _rx = broadcast.channel(1)
    weak = tx.downgrade()
    del tx
    with pytest.raises(SendError):
        weak.upgrade()


def test_downgrade_drop_upgrade() -> None:
    tx, _rx = broadcast.channel(1)
    weak = tx.clone().downgrade()  # the clone is dropped at once
    tx.close()
    with pytest.raises(SendError):
        weak.upgrade()


def test_tx_count_weak_sender() -> None:
    tx, _rx = broadcast.channel(1)
    weak, weak2 = tx.downgrade(), tx.downgrade()
    assert (tx.strong_count(), tx.weak_count()) == (1, 2)
    tx.close()
    for each in (weak, weak2):
        with pytest.raises(SendError):
            each.upgrade()
        assert (each.strong_count(), each.weak_count()) == (0, 2)
    weak.close()
    weak.close()
    assert weak2.weak_count() == 1


def test_rx_is_closed_when_dropping_all_senders_except_weak_senders() -> None:
    tx, rx = broadcast.channel(10)
    weak = tx.clone().downgrade()
    assert not rx.is_closed()
    tx.close()
    assert (weak.strong_count(), weak.weak_count(), rx.is_closed()) == (0, 1, True)


def test_sender_strong_and_weak_count() -> None:
    """sender_strong_count_when_..., sender_weak_count_when_..., sender_strong_and_weak_conut."""
    tx, rx = broadcast.channel(1)
    tx2 = tx.clone()
    weak, weak2 = tx.downgrade(), tx2.downgrade().clone()

    def counts() -> set[tuple[int, int]]:
        senders = {(each.strong_count(), each.weak_count()) for each in (tx, weak)}
        return senders | {(rx.sender_strong_count(), rx.sender_weak_count())}

    assert counts() == {(2, 2)}
    tx2.close()
    assert counts() == {(1, 2)}
    del weak2
    gc.collect()
    assert counts() == {(1, 1)}


# --- Python's part ---


@every_flavor
async def test_iteration_goes_on_after_lagged() -> None:
    tx, rx = broadcast.channel(2)
    for i in range(4):
        tx.send(i)
    seen: list[Any] = []
    with pytest.raises(Lagged):
        async for value in rx:
            seen.append(value)
    assert seen == []
    tx.close()
    async for value in rx:
        seen.append(value)
    assert seen == [2, 3]


def test_lagged() -> None:
    error = Lagged(3)
    assert (error.n, error.args, str(error)) == (3, (3,), "the receiver lagged behind: it missed 3 values")
    assert str(Lagged(1)).endswith("1 value")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.n) == (Lagged, 3)
    assert not isinstance(error, RecvError)  # who handles the end must not take a lag for it


@every_flavor
async def test_closing_a_receiver_that_is_waited_for() -> None:
    tx, rx = broadcast.channel(2)
    recv = await waiting(rx.recv)
    rx.close()
    rx.close()
    with pytest.raises(RecvError, match="this receiver is closed"):
        await recv
    assert tx.receiver_count() == 0
    assert [value async for value in rx] == []
    assert (len(rx), rx.is_closed()) == (0, True)


def test_a_closed_sender() -> None:
    tx, rx = broadcast.channel(2)
    other = tx.clone()
    assert tx.same_channel(other)
    assert not tx.same_channel(broadcast.Sender(1))
    assert rx.same_channel(rx.resubscribe())
    tx.close()
    for use in (tx.subscribe, tx.clone, tx.downgrade):
        with pytest.raises(RuntimeError, match="this sender is closed"):
            use()
    with pytest.raises(SendError) as caught:
        tx.send(1)
    assert caught.value.value == 1
    other.send(2)
    assert rx.try_recv() == 2


def test_nothing_is_sent_after_the_end() -> None:
    """Closed by another thread while it sends, a sender says so: a receiver may have seen the end already."""
    tx, rx = broadcast.channel(2)

    class ClosedMeanwhile:
        def __init__(self, ring: Any) -> None:
            self.ring = ring

        def push(self, value: int) -> int:
            tx._channel.ring = self.ring
            tx.close()
            pushed: int = self.ring.push(value)
            return pushed

    tx._channel.ring = ClosedMeanwhile(tx._channel.ring)  # type: ignore[assignment]
    with pytest.raises(SendError) as caught:
        tx.send(1)
    assert caught.value.value == 1
    with pytest.raises(RecvError, match="everything was read"):
        rx.try_recv()
    assert len(tx) == 0


def test_outside_a_task() -> None:
    _tx, rx = broadcast.channel(2)
    recv = rx.recv().__await__()
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(recv)


@every_flavor
async def test_blocking_recv_in_a_task() -> None:
    tx, rx = broadcast.channel(2)
    tx.send(1)
    with pytest.raises(RuntimeError, match=r"blocking_recv\(\) would block a worker: inside a task, await recv\(\)"):
        rx.blocking_recv()
    assert await freerun.spawn_blocking(rx.blocking_recv) == 1


def test_blocking_recv_in_place() -> None:
    """block_in_place() has given the worker away, so one may block."""

    async def main() -> None:
        tx, rx = broadcast.channel(2)

        async def send() -> None:
            tx.send("hello")

        freerun.spawn(send)
        assert freerun.block_in_place(rx.blocking_recv) == "hello"

    freerun.run(main, worker_threads=1)


def test_blocking_recv_on_threads() -> None:
    tx, rx = broadcast.channel(64)
    receivers = [rx, *(tx.subscribe() for _ in range(3))]
    got: list[list[int]] = [[] for _ in receivers]

    def listen(i: int) -> None:
        try:
            while True:
                got[i].append(receivers[i].blocking_recv())
        except RecvError:
            pass

    with in_threads(4, listen):
        with tx:
            for i in range(50):
                tx.send(i)
    assert got == [list(range(50))] * 4


@every_flavor
async def test_from_tasks_to_threads_and_back() -> None:
    there, thread_rx = broadcast.channel(4)
    back, rx = broadcast.channel(4)

    def echo() -> None:
        try:
            while True:
                back.send(thread_rx.blocking_recv())
        except RecvError:
            back.close()

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    for i in range(50):
        there.send(i)
        assert await rx.recv() == i
    there.close()
    with pytest.raises(RecvError):
        await rx.recv()
    await freerun.spawn_blocking(thread.join, PATIENCE)
    assert not thread.is_alive()


# --- Cancellation, and many at once ---


@every_flavor
async def test_cancelled_recv_loses_nothing() -> None:
    """Whoever goes on with the receiver gets every value, in order, whenever its task was aborted."""
    random = seeded()
    aborts = Aborts(random)
    tx, rx = broadcast.channel(1000)
    got: list[int] = []

    async def take() -> None:
        value = await rx.recv()
        got.append(value)

    sent = 0
    while sent < 300:
        task = freerun.spawn(take)
        if random.random() < 0.6:
            await freerun.yield_now()
        if random.random() < 0.6:
            tx.send(sent)
            sent += 1
        await aborts.maybe(task)
        if not task.is_finished():
            tx.send(sent)
            sent += 1
        await aborts.result(task)
    tx.close()
    got += [value async for value in rx]
    assert got == list(range(sent))
    assert len(rx._channel.news) == 0, "an aborted task leaves no trace"


@every_flavor
async def test_many_receivers_come_and_go() -> None:
    """Every receiver sees a stretch without gaps of what was sent while it was there, but where it was told of one."""
    random = seeded()
    tx, _keep = broadcast.channel(8)
    sending = True

    async def listen(rx: broadcast.Receiver[int], count: int) -> None:
        expected: int | None = None
        with rx:
            for _ in range(count):
                try:
                    value = await rx.recv()
                except Lagged as lagged:
                    assert lagged.n > 0
                    expected = None if expected is None else expected + lagged.n
                    continue
                except RecvError:
                    assert not sending
                    return
                assert expected in (None, value)
                expected = value + 1

    tasks = []
    for i in range(600):
        if random.random() < 0.3:
            tasks.append(freerun.spawn(listen, tx.subscribe(), random.randrange(1, 30)))
        if tasks and random.random() < 0.05:
            random.choice(tasks).abort()
        tx.send(i)
        if random.random() < 0.5:
            await freerun.yield_now()
    sending = False
    tx.close()
    for task in tasks:
        try:
            await task
        except freerun.JoinError:
            pass
    _keep.close()
    del tasks
    gc.collect()
    assert len(_keep._channel.ring) == 0


@every_flavor
async def test_tasks_share_a_receiver() -> None:
    """Each value goes to one of them, to each in order; what an aborted one would have got goes to another."""
    random = seeded()
    tx, rx = broadcast.channel(10_000)
    got: list[list[int]] = [[] for _ in range(6)]

    async def listen(mine: list[int]) -> None:
        async for value in rx:
            mine.append(value)

    tasks = [freerun.spawn(listen, mine) for mine in got]
    for i in range(1000):
        tx.send(i)
        if random.random() < 0.1:
            await freerun.yield_now()
        if i == 500:
            tasks.pop().abort()
    tx.close()
    for task in tasks:
        await task
    assert all(mine == sorted(mine) for mine in got)
    assert sorted(value for mine in got for value in mine) == list(range(1000))


@every_flavor
async def test_several_senders_in_parallel() -> None:
    """Everybody sees everything, in one order, each sender's own."""
    tx, rx = broadcast.channel(10_000)
    receivers = [rx, *(tx.subscribe() for _ in range(7))]

    async def send(tx: broadcast.Sender[tuple[int, int]], name: int) -> None:
        with tx:
            for i in range(200):
                tx.send((name, i))
                if i % 20 == 0:
                    await freerun.yield_now()

    async def listen(rx: broadcast.Receiver[tuple[int, int]]) -> list[tuple[int, int]]:
        return [value async for value in rx]

    listeners = [freerun.spawn(listen, each) for each in receivers]
    senders = [freerun.spawn(send, tx.clone(), name) for name in range(4)]
    tx.close()
    for sender in senders:
        await sender
    first, *others = [await listener for listener in listeners]
    assert len(first) == 800
    assert all(other == first for other in others)
    for name in range(4):
        assert [i for who, i in first if who == name] == list(range(200))
    assert len(rx._channel.ring) == 0
