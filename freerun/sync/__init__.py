"""Channels and synchronisation between tasks. Tokio: `tokio::sync`."""

from __future__ import annotations

from freerun._errors import RecvError, SendError, WouldBlock

from . import oneshot

__all__ = ["RecvError", "SendError", "WouldBlock", "oneshot"]
