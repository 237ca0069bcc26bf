"""`sync.broadcast` against a model: a list of what was sent, and a position for each receiver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import is_parked

import freerun
from freerun.sync import Lagged, RecvError, SendError, WouldBlock, broadcast

EMPTY = "empty"
CLOSED = "closed"
some = st.integers(0, 1000)


@dataclass
class Reader:
    rx: broadcast.Receiver[int]
    next: int  # the model's position
    task: freerun.JoinHandle[Any] | None = None
    open: bool = field(default=True)


def outcome(error: BaseException) -> Any:
    match error:
        case Lagged():
            return ("lagged", error.n)
        case RecvError():
            return CLOSED
        case WouldBlock():
            return EMPTY
        case _:
            return error


async def receive(rx: broadcast.Receiver[int]) -> Any:
    try:
        return await rx.recv()
    except (Lagged, RecvError) as error:
        return outcome(error)


class BroadcastMachine(RuleBasedStateMachine):
    """After each step every task that waits has run as far as it can, so the model knows where it must be."""

    @initialize(capacity=st.integers(1, 4) | st.integers(30, 100))
    def begin(self, capacity: int) -> None:
        self.rt = freerun.Builder.new_current_thread().build()
        tx, rx = broadcast.channel(capacity)
        self.capacity = capacity
        self.senders = [tx]
        self.weak = tx.downgrade()
        self.readers = [Reader(rx, 0)]
        self.sent = 0

    def teardown(self) -> None:
        if hasattr(self, "rt"):
            self.rt.shutdown()

    @property
    def oldest(self) -> int:
        return max(0, self.sent - self.capacity)

    def take(self, reader: Reader) -> Any:
        """What the next receive has to give."""
        if not reader.open or (reader.next == self.sent and not self.senders):
            return CLOSED
        if reader.next == self.sent:
            return EMPTY
        if reader.next < self.oldest:
            missed, reader.next = self.oldest - reader.next, self.oldest
            return ("lagged", missed)
        reader.next += 1
        return reader.next - 1

    def settle(self) -> None:
        async def run() -> None:
            for _ in range(4):
                await freerun.yield_now()

        self.rt.block_on(run)
        for reader in self.readers:
            if reader.task is not None:
                expected = self.take(reader)
                if expected == EMPTY:
                    assert is_parked(reader.task)
                else:
                    assert reader.task.blocking_result(10) == expected
                    reader.task = None

    def pick[T](self, things: list[T], which: int) -> T:
        return things[which % len(things)]

    # --- What may happen ---

    @precondition(lambda self: self.senders)
    @rule(which=some)
    def send(self, which: int) -> None:
        tx = self.pick(self.senders, which)
        receivers = sum(reader.open for reader in self.readers)
        try:
            assert tx.send(self.sent) == receivers > 0
            self.sent += 1
        except SendError as error:
            assert receivers == 0
            assert error.value == self.sent
        self.settle()

    @precondition(lambda self: self.senders)
    @rule(which=some)
    def clone(self, which: int) -> None:
        self.senders.append(self.pick(self.senders, which).clone())

    @rule()
    def upgrade(self) -> None:
        try:
            self.senders.append(self.weak.upgrade())
        except SendError:
            assert not self.senders

    @precondition(lambda self: self.senders)
    @rule(which=some, drop=st.booleans())
    def close_sender(self, which: int, drop: bool) -> None:
        tx = self.senders.pop(which % len(self.senders))
        if not drop:
            tx.close()
        del tx
        self.settle()

    @precondition(lambda self: self.senders)
    @rule(which=some)
    def subscribe(self, which: int) -> None:
        self.readers.append(Reader(self.pick(self.senders, which).subscribe(), self.sent))

    @precondition(lambda self: self.readers)
    @rule(which=some)
    def resubscribe(self, which: int) -> None:
        self.readers.append(Reader(self.pick(self.readers, which).rx.resubscribe(), self.sent))

    @precondition(lambda self: self.readers)
    @rule(which=some)
    def close_receiver(self, which: int) -> None:
        reader = self.pick(self.readers, which)
        reader.rx.close()
        reader.open = False
        self.settle()

    @precondition(lambda self: self.readers)
    @rule(which=some)
    def drop_receiver(self, which: int) -> None:
        reader = self.pick(self.readers, which)
        if reader.task is None:
            self.readers.remove(reader)
            del reader.rx

    @precondition(lambda self: self.readers)
    @rule(which=some)
    def try_recv(self, which: int) -> None:
        reader = self.pick(self.readers, which)
        if reader.task is None:
            try:
                got: Any = reader.rx.try_recv()
            except (Lagged, RecvError, WouldBlock) as error:
                got = outcome(error)
            assert got == self.take(reader)

    @precondition(lambda self: self.readers)
    @rule(which=some)
    def recv(self, which: int) -> None:
        reader = self.pick(self.readers, which)
        if reader.task is None:
            reader.task = self.rt.spawn(receive, reader.rx)
            self.settle()

    @precondition(lambda self: self.readers)
    @rule(which=some, and_send=st.booleans())
    def abort(self, which: int, and_send: bool) -> None:
        """A receive that is aborted takes nothing, also when there is something at that moment."""
        reader = self.pick(self.readers, which)
        if reader.task is not None:
            task, reader.task = reader.task, None
            task.abort()
            if and_send and self.senders and any(each.open for each in self.readers):
                self.senders[0].send(self.sent)
                self.sent += 1
            self.settle()
            assert task.is_finished()

    # --- What always holds ---

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "rt"):
            return
        still = [reader.next for reader in self.readers if reader.open]
        kept = self.sent - max(self.oldest, min(still, default=self.sent))
        for tx in self.senders:
            assert tx.receiver_count() == len(still)
            assert (len(tx), tx.strong_count()) == (kept, len(self.senders))
        for reader in self.readers:
            assert len(reader.rx) == (self.sent - reader.next if reader.open else 0)
            assert reader.rx.is_closed() == (not reader.open or not self.senders)
            assert len(reader.rx._channel.ring) == kept


TestBroadcast = BroadcastMachine.TestCase
TestBroadcast.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
