"""How late a 1 ms ticker is while the runtime has other things to do: p50, p99 and the worst gap between two ticks.

    python benchmarks/ticker.py                       # freerun and asyncio, and uvloop and TonIO where they install
    python benchmarks/ticker.py --seconds 10 --workers 4

The ticker sleeps 1 ms over and over. Beside it: nothing; a storm of messages between 100 pairs of tasks; a task that
computes for 20 ms at a time; and, in every worker at once, a call that blocks for a second, or a second of arithmetic.
Each in a fresh process.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

SITUATIONS = ("idle", "storm", "hog", "blocked", "computing")

type Spawn = Callable[[Coroutine[Any, Any, Any]], Any]


async def tick(sleep: Callable[[float], Awaitable[Any]], until: float, gaps: list[float]) -> None:
    """Sleep 1 ms until the time is up; note how long it took each time."""
    before = time.perf_counter()
    while before < until:
        await sleep(0.001)
        now = time.perf_counter()
        gaps.append(now - before)
        before = now


def arithmetic(seconds: float) -> None:
    """So many seconds of it."""
    end = time.perf_counter() + seconds
    value = 1
    while time.perf_counter() < end:
        value = value * 3 % 1009


async def hog(pause: Callable[[], Awaitable[Any]], until: float) -> None:
    """20 ms of arithmetic between two yields."""
    while time.perf_counter() < until:
        arithmetic(0.02)
        await pause()


async def compute(pause: Callable[[], Awaitable[Any]], until: float) -> None:
    """A second of arithmetic between two yields."""
    while time.perf_counter() < until:
        arithmetic(1)
        await pause()


async def block(pause: Callable[[], Awaitable[Any]], until: float) -> None:
    """A second in a call that knows nothing of tasks."""
    while time.perf_counter() < until:
        time.sleep(1)
        await pause()


async def chat(pause: Callable[[], Awaitable[Any]], until: float) -> None:
    """One of many that are always ready."""
    while time.perf_counter() < until:
        await pause()


async def situation(
    name: str, seconds: float, workers: int, spawn: Spawn, sleep: Callable[[float], Awaitable[Any]], pause: Any
) -> list[float]:
    """Run the ticker beside what the situation asks for."""
    until = time.perf_counter() + seconds
    gaps: list[float] = []
    beside = {
        "idle": [],
        "storm": [chat] * 200,
        "hog": [hog],
        "blocked": [block] * workers,
        "computing": [compute] * workers,
    }[name]
    ticker = spawn(tick(sleep, until, gaps))
    await sleep(0.05)
    others = [spawn(each(pause, until)) for each in beside]
    for each in [ticker, *others]:
        await each
    return gaps


def run_freerun(name: str, seconds: float, workers: int, driver: Literal["epoll", "io_uring"] = "epoll") -> list[float]:
    """The multi-thread flavour."""
    import freerun

    with freerun.Builder().worker_threads(workers).driver(driver).build() as rt:
        main = situation(name, seconds, workers, freerun.spawn, freerun.time.sleep, freerun.yield_now)
        gaps: list[float] = rt.block_on(main)
        return gaps


def run_freerun_io_uring(name: str, seconds: float, workers: int) -> list[float]:
    """The same with the other driver."""
    return run_freerun(name, seconds, workers, "io_uring")


def run_asyncio(name: str, seconds: float, workers: int) -> list[float]:
    """One thread."""
    return asyncio.run(situation(name, seconds, 1, asyncio.create_task, asyncio.sleep, lambda: asyncio.sleep(0)))


def run_uvloop(name: str, seconds: float, workers: int) -> list[float]:
    """One thread."""
    import uvloop

    gaps: list[float] = uvloop.run(
        situation(name, seconds, 1, asyncio.create_task, asyncio.sleep, lambda: asyncio.sleep(0))
    )
    return gaps


def run_tonio(name: str, seconds: float, workers: int) -> list[float]:
    """Its own thread for timers beside the workers."""
    import tonio.colored as tonio

    runtime = tonio.runtime(threads=workers, context=True)
    gaps: list[float] = runtime.run_until_complete(
        situation(name, seconds, workers, tonio.spawn, tonio.sleep, tonio.yield_now)
    )
    return gaps


RUNNERS = {
    "freerun": run_freerun,
    "freerun_io_uring": run_freerun_io_uring,
    "asyncio": run_asyncio,
    "uvloop": run_uvloop,
    "tonio": run_tonio,
}
THREADED = ("freerun", "freerun_io_uring", "tonio")


def measure(runtime: str, name: str, seconds: float, workers: int) -> list[float] | str:
    """In a fresh process: the gaps, or why there are none."""
    command = [sys.executable, str(Path(__file__)), "--cell", runtime, name, str(seconds), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 10 + 60, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason"])[-1]
    gaps: list[float] = json.loads(done.stdout)
    return gaps


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description="How late a 1 ms ticker is.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=os.process_cpu_count() or 1)
    parser.add_argument("--only", default=",".join(SITUATIONS), help="situations, with commas between them")
    parser.add_argument("--runtimes", default=",".join(RUNNERS), help="the same")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell:
        runtime, name, seconds, workers = given.cell
        print(json.dumps(RUNNERS[runtime](name, float(seconds), int(workers))))
        return
    print(f"{'':<10}{'':<20}{'ticks':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for name in given.only.split(","):
        for runtime in given.runtimes.split(","):
            if importlib.util.find_spec(runtime.removesuffix("_io_uring")) is None:
                continue
            for workers in sorted({1, given.workers}) if runtime in THREADED else [1]:
                gaps = measure(runtime, name, given.seconds, workers)
                label = f"{runtime} x{workers}" if runtime in THREADED else runtime
                if isinstance(gaps, str):
                    print(f"{name:<10}{label:<20}{'-':>8}  {gaps}")
                    continue
                ordered = sorted(gap * 1e3 for gap in gaps)
                p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
                print(f"{name:<10}{label:<20}{len(ordered):>8}{p50:>9.2f}{p99:>9.2f}{ordered[-1]:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
