"""One cell of the table, in a process of its own; `run.py` starts it.

    python benchmarks/cell.py run   RUNTIME WORKLOAD WORKERS RUNS SIZE...
    python benchmarks/cell.py serve RUNTIME STYLE WORKERS
    python benchmarks/cell.py coroutines COUNT

`run` prints one line of JSON: operations per second for each run after one warm-up (bytes per task
for the memory workloads), and what the process cost. `serve` is the server of an echo cell.
`coroutines` is the floor of the memory workloads: suspended coroutines and no runtime at all.
"""

from __future__ import annotations

import contextvars
import gc
import importlib
import json
import os
import platform
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from workloads import CONTESTANTS, WORKLOADS, Contestant, Unsupported, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    match arguments:
        case ["run", contestant, workload, workers, runs, *sizes]:
            report = run_cell(
                contestant_named(contestant),
                workload_named(workload),
                int(workers),
                int(runs),
                tuple(int(size) for size in sizes),
            )
        case ["serve", contestant, style, workers]:
            serve(contestant_named(contestant), style, int(workers))
        case ["coroutines", count]:
            report = {"rates": [bytes_per_coroutine(int(count))]}
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(report), flush=True)
    os._exit(0)  # tearing down 100,000 parked tasks is not part of any measurement


def contestant_named(name: str) -> Contestant:
    """The contestant of that name."""
    return next(contestant for contestant in CONTESTANTS if contestant.name == name)


def workload_named(name: str) -> Workload:
    """The workload of that name."""
    return next(workload for workload in WORKLOADS if workload.name == name)


def run_cell(
    contestant: Contestant, workload: Workload, workers: int, runs: int, sizes: tuple[int, ...]
) -> dict[str, Any]:
    """Measure; an unsupported workload gives its reason instead of numbers."""
    begin = time.perf_counter()
    importlib.import_module(contestant.needs)
    import_seconds = time.perf_counter() - begin
    implementation = importlib.import_module(contestant.module)
    measure = {"async": measure_async, "sync": measure_sync, "value": measure_value, "memory": measure_memory}
    try:
        report = measure[workload.kind](implementation, contestant, workload, workers, runs, sizes)
    except Unsupported as error:
        return {"skipped": str(error)}
    except RecursionError:
        return {"skipped": "it recurses too deep (RecursionError)"}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return report | {
        "import_seconds": import_seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "max_rss_mb": usage.ru_maxrss / 1024,
        "gil": sys._is_gil_enabled(),
        "python": platform.python_version(),
        "loop": type_of_loop(contestant),
    }


def type_of_loop(contestant: Contestant) -> str:
    """Name and version of what was measured."""
    version = getattr(sys.modules[contestant.needs], "__version__", platform.python_version())
    return f"{contestant.needs} {version}"


# --- Time ---------------------------------------------------------------------------------------


async def timed(function: Callable[..., Awaitable[int]], sizes: tuple[int, ...]) -> tuple[float, int]:
    """Seconds and answer of one run, timed inside the runtime: its start is not counted."""
    begin = time.perf_counter()
    answer = await function(*sizes)
    return time.perf_counter() - begin, answer


def measure_async(
    implementation: Any,
    contestant: Contestant,
    workload: Workload,
    workers: int,
    runs: int,
    sizes: tuple[int, ...],
) -> dict[str, Any]:
    """One warm-up and `runs` runs in one runtime."""
    function = getattr(implementation, workload.name)
    expected = workload.answer(*sizes)
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    rates: list[float] = []
    with implementation.runtime(contestant.name, workers) as run:
        context = run(implementation.inherits_context(variable, 7))
        for number in range(runs + 1):
            gc.collect()
            seconds, answer = run(timed(function, sizes))
            if answer != expected:
                raise AssertionError(f"{workload.name}: {answer} instead of {expected}")
            if number:
                rates.append(workload.operations(*sizes) / seconds)
    return {"rates": rates, "contextvars": context}


