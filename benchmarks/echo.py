"""The echo cells: a fresh server process, and the native client `loadgen.c` against it.

Both C programs are compiled when they are needed, into a directory that goes away afterwards. All
traffic stays on loopback. Client and server share the machine's cores, as they do for every
runtime; each result says how much of a core either took. Where the server has not used up its core
and the client has, the rate is the client's: then CPU time per request tells servers apart.
"""

from __future__ import annotations

import json
import selectors
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
MESSAGE_SIZE = 1024
START_LIMIT = 30.0


class EchoError(Exception):
    """A server or a client that did not do its part."""


@contextmanager
def native_programs() -> Iterator[Path]:
    """The directory with `loadgen` and `echo_epoll`, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise EchoError("there is no C compiler (cc) for the echo client")
    with tempfile.TemporaryDirectory(prefix="freerun-bench-") as directory:
        for program in ("loadgen", "echo_epoll"):
            command = [compiler, "-std=gnu11", "-O2", "-o", f"{directory}/{program}"]
            done = subprocess.run([*command, str(HERE / f"{program}.c")], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise EchoError(f"{program}.c does not compile: {done.stderr.strip()}")
        yield Path(directory)


@contextmanager
def running(command: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """A server; yields its process id and what it announced, and kills it afterwards.

    It would also end by itself, were this process killed: its standard input closes.
    """
    with tempfile.TemporaryFile("w+") as complaints:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                line = process.stdout.readline() if selector.select(START_LIMIT) else ""
            if line:
                yield process.pid, json.loads(line)
            if not line or process.poll() is not None:
                complaints.seek(0)
                what = "ended" if line else "did not start"
                raise EchoError(f"the server {what}: {last_line(complaints.read())}")
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def last_line(text: str) -> str:
    """The end of a traceback."""
    return (text.strip().splitlines() or ["no message"])[-1]


def server_command(programs: Path, contestant: str, style: str, workers: int) -> list[str]:
    """How to start a server; the contestant `c_epoll` is the floor in C."""
    if contestant == "c_epoll":
        return [str(programs / "echo_epoll")]
    return [sys.executable, str(HERE / "cell.py"), "serve", contestant, style, str(workers)]


def measure(
    programs: Path,
    contestant: str,
    style: str,
    workers: int,
    connections: int,
    idle: int,
    runs: int,
    seconds: float,
) -> dict[str, Any]:
    """One warm-up and `runs` runs against one server process; `idle` connections more just stand there."""
    command = [str(programs / "loadgen")]
    results: list[dict[str, float]] = []
    with running(server_command(programs, contestant, style, workers)) as (pid, announced):
        empty = resident_mb(pid, "VmRSS")
        for number in range(runs + 1):
            length = seconds if number else min(seconds, 0.3)
            sizes = [announced["port"], connections, MESSAGE_SIZE, length, idle, pid]
            done = subprocess.run(
                [*command, *map(str, sizes)],
                capture_output=True,
                text=True,
                timeout=seconds + 60,
                check=False,
            )
            if done.returncode != 0:
                raise EchoError(last_line(done.stderr))
            if number:
                results.append(json.loads(done.stdout))
        memory = resident_mb(pid, "VmHWM")
    return {
        "rates": [result["rps"] for result in results],
        "p50_us": [result["p50_us"] for result in results],
        "p99_us": [result["p99_us"] for result in results],
        "client_cpu": [result["cpu"] for result in results],
        "server_cpu": [result["server_cpu"] for result in results],
        "server_us": [result["server_cpu"] / result["rps"] * 1e6 for result in results],
        "client_us": [result["cpu"] / result["rps"] * 1e6 for result in results],
        "max_rss_mb": memory,
        "bytes_per_connection": idle and (memory - empty) * 2**20 / (connections + idle),
        "gil": announced.get("gil"),
        "loop": announced.get("loop", "C"),
    }


def resident_mb(pid: int, what: str) -> float:
    """What a process has in RAM (`VmRSS`), or the most that it has had (`VmHWM`), from Linux's /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024
