"""Children that are killed when nobody wants them any more, at the interpreter's exit at the latest."""

from __future__ import annotations

import contextlib
import signal
import threading

from freerun.runtime import atexit

from ._process import Process
from ._reaper import reaper

__all__ = ["add", "discard", "drop"]

_lock = threading.RLock()  # finalizers drop
_doomed: set[Process] = set()


def add(process: Process) -> None:
    """It is killed at the interpreter's exit, unless it was discarded."""
    with _lock:
        _doomed.add(process)


def discard(process: Process) -> None:
    """It has ended."""
    with _lock:
        _doomed.discard(process)


def drop(process: Process, kill: bool) -> None:
    """Nobody waits for it any more. Any thread, finalizers included."""
    if process.forked:
        return
    if kill:
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGKILL)
        discard(process)
    reaper.adopt(process)


def _at_exit() -> None:
    with _lock:
        doomed = list(_doomed)
    for process in doomed:
        drop(process, kill=True)


atexit.add_last(_at_exit)
