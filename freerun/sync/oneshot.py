"""A channel for a single value, from one task (or thread) to another. Tokio: `tokio::sync::oneshot`."""

from __future__ import annotations

from typing import Any

from freerun._core._native import OneshotReceiver as Receiver
from freerun._core._native import OneshotSender as Sender
from freerun._core._native import oneshot_channel
from freerun._errors import RecvError, SendError, WouldBlock

__all__ = ["Receiver", "RecvError", "SendError", "Sender", "WouldBlock", "channel"]


def channel() -> tuple[Sender[Any], Receiver[Any]]:
    """Make a channel for one value: `(sender, receiver)`.

    `sender.send(value)` never waits. `await receiver` gives the value, or raises `RecvError` once the sender was closed
    or dropped without sending. `send` raises `SendError`, with the value in it, when the receiver is gone, and
    `RuntimeError` the second time. `receiver.try_recv()` raises `WouldBlock` while there is nothing.

    Cancel safety: an aborted `await receiver` loses nothing; await it again. Thread safety: both ends may be used from
    any thread. Tokio: `tokio::sync::oneshot::channel`.

    Example::

        import freerun
        from freerun.sync import oneshot

        async def answer(tx: oneshot.Sender[int]) -> None:
            tx.send(42)

        async def main() -> int:
            tx, rx = oneshot.channel()
            freerun.spawn(answer, tx)
            return await rx

        assert freerun.run(main) == 42
    """
    return oneshot_channel()
