"""Sleeping, limits, ticks, instants, and a clock that tests can stop. Tokio: `tokio::time`."""

from __future__ import annotations

from freerun._core._native import Timeout, sleep, timeout

from .clock import advance, pause, resume
from .delay_queue import DelayQueue, Expired, Key
from .instant import Instant
from .interval import Interval, MissedTick, interval, interval_at
from .sleep_until import sleep_until
from .timeout_at import timeout_at

__all__ = [
    "DelayQueue",
    "Expired",
    "Instant",
    "Interval",
    "Key",
    "MissedTick",
    "Timeout",
    "advance",
    "interval",
    "interval_at",
    "pause",
    "resume",
    "sleep",
    "sleep_until",
    "timeout",
    "timeout_at",
]