def measure_sync(
    implementation: Any,
    contestant: Contestant,
    workload: Workload,
    workers: int,
    runs: int,
    sizes: tuple[int, ...],
) -> dict[str, Any]:
    """The same for a workload that starts its own runtimes."""
    function = getattr(implementation, workload.name)
    rates: list[float] = []
    for number in range(runs + 1):
        begin = time.perf_counter()
        answer = function(contestant.name, workers, *sizes)
        if answer != workload.answer(*sizes):
            raise AssertionError(f"{workload.name}: {answer}")
        if number:
            rates.append(workload.operations(*sizes) / (time.perf_counter() - begin))
    return {"rates": rates}


def measure_value(
    implementation: Any,
    contestant: Contestant,
    workload: Workload,
    workers: int,
    runs: int,
    sizes: tuple[int, ...],
) -> dict[str, Any]:
    """One warm-up and `runs` runs in one runtime; what they return is the result."""
    function = getattr(implementation, workload.name)
    with implementation.runtime(contestant.name, workers) as run:
        values = [run(function(*sizes)) for _ in range(runs + 1)]
    return {"rates": values[1:]}


# --- Memory -------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """The memory that this process has in RAM now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure_memory(
    implementation: Any,
    contestant: Contestant,
    workload: Workload,
    workers: int,
    runs: int,
    sizes: tuple[int, ...],
) -> dict[str, Any]:
    """Bytes per parked task, its coroutine included; one run, since memory is not given back.

    `run.py` takes off what a coroutine costs, from a process that has coroutines only.
    """
    (count,) = sizes
    hold = workload.name.endswith("_held")

    async def grown() -> tuple[object, float]:
        first = await implementation.park_tasks(100, hold)  # what a runtime sets up on first use
        await implementation.pause(0.2)
        before = resident_bytes()
        kept = first, await implementation.park_tasks(count, hold)
        after = resident_bytes()
        while True:  # until every task has run up to its suspension
            await implementation.pause(0.3)
            settled = resident_bytes()
            if abs(settled - after) < 4096 * 8:
                return kept, (settled - before) / count
            after = settled

    with implementation.runtime(contestant.name, workers) as run:
        _, per_task = run(grown())
        print(json.dumps(memory_report(contestant, per_task)), flush=True)
        os._exit(0)  # stopping the runtime would cancel 100,000 tasks


def memory_report(contestant: Contestant, per_task: float) -> dict[str, Any]:
    """The report of a memory cell."""
    return {"rates": [per_task], "gil": sys._is_gil_enabled(), "loop": type_of_loop(contestant)}


class Never:
    """Awaiting it suspends for ever; it is shared, so that the coroutine is all there is."""

    def __await__(self) -> Iterator[None]:
        return self

    def __iter__(self) -> Iterator[None]:
        return self

    def __next__(self) -> None:
        return None


def bytes_per_coroutine(count: int) -> float:
    """What a suspended coroutine costs by itself."""
    never = Never()

    async def parked() -> None:
        await never  # type: ignore[misc]  # it gives Iterator, which is all that await needs

    kept: list[object] = [None] * count
    before = resident_bytes()
    for number in range(count):
        coroutine = parked()
        coroutine.send(None)
        kept[number] = coroutine
    return (resident_bytes() - before) / count


# --- Echo ---------------------------------------------------------------------------------------


def serve(contestant: Contestant, style: str, workers: int) -> NoReturn:
    """Serve until standard input closes, that is until `run.py` is done or gone."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    def announce(port: int) -> None:
        gil, loop = sys._is_gil_enabled(), type_of_loop(contestant)
        print(json.dumps({"port": port, "gil": gil, "loop": loop}), flush=True)

    importlib.import_module(contestant.needs)
    threading.Thread(target=watch, name="watch stdin", daemon=True).start()
    implementation = importlib.import_module(contestant.module)
    implementation.serve_echo(contestant.name, style, workers, announce)
    raise SystemExit("the server ended by itself")


if __name__ == "__main__":
    main(sys.argv[1:])
