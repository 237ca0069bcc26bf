"""What the tests share: the flavours, waiting with a deadline, scripts in fresh processes, seeds."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import freerun

PATIENCE = 60.0
"""Seconds until something that should have happened counts as lost. Machines may be slow; hangs are for ever."""

FREE_THREADED = not sys._is_gil_enabled()


@dataclass(frozen=True)
class Flavor:
    """One way to run tasks."""

    workers: int  # 0: current-thread
    driver: str = "epoll"
    stand_in: bool = True

    @property
    def current_thread(self) -> bool:
        return self.workers == 0

    def builder(self) -> freerun.Builder:
        builder = freerun.Builder.new_current_thread() if self.current_thread else freerun.Builder.new_multi_thread()
        if self.workers:
            builder = builder.worker_threads(self.workers)
        if not self.stand_in and self.workers:
            builder = builder.disable_stand_in()
        return builder.driver(self.driver)

    def __str__(self) -> str:
        name = "current_thread" if self.current_thread else f"multi_thread_{self.workers}"
        name = name if self.driver == "epoll" else f"{name}_{self.driver}"
        return name if self.stand_in or self.workers == 1 else f"{name}_strict"


CURRENT = Flavor(0)
MULTI = [Flavor(1, stand_in=False), Flavor(2), Flavor(4)]
"""The one with a single worker has no stand-in: there, what a poll spawns waits for the end of that poll."""
FLAVORS = [CURRENT, *MULTI]
STRICT = [Flavor(each.workers, stand_in=False) for each in MULTI]
"""Nobody polls while every worker is stuck: for tests of what waits then."""
SEVERAL = [each for each in STRICT if each.workers > 1]
"""The same, where one worker is stuck and others are not: without a stand-in, which would run what waits, too."""
STOOD_IN_FOR = [Flavor(each.workers) for each in MULTI]
"""The default: somebody does."""
DRIVERS = freerun.build_info().drivers
STOOD_IN_FOR_ON_EVERY_DRIVER = [replace(each, driver=driver) for driver in DRIVERS for each in STOOD_IN_FOR]
STRICT_ON_EVERY_DRIVER = [replace(each, driver=driver) for driver in DRIVERS for each in STRICT]
FLAVORS_AND_DRIVERS = [replace(each, driver=driver) for driver in DRIVERS for each in FLAVORS]
"""For what waits for sockets or the clock. A kernel that refuses io_uring leaves epoll, which `build_info()` says."""


def only(*flavors: Flavor) -> pytest.MarkDecorator:
    """Restrict a test that uses `flavor` or `rt` to some flavours, because of what it is about."""
    return pytest.mark.parametrize("flavor", flavors, indirect=True, ids=str)


every_driver = only(*FLAVORS_AND_DRIVERS)
"""Over `@every_flavor`: with each driver, too. tests/net and tests/time have that from their conftest.py."""


def every_flavor(test: Callable[..., Any]) -> Callable[..., None]:
    """Make an async test of every flavour: it runs as the main task of the fixture `rt`."""
    wanted = inspect.signature(test).parameters
    parameters = [inspect.Parameter("rt", inspect.Parameter.KEYWORD_ONLY)]
    parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, p in wanted.items() if name != "rt"]

    def run(**arguments: Any) -> None:
        rt = arguments["rt"]
        if "rt" not in wanted:
            del arguments["rt"]
        rt.block_on(functools.partial(test, **arguments))

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]  # else pytest and the plugin see an async function
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def all_at_once(*flavors: Flavor) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Over a test of `flavor` that waits a second or more: it runs for all at the same time, on a thread each."""

    def of_all(test: Callable[..., Any]) -> Callable[..., None]:
        parameters = [p for name, p in inspect.signature(test).parameters.items() if name != "flavor"]

        def run(**fixtures: Any) -> None:
            with in_threads(len(flavors), lambda i: test(flavor=flavors[i], **fixtures)):
                pass

        functools.update_wrapper(run, test)
        del run.__wrapped__  # type: ignore[attr-defined]  # else pytest asks for its `flavor`
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return of_all


