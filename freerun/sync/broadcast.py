"""A channel whose every receiver gets every value. Tokio: `tokio::sync::broadcast`.

How it works, since it is also an example of a primitive on `freerun.lowlevel`:

* The ring is a dictionary from positions to slots, with the newest `capacity` positions at most. A receiver is little
  more than the position it reads next.
* A slot counts the receivers that have yet to pass it; the last one takes it out, so a value is released as soon as
  the slowest receiver has it. Receivers pass positions in order: what is left in the ring is what somebody still
  waits to read, and its length is the channel's.
* The channel's lock is for those who send, come or go. A receiver that reads takes its own lock only, so a thousand of
  them do not stand in line on several workers. Nobody takes one of these locks inside another.
* Nothing of the user's is called, woken or released under a lock. The locks are reentrant, since Python may run a
  finalizer, and with it `close()` or `send()`, at any call and any loop's end, under these very locks too. So what must
  stay together under them stands in lines that call nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import Any, Self

from freerun._arguments import integer
from freerun._core._native import Countdown, refuse_on_worker
from freerun._errors import RecvError, SendError, WouldBlock
from freerun.lowlevel import PENDING, Listeners, Pending

from ._handle import Handle, ProcessBound

__all__ = ["Lagged", "Receiver", "RecvError", "SendError", "Sender", "WeakSender", "WouldBlock", "channel"]


def channel(capacity: int) -> tuple[Sender[Any], Receiver[Any]]:
    """Make a channel that keeps the newest `capacity` values for receivers that have not read them yet.

    It begins with one sender and one receiver; `sender.clone()` and `sender.subscribe()` make more. A receiver gets
    what is sent after it was made. `send` never waits: when a receiver is more than `capacity` values behind it loses
    the oldest, and is told so by `Lagged`.

    Errors: `ValueError`/`TypeError` if `capacity` is not a positive `int`. Thread safety: any thread; the ends may be
    used by tasks of different runtimes. Tokio: `tokio::sync::broadcast::channel`; its capacity is rounded up to a power
    of two, this one is exact.

    Example::

        import freerun
        from freerun.sync import broadcast

        async def listen(rx: broadcast.Receiver[str]) -> list[str]:
            return [news async for news in rx]

        async def main() -> None:
            tx, rx = broadcast.channel(16)
            tasks = [freerun.spawn(listen, rx), freerun.spawn(listen, tx.subscribe())]
            with tx:
                assert tx.send("first") == 2
                tx.send("second")
            for task in tasks:
                assert await task == ["first", "second"]

        freerun.run(main)
    """
    sender: Sender[Any] = Sender(capacity)
    return sender, sender.subscribe()


class Lagged(Exception):
    """A receiver was too slow: `n` values were overwritten before it read them. It goes on at the oldest one kept.

    Tokio: `broadcast::error::RecvError::Lagged`.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.n = n

    def __str__(self) -> str:
        return f"the receiver lagged behind: it missed {self.n} value{'s' if self.n != 1 else ''}"


Lagged.__module__ = "freerun.sync"


class _Slot:
    __slots__ = ("left", "value")

    left: Countdown  # receivers that have not passed it yet

    def __init__(self, value: Any) -> None:
        self.value = value


class _Broadcast(ProcessBound):
    """The state that all handles share. It is changed under the lock, but for the ring: what the last receiver has
    passed that one takes out. Receivers read without it."""

    __slots__ = ("capacity", "closed", "lock", "news", "no_receivers", "receivers", "ring", "senders", "tail", "weak")

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.lock = threading.RLock()
        self.ring: dict[int, _Slot] = {}
        self.tail = 0  # the position that is sent next
        self.senders = 0
        self.weak = 0
        self.receivers = 0
        self.closed = False  # the last sender has gone: nothing comes any more
        self.news = Listeners()  # receivers, for a value or the end
        self.no_receivers = Listeners()  # closed()


