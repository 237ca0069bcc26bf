"""A channel from any number of senders to one receiver, for any number of values. Tokio: `tokio::sync::mpsc`."""

from __future__ import annotations

from typing import Any, SupportsIndex

from freerun._core._native import MpscPermit as Permit
from freerun._core._native import MpscPermitIterator as PermitIterator
from freerun._core._native import MpscReceiver as Receiver
from freerun._core._native import MpscSender as Sender
from freerun._core._native import MpscUnboundedReceiver as UnboundedReceiver
from freerun._core._native import MpscUnboundedSender as UnboundedSender
from freerun._core._native import MpscWeakSender as WeakSender
from freerun._core._native import MpscWeakUnboundedSender as WeakUnboundedSender
from freerun._core._native import mpsc_channel, mpsc_unbounded_channel
from freerun._errors import RecvError, SendError, SendTimeoutError, TrySendError, WouldBlock

__all__ = [
    "Permit",
    "PermitIterator",
    "Receiver",
    "RecvError",
    "SendError",
    "SendTimeoutError",
    "Sender",
    "TrySendError",
    "UnboundedReceiver",
    "UnboundedSender",
    "WeakSender",
    "WeakUnboundedSender",
    "WouldBlock",
    "channel",
    "unbounded_channel",
]


def channel(capacity: SupportsIndex) -> tuple[Sender[Any], Receiver[Any]]:
    """Make a channel that holds up to `capacity` values: `(sender, receiver)`.

    `await sender.send(value)` waits while it is full, so that a slow receiver slows its senders down. `sender.clone()`
    makes more senders. `await receiver.recv()` gives the values in the order in which they were sent; so does
    `async for`. When every sender is closed or freed the receiver gets what is left, then the end: `RecvError`, or the
    end of the loop.

    Errors: `ValueError` unless `capacity` is 1 to 2**61 - 1.
    Cancel safety: a cancelled `send` did not send, a cancelled `recv` lost nothing. Thread safety: any thread may use
    the ends; one task at a time receives. Tokio: `tokio::sync::mpsc::channel`.

    Example::

        import freerun
        from freerun.sync import mpsc

        async def produce(tx: mpsc.Sender[int], first: int) -> None:
            with tx:                            # closes it at the end
                for n in range(first, first + 3):
                    await tx.send(n)

        async def main() -> list[int]:
            tx, rx = mpsc.channel(2)
            freerun.spawn(produce, tx.clone(), 0)
            freerun.spawn(produce, tx, 10)
            return sorted([n async for n in rx])

        assert freerun.run(main) == [0, 1, 2, 10, 11, 12]
    """
    return mpsc_channel(capacity)


def unbounded_channel() -> tuple[UnboundedSender[Any], UnboundedReceiver[Any]]:
    """Make a channel without a limit: `(sender, receiver)`.

    `sender.send(value)` never waits and is not awaited, so senders that are faster than the receiver fill the memory.
    For the rest it is as `channel()`.

    Cancel safety: a cancelled `recv` lost nothing. Thread safety: any thread may use the ends; one task at a time
    receives. Tokio: `tokio::sync::mpsc::unbounded_channel`.

    Example::

        import freerun
        from freerun.sync import mpsc

        async def main() -> list[str]:
            tx, rx = mpsc.unbounded_channel()
            tx.send("a")
            tx.send("b")
            return await rx.recv_many(10)

        assert freerun.run(main) == ["a", "b"]
    """
    return mpsc_unbounded_channel()
