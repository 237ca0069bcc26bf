"""The demo of `text_service.py`: load asyncio and freerun, print a table, draw a chart.

    python examples/text_service.py demo

Every measurement is a *fresh* server process and a fresh client process. The servers take turns,
several rounds over, so that a machine that speeds up or slows down favours none of them; the table
shows medians and, in brackets, the least and the most.

The client is one process with one thread. It encodes its requests beforehand, keeps exactly one of
them in flight on each connection, and compares each answer byte by byte with one that the demo
computed itself. On a machine where client and server share the cores, the client's CPU is taken
from the server's; the table shows how much of one core it used, a few percent.

Nothing is left behind: the children run in sessions of their own, so that Ctrl-C reaches the demo
alone; it stops them, and a server whose demo is gone sees its standard input close and stops too.
"""

from __future__ import annotations

import json
import os
import platform
import selectors
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from chart import Row, draw
from text_service import answer, build_corpus, counted, gil_enabled, load_documents

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

SERVICE = Path(__file__).with_name("text_service.py")
REQUEST_CHARACTERS = 5000
WARM_UP = 0.5
"""Seconds of load before the clock starts."""
START_LIMIT = 30.0
STOP_LIMIT = 10.0

type Exchanges = list[tuple[bytes, bytes]]
"""Requests, and the answers to expect."""
type TextExchanges = list[tuple[str, str]]
"""The same as text, as they travel to the client process."""


# --- The client process -------------------------------------------------------------------------


@dataclass(slots=True)
class Connection:
    """One connection of the client: one request in flight, always."""

    sock: socket.socket
    number: int
    """Which of the requests is in flight."""
    sent_at: float = 0.0
    received: bytes = b""


@dataclass(frozen=True, slots=True)
class Load:
    """What the client saw in the measured time."""

    requests: int
    seconds: float
    p50: float
    """Milliseconds."""
    p99: float
    wrong: int
    """Answers that differ from the ones computed here."""
    client_cpu: float
    """The client's own CPU time, as a share of one core."""
    server_cpu: float | None
    """The cores that the server kept busy; None where /proc cannot tell."""


class Client:
    """Keeps one request in flight on every connection, and compares the answers."""

    def __init__(self, address: tuple[str, int], exchanges: Exchanges, connections: int) -> None:
        self.wrong = 0
        self.latencies: list[float] = []
        self._exchanges = exchanges
        self._stride = connections
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        for number in range(connections):
            sock = socket.create_connection(address, timeout=5)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            connection = Connection(sock, number % len(exchanges))
            self._selector.register(sock, selectors.EVENT_READ, connection)
            self._connections.append(connection)

    def send_first(self) -> None:
        """Put a request on every connection."""
        for connection in self._connections:
            self._send(connection)

    def run_until(self, end: float) -> None:
        """Go on until `end` (of `perf_counter`), even when the server never answers."""
        self.latencies.clear()
        while (now := time.perf_counter()) < end:
            for key, _ in self._selector.select(end - now):
                self._receive(key.data)

    def close(self) -> None:
        """Hang up with requests in flight: a service has to take that."""
        for connection in self._connections:
            connection.sock.close()
        self._selector.close()

    def _receive(self, connection: Connection) -> None:
        data = connection.sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        connection.received += data
        if not connection.received.endswith(b"\n"):
            return
        self.latencies.append(time.perf_counter() - connection.sent_at)
        if connection.received != self._exchanges[connection.number][1]:
            self.wrong += 1
        connection.number = (connection.number + self._stride) % len(self._exchanges)
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        request = self._exchanges[connection.number][0]
        connection.received = b""
        connection.sent_at = time.perf_counter()
        sent = connection.sock.send(request)  # its buffer is empty, so it takes a whole one
        if sent != len(request):
            raise BufferError(f"the socket took {sent} of {len(request)} bytes")


