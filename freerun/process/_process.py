"""`Process`: a child of this process, until somebody has collected its exit status.

As long as nobody has, its number belongs to it. So everything that uses the number looks first, under one lock, whether
it has ended: a signal never hits a stranger who got the number later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading

from .exit_status import ExitStatus

__all__ = ["Process"]


class Process:
    """The process with this number. Any thread; from finalizers, too."""

    __slots__ = ("_lock", "_lost", "_parent", "_status", "pid")

    # Reached through self: finalizers run when the globals are gone.
    _getpid = staticmethod(os.getpid)
    _waitpid = staticmethod(os.waitpid)
    _kill = staticmethod(os.kill)

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = threading.RLock()
        self._parent = self._getpid()
        self._status: ExitStatus | None = None
        self._lost = False

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a forked child of this process, whose child it is not."""
        return self._parent != self._getpid()

    def poll(self) -> ExitStatus | None:
        """How it ended, or `None`: it has not. Collects it.

        Errors: `ChildProcessError` if somebody else has; `RuntimeError` in a fork.
        """
        if self.forked:
            raise RuntimeError(f"process {self.pid} is a child of the process that forked this one; wait for it there")
        with self._lock:
            if self._status is None and not self._lost:
                self._collect()
            if self._lost:
                text = "the exit status of process {} is lost: something else has waited for it, or SIGCHLD is ignored"
                raise ChildProcessError(errno.ECHILD, text.format(self.pid))
            return self._status

    def has_ended(self) -> bool:
        """Whether there is nothing to wait for any more, whatever the reason."""
        try:
            return self.poll() is not None
        except (ChildProcessError, RuntimeError):
            return True

    def _collect(self) -> None:
        try:
            pid, status = self._waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self._lost = True
            return
        if pid:
            self._status = ExitStatus._of(status)

    def send_signal(self, signum: int) -> None:
        """Send it, unless the process has ended. Errors: `OSError` (`EPERM`: it runs as somebody else)."""
        if self.has_ended():
            return
        with self._lock:
            if not self.has_ended():
                self._kill(self.pid, signum)

    def open_pidfd(self) -> int | None:
        """A descriptor that is readable once it has ended, which is the caller's; `None` if the system gives none."""
        if self.has_ended():
            return None
        with self._lock, contextlib.suppress(OSError, AttributeError):
            return None if self.has_ended() else os.pidfd_open(self.pid)
        return None
