"""Isolated work: parallel on every CPython, since it shares nothing. Channels between interpreters."""

from __future__ import annotations

from ._remote import RemoteTraceback
from .channel import Receiver, Sender, channel
from .spawn_isolated import spawn_isolated

__all__ = ["Receiver", "RemoteTraceback", "Sender", "channel", "spawn_isolated"]
