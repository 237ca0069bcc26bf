"""Channels and synchronisation between tasks. Tokio: `tokio::sync`."""

from __future__ import annotations

from freerun._core._native import (
    Mutex,
    MutexGuard,
    Notified,
    Notify,
    Permit,
    RwLock,
    RwLockReadGuard,
    RwLockWriteGuard,
    Semaphore,
)
from freerun._errors import AcquireError, RecvError, SendError, SendTimeoutError, TrySendError, WouldBlock

from . import broadcast, mpsc, oneshot, watch
from .barrier import Barrier, BarrierWaitResult
from .broadcast import Lagged
from .condvar import Condvar
from .once_cell import OnceCell, SetError
from .set_once import SetOnce, SetOnceError

__all__ = [
    "AcquireError",
    "Barrier",
    "BarrierWaitResult",
    "Condvar",
    "Lagged",
    "Mutex",
    "MutexGuard",
    "Notified",
    "Notify",
    "OnceCell",
    "Permit",
    "RecvError",
    "RwLock",
    "RwLockReadGuard",
    "RwLockWriteGuard",
    "Semaphore",
    "SendError",
    "SendTimeoutError",
    "SetError",
    "SetOnce",
    "SetOnceError",
    "TrySendError",
    "WouldBlock",
    "broadcast",
    "mpsc",
    "oneshot",
    "watch",
]
