"""What the tests of runtimes as a whole share: finding a runtime's threads, getting tasks to where they are wanted."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support import PATIENCE, Flavor, is_parked, native_threads, run_script, wait_until

import freerun

_numbers = itertools.count()


def unique_name() -> str:
    """A prefix for the threads of one runtime that no other one in this process has."""
    return f"u{next(_numbers)}_"


def threads_named(prefix: str) -> list[str]:
    """The names of this process's native threads that begin with it."""
    found = []
    for task in native_threads():
        try:
            name = (task / "comm").read_text().strip()
        except OSError:  # it has ended meanwhile
            continue
        if name.startswith(prefix):
            found.append(name)
    return found


def wait_gone(prefix: str) -> None:
    """Wait until no thread has this prefix."""
    wait_until(lambda: not threads_named(prefix), f"threads {prefix}* ended: {threads_named(prefix)}")


def drive(rt: freerun.Runtime, condition: Callable[[], object]) -> None:
    """Run the runtime until the condition holds, whatever its flavour."""

    async def wait() -> None:
        while not condition():
            await freerun.time.sleep(0.001)

    rt.block_on(wait)


def drive_until_parked(rt: freerun.Runtime, *handles: freerun.JoinHandle[Any]) -> None:
    """Run the runtime until each of the tasks waits for something."""
    drive(rt, lambda: all(is_parked(handle) for handle in handles))


def occupy_all(rt: freerun.Runtime, flavor: Flavor) -> Callable[[], None]:
    """Keep every worker in a poll that lasts until the returned function is called; nothing on current-thread."""
    release = threading.Event()
    inside = threading.Semaphore(0)

    async def hog() -> None:
        inside.release()
        assert release.wait(PATIENCE)

    for _ in range(flavor.workers):
        rt.spawn(hog)
    for _ in range(flavor.workers):
        assert inside.acquire(timeout=PATIENCE)
    return release.set


def outcome(handle: freerun.JoinHandle[Any]) -> object:
    """How the task ended: its result, "cancelled", or its exception."""
    try:
        return handle.blocking_result(PATIENCE)
    except freerun.JoinError as error:
        assert error.is_cancelled()
        assert error.id == handle.id
        return "cancelled"
    except BaseException as error:
        return error


def is_closed(rt: freerun.Runtime) -> bool:
    """Whether it refuses tasks already."""

    async def nothing() -> None: ...

    try:
        rt.spawn(nothing)
    except freerun.RuntimeShutdown:
        return True
    return False


def run_program(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python source in a fresh interpreter, which finds the installed package."""
    return run_script(source, *arguments, env={"PYTHONSAFEPATH": "1"})


def check_program(source: str, *arguments: str) -> str:
    """The same; it must end with status 0 and write nothing to stderr. What it printed."""
    done = run_program(source, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def process(source: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A fresh interpreter that runs the source; killed if it is still there at the end. It is SIGINT's usual handler
    that it starts with, even under a shell that ignores it."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-P", "-X", "faulthandler", "-c", textwrap.dedent(source), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else _usual_sigint,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def _usual_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def expect_line(child: subprocess.Popen[str], wanted: str) -> None:
    """Read what the child prints until that line."""
    assert child.stdout
    seen = []
    for line in child.stdout:
        if line.strip() == wanted:
            return
        seen.append(line)
    child.wait(PATIENCE)
    error = child.stderr.read() if child.stderr else ""
    raise AssertionError(f"the child ended with {child.returncode} before it printed {wanted!r}: {seen}\n{error}")


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the child's end: status, the rest of stdout, stderr."""
    assert child.stdout
    assert child.stderr
    out, err = child.stdout.read(), child.stderr.read()  # communicate() would miss what expect_line() has read ahead
    return child.wait(PATIENCE), out, err


def each_flavor_name() -> list[str]:
    """Sources in fresh processes choose their flavour by name."""
    return ["current_thread", "multi_thread"]


def build(flavor: Flavor, name: str) -> freerun.Runtime:
    """A runtime of that flavour whose threads have that prefix."""
    return flavor.builder().thread_name(name).build()
