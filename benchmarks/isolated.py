"""Isolated work on a Python with the GIL: two workers against one, a small task's round trip, a megabyte's.

    python benchmarks/isolated.py             # a table
    python benchmarks/isolated.py --json FILE # and every number

Needs freerun in the Python that runs it, with the GIL, 3.13 or later. Compares with concurrent.futures'
ProcessPoolExecutor and, where there is one, InterpreterPoolExecutor. Each number is the best of several rounds, which
alternate between those compared, so that a machine that is busy with something else spoils a round and not the
comparison.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import freerun

KERNEL = 4_000_000
TASKS = 1000
MEGABYTE = 1 << 20


def kernel(n: int) -> int:
    """Plain Python that shares nothing."""
    s = 0
    for i in range(n):
        s = (s * 31 + i) & 0xFFFF
    return s


def small(n: int) -> int:
    """Next to nothing."""
    return n + 1


def first_byte(data: Any) -> int:
    """Looks at a large argument."""
    return int(data[0])


def timed(call: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Freerun:
    """Isolated work as freerun does it."""

    name = "freerun"

    def __init__(self, workers: int) -> None:
        self.rt = freerun.Builder.new_current_thread().worker_threads(workers).workers("interpreters").build()

    def together(self, fn: Callable[..., Any], count: int, arg: Any) -> None:
        """That many calls at once."""

        async def main() -> None:
            for handle in [freerun.spawn_isolated(fn, arg) for _ in range(count)]:
                await handle

        self.rt.block_on(main)

    def one_by_one(self, fn: Callable[..., Any], count: int, arg: Any) -> None:
        """One call after the other."""

        async def main() -> None:
            for _ in range(count):
                await freerun.spawn_isolated(fn, arg)

        self.rt.block_on(main)

    def close(self) -> None:
        """The end."""
        self.rt.shutdown()


class Executor:
    """The same with an executor of the standard library."""

    def __init__(self, kind: Any, workers: int) -> None:
        self.name = kind.__name__
        self.pool = kind(workers)

    def one_by_one(self, fn: Callable[..., Any], count: int, arg: Any) -> None:
        """One call after the other."""
        for _ in range(count):
            self.pool.submit(fn, arg).result()

    def close(self) -> None:
        """The end."""
        self.pool.shutdown()


def executors(workers: int) -> list[Executor]:
    """Those that this Python has."""
    kinds = [getattr(concurrent.futures, name, None) for name in ("ProcessPoolExecutor", "InterpreterPoolExecutor")]
    return [Executor(kind, workers) for kind in kinds if kind is not None]


def measure_kernel(rounds: int) -> dict[str, float]:
    """How many times as much two workers do as one."""
    pools = {n: Freerun(n) for n in (1, 2)}
    for n, pool in pools.items():
        pool.together(kernel, 2 * n, 100_000)  # the workers start
    best = dict.fromkeys(pools, float("inf"))
    for _ in range(rounds):
        for n, pool in pools.items():
            best[n] = min(best[n], timed(lambda pool=pool: pool.together(kernel, 4, KERNEL)))  # type: ignore[misc]
    for pool in pools.values():
        pool.close()
    return {"one_s": best[1], "two_s": best[2], "ratio": best[1] / best[2]}


def measure_calls(rounds: int, fn: Callable[..., Any], arg: Any, count: int) -> dict[str, float]:
    """Seconds for one call, by whom."""
    pools: list[Any] = [Freerun(1), *executors(1)]
    for pool in pools:
        pool.one_by_one(fn, 20, arg)
    best = {pool.name: float("inf") for pool in pools}
    for _ in range(rounds):
        for pool in pools:
            best[pool.name] = min(best[pool.name], timed(lambda pool=pool: pool.one_by_one(fn, count, arg)) / count)  # type: ignore[misc]
    for pool in pools:
        pool.close()
    return best


def measure_workers(count: int = 4) -> dict[str, float]:
    """What a worker costs: milliseconds until its first result, KiB of memory, CPU seconds per second while idle."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024

    before, cost = resident(), 0.0
    pools = []
    for _ in range(count):
        pool = Freerun(1)
        cost += timed(lambda pool=pool: pool.one_by_one(small, 1, 1))  # type: ignore[misc]
        pools.append(pool)
    memory = (resident() - before) / count
    cpu = time.process_time()
    time.sleep(2)
    idle = (time.process_time() - cpu) / 2
    end = timed(lambda: [pool.close() for pool in pools])
    return {"start_ms": cost / count * 1e3, "memory_kib": memory, "idle_cpu": idle, "end_ms": end / count * 1e3}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = b"x" * MEGABYTE
    found = {
        "python": sys.version.split()[0],
        "workers": measure_workers(),
        "kernel": measure_kernel(options.rounds),
        "small": measure_calls(options.rounds, small, 1, TASKS),
        "megabyte_bytes": measure_calls(options.rounds, first_byte, data, 100),
        "megabyte_view": {"freerun": measure_view(options.rounds, memoryview(data))},
    }
    report(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def measure_view(rounds: int, view: memoryview) -> float:
    """Seconds for a call with a view of a megabyte: nobody else can pass one."""
    pool = Freerun(1)
    pool.one_by_one(first_byte, 20, view)
    best = min(timed(lambda: pool.one_by_one(first_byte, 200, view)) / 200 for _ in range(rounds))
    pool.close()
    return best


def report(found: dict[str, Any]) -> None:
    """The table."""
    print(f"Python {found['python']}")
    workers, kernel_ = found["workers"], found["kernel"]
    print(
        f"a worker        {workers['start_ms']:.0f} ms to its first result, {workers['memory_kib'] / 1024:.1f} MiB, "
        f"{workers['idle_cpu'] * 100:.2f} % CPU idle, {workers['end_ms']:.0f} ms to end"
    )
    print(f"CPU kernel      2 workers do {kernel_['ratio']:.2f} times as much as one")
    for title in ("small", "megabyte_bytes", "megabyte_view"):
        mine = found[title]["freerun"]
        for name, seconds in found[title].items():
            print(f"{title:<15} {name:<24} {seconds * 1e6:8.1f} us  {seconds / mine:5.1f}x")


if __name__ == "__main__":
    main()
