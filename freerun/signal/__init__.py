"""Signals of the operating system, in tasks. Tokio: `tokio::signal`."""

from __future__ import annotations

from .ctrl_c import ctrl_c
from .signal import Signal, signal

__all__ = ["Signal", "ctrl_c", "signal"]
