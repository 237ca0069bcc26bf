"""A channel for a single value, from one task (or thread) to another. Tokio: `tokio::sync::oneshot`."""

from __future__ import annotations

from freerun._core._native import OneshotReceiver as Receiver
from freerun._core._native import OneshotSender as Sender
from freerun._core._native import oneshot_channel as channel
from freerun._errors import RecvError, SendError, WouldBlock

__all__ = ["Receiver", "RecvError", "SendError", "Sender", "WouldBlock", "channel"]
