"""Channels and synchronisation between tasks. Tokio: `tokio::sync`."""

from __future__ import annotations

from freerun._errors import RecvError, SendError, WouldBlock

from . import broadcast, oneshot, watch
from .barrier import Barrier, BarrierWaitResult
from .broadcast import Lagged
from .once_cell import OnceCell, SetError
from .rwlock import RwLock, RwLockReadGuard, RwLockWriteGuard
from .set_once import SetOnce, SetOnceError

__all__ = [
    "Barrier",
    "BarrierWaitResult",
    "Lagged",
    "OnceCell",
    "RecvError",
    "RwLock",
    "RwLockReadGuard",
    "RwLockWriteGuard",
    "SendError",
    "SetError",
    "SetOnce",
    "SetOnceError",
    "WouldBlock",
    "broadcast",
    "oneshot",
    "watch",
]
