"""`sync.watch` against a model: a value, its version, and the version that each receiver has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import is_parked

import freerun
from freerun.sync import RecvError, SendError, watch

some = st.integers(0, 1000)
values = st.integers(0, 5)


@dataclass
class Reader:
    rx: watch.Receiver[int]
    seen: int
    open: bool = True
    task: freerun.JoinHandle[Any] | None = None
    wants: int | None = None  # the task waits for this value, or for a change
    asked: bool = False  # the present value was asked for


async def changed(rx: watch.Receiver[int]) -> str:
    try:
        await rx.changed()
    except RecvError:
        return "closed"
    return "changed"


async def wait_for(rx: watch.Receiver[int], wanted: int) -> Any:
    try:
        return await rx.wait_for(lambda value: value == wanted)
    except RecvError:
        return "closed"


class WatchMachine(RuleBasedStateMachine):
    """After each step every task that waits has run as far as it can, so the model knows where it must be."""

    @initialize(value=values)
    def begin(self, value: int) -> None:
        self.rt = freerun.Builder.new_current_thread().build()
        tx, rx = watch.channel(value)
        self.value = value
        self.version = 0
        self.senders = [tx]
        self.readers = [Reader(rx, 0)]

    def teardown(self) -> None:
        if hasattr(self, "rt"):
            self.rt.shutdown()

    def is_closed(self, reader: Reader) -> bool:
        return not self.senders or not reader.open

    def expect(self, reader: Reader) -> Any:
        """What its task must have ended with; `None`: it waits."""
        fresh = reader.seen != self.version
        if reader.wants is None and fresh:
            reader.seen = self.version
            return "changed"
        if reader.wants is not None and (fresh or not reader.asked):
            reader.asked = True
            reader.seen = self.version
            if reader.wants == self.value:
                return self.value
        return "closed" if self.is_closed(reader) else None

    def settle(self) -> None:
        async def run() -> None:
            for _ in range(4):
                await freerun.yield_now()

        self.rt.block_on(run)
        for reader in self.readers:
            if reader.task is not None:
                expected = self.expect(reader)
                if expected is None:
                    assert is_parked(reader.task)
                else:
                    assert reader.task.blocking_result(10) == expected
                    reader.task = None

    def pick[T](self, things: list[T], which: int) -> T:
        return things[which % len(things)]

    def set_model(self, value: int) -> None:
        self.value = value
        self.version += 1
        self.settle()

    # --- What may happen ---

    @precondition(lambda self: self.senders)
    @rule(which=some, value=values)
    def send(self, which: int, value: int) -> None:
        try:
            self.pick(self.senders, which).send(value)
        except SendError as error:
            assert error.value == value
            assert not any(reader.open for reader in self.readers)
        else:
            assert any(reader.open for reader in self.readers)
            self.set_model(value)

    @precondition(lambda self: self.senders)
    @rule(which=some, value=values)
    def send_replace(self, which: int, value: int) -> None:
        assert self.pick(self.senders, which).send_replace(value) == self.value
        self.set_model(value)

    @precondition(lambda self: self.senders)
    @rule(which=some)
    def send_modify(self, which: int) -> None:
        self.pick(self.senders, which).send_modify(lambda value: (value + 1) % 6)
        self.set_model((self.value + 1) % 6)

    @precondition(lambda self: self.senders)
    @rule(which=some)
    def send_if_modified(self, which: int) -> None:
        odd = self.value % 2 == 1
        tx = self.pick(self.senders, which)
        assert tx.send_if_modified(lambda value: value - 1 if value % 2 else False) is odd
        if odd:
            self.set_model(self.value - 1)
        self.settle()

    @precondition(lambda self: self.senders)
    @rule(which=some)
    def clone_sender(self, which: int) -> None:
        self.senders.append(self.pick(self.senders, which).clone())

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
        self.readers.append(Reader(self.pick(self.senders, which).subscribe(), self.version))

    @precondition(lambda self: self.readers)
    @rule(which=some)
    def clone_receiver(self, which: int) -> None:
        reader = self.pick(self.readers, which)
        self.readers.append(Reader(reader.rx.clone(), reader.seen))

    @precondition(lambda self: self.readers)
    @rule(which=some, drop=st.booleans())
    def close_receiver(self, which: int, drop: bool) -> None:
        reader = self.pick(self.readers, which)
        if drop and reader.task is None and len(self.readers) > 1:
            self.readers.remove(reader)
            del reader.rx
        else:
            reader.rx.close()
            reader.open = False
        self.settle()

    @precondition(lambda self: self.readers)
    @rule(which=some, how=st.sampled_from(["borrow", "borrow_and_update", "mark_changed", "mark_unchanged"]))
    def use(self, which: int, how: str) -> None:
        reader = self.pick(self.readers, which)
        if reader.task is None:
            result = getattr(reader.rx, how)()
            if how.startswith("borrow"):
                assert result == self.value
            if how == "mark_changed":
                reader.seen = -1
            elif how != "borrow":
                reader.seen = self.version

    @precondition(lambda self: self.readers)
    @rule(which=some, wants=st.none() | values)
    def wait(self, which: int, wants: int | None) -> None:
        reader = self.pick(self.readers, which)
        if reader.task is None:
            reader.wants, reader.asked = wants, False
            work = (changed, reader.rx) if wants is None else (wait_for, reader.rx, wants)
            reader.task = self.rt.spawn(*work)
            self.settle()

    @precondition(lambda self: self.readers)
    @rule(which=some)
    def abort(self, which: int) -> None:
        reader = self.pick(self.readers, which)
        if reader.task is not None:
            task, reader.task = reader.task, None
            task.abort()
            self.settle()
            assert task.is_finished()

    # --- What always holds ---

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "rt"):
            return
        receivers = sum(reader.open for reader in self.readers)
        for tx in self.senders:
            assert (tx.receiver_count(), tx.sender_count()) == (receivers, len(self.senders))
            assert tx.is_closed() == (receivers == 0)
            assert tx.borrow() == self.value
        for reader in self.readers:
            assert reader.rx.borrow() == self.value
            try:
                assert reader.rx.has_changed() == (reader.seen != self.version)
                assert self.senders
            except RecvError:
                assert not self.senders


TestWatch = WatchMachine.TestCase
TestWatch.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
