"""What the other tools share: the cache, progress lines, logged commands, a lock. Standard library, Python 3.11+."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

_began = time.monotonic()


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where interpreters and the private environment live: everything there can be deleted and comes back."""
    if explicit := environ.get("FREERUN_CACHE"):
        return Path(explicit).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME") or ""
    # The specification tells programs to ignore a relative XDG_CACHE_HOME.
    root = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return root / "freerun"


def say(text: str) -> None:
    """One progress line, with the time since the program began. On stderr: stdout belongs to the command's result."""
    elapsed = int(time.monotonic() - _began)
    print(f"[{elapsed // 60}:{elapsed % 60:02d}] {text}", file=sys.stderr, flush=True)


class CommandError(Exception):
    """A logged command failed; the message names it and its last words."""


def run_logged(
    command: Sequence[str],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    tick: Callable[[], str] | None = None,
) -> None:
    """Run *command* with its output appended to *log*; every 20 s say what *tick* returns.

    It gets a process group of its own, so that an interrupt of ours ends the whole tree before we clean up.
    """
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(command)}\n".encode())
        out.flush()
        start = out.tell()
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(f"{command[0]}: {error.strerror}") from error
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                wait = 20.0 if deadline is None else max(0.0, min(20.0, deadline - time.monotonic()))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(wait)
                    break
                if deadline is not None and time.monotonic() >= deadline:
                    raise CommandError(f"{command[0]}: gave up after {timeout:.0f} s")
                if tick is not None:
                    say(tick())
        except BaseException:
            end_group(process)
            raise
    if code != 0:
        raise CommandError(f"{Path(command[0]).name} ended with {code}: {last_words(log, start)}")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process started in its own session, and everything it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return


def last_words(log: Path, start: int = 0, lines: int = 3) -> str:
    """The last few telling lines of *log* from offset *start*, errors preferred."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    spoken = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("$ ")]
    errors = [line for line in spoken if line.lower().startswith(("e:", "error", "fatal", "err:", "cause:"))]
    return " | ".join((errors or spoken)[-lines:])[:600]


@contextlib.contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold an advisory lock on *path*: the kernel drops it with the process, so a crash leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP end us as Ctrl-C does: through the clean-up."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    # A shell starts its background jobs deaf to SIGINT, and nox would inherit that; it is how we end it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
