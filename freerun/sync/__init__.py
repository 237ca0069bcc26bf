"""Channels and synchronisation between tasks. Tokio: `tokio::sync`."""

from __future__ import annotations

from freerun._errors import RecvError, SendError, WouldBlock

from . import broadcast, oneshot, watch
from .broadcast import Lagged

__all__ = [
    "Lagged",
    "RecvError",
    "SendError",
    "WouldBlock",
    "broadcast",
    "oneshot",
    "watch",
]