class _Sending(Handle):
    """What every sender has, weak ones included."""

    __slots__ = ()

    _channel: _Broadcast

    def strong_count(self) -> int:
        """How many senders are open, weak ones not counted."""
        return self._channel.senders

    def weak_count(self) -> int:
        """How many weak senders are open."""
        return self._channel.weak


class Sender[T](_Sending):
    """Sends to every receiver. Made by `channel()`, `clone()`, or as `Sender(capacity)` without a receiver yet.

    A context manager, which closes it. When the last one is closed or dropped, the receivers get what is left, and
    `RecvError` then.

    Thread safety: every method, from any thread; those that are awaited, inside a task. Tokio: `broadcast::Sender`.
    """

    __slots__ = ()

    def __init__(self, capacity: int) -> None:
        self._attach(_Broadcast(integer(capacity, "capacity")))

    def _attach(self, channel: _Broadcast) -> None:
        self._closed = False
        with channel.lock:
            if channel.closed:
                raise SendError
            channel.senders += 1
            self._channel = channel

    def send(self, value: T, /) -> int:
        """Send `value`, and say how many receivers there are. Never waits.

        Errors: `SendError`, with the value in it, if there is no receiver (a later `send` may find one) or this sender
        is closed. Thread safety: any thread. Tokio: `Sender::send`.
        """
        channel = self._channel
        slot = _Slot(value)
        overwritten = None
        with channel.lock:
            while receivers := 0 if self._closed else channel.receivers:
                slot.left = Countdown(receivers)
                # From here to the pop() no finalizer changes that, and nothing is sent after the end.
                if receivers == channel.receivers and not self._closed:
                    tail = channel.tail
                    channel.ring[tail] = slot
                    channel.tail = tail + 1
                    overwritten = channel.ring.pop(tail - channel.capacity, None)
                    break
        if not receivers:
            raise SendError(value)
        del overwritten, slot  # may call a finalizer: after the lock, and before the receivers run
        channel.news.wake_all()
        return receivers

    def subscribe(self) -> Receiver[T]:
        """Another receiver, which gets what is sent from now on.

        Errors: `RuntimeError` if this sender is closed. Thread safety: any thread. Tokio: `Sender::subscribe`.
        """
        self._check_open("subscribe")
        return Receiver._make(self._channel)

    def clone(self) -> Sender[T]:
        """Another sender of the channel, closed on its own.

        Errors: `RuntimeError` if this sender is closed. Thread safety: any thread. Tokio: `Sender::clone`.
        """
        self._check_open("clone")
        try:
            return _attached(self._channel)
        except SendError:  # closed by another thread meanwhile
            self._check_open("clone")
            raise

    def downgrade(self) -> WeakSender[T]:
        """A handle that does not keep the channel open, and gives a sender as long as it is.

        Thread safety: any thread. Tokio: `Sender::downgrade`.

        Example::

            from freerun.sync import broadcast

            tx, rx = broadcast.channel(4)
            weak = tx.downgrade()
            with weak.upgrade() as another:
                another.send(1)
            tx.close()
            assert rx.try_recv() == 1
            try:
                weak.upgrade()
            except broadcast.SendError:
                pass
            else:
                raise AssertionError
        """
        self._check_open("downgrade")
        return WeakSender._make(self._channel)

    def closed(self) -> Awaitable[None]:
        """Wait until there is no receiver.

        Cancel safe. Thread safety: inside a task. Tokio: `Sender::closed`.

        Example::

            import freerun
            from freerun.sync import broadcast

            async def main() -> None:
                tx, rx = broadcast.channel(4)
                freerun.spawn_blocking(rx.close)
                await tx.closed()
                assert tx.receiver_count() == 0

            freerun.run(main)
        """
        channel = self._channel
        return channel.no_receivers.wait(lambda: PENDING if channel.receivers else None)

    def receiver_count(self) -> int:
        """How many receivers there are."""
        return self._channel.receivers

    def __len__(self) -> int:
        """How many values are kept for receivers that have not read them."""
        return len(self._channel.ring)

    def is_empty(self) -> bool:
        """Whether every receiver has read everything."""
        return not self._channel.ring

    def __bool__(self) -> bool:
        return True  # an empty channel is a channel

    def same_channel(self, other: Sender[Any], /) -> bool:
        """Whether both belong to one channel."""
        return self._channel is other._channel

    def close(self) -> None:
        """Give this sender up; the last one ends the channel. May be called twice. Any thread."""
        channel = self._channel
        with channel.lock:
            if self._closed:
                return
            self._closed = True
            channel.senders -= 1
            channel.closed = last = channel.senders == 0
        if last:
            channel.news.wake_all()

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"{what}(): this sender is closed; clone() it before, for another user")

    def __repr__(self) -> str:
        return f"<broadcast.Sender{' closed' if self._closed else f', {self.receiver_count()} receivers'}>"


