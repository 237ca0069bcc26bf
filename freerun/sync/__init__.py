"""Channels and synchronisation between tasks. Tokio: `tokio::sync`."""

from __future__ import annotations

from freerun._core._native import Mutex, MutexGuard, Notified, Notify, Permit, Semaphore
from freerun._errors import AcquireError, RecvError, SendError, SendTimeoutError, TrySendError, WouldBlock

from . import mpsc, oneshot

__all__ = [
    "AcquireError",
    "Mutex",
    "MutexGuard",
    "Notified",
    "Notify",
    "Permit",
    "RecvError",
    "Semaphore",
    "SendError",
    "SendTimeoutError",
    "TrySendError",
    "WouldBlock",
    "mpsc",
    "oneshot",
]
