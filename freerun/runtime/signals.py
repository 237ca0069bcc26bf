"""Ctrl-C while `block_on` runs on the main thread.

The first one cancels the main task, whose cleanup runs; then `block_on` raises `KeyboardInterrupt`. The second one
raises it at once. Only Python's own SIGINT handler is replaced, and only for the time of the call: a program that has
its own handler keeps it. The wake-up descriptor makes a signal interrupt the engine's wait on whichever thread the
system delivers it.

Tasks that listen with `freerun.signal` come first: while there are any, the engine's own handler is installed on top of
all this, and Ctrl-C is theirs. `signal.signal` here takes that away, so it is put back each time (`_set`), and a Ctrl-C
that comes in between is passed on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from freerun._arguments import close_unstarted
from freerun._core._native import signal_notify, signals_rearm

if TYPE_CHECKING:
    from freerun._core._native import Core

__all__ = ["Deferred", "block_on"]


def block_on(core: Core, coro: Any, *args: Any) -> Any:
    """`core.block_on` with Ctrl-C as described above."""
    try:
        if threading.get_ident() != threading.main_thread().ident:
            return core.block_on(coro, *args)
        return _block_on_main_thread(core, coro, *args)
    except (RuntimeError, TypeError):
        close_unstarted(coro)  # it was refused: Python need not warn on top of the error
        raise


def _block_on_main_thread(core: Core, coro: Any, *args: Any) -> Any:
    guard = _Guard(core)
    try:
        guard.install()
        return core.block_on(coro, *args)
    finally:
        guard.restore()


class _Guard:
    """The handler of one call of `block_on`, and what it stands in for.

    A signal may come between any two instructions. Until `install()` is done and from `restore()` on it is noted, and
    raised when nothing is left half done; in between, whoever raises puts everything back first.
    """

    __slots__ = ("_active", "_core", "_fd", "_old_fd", "_pending")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._fd = -1
        self._old_fd: int | None = None
        self._active = False
        self._pending = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Cancel the main task; raise `KeyboardInterrupt` the second time, and when no main task is running."""
        if signal_notify(signal.SIGINT):
            return
        if not self._active:
            self._pending = True
            return
        try:
            self._core.interrupt()
        except BaseException:
            self._put_back()
            raise KeyboardInterrupt from None

    def install(self) -> None:
        """Take SIGINT, if it is Python's, and the wake-up descriptor. Nothing of it on a sub-interpreter."""
        try:
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                _set(self)
            self._fd = self._core.signal_fd()
            self._old_fd = signal.set_wakeup_fd(self._fd, warn_on_full_buffer=False)
        except ValueError:  # only the main interpreter has signals
            return
        self._active = True
        self._raise_pending()

    def restore(self) -> None:
        """Put back what was there, except what somebody else replaced meanwhile."""
        self._active = False
        self._put_back()
        self._raise_pending()

    def _put_back(self) -> None:
        if self._old_fd is not None:
            signal.set_wakeup_fd(self._old_fd)
            self._old_fd = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if signal.getsignal(signal.SIGINT) is self:  # last: the next signal may raise at once
            _set(signal.default_int_handler)

    def _raise_pending(self) -> None:
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt


class Deferred:
    """`with Deferred():` on the main thread, Ctrl-C is raised when the block is over, not in the middle of it."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._pending = not signal_notify(signal.SIGINT) or self._pending

    def __enter__(self) -> None:
        if threading.get_ident() == threading.main_thread().ident:
            with contextlib.suppress(ValueError):  # only the main interpreter has signals
                if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    _set(self)

    def __exit__(self, *_error: object) -> None:
        if signal.getsignal(signal.SIGINT) is self:
            _set(signal.default_int_handler)
        if self._pending:
            raise KeyboardInterrupt


def _set(handler: Callable[[int, FrameType | None], Any]) -> None:
    signal.signal(signal.SIGINT, handler)
    signals_rearm(signal.SIGINT)
