"""How a process is started: `subprocess.Popen` on the blocking pool, a few at a time.

`Popen` forks, executes, and reports what went wrong in between. Pipes and waiting are ours: `Popen` never knows of a
pipe, and is told that there is nothing left to wait for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun._core._native import IoSource
from freerun.sync import Semaphore
from freerun.task import spawn_blocking

from . import _killer
from ._process import Process
from ._reaper import reaper
from .stdio import Stdio

__all__ = ["Plan", "Spawned", "after_fork", "start"]

AT_ONCE = min(16, 2 * (os.process_cpu_count() or 1))
"""How many are started at the same time: each keeps a thread of the pool busy until it executes its program. On two
CPUs, with 8 instead of 4, a ticker of 1 ms was 10 to 28 ms late at the 99th percentile instead of 2 to 6.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started."""

    program: str
    """For messages."""
    args: list[Any]
    executable: Any
    env: dict[Any, Any] | None
    cwd: Any
    stdio: tuple[Stdio, Stdio, Stdio]
    kill_on_drop: bool
    options: dict[str, Any]


class Spawned:
    """A process that was started, with our ends of its pipes: -1 where there is none."""

    __slots__ = ("fds", "kill_on_drop", "process")

    def __init__(self, process: Process, fds: list[int], kill_on_drop: bool) -> None:
        self.process = process
        self.fds = fds
        self.kill_on_drop = kill_on_drop

    def take_fd(self, i: int) -> int:
        """Our end of a pipe, which is the caller's from now on."""
        fd, self.fds[i] = self.fds[i], -1
        return fd

    def drop(self, kill: bool) -> None:
        """Nobody wants it any more."""
        for i in range(3):
            _close(self.take_fd(i))
        _killer.drop(self.process, kill)


async def start(plan: Plan) -> Spawned:
    """Start it. Errors: `OSError` that names the program.

    Cancel safety: either it is not started, or it is dropped at once, as a `Child` is.
    """
    async with _semaphore:
        attempt = _Attempt(plan)
        call = spawn_blocking(attempt.run)
        try:
            spawned = await call
            assert spawned is not None
            return spawned
        except BaseException:
            call.abort()
            attempt.abandon()
            raise


class _Attempt:
    """One call on the pool, which cannot be stopped once it has begun. Who has asked may be gone when it is done."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        # Under the lock:
        self._abandoned = False
        self._spawned: Spawned | None = None

    def run(self) -> Spawned | None:
        try:
            spawned = _start(self._plan)
        except Exception:
            if self._abandoned:
                return None  # nobody is left to be told
            raise
        with self._lock:
            self._spawned = spawned
            abandoned = self._abandoned
        if abandoned:
            spawned.drop(self._plan.kill_on_drop)
        return spawned

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            spawned = self._spawned
        if spawned is not None:
            spawned.drop(self._plan.kill_on_drop)


def _start(plan: Plan) -> Spawned:
    from subprocess import Popen  # when it is needed: not every program starts others

    reaper.sweep()
    ours: list[int] = [-1, -1, -1]
    theirs: list[int] = []
    try:
        given = [_given(each, theirs) for each in plan.stdio]  # first: a pipe may get the number of one that is closed
        streams = [_connect(each, i, ours, theirs) for i, each in enumerate(given)]
        with _no_signal_blocked():
            popen = Popen(
                plan.args,
                executable=plan.executable,
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                env=plan.env,
                cwd=plan.cwd,
                **plan.options,
            )
    except OSError as error:
        for fd in ours:
            _close(fd)
        raise _explained(error, plan) from None
    except BaseException:
        for fd in ours:
            _close(fd)
        raise
    finally:
        for fd in theirs:
            _close(fd)
    process = Process(popen.pid)
    if plan.kill_on_drop:
        _killer.add(process)
    popen.returncode = 0  # it shall neither wait nor warn
    return Spawned(process, ours, plan.kill_on_drop)


def _given(stdio: Stdio, theirs: list[int]) -> Stdio | int:
    """A descriptor of ours for what somebody has given, so that it stays open; the rest as it is."""
    if stdio.kind != Stdio.FD:
        return stdio
    if isinstance(stdio.value, IoSource):
        theirs.append(fd := stdio.value.detach())
        os.set_blocking(fd, True)
    else:
        theirs.append(fd := os.dup(stdio.value if isinstance(stdio.value, int) else stdio.value.fileno()))
    return fd


def _connect(stdio: Stdio | int, i: int, ours: list[int], theirs: list[int]) -> Any:
    """What `Popen` takes for it. Our end is non-blocking, theirs is not: they are two open files."""
    if isinstance(stdio, int):
        return stdio
    match stdio.kind:
        case Stdio.INHERIT:
            return None
        case Stdio.NULL:
            return -3
        case Stdio.STDOUT:
            return -2
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ours[i], their = (writing, reading) if i == 0 else (reading, writing)
    theirs.append(their)
    os.set_blocking(ours[i], False)
    return their


@contextmanager
def _no_signal_blocked() -> Iterator[None]:
    """A child would inherit what this thread blocks, and then nobody could terminate it."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close(fd: int) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)


# ---- errors ----

_REASONS = {
    errno.EMFILE: "too many files are open in this process, and starting another one takes some (ulimit -n)",
    errno.ENFILE: "too many files are open in the system",
    errno.EAGAIN: "the limit of processes is reached (ulimit -u, or the cgroup's pids.max)",
    errno.ENOMEM: "there is not enough memory for another process",
    errno.E2BIG: "its arguments and environment are too long (getconf ARG_MAX)",
    errno.ENOEXEC: "it is no program of this system: neither an executable nor a script that begins with '#!'",
    errno.EACCES: "it is not executable, or stands in a directory that may not be entered",
    errno.EPERM: "the user, group or process group that was asked for is not allowed",
}


def _explained(error: OSError, plan: Plan) -> OSError:
    """The same error, saying which program could not be started and why."""
    number = error.errno or 0
    filename: Any = plan.program
    if plan.cwd is not None and error.filename == plan.cwd and not _may_enter(plan.cwd):
        filename = os.fsdecode(plan.cwd)
        reason = f"the working directory of {plan.program!r}: {os.strerror(number)}"
    elif number == errno.ENOENT:
        reason = _not_found(plan)
    else:
        reason = _REASONS.get(number, os.strerror(number))
    return OSError(number, f"cannot start a process: {reason}", filename)


def _may_enter(directory: Any) -> bool:
    return Path(os.fsdecode(directory)).is_dir() and os.access(directory, os.X_OK)


def _not_found(plan: Plan) -> str:
    if "/" not in plan.program:
        return "no such program in PATH"
    if Path(os.fsdecode(plan.cwd or ""), plan.program).exists():
        return "it is there, but not what it needs to run: the interpreter in its first line (#!), or the loader"
    return "no such file"


# ---- a few at a time ----

_semaphore = Semaphore(AT_ONCE)


def after_fork() -> None:
    """In the child: whoever had a permit is not there. The reaper's hook calls it, and says why none does here."""
    global _semaphore
    _semaphore = Semaphore(AT_ONCE)
