"""Sleeping, instants, and a clock that tests can stop. Tokio: `tokio::time`."""

from __future__ import annotations

from freerun._core._native import sleep

from .clock import advance, pause, resume
from .instant import Instant
from .sleep_until import sleep_until

__all__ = ["Instant", "advance", "pause", "resume", "sleep", "sleep_until"]