def load(orders: dict[str, Any]) -> Load:
    """Warm up, then measure for the seconds that were ordered."""
    exchanges = [(sent.encode(), wanted.encode()) for sent, wanted in orders["exchanges"]]
    client = Client((orders["host"], orders["port"]), exchanges, orders["connections"])
    try:
        client.send_first()
        client.run_until(time.perf_counter() + WARM_UP)
        begin, own_begin = time.perf_counter(), time.process_time()
        server_begin = cpu_seconds(orders["pid"])
        client.run_until(begin + orders["seconds"])
        elapsed, own = time.perf_counter() - begin, time.process_time() - own_begin
        server_end = cpu_seconds(orders["pid"])
    finally:
        client.close()
    latencies = sorted(client.latencies)
    if not latencies:
        raise TimeoutError(f"no answer in {elapsed:.1f} s")
    return Load(
        requests=len(latencies),
        seconds=elapsed,
        p50=1000 * latencies[len(latencies) // 2],
        p99=1000 * latencies[len(latencies) * 99 // 100],
        wrong=client.wrong,
        client_cpu=own / elapsed,
        server_cpu=None if server_begin is None or server_end is None else (server_end - server_begin) / elapsed,
    )


def cpu_seconds(pid: int) -> float | None:
    """CPU time that a process has used, from Linux's /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def client_main() -> int:
    """The client process: orders come as JSON on standard input, the result leaves likewise."""
    try:
        print(json.dumps(asdict(load(json.load(sys.stdin)))))
    except OSError as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    return 0


# --- One measurement ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """A server to be measured."""

    label: str
    runtime: str
    workers: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server under load, once."""

    server: str
    load: Load

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.load.requests / self.load.seconds


class DemoError(Exception):
    """A server or a client did not do what it should; said in one line."""


@contextmanager
def child(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A child process that is gone when the block is left, whatever happened in it."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def running(server: Server, corpus: list[str]) -> Iterator[tuple[int, tuple[str, int]]]:
    """A fresh server; yields its process id and its address, and stops it as Ctrl-C would."""
    command = [
        str(SERVICE),
        "serve",
        "--port=0",
        "--until-stdin-closes",
        f"--runtime={server.runtime}",
        f"--workers={server.workers}",
        *(["--corpus", *corpus] if corpus else []),
    ]
    with child(command) as process:
        assert process.stdin is not None
        yield process.pid, listening_address(process)
        process.stdin.close()
        process.stdin = None
        try:
            status = process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{server.label}: did not stop in {STOP_LIMIT} s") from None
        if status != 0:
            raise DemoError(f"{server.label}: ended with status {status}")


def listening_address(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The address from the server's first line, `listening on HOST:PORT (...)`."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(START_LIMIT):
            raise DemoError(f"the server did not start in {START_LIMIT} s")
    words = process.stdout.readline().split()
    if words[:2] != ["listening", "on"]:
        raise DemoError("the server did not start; its message is above")
    host, _, port = words[2].rpartition(":")
    return host, int(port)


def measure(server: Server, exchanges: TextExchanges, options: argparse.Namespace) -> Measurement:
    """Start a server, load it, stop it."""
    with running(server, options.corpus) as (pid, (host, port)):
        orders = {
            "host": host,
            "port": port,
            "pid": pid,
            "exchanges": exchanges,
            "connections": options.connections,
            "seconds": options.seconds,
        }
        limit = WARM_UP + options.seconds + START_LIMIT
        with child([__file__]) as process:
            try:
                printed, _ = process.communicate(json.dumps(orders), timeout=limit)
            except subprocess.TimeoutExpired:
                raise DemoError(f"{server.label}: the client did not end") from None
            if process.returncode != 0:
                raise DemoError(f"{server.label}: the client failed; its message is above")
    return Measurement(server.label, Load(**json.loads(printed)))


# --- The demo -----------------------------------------------------------------------------------


def servers(options: argparse.Namespace) -> list[Server]:
    """asyncio, freerun on one worker, freerun on every core; the first is the yardstick."""
    runtimes = options.runtimes.split(",")
    unknown = sorted(set(runtimes) - {"asyncio", "freerun"})
    if unknown:
        raise ValueError(f"--runtimes: unknown {', '.join(unknown)}; asyncio and freerun are known")
    chosen = []
    if "asyncio" in runtimes:
        chosen.append(Server("asyncio, 1 thread", "asyncio", 1))
    if "freerun" in runtimes:
        require_freerun()
        chosen.append(Server("freerun, 1 worker", "freerun", 1))
        if cores() > 1:
            chosen.append(Server(f"freerun, {cores()} workers", "freerun", cores()))
    return chosen


def cores() -> int:
    """CPUs that this process may use."""
    return os.process_cpu_count() or 1


def require_freerun() -> None:
    """Import freerun here once, so that a missing one is one clear line."""
    try:
        import freerun  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}; './dev demo' installs freerun and runs this") from None


def make_exchanges(options: argparse.Namespace) -> tuple[TextExchanges, float]:
    """Requests of real text, the answers that they ought to get, and the cost of one (ms)."""
    documents = load_documents(options.corpus)
    corpus = build_corpus(documents)
    exchanges = []
    begin = time.perf_counter()
    for text in documents.values():
        line = json.dumps({"op": "report", "text": text[:REQUEST_CHARACTERS]})
        exchanges.append((f"{line}\n", answer(corpus, line.encode()).decode()))
    return exchanges, 1000 * (time.perf_counter() - begin) / len(exchanges)


def describe_machine() -> str:
    """Interpreter and CPUs, in a line."""
    build = "with the GIL" if gil_enabled() else "free-threaded, without the GIL"
    return f"Python {platform.python_version()}, {build}; {counted(cores(), 'core')}"


def gil_notice() -> list[str]:
    """Why there is no speed-up to see, when there is none."""
    if not gil_enabled():
        return []
    return [
        "This Python has the global interpreter lock: its threads take turns at running Python,",
        "so more workers cannot make CPU-bound handlers faster, on any runtime. A free-threaded",
        "build (3.13t, 3.14t) has no such lock; './dev demo' looks for one.",
    ]


def demo(options: argparse.Namespace) -> int:
    """The `demo` command."""
    if options.seconds <= 0 or options.budget <= 0:
        raise ValueError("--seconds and --budget must be above 0")
    chosen = servers(options)
    for path in filter(None, (options.chart, options.json)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # find out now, not after a minute
    print(describe_machine())
    for sentence in gil_notice():
        print(sentence)
    exchanges, cost = make_exchanges(options)
    print(
        f"{options.connections} connections, one request in flight on each; about "
        f"{cost:.1f} ms of Python for a request\n"
    )
    try:
        measurements = measure_rounds(chosen, exchanges, options)
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running")
        return 130
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    rows = summarise(chosen, measurements)
    print_table(rows, measurements)
    save(rows, measurements, options)
    wrong = sum(measurement.load.wrong for measurement in measurements)
    if wrong:
        print(f"WRONG: {wrong} answers differ from those computed here", file=sys.stderr)
        return 1
    return 0


def measure_rounds(chosen: list[Server], exchanges: TextExchanges, options: argparse.Namespace) -> list[Measurement]:
    """Every server once in each round; every other round runs backwards."""
    begin = time.perf_counter()
    measurements: list[Measurement] = []
    for number in range(options.rounds):
        took = time.perf_counter() - begin
        if number and took + took / number > options.budget:
            print(f"(round {number} is the last: --budget {options.budget:g} s)")
            break
        for server in chosen if number % 2 == 0 else reversed(chosen):
            measurement = measure(server, exchanges, options)
            measurements.append(measurement)
            print(
                f"round {number + 1}/{options.rounds}  {server.label:<20}{measurement.rate:8,.0f} requests/s",
                flush=True,
            )
    return measurements


def summarise(chosen: list[Server], measurements: list[Measurement]) -> list[Row]:
    """Medians over the rounds, and the first server as the yardstick."""
    rows: list[Row] = []
    for server in chosen:
        mine = [m for m in measurements if m.server == server.label]
        rates = [m.rate for m in mine]
        rate = median(rates)
        rows.append(
            Row(
                label=server.label,
                rate=rate,
                low=min(rates),
                high=max(rates),
                p50=median(m.load.p50 for m in mine),
                p99=median(m.load.p99 for m in mine),
                speedup=rate / rows[0].rate if rows else 1.0,
            )
        )
    return rows


def print_table(rows: list[Row], measurements: list[Measurement]) -> None:
    """The table, and what it means."""
    print(
        f"\n{'':<20}{'requests/s':>11}  {'(least..most)':<16}{'p50 ms':>8}{'p99 ms':>8}"
        f"{'cores busy':>12}{'speed-up':>10}"
    )
    for row in rows:
        busy = [m.load.server_cpu for m in measurements if m.server == row.label]
        used = [b for b in busy if b is not None]
        spread = f"({row.low:,.0f}..{row.high:,.0f})"
        print(
            f"{row.label:<20}{row.rate:>11,.0f}  {spread:<16}{row.p50:>8.1f}{row.p99:>8.1f}"
            f"{median(used) if used else float('nan'):>12.2f}{row.speedup:>9.2f}x"
        )
    answers = sum(m.load.requests for m in measurements)
    wrong = sum(m.load.wrong for m in measurements)
    client = 100 * median(m.load.client_cpu for m in measurements)
    print(f"\n{answers:,} answers compared with ones computed here: {wrong} wrong.")
    print(f"The client used {client:.0f}% of a core, out of the same {counted(cores(), 'core')}.")
    print("Medians over the rounds; fresh processes for every server in every round.")


def save(rows: list[Row], measurements: list[Measurement], options: argparse.Namespace) -> None:
    """The chart, and every number if wanted."""
    rounds = len(measurements) // len(rows)
    footnote = (
        f"Medians of {counted(rounds, 'round')} of {options.seconds:g} s, each in fresh processes; "
        "whiskers: least and most. The client runs on the same cores."
    )
    picture = draw(
        title="Text analysis over TCP: handlers in pure Python",
        subtitle=f"{describe_machine()}; {options.connections} connections",
        rows=rows,
        footnotes=[footnote, *gil_notice()],
    )
    Path(options.chart).write_text(picture, encoding="utf-8")
    print(f"Chart: {options.chart}")
    if options.json:
        numbers = {
            "python": sys.version,
            "gil": gil_enabled(),
            "cores": cores(),
            "connections": options.connections,
            "rows": [asdict(row) for row in rows],
            "measurements": [asdict(measurement) for measurement in measurements],
        }
        Path(options.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        print(f"Numbers: {options.json}")


if __name__ == "__main__":
    sys.exit(client_main())
