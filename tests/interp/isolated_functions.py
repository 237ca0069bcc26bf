"""What the tests run in other interpreters: it has to be importable there."""

from __future__ import annotations

import _interpreters  # type: ignore[import-not-found]
import os
import sys
import threading
import time
from typing import Any

import freerun
from freerun.net import TcpListener


def where() -> tuple[int, int]:
    """The interpreter, and the thread."""
    current = _interpreters.get_current()
    return int(current[0] if isinstance(current, tuple) else current), threading.get_ident()


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(*values: Any) -> Any:
    return values


async def async_echo(*values: Any) -> Any:
    await freerun.yield_now()
    return values
