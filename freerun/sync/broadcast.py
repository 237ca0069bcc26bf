"""A channel whose every receiver gets every value. Tokio: `tokio::sync::broadcast`.

How it works, since it is also an example of a primitive on `freerun.lowlevel`:

* The values that somebody has yet to read are kept in a `BroadcastRing`, and a receiver is little more than the
  position it reads next. A thousand receivers read every value, so these two are written in C
  (`freerun/_core/py/broadcast.c`), with a lock that is held for a few instructions; all the rest is here.
* The channel's lock is for senders that come or go. Nothing of the user's is called, woken or released under it. It is
  reentrant, since Python may run a finalizer, and with it `close()`, at any call and any loop's end, under this very
  lock too. So what must stay together under it stands in lines that call nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import Any, Self

from freerun._arguments import integer
from freerun._core._native import BroadcastReceiver, BroadcastRing, refuse_on_worker
from freerun._errors import RecvError, SendError, WouldBlock
from freerun.lowlevel import PENDING, Listeners

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


class _Broadcast(ProcessBound):
    """The state that all handles share."""

    __slots__ = ("lock", "news", "no_receivers", "ring", "senders", "weak")

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.news = Listeners()  # receivers, for a value or the end
        self.ring = BroadcastRing(capacity, self.news, Lagged)  # ends with the last sender: nothing comes any more
        self.no_receivers = Listeners()  # closed()
        self.lock = threading.RLock()
        self.senders = 0
        self.weak = 0


class _Sending(Handle):
    """What every sender has, weak ones included."""

    __slots__ = ("__weakref__", "_channel", "_closed")

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
            if channel.ring.has_ended():
                raise SendError
            channel.senders += 1
            self._channel = channel

    def send(self, value: T, /) -> int:
        """Send `value`, and say how many receivers there are. Never waits.

        Errors: `SendError`, with the value in it, if there is no receiver (a later `send` may find one) or this sender
        is closed. Thread safety: any thread. Tokio: `Sender::send`.
        """
        receivers = 0 if self._closed else self._channel.ring.push(value)
        if not receivers:
            raise SendError(value)
        self._channel.news.wake_all()
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
        return channel.no_receivers.wait(lambda: PENDING if channel.ring.receivers() else None)

    def receiver_count(self) -> int:
        """How many receivers there are."""
        return self._channel.ring.receivers()

    def __len__(self) -> int:
        """How many values are kept for receivers that have not read them."""
        return len(self._channel.ring)

    def is_empty(self) -> bool:
        """Whether every receiver has read everything."""
        return len(self._channel.ring) == 0

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
            if last := channel.senders == 0:
                channel.ring.end()
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


class Receiver[T](BroadcastReceiver[T], Handle):
    """Receives every value that is sent while it exists. Made by `channel()`, `Sender.subscribe()`, `resubscribe()`.

    `async for value in receiver` ends when every sender is closed and everything was read. `Lagged` comes out of it;
    iterate once more to go on. A context manager, which closes the receiver: it counts no longer, and keeps nothing.

    Two tasks that use one receiver share its values; give each its own by `resubscribe()`.

    Thread safety: every method, from any thread; those that are awaited, inside a task. Tokio: `broadcast::Receiver`.
    """

    # `recv`, `__anext__`, `__len__`, `_take`, `_leave` and `_closed` are BroadcastReceiver's.
    __slots__ = ("__weakref__", "_channel")

    _channel: _Broadcast

    @classmethod
    def _make(cls, channel: _Broadcast) -> Self:
        self = cls(channel.ring)
        self._channel = channel
        return self

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

    def resubscribe(self) -> Receiver[T]:
        """Another receiver, which gets what is sent from now on. It need not read what this one has yet to read.

        Thread safety: any thread. Tokio: `Receiver::resubscribe`.
        """
        return self._make(self._channel)

    def is_empty(self) -> bool:
        """Whether it has read everything."""
        return len(self) == 0

    def __bool__(self) -> bool:
        return True  # an empty channel is a channel

    def is_closed(self) -> bool:
        """Whether every sender is closed, or this receiver; there may be values left to read."""
        return self._closed or self._channel.ring.has_ended()

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
        left = self._leave()
        if left is None:
            return
        self._channel.news.wake_all()
        if left == 0:
            self._channel.no_receivers.wake_all()

    def __repr__(self) -> str:
        return f"<broadcast.Receiver{' closed' if self._closed else f', {len(self)} to read'}>"
