"""Interpreter exit and fork: no engine outlives its interpreter, none is used in a child.

Engines are held from their start until they are shut down. At exit, before Python is taken down, the rest is shut down
with a short deadline, so that no native thread meets a dying interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from freerun._core._native import after_fork_in_child, after_fork_in_parent, before_fork, signals_restore
from freerun._errors import RuntimeShutdown
from freerun.interp._isolated import before_exit

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["add", "add_last", "check_running", "discard", "is_exiting"]

EXIT_GRACE = 1.0
"""Seconds for all engines together."""


class _Registry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.engines: set[Engine] = set()
        self.exiting = False


_registry = _Registry()


def check_running() -> None:
    """Raise if the interpreter is on its way out."""
    if _registry.exiting:
        raise RuntimeShutdown("the interpreter is exiting: no new runtime can be started")


def is_exiting() -> bool:
    """Whether the interpreter is on its way out."""
    return _registry.exiting


def add(engine: Engine) -> None:
    """An engine has started."""
    with _registry.lock:
        _registry.engines.add(engine)


def discard(engine: Engine) -> None:
    """An engine has been shut down."""
    with _registry.lock:
        _registry.engines.discard(engine)


def add_last(call: Callable[[], None]) -> None:
    """Call it at exit, after the engines have been shut down."""
    _last.append(call)


def _at_exit() -> None:
    _registry.exiting = True
    with _registry.lock:
        engines = list(_registry.engines)
    deadline = time.monotonic() + EXIT_GRACE
    try:
        for engine in engines:
            engine.cancel()
        for engine in engines:
            with contextlib.suppress(Exception):
                engine.shutdown(max(0.0, deadline - time.monotonic()))
    finally:
        before_exit()
        for call in _last:
            call()


def _after_fork() -> None:
    """In the child: the lock may have been held, the engines are the parent's."""
    global _registry
    # The old registry stays referenced: its engines must not be finalised here, their threads do not exist.
    _parents.append(_registry)
    _registry = _Registry()
    after_fork_in_child()


_parents: list[_Registry] = []
_last: list[Callable[[], None]] = [signals_restore]  # nobody is left who would hear a signal

atexit.register(_at_exit)
os.register_at_fork(before=before_fork, after_in_parent=after_fork_in_parent, after_in_child=_after_fork)
