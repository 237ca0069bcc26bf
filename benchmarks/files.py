"""Reading files: how fast, and how long other tasks wait meanwhile.

    python benchmarks/files.py            # 1,000 files of 4 KiB, 100 of 16 MiB
    python benchmarks/files.py --quick    # fewer

Each line is one way, in a process of its own: median of the rounds, and how late a task that sleeps
1 ms at a time was in the worst of 100 cases (p99) and in the worst case. Late is what a sleep took
beyond 2 ms, for every contestant alike: freerun's timers count whole milliseconds and are never early,
so 2 ms are in order. Rounds are repeated until `--seconds` are over, so that there are ticks enough
for a p99. The files are in the page cache, which is the case where the way there counts. `blocking`
reads without any runtime; its ticker is a thread. aiofiles and anyio are left out where they are not
installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

AT_ONCE = 32
"""How many files are being read at a time; also how many threads the peers' pools have at most."""

SIZES = {"small": (1000, 4 << 10), "large": (100, 16 << 20)}
QUICK = {"small": (200, 4 << 10), "large": (8, 16 << 20)}
WAYS = ("blocking", "freerun", "freerun_file", "freerun_io_uring", "freerun_file_io_uring", "aiofiles", "anyio")


ALLOWED = 0.002
"""What a sleep of 1 ms may take, in seconds, before it is late."""


class Unsupported(Exception):
    """This way does not exist here."""


def lateness(ticks: list[float]) -> dict[str, float]:
    """By how much the ticker was late, in ms, of how long its sleeps took."""
    late = sorted(max(0.0, (tick - ALLOWED) * 1000) for tick in ticks) or [0.0]
    return {"ticks": len(late), "p99": late[min(len(late) - 1, int(len(late) * 0.99))], "worst": late[-1]}


# --- One way each -------------------------------------------------------------------------------


def blocking(paths: list[str], rounds: int, least: float) -> dict[str, Any]:
    """Plain reads, one after another."""
    ticks: list[float] = []
    stop = threading.Event()

    def ticker() -> None:
        while not stop.is_set():
            begin = time.perf_counter()
            time.sleep(0.001)
            ticks.append(time.perf_counter() - begin)

    thread = threading.Thread(target=ticker)
    thread.start()
    seconds: list[float] = []
    while len(seconds) < rounds or sum(seconds) < least:
        begin = time.perf_counter()
        for path in paths:
            Path(path).read_bytes()
        seconds.append(time.perf_counter() - begin)
    stop.set()
    thread.join()
    return {"seconds": seconds, **lateness(ticks)}


async def measured(
    paths: list[str], rounds: int, least: float, read: Any, gather: Any, sleep: Any, spawn: Any
) -> dict[str, Any]:
    """`AT_ONCE` tasks share the paths; one more ticks."""
    ticks: list[float] = []
    over = False

    async def ticker() -> None:
        while not over:
            begin = time.perf_counter()
            await sleep(0.001)
            ticks.append(time.perf_counter() - begin)

    async def reader(share: list[str]) -> int:
        return sum([len(await read(path)) for path in share])

    ticking = spawn(ticker())
    seconds: list[float] = []
    while len(seconds) < rounds or sum(seconds) < least:
        begin = time.perf_counter()
        await gather([reader(paths[i::AT_ONCE]) for i in range(AT_ONCE)])
        seconds.append(time.perf_counter() - begin)
    over = True
    await ticking
    return {"seconds": seconds, **lateness(ticks)}


def on_freerun(way: str, paths: list[str], rounds: int, least: float) -> dict[str, Any]:
    """`fs.read`, or open a `File` and read it to its end; on the pool, or on io_uring."""
    import freerun
    from freerun import fs

    async def with_file(path: str) -> bytes:
        async with fs.File.open(path) as file:
            return await file.read_to_end()

    async def gather(coroutines: list[Any]) -> list[int]:
        return [await handle for handle in [freerun.spawn(each) for each in coroutines]]

    driver = "io_uring" if way.endswith("io_uring") else "epoll"
    if driver not in freerun.build_info().drivers:
        raise Unsupported("the kernel refuses io_uring")
    read = with_file if "file" in way else fs.read
    with freerun.Builder().driver(driver).build() as rt:
        return rt.block_on(measured(paths, rounds, least, read, gather, freerun.time.sleep, freerun.spawn))


def on_asyncio(way: str, paths: list[str], rounds: int, least: float) -> dict[str, Any]:
    """aiofiles, or anyio, on asyncio."""
    try:
        if way == "aiofiles":
            import aiofiles

            async def read(path: str) -> bytes:
                async with aiofiles.open(path, "rb") as file:
                    return await file.read()
        else:
            import anyio

            async def read(path: str) -> bytes:
                return await anyio.Path(path).read_bytes()
    except ImportError:
        raise Unsupported("not installed") from None

    async def gather(coroutines: list[Any]) -> list[int]:
        return await asyncio.gather(*coroutines)

    return asyncio.run(measured(paths, rounds, least, read, gather, asyncio.sleep, asyncio.create_task))


def measure(way: str, folder: str, rounds: int, least: float) -> dict[str, Any]:
    """In this process."""
    paths = sorted(str(path) for path in Path(folder).iterdir())
    try:
        if way == "blocking":
            return blocking(paths, rounds, least)
        return (
            on_freerun(way, paths, rounds, least)
            if way.startswith("freerun")
            else on_asyncio(way, paths, rounds, least)
        )
    except Unsupported as error:
        return {"skipped": str(error)}


# --- The table ----------------------------------------------------------------------------------


def main() -> None:
    """Make the files, measure each way, print the table."""
    parser = argparse.ArgumentParser(description="Benchmark of reading files.")
    parser.add_argument("--quick", action="store_true", help="fewer files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way, at least")
    parser.add_argument("--only", help="ways, with commas between them")
    parser.add_argument("--dir", help="where to make the files; they take 1.6 GB")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.rounds, options.seconds)))
        return
    ways = options.only.split(",") if options.only else WAYS
    for name, (count, size) in (QUICK if options.quick else SIZES).items():
        print(f"{sys.version.split()[0]}, {os.process_cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            for i in range(count):
                (Path(folder) / f"{i:06}").write_bytes(b"x" * size)
            print(f"{count} files of {size >> 10} KiB ({name})")
            for way in ways:
                print(f"  {way:<22} {line(way, folder, options, count * size, count)}", flush=True)


def line(way: str, folder: str, options: argparse.Namespace, total: int, count: int) -> str:
    """One line of the table."""
    limits = ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    command = [sys.executable, __file__, *limits, "--measure", way, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    report = json.loads(done.stdout)
    if "skipped" in report:
        return f"- ({report['skipped']})"
    middle = statistics.median(report["seconds"])
    return (
        f"{count / middle:>10,.0f} files/s {total / middle / 1e6:>8,.0f} MB/s"
        f"   ticker late: p99 {report['p99']:.2f} ms, worst {report['worst']:.2f} ms of {report['ticks']} ticks"
    )


if __name__ == "__main__":
    main()