def _attached(channel: _Broadcast) -> Sender[Any]:
    sender: Sender[Any] = Sender.__new__(Sender)
    sender._attach(channel)
    return sender


class WeakSender[T](_Sending):
    """Refers to a channel without keeping it open. Made by `Sender.downgrade()`.

    Thread safety: any thread. Tokio: `broadcast::WeakSender`.
    """

    __slots__ = ()

    @classmethod
    def _make(cls, channel: _Broadcast) -> Self:
        self = cls.__new__(cls)
        self._closed = False
        with channel.lock:
            channel.weak += 1
            self._channel = channel
        return self

    def upgrade(self) -> Sender[T]:
        """A sender of the channel.

        Errors: `SendError` once every sender is closed. Thread safety: any thread. Tokio: `WeakSender::upgrade`.
        """
        return _attached(self._channel)

    def clone(self) -> WeakSender[T]:
        """Another one."""
        return self._make(self._channel)

    def close(self) -> None:
        """Give it up. May be called twice. Any thread."""
        with self._channel.lock:
            if not self._closed:
                self._closed = True
                self._channel.weak -= 1

    def __repr__(self) -> str:
        return "<broadcast.WeakSender>"


class Receiver[T](Handle):
    """Receives every value that is sent while it exists. Made by `channel()`, `Sender.subscribe()`, `resubscribe()`.

    `async for value in receiver` ends when every sender is closed and everything was read. `Lagged` comes out of it;
    iterate once more to go on. A context manager, which closes the receiver: it counts no longer, and keeps nothing.

    Two tasks that use one receiver share its values; give each its own by `resubscribe()`.

    Thread safety: every method, from any thread; those that are awaited, inside a task. Tokio: `broadcast::Receiver`.
    """

    __slots__ = ("_lock", "_next")

    _channel: _Broadcast
    _lock: threading.RLock
    _next: int  # changed under it

    @classmethod
    def _make(cls, channel: _Broadcast) -> Self:
        self = cls.__new__(cls)
        self._closed = False  # changed under the channel's lock
        self._lock = threading.RLock()
        with channel.lock:
            channel.receivers += 1
            self._next = channel.tail
            self._channel = channel
        return self

    def recv(self) -> Awaitable[T]:
        """Wait for the next value.

        Errors: `Lagged(n)` if `n` values were overwritten before this receiver read them; the next call gives the
        oldest value kept. `RecvError` when every sender is closed and everything was read, or this receiver is closed.

        Cancel safe: a cancelled `recv` has taken nothing. Thread safety: inside a task. Tokio: `Receiver::recv`.

        Example::

            import freerun
            from freerun.sync import Lagged, broadcast

            async def main() -> None:
                tx, rx = broadcast.channel(2)
                for number in range(5):
                    tx.send(number)
                try:
                    await rx.recv()
                except Lagged as lagged:
                    assert lagged.n == 3
                assert [await rx.recv(), await rx.recv()] == [3, 4]

            freerun.run(main)
        """
        return self._channel.news.wait(self._take)

    def try_recv(self) -> T:
        """The next value, if there is one now.

        Errors: `WouldBlock` if there is none yet; `Lagged` and `RecvError` as in `recv`. Thread safety: any thread.
        Tokio: `Receiver::try_recv`.
        """
        value = self._take()
        if value is PENDING:
            raise WouldBlock("no value was sent yet that this receiver has not read")
        return value

    def blocking_recv(self) -> T:
        """`recv()` for a plain thread.

        Errors: those of `recv`; `RuntimeError` in a task. Thread safety: threads that are not workers. Tokio:
        `Receiver::blocking_recv`.

        Example::

            import threading
            from freerun.sync import broadcast

            tx, rx = broadcast.channel(4)
            threading.Timer(0.01, tx.send, ["hello"]).start()
            assert rx.blocking_recv() == "hello"
        """
        refuse_on_worker("blocking_recv", "recv")
        return self._channel.news.block(self._take)

    def _take(self) -> T | Pending:
        channel = self._channel
        closed = channel.closed  # before the tail: nothing is sent after the end
        if self._next == channel.tail and not closed and not self._closed:
            return PENDING
        with self._lock:
            if self._closed:
                raise RecvError("this receiver is closed")
            position = self._next
            if position == channel.tail:
                return self._at_tail(closed)
            try:  # no call, and so no finalizer, until the position is passed
                slot = channel.ring[position]
            except KeyError:  # overwritten: go on at the oldest that is kept
                oldest = channel.tail - channel.capacity
                self._next = oldest
                raise Lagged(oldest - position) from None
            self._next = position + 1
            last = slot.left.down()
        if last:
            channel.ring.pop(position, None)
        value: T = slot.value
        return value

    def _at_tail(self, closed: bool) -> Pending:
        if closed:
            raise RecvError("every sender is closed, and everything was read")
        return PENDING

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T]:
        return self._channel.news.wait(self._take_or_stop)

    def _take_or_stop(self) -> T | Pending:
        channel = self._channel
        if self._next == channel.tail and not channel.closed and not self._closed:
            return PENDING  # as in _take(), without another call: half of all looks end here
        try:
            return self._take()
        except RecvError:
            raise StopAsyncIteration from None

    def resubscribe(self) -> Receiver[T]:
        """Another receiver, which gets what is sent from now on. It need not read what this one has yet to read.

        Thread safety: any thread. Tokio: `Receiver::resubscribe`.
        """
        return self._make(self._channel)

    def __len__(self) -> int:
        """How many values were sent that this receiver has not read, those included that it has missed."""
        return 0 if self._closed else self._channel.tail - self._next

    def is_empty(self) -> bool:
        """Whether it has read everything."""
        return len(self) == 0

    def __bool__(self) -> bool:
        return True  # an empty channel is a channel

    def is_closed(self) -> bool:
        """Whether every sender is closed, or this receiver; there may be values left to read."""
        return self._closed or self._channel.closed

    def sender_strong_count(self) -> int:
        """How many senders are open, weak ones not counted."""
        return self._channel.senders

    def sender_weak_count(self) -> int:
        """How many weak senders are open."""
        return self._channel.weak

    def same_channel(self, other: Receiver[Any], /) -> bool:
        """Whether both belong to one channel."""
        return self._channel is other._channel

    def close(self) -> None:
        """Give this receiver up: what it has not read is not kept for it. Who waits in its `recv` gets `RecvError`.

        May be called twice. Any thread.
        """
        channel = self._channel
        with channel.lock:
            if self._closed:
                return
            self._closed = True
            channel.receivers -= 1
            last = channel.receivers == 0
            end = channel.tail  # what comes after that does not count this one
        with self._lock:
            start, self._next = self._next, end  # and now nobody else passes what lies between
        for position in range(max(start, end - channel.capacity), end):
            slot = channel.ring.get(position)  # None: overwritten meanwhile
            if slot is not None and slot.left.down():
                channel.ring.pop(position, None)
        channel.news.wake_all()
        if last:
            channel.no_receivers.wake_all()

    def __repr__(self) -> str:
        return f"<broadcast.Receiver{' closed' if self._closed else f', {len(self)} to read'}>"
