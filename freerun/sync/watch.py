"""A channel that keeps one value, the latest, and tells its receivers that it changed. Tokio: `tokio::sync::watch`.

How it works, since it is also an example of a primitive on `freerun.lowlevel`:

* The value and its version are a `Watched`, and a receiver is little more than the version it has seen. A thousand
  receivers look at them for every change, so these two are written in C (`freerun/_core/py/watched.c`); all the rest is
  here.
* Two locks are held by those who send only. `sending` lets one of them at a time change the value, and is held while
  the user's function computes the new one. `lock` guards the counts of handles, for a few lines. Both are reentrant,
  since Python may run a finalizer, and with it `send()` or `close()`, at any call; what must stay together stands in
  lines that call nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self

from freerun._arguments import function
from freerun._core._native import Watched, WatchReceiver
from freerun._errors import RecvError, SendError
from freerun.lowlevel import PENDING, Listeners, Pending

from ._handle import Handle, ProcessBound

__all__ = ["Receiver", "RecvError", "SendError", "Sender", "channel"]


def channel[T](initial: T) -> tuple[Sender[T], Receiver[T]]:
    """Make a channel that holds `initial` until something else is sent.

    It begins with one sender and one receiver; both can be cloned. A receiver sees the latest value, not every one: use
    it for configuration, state, progress. It counts `initial` as seen.

    Thread safety: any thread; the ends may be used by tasks of different runtimes. Tokio:
    `tokio::sync::watch::channel`.

    Example::

        import freerun
        from freerun.sync import watch

        async def main() -> str:
            tx, rx = watch.channel("starting")
            ready = freerun.spawn(rx.wait_for, lambda state: state == "ready")
            tx.send("loading")
            tx.send("ready")
            return await ready

        assert freerun.run(main) == "ready"
    """
    sender = Sender(initial)
    return sender, sender.subscribe()


class _Watch(ProcessBound):
    """The state that all handles share."""

    __slots__ = ("lock", "news", "no_receivers", "receivers", "senders", "sending", "watched")

    def __init__(self, initial: Any) -> None:
        super().__init__()
        self.sending = threading.RLock()
        self.news = Listeners()  # receivers, for a change or the end
        self.watched = Watched(initial, self.news)  # replaced under `sending`; ends with the last sender
        self.lock = threading.RLock()
        self.senders = 0
        self.receivers = 0
        self.no_receivers = Listeners()  # closed()

    def replace(self, value: Any) -> Any:
        """Make it the current one; the one before. The receivers are to be told, after the lock."""
        with self.sending:
            return self.watched.replace(value)


class Sender[T](Handle):
    """Changes the value. Made by `channel()`, `clone()`, or as `Sender(initial)` without a receiver yet.

    A context manager, which closes it. When the last one is closed or dropped, receivers that have seen the latest
    value get `RecvError`.

    Thread safety: every method, from any thread; those that are awaited, inside a task. Tokio: `watch::Sender`.
    """

    __slots__ = ("__weakref__", "_channel", "_closed")

    _channel: _Watch

    def __init__(self, initial: T) -> None:
        self._attach(_Watch(initial))

    def _attach(self, channel: _Watch) -> None:
        self._closed = False
        with channel.lock:
            if channel.watched.has_ended():
                raise SendError
            channel.senders += 1
            self._channel = channel

    def send(self, value: T, /) -> None:
        """Replace the value, and tell every receiver. Never waits for them.

        Errors: `SendError`, with the value in it, if there is no receiver (`send_replace` does not mind) or this sender
        is closed: then nothing was changed. Thread safety: any thread. Tokio: `Sender::send`.
        """
        if self._closed or not self._channel.receivers:
            raise SendError(value)
        self._channel.replace(value)
        self._channel.news.wake_all()

    def send_replace(self, value: T, /) -> T:
        """Replace the value, also when there is no receiver, and return the one before.

        Errors: `RuntimeError` if this sender is closed. Thread safety: any thread. Tokio: `Sender::send_replace`.
        """
        self._check_open("send_replace")
        before: T = self._channel.replace(value)
        self._channel.news.wake_all()
        return before

    def send_modify(self, modify: Callable[[T], T | None], /) -> None:
        """Replace the value by what `modify(value)` returns, and tell every receiver, also when there is none.

        If it returns `None` it has changed the value in place. (To make the value `None`, `send` it.) Whoever has
        borrowed the value then sees the change as it happens; a new value is safer.

        Other senders wait meanwhile, so it has to be short and must not block. If it raises, nobody is told, and the
        error comes out here.

        Errors: `RuntimeError` if this sender is closed, `TypeError` for an async function. Thread safety: any thread.
        Tokio: `Sender::send_modify`.

        Example::

            from freerun.sync import watch

            tx, rx = watch.channel(1)
            tx.send_modify(lambda n: n + 1)
            assert rx.has_changed() and rx.borrow() == 2
        """
        self._check_open("send_modify")
        function(modify, "modify")
        channel = self._channel
        with channel.sending:
            value = channel.watched.get()
            changed = modify(value)
            channel.replace(value if changed is None else changed)
        channel.news.wake_all()

    def send_if_modified(self, modify: Callable[[T], T | bool | None], /) -> bool:
        """Let `modify(value)` decide whether the value changes; returns whether it did, and tells the receivers then.

        It returns `False` or `None` if nothing changed, `True` if it has changed the value in place, and otherwise the
        new value. (A value that is itself a `bool` cannot be replaced in this way.) As for the rest it is as
        `send_modify`.

        Errors: `RuntimeError` if this sender is closed, `TypeError` for an async function. Thread safety: any thread.
        Tokio: `Sender::send_if_modified`.

        Example::

            from freerun.sync import watch

            def advance(done: int) -> int | bool:
                return done + 1 if done < 2 else False

            tx, rx = watch.channel(1)
            assert tx.send_if_modified(advance) and rx.borrow_and_update() == 2
            assert not tx.send_if_modified(advance) and not rx.has_changed()
        """
        self._check_open("send_if_modified")
        function(modify, "modify")
        channel = self._channel
        with channel.sending:
            value = channel.watched.get()
            changed = modify(value)
            if changed is None or changed is False:
                return False
            channel.replace(value if changed is True else changed)
        channel.news.wake_all()
        return True

    def borrow(self) -> T:
        """The value. Thread safety: any thread. Tokio: `Sender::borrow`."""
        value: T = self._channel.watched.get()
        return value

    def subscribe(self) -> Receiver[T]:
        """Another receiver, which counts the present value as seen.

        Errors: `RuntimeError` if this sender is closed. Thread safety: any thread. Tokio: `Sender::subscribe`.
        """
        self._check_open("subscribe")
        return Receiver._make(self._channel)

    def clone(self) -> Sender[T]:
        """Another sender of the channel, closed on its own.

        Errors: `RuntimeError` if this sender is closed. Thread safety: any thread. Tokio: `Sender::clone`.
        """
        self._check_open("clone")
        other: Sender[T] = Sender.__new__(Sender)
        try:
            other._attach(self._channel)
        except SendError:  # closed by another thread meanwhile
            self._check_open("clone")
            raise
        return other

    def closed(self) -> Awaitable[None]:
        """Wait until there is no receiver.

        Cancel safe. Thread safety: inside a task. Tokio: `Sender::closed`.

        Example::

            import freerun
            from freerun.sync import watch

            async def main() -> None:
                tx, rx = watch.channel(0)
                freerun.spawn_blocking(rx.close)
                await tx.closed()
                assert tx.is_closed()

            freerun.run(main)
        """
        channel = self._channel
        return channel.no_receivers.wait(lambda: PENDING if channel.receivers else None)

    def is_closed(self) -> bool:
        """Whether there is no receiver. `subscribe()` makes one."""
        return self._channel.receivers == 0

    def receiver_count(self) -> int:
        """How many receivers there are."""
        return self._channel.receivers

    def sender_count(self) -> int:
        """How many senders are open."""
        return self._channel.senders

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
                channel.watched.end()
        if last:
            channel.news.wake_all()

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"{what}(): this sender is closed; clone() it before, for another user")

    def __repr__(self) -> str:
        return f"<watch.Sender{' closed' if self._closed else f', {self.receiver_count()} receivers'}>"


class Receiver[T](WatchReceiver[T], Handle):
    """Sees the latest value, and waits for the next. Made by `channel()`, `Sender.subscribe()`, `clone()`.

    It remembers which version it has seen, so it belongs to one user; `clone()` it for another. A context manager,
    which closes it: it counts no longer for `Sender.closed()`.

    Thread safety: every method, from any thread; those that are awaited, inside a task. Tokio: `watch::Receiver`.
    """

    # `changed`, `borrow`, `borrow_and_update`, `has_changed`, `_seen` and `_closed` are WatchReceiver's.
    __slots__ = ("__weakref__", "_channel")

    _channel: _Watch

    @classmethod
    def _make(cls, channel: _Watch) -> Self:
        self = cls(channel.watched)
        with channel.lock:
            channel.receivers += 1
            self._channel = channel
        return self

    def mark_changed(self) -> None:
        """Let the present value count as not seen. Tokio: `Receiver::mark_changed`."""
        self._seen = -1  # versions are counted from 0

    def mark_unchanged(self) -> None:
        """Let the present value count as seen. Tokio: `Receiver::mark_unchanged`."""
        self._seen = self._channel.watched.version()

    def wait_for(self, predicate: Callable[[T], object], /) -> Awaitable[T]:
        """Wait for a value for which `predicate(value)` is true, and return it. The present one is asked first.

        Values that are replaced quickly may be passed over. Every value that it looked at counts as seen.

        Errors: `RecvError` if every sender is closed and the last value will not do, or this receiver is closed; what
        `predicate` raises; `TypeError` if it is an async function. Cancel safe. Thread safety: inside a task. Tokio:
        `Receiver::wait_for`.
        """
        function(predicate, "predicate")
        watched = self._channel.watched
        asked = False

        def look() -> T | Pending:
            nonlocal asked
            closed = watched.has_ended() or self._closed  # before the value: after the end there is no change
            seen = self._seen
            value = self.borrow_and_update()
            if not (asked and self._seen == seen):
                asked = True
                if predicate(value):
                    return value
            if closed:
                raise RecvError("this receiver is closed" if self._closed else "every sender is closed")
            return PENDING

        return self._channel.news.wait(look)

    def clone(self) -> Receiver[T]:
        """Another receiver, which has seen what this one has. Tokio: `Receiver::clone`."""
        seen = self._seen
        other = self._make(self._channel)
        other._seen = seen
        return other

    def same_channel(self, other: Receiver[Any], /) -> bool:
        """Whether both belong to one channel."""
        return self._channel is other._channel

    def close(self) -> None:
        """Give this receiver up. Who waits in its `changed` gets `RecvError`. May be called twice. Any thread."""
        channel = self._channel
        with channel.lock:
            if self._closed:
                return
            self._closed = True
            channel.receivers -= 1
            last = channel.receivers == 0
        channel.news.wake_all()
        if last:
            channel.no_receivers.wake_all()

    def __repr__(self) -> str:
        return f"<watch.Receiver{' closed' if self._closed else ''}>"