def wait_until(condition: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
    """Wait, on a plain thread, until the condition holds; fail loudly if it never does."""
    deadline = time.monotonic() + seconds
    pause = 0.0001
    while not condition():
        assert time.monotonic() < deadline, f"this never happened: {what or inspect.getsource(condition).strip()}"
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


async def until(condition: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
    """The same in a task, which gives way to the others meanwhile."""
    deadline = time.monotonic() + seconds
    pause = 0.0001
    while not condition():
        assert time.monotonic() < deadline, f"this never happened: {what or inspect.getsource(condition).strip()}"
        await freerun.time.sleep(pause)
        pause = min(pause * 2, 0.02)


def is_parked(handle: freerun.JoinHandle[Any]) -> bool:
    """Whether the task waits for something, having been polled."""
    return "waiting" in repr(handle)


def is_freed(ref: weakref.ref[Any]) -> bool:
    """Whether the object is gone. On free-threaded builds one that was dropped on another thread than made it waits
    until that thread runs, or for the garbage collector."""
    if ref() is not None:
        gc.collect()
    return ref() is None


async def occupy(workers: int) -> Callable[[], None]:
    """Keep that many workers busy in polls that do not end before the returned function is called."""
    release = threading.Event()
    inside = threading.Semaphore(0)

    async def hog() -> None:
        inside.release()
        assert release.wait(PATIENCE)

    for _ in range(workers):
        freerun.spawn(hog)
    for _ in range(workers):
        while not inside.acquire(blocking=False):
            await freerun.yield_now()
    return release.set


def run_script(
    source: str, *arguments: str, timeout: float = PATIENCE, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python source in a fresh process."""
    return subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", "-c", textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )


def check_script(source: str, *arguments: str, **options: Any) -> str:
    """Run a script that must end with status 0 and write nothing to stderr; what it printed."""
    done = run_script(source, *arguments, **options)
    assert (done.returncode, done.stderr) == (0, ""), f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


HEAP_IN_USE = """
import ctypes, gc, sys, time

class MallInfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", MallInfo)  # only glibc has it
mallinfo.restype = MallInfo

def in_use():  # objects, and bytes of the C heap; what is in RAM tells more of what allocators keep
    gc.collect()
    info = mallinfo()
    return sys.getallocatedblocks(), info.uordblks + info.hblkhd

def settled():  # the same, once the workers, that sleep, have given back what they kept: some thousand at a time
    size = in_use()
    while True:
        time.sleep(0.15)  # they give back some every 10 ms: if nothing came in this time, nothing is left
        before, size = size, in_use()
        if size[0] > before[0] - 500 and size[1] > before[1] - 100_000:
            return size
"""
"""For scripts that look for leaks: `in_use()`, `settled()`."""


def seeded() -> random.Random:
    """A random generator whose seed stands in the output of a failing test; FREERUN_SEED repeats it."""
    seed = int(os.environ.get("FREERUN_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"FREERUN_SEED={seed}")
    return random.Random(seed)


def stress_seconds(default: float) -> float:
    """How long a stress test runs: FREERUN_STRESS_SECONDS (or FR_STRESS_SECONDS), else its short form."""
    text = os.environ.get("FREERUN_STRESS_SECONDS") or os.environ.get("FR_STRESS_SECONDS")
    return float(text) if text else default


def open_fds() -> dict[int, str]:
    """This process's descriptors and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def native_threads() -> list[Path]:
    """This process's threads in /proc, those that Python's `threading` does not know included. The kernel lists one for
    a moment after it could be joined; those that are past that point are left out."""
    return [task for task in Path("/proc/self/task").iterdir() if not _is_exiting(task)]


def thread_count() -> int:
    """How many there are."""
    return len(native_threads())


def _is_exiting(task: Path) -> bool:
    try:
        stat = (task / "stat").read_text()
    except OSError:  # it has ended meanwhile
        return True
    flags = int(stat.rpartition(")")[2].split()[6])
    return bool(flags & 0x4)  # PF_EXITING


@contextmanager
def in_threads(count: int, work: Callable[[int], object]) -> Iterator[list[BaseException]]:
    """Run `work(i)` on plain threads while the block runs; then join them, and raise the first failure."""
    failures: list[BaseException] = []

    def call(i: int) -> None:
        try:
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    yield failures
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]
