"""The benchmarks: freerun against asyncio, uvloop and TonIO, under the same rules.

    python benchmarks/run.py                                   # everything; some fifteen minutes
    python benchmarks/run.py --quick                           # small sizes; about two minutes
    python benchmarks/run.py --only spawn_many,echo_64 --runs 9 --json out.json
    python benchmarks/run.py --list                            # workloads and runtimes

The rules, the same for everyone:

* the interpreter that runs this runs every cell, and each cell is a fresh process;
* a warm-up run, then the measured ones; the table shows the median, and the least and the most;
* the runs are split over `--rounds` rounds, and every other round goes backwards, so that a machine
  that changes its pace meanwhile favours nobody;
* contextvars are on, but for the variant `tonio`, whose default is off (`tonio_ctx` is judged);
* every task really suspends, every result is collected and checked.

A runtime that is not installed is left out, and said so. A `-` in the table says why beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import echo
from report import Comparison, Result, compare, comparison_table, result_line
from workloads import CONTESTANTS, DEFAULT_CONTESTANTS, WORKLOADS, Contestant, Workload

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, checked."""

    workloads: list[Workload]
    contestants: list[Contestant]
    workers: list[int]
    runs: int
    rounds: int
    quick: bool
    echo_seconds: float
    limit: float
    json: str | None


def parse_arguments() -> Options:
    """The command line; a bad one is a message and status 2."""
    parser = argparse.ArgumentParser(description="Benchmarks of freerun and its peers.")
    parser.add_argument("--quick", action="store_true", help="small sizes, 3 runs")
    parser.add_argument("--only", help="workloads, with commas between them")
    parser.add_argument("--runtimes", default=DEFAULT_CONTESTANTS)
    parser.add_argument("--runs", type=int, help="measured runs of a cell (5; 3 if --quick)")
    parser.add_argument("--rounds", type=int, default=2, help="processes that share the runs")
    parser.add_argument("--workers", help="worker threads, with commas (1 and every core)")
    parser.add_argument("--echo-seconds", type=float, help="length of an echo run (2; 0.5)")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a cell may take")
    parser.add_argument("--json", help="write everything to this file")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    given = parser.parse_args()
    if given.list:
        list_everything()
        parser.exit()
    runs = given.runs if given.runs is not None else (3 if given.quick else 5)
    seconds = given.echo_seconds or (0.5 if given.quick else 2.0)
    try:
        workers = [int(n) for n in (given.workers or default_workers()).split(",")]
        workloads = pick(given.only, {w.name: w for w in WORKLOADS}, "workload")
        contestants = pick(given.runtimes, {c.name: c for c in CONTESTANTS}, "runtime")
        if min(workers) < 1 or runs < 1 or given.rounds < 1 or not 0 < seconds <= 60:
            raise ValueError("--workers, --runs, --rounds and --echo-seconds must be above 0")
        if given.json:  # find out now, not after a quarter of an hour
            Path(given.json).parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return Options(
        workloads=workloads,
        contestants=contestants,
        workers=sorted(set(workers)),
        runs=runs,
        rounds=min(given.rounds, runs),
        quick=given.quick,
        echo_seconds=seconds,
        limit=given.limit,
        json=given.json,
    )


def default_workers() -> str:
    """One, and every core."""
    return f"1,{os.process_cpu_count() or 1}"


def pick[T](names: str | None, known: dict[str, T], what: str) -> list[T]:
    """The things named, in the order given; all of them when nothing is named."""
    if not names:
        return list(known.values())
    chosen = [name.strip() for name in names.split(",")]
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"unknown {what}: {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in chosen]


def list_everything() -> None:
    """The `--list` option."""
    for workload in WORKLOADS:
        print(f"{workload.name:<16}{workload.unit:<12}{workload.what}")
    print()
    for contestant in CONTESTANTS:
        installed = "" if is_installed(contestant) else "  (not installed)"
        print(f"{contestant.name}{installed}")


def is_installed(contestant: Contestant) -> bool:
    """Whether its module can be found."""
    return importlib.util.find_spec(contestant.needs) is not None


# --- Cells --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the table."""

    workload: Workload
    contestant: str
    style: str
    workers: int


def cells_of(workload: Workload, contestants: list[Contestant], workers: list[int]) -> list[Cell]:
    """The row of a workload."""
    cells = []
    if workload.kind == "echo":
        cells.append(Cell(workload, "c_epoll", "", 1))
    for contestant in contestants:
        styles = contestant.echo if workload.kind == "echo" else ("",)
        for style in styles:
            threads = workers if contestant.many_threads else [1]
            cells += [Cell(workload, contestant.name, style, number) for number in threads]
    return cells


