"""`sync.mpsc` against a model, bounded and unbounded, in any order of steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sync_support import PENDING, Machine, Permits

from freerun.sync import RecvError, SendError, TrySendError, WouldBlock, mpsc

NOTHING, ENDED = object(), object()


class MpscMachine(Machine):
    """Senders, permits, sends that wait, a receive that waits; and a queue that says what all of it must give."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[int] = []
        self.waiting: list[tuple[Any, int | None]] = []  # sends, and, with None, reservations
        self.permits: list[Any] = []
        self.receiving: Any = None
        self.next = 0
        self.rx_closed = False

    @initialize(capacity=st.integers(0, 4))
    def make(self, capacity: int) -> None:
        self.capacity = capacity
        tx, self.rx = mpsc.channel(capacity) if capacity else mpsc.unbounded_channel()
        self.senders: list[Any] = [tx]
        self.room = Permits(capacity)

    def value(self) -> int:
        self.next += 1
        return self.next

    @property
    def ended(self) -> bool:
        """Nothing is left and nothing can come."""
        if self.queue:
            return False
        return not self.senders or (self.rx_closed and self.room.free == self.capacity)

    def took(self, value: int) -> None:
        assert value == self.queue.pop(0)
        self.room.give(1 if self.capacity else 0)

    # --- Senders ---

    @precondition(lambda self: self.senders)
    @rule(data=st.data())
    def clone(self, data: st.DataObject) -> None:
        tx = data.draw(st.sampled_from(self.senders))
        self.senders.append(tx.clone() if data.draw(st.booleans()) else tx.downgrade().upgrade())

    @precondition(lambda self: self.senders)
    @rule(data=st.data(), keep=st.integers(0, 5))
    def close_sender(self, data: st.DataObject, keep: int) -> None:
        if len(self.senders) == 1 and keep:
            return
        tx = self.senders.pop(data.draw(st.integers(0, len(self.senders) - 1)))
        tx.close()
        if not self.senders:
            self.room.close()

    @precondition(lambda self: self.senders and self.capacity)
    @rule(data=st.data(), reserves=st.booleans())
    def send(self, data: st.DataObject, reserves: bool) -> None:
        tx = data.draw(st.sampled_from(self.senders))
        value = None if reserves else self.value()
        leaf = tx.reserve() if reserves else tx.send(value)
        if self.room.closed:
            with pytest.raises(SendError) as caught:
                self.poll(leaf, True)
            assert caught.value.value == value
        elif self.room.acquire(id(leaf), 1):
            self.got_room(leaf, value)
        else:
            assert self.poll(leaf, False) is PENDING
            self.waiting.append((leaf, value))

    def got_room(self, leaf: Any, value: int | None) -> None:
        result = self.poll(leaf, True)
        if value is None:
            assert result is leaf
            self.permits.append(leaf)
        else:
            assert result is None
            self.queue.append(value)

    @precondition(lambda self: self.senders and not self.capacity)
    @rule(data=st.data())
    def send_unbounded(self, data: st.DataObject) -> None:
        tx, value = data.draw(st.sampled_from(self.senders)), self.value()
        if self.rx_closed:
            with pytest.raises(SendError) as caught:
                tx.send(value)
            assert caught.value.value == value
        else:
            assert tx.send(value) is None
            self.queue.append(value)

    @precondition(lambda self: self.senders and self.capacity)
    @rule(data=st.data(), n=st.integers(0, 4))
    def try_reserve(self, data: st.DataObject, n: int) -> None:
        tx = data.draw(st.sampled_from(self.senders))
        if n > self.capacity:
            with pytest.raises(ValueError, match="'n' must be at most"):
                tx.try_reserve_many(n)
        elif self.room.closed:
            with pytest.raises(TrySendError.Closed):
                tx.try_reserve_many(n)
        elif self.room.free < n:
            with pytest.raises(TrySendError.Full):
                tx.try_reserve_many(n)
        else:
            self.room.free -= n
            self.permits += list(tx.try_reserve_many(n))

    @precondition(lambda self: self.senders and self.capacity)
    @rule(data=st.data())
    def try_send(self, data: st.DataObject) -> None:
        tx, value = data.draw(st.sampled_from(self.senders)), self.value()
        if self.room.closed or not self.room.free:
            with pytest.raises(TrySendError.Closed if self.room.closed else TrySendError.Full) as caught:
                tx.try_send(value)
            assert caught.value.value == value
        else:
            tx.try_send(value)
            self.room.free -= 1
            self.queue.append(value)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def poll_sender(self, data: st.DataObject) -> None:
        leaf, value = entry = data.draw(st.sampled_from(self.waiting))
        if not self.room.is_settled(id(leaf)):
            assert self.poll(leaf, False) is PENDING
            return
        self.waiting.remove(entry)
        if not self.room.look(id(leaf)):
            with pytest.raises(SendError) as caught:
                self.poll(leaf, True)
            assert caught.value.value == value
        elif value is not None and not self.senders:  # it has room, and nobody will take the message any more
            self.room.give(1)
            with pytest.raises(SendError) as caught:
                self.poll(leaf, True)
            assert caught.value.value == value
        else:
            self.got_room(leaf, value)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        leaf, _ = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.room.leave(id(leaf))
        leaf.close()

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), use=st.booleans())
    def use_permit(self, data: st.DataObject, use: bool) -> None:
        permit = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        if not use:
            permit.release()
            self.room.give(1)
        elif self.senders:
            permit.send(value := self.value())
            self.queue.append(value)
        else:
            with pytest.raises(SendError):
                permit.send(0)
            self.room.give(1)

    # --- The receiver ---

    def expected(self) -> object:
        return self.queue[0] if self.queue else ENDED if self.ended else NOTHING

    @rule(again=st.booleans())
    def recv(self, again: bool) -> None:
        """With the receive that waits, or with another one in its place."""
        if self.receiving is None or not again:
            self.receiving = self.rx.recv()
        leaf, expected = self.receiving, self.expected()
        if expected is NOTHING:
            assert self.poll(leaf, False) is PENDING
            return
        self.receiving = None
        if expected is ENDED:
            with pytest.raises(RecvError):
                self.poll(leaf, True)
        else:
            self.took(self.poll(leaf, True))

    @precondition(lambda self: self.receiving is not None)
    @rule()
    def stop_receiving(self) -> None:
        self.receiving.close()

    @rule()
    def try_recv(self) -> None:
        expected = self.expected()
        if expected in (ENDED, NOTHING):
            with pytest.raises(RecvError if expected is ENDED else WouldBlock):
                self.rx.try_recv()
        else:
            self.took(self.rx.try_recv())

    @rule(limit=st.integers(0, 5))
    def recv_many(self, limit: int) -> None:
        leaf, expected = self.rx.recv_many(limit), self.expected()
        if limit == 0:
            assert self.poll(leaf, True) == []
        elif expected is NOTHING:
            assert self.poll(leaf, False) is PENDING
            leaf.close()
        elif expected is ENDED:
            with pytest.raises(RecvError):
                self.poll(leaf, True)
        else:
            values = self.poll(leaf, True)
            assert len(values) == min(limit, len(self.queue))
            for value in values:
                self.took(value)

    @rule(really=st.integers(0, 9))
    def close(self, really: int) -> None:
        if really == 0:
            self.rx.close()
            self.rx_closed = True
            self.room.close()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "senders"):
            return
        assert len(self.rx) == len(self.queue)
        assert self.rx.sender_strong_count() == len(self.senders)
        assert self.rx.is_closed() == (self.rx_closed or not self.senders)
        if self.capacity:
            assert self.rx.capacity() == self.room.free


TestMpsc = MpscMachine.TestCase
TestMpsc.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