def measure_cell(cell: Cell, runs: int, options: Options, programs: Path | None) -> dict[str, Any]:
    """Run one cell in a fresh process; what goes wrong becomes a note."""
    try:
        if cell.workload.kind == "echo":
            if programs is None:
                return {"skipped": "no C compiler"}
            connections, idle = cell.workload.quick if options.quick else cell.workload.sizes
            return echo.measure(
                programs,
                cell.contestant,
                cell.style,
                cell.workers,
                connections,
                idle,
                runs,
                options.echo_seconds,
            )
        sizes = cell.workload.quick if options.quick else cell.workload.sizes
        report = run_python(
            ["run", cell.contestant, cell.workload.name, str(cell.workers), str(runs)] + [str(size) for size in sizes],
            options.limit,
        )
        if cell.workload.kind == "memory" and "rates" in report:
            floor = run_python(["coroutines", str(sizes[0])], options.limit)["rates"][0]
            report["bytes_per_coroutine"] = floor
            report["rates"] = [rate - floor for rate in report["rates"]]
        return report
    except (echo.EchoError, CellError, subprocess.TimeoutExpired) as error:
        return {"skipped": f"FAILED: {error}"}


class CellError(Exception):
    """A cell's process failed; the message is the last line of its traceback."""


def run_python(arguments: list[str], limit: float) -> dict[str, Any]:
    """Run `cell.py` and read its line of JSON."""
    done = subprocess.run(
        [sys.executable, str(HERE / "cell.py"), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    if done.returncode != 0 or not done.stdout.strip():
        raise CellError(f"status {done.returncode}: {echo.last_line(done.stderr)}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def split_runs(runs: int, rounds: int) -> list[int]:
    """How many runs each round does: 5 in 2 rounds are 3 and 2."""
    return [runs // rounds + (1 if number < runs % rounds else 0) for number in range(rounds)]


def measure_workload(workload: Workload, options: Options, programs: Path | None) -> list[Result]:
    """One row: every contestant in turn, forwards and backwards."""
    cells = cells_of(workload, options.contestants, options.workers)
    results = {
        cell: Result(
            workload.name,
            cell.contestant,
            cell.style,
            cell.workers,
            workload.unit,
            workload.more_is_better,
        )
        for cell in cells
    }
    for number, runs in enumerate(split_runs(options.runs, options.rounds)):
        for cell in cells if number % 2 == 0 else reversed(cells):
            result = results[cell]
            if result.note:
                continue
            progress(f"{workload.name}, round {number + 1}/{options.rounds}: {result.label}")
            report = measure_cell(cell, runs, options, programs)
            result.note = report.pop("skipped", "")
            result.rates += report.pop("rates", [])
            result.details.append(report)
    progress("")
    return list(results.values())


def progress(what: str) -> None:
    """What is going on now, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


# --- Everything ---------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """What somebody needs to know to judge the numbers."""
    return {
        "python": sys.version,
        "gil": sys._is_gil_enabled(),
        "cpu": cpu_model(),
        "cores": os.process_cpu_count(),
        "load": os.getloadavg(),
        "system": platform.platform(),
        "revision": revision(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def cpu_model() -> str:
    """The CPU's name, from Linux's /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )


def revision() -> str:
    """The commit that this tree is at, with a + when it has changed since."""
    try:
        git = ["git", "-C", str(HERE)]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def announce(options: Options, machine: dict[str, Any]) -> None:
    """The head of the report."""
    gil = "with the GIL" if machine["gil"] else "without the GIL"
    print(f"Python {platform.python_version()} {gil}; {machine['cores']} cores, {machine['cpu']}")
    print(f"revision {machine['revision']}; load average {machine['load'][0]:.2f}")
    print(
        f"{options.runs} runs of each cell in {options.rounds} rounds, each round in a fresh "
        "process; median (least .. most)"
    )
    if machine["load"][0] > 0.5:
        print("NOTE: this machine is busy with something else; the numbers will tell of that too")


def write_json(path: str, machine: dict[str, Any], results: list[Result], comparisons: list[Comparison]) -> None:
    """Everything, for programs."""
    report = {
        "machine": machine,
        "results": [asdict(result) | {"median": result.middle if result.rates else None} for result in results],
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\nEverything: {path}")


def main() -> int:
    """Measure what was asked for; print as it goes."""
    options = parse_arguments()
    machine = describe_machine()
    announce(options, machine)
    absent = [c for c in options.contestants if not is_installed(c)]
    for contestant in absent:
        print(f"{contestant.name} is left out: {contestant.needs} is not installed")
    options.contestants[:] = [c for c in options.contestants if c not in absent]

    results: list[Result] = []
    failed = False
    with ExitStack() as stack:
        programs = None
        if any(workload.kind == "echo" for workload in options.workloads):
            try:
                programs = stack.enter_context(echo.native_programs())
            except echo.EchoError as error:
                print(f"the echo workloads are left out: {error}")
        for workload in options.workloads:
            row = measure_workload(workload, options, programs)
            print(f"\n{workload.name}: {workload.what} [{workload.unit}]")
            for result in row:
                print(result_line(result), flush=True)
                failed = failed or result.note.startswith("FAILED")
            results += row
    comparisons = [compare(workload.name, results) for workload in options.workloads]
    print()
    print("\n".join(comparison_table(comparisons)))
    if options.json:
        write_json(options.json, machine, results, comparisons)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
