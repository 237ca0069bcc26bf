"""`examples/graceful_shutdown.py`: what was accepted is answered, whenever the signal comes."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, in_threads, seeded, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "graceful_shutdown.py"


class Service:
    """The example in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(EXAMPLE), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", first)
        assert found, first
        self.address = ("127.0.0.1", int(found[1]))

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal; when that was."""
        now = time.monotonic()
        self.process.send_signal(number)
        return now

    def end(self) -> tuple[int, str]:
        """The status it ends with, and what it has printed since it began to listen; nothing to stderr."""
        out, err = self.process.communicate(timeout=PATIENCE)
        assert err == "", err
        return self.process.returncode, out


@contextmanager
def running(*options: str) -> Iterator[Service]:
    service = Service(*options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.communicate()


def read_lines(sock: socket.socket) -> list[bytes]:
    """What comes until the end; a reset is one, too."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := sock.recv(65536):
            data += chunk
    return data.splitlines()


class Client:
    """One connection after the other, each with a few requests at once; until the service is not there any more."""

    def __init__(self, service: Service, pause: int, together: int) -> None:
        self.service = service
        self.pause = pause
        self.together = together
        self.rounds: list[tuple[float, int, int]] = []  # (when they were sent, how many, how many answers)

    def run(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                sock = self.service.connect()
            except ConnectionError:
                return
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.talk(sock)

    def talk(self, sock: socket.socket) -> None:
        """Three rounds on one connection."""
        reader = sock.makefile("rb")
        for _ in range(3):
            try:
                sock.sendall(f"work {self.pause}\n".encode() * self.together)
            except ConnectionError:
                return
            sent = time.monotonic()
            answers = 0
            with contextlib.suppress(ConnectionError):
                while answers < self.together and (line := reader.readline()):
                    assert line == f"done {self.pause}\n".encode(), line
                    answers += 1
            self.rounds.append((sent, self.together, answers))
            if answers < self.together:
                return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_every_accepted_request_is_answered(number: signal.Signals) -> None:
    """Under load, in the middle of it: what was sent before the signal is answered, and the books agree."""
    random = seeded()
    with running("--deadline", "30") as service:
        clients = [Client(service, random.choice([1, 5, 30]), random.choice([1, 1, 3])) for _ in range(24)]
        over = threading.Event()
        with in_threads(len(clients), lambda i: clients[i].run(over)):
            wait_until(lambda: all(client.rounds for client in clients))
            time.sleep(random.uniform(0, 0.2))
            signalled = service.terminate(number)
            status, out = service.end()
            over.set()
    assert status == 0, out
    rounds = [each for client in clients for each in client.rounds]
    for sent, asked, answered in rounds:
        assert answered == asked or sent >= signalled, f"sent {signalled - sent:.6f} s before the signal, not answered"
    total = sum(answered for _, _, answered in rounds)
    assert out == f"{number.name}: stopping\naccepted {total}, answered {total}\n"


def test_one_that_waits_in_the_backlog_is_served() -> None:
    """Who was connected before the signal, though nobody had accepted it."""
    with running("--deadline", "30") as service:
        socks = []
        for _ in range(200):
            sock = service.connect()
            sock.sendall(b"work 1\n")
            socks.append(sock)
        service.terminate()
        assert [read_lines(sock) for sock in socks] == [[b"done 1"]] * 200
        for sock in socks:
            sock.close()
        assert service.end() == (0, "SIGTERM: stopping\naccepted 200, answered 200\n")


def test_idle_connections_do_not_hold_it_up() -> None:
    with running("--deadline", "30") as service:
        idle, half = service.connect(), service.connect()
        half.sendall(b"work 1\nwor")
        assert half.recv(100) == b"done 1\n"
        service.terminate()
        assert idle.recv(100) == b"" and half.recv(100) == b""
        idle.close()
        half.close()
        assert service.end() == (0, "SIGTERM: stopping\naccepted 1, answered 1\n")


def test_a_long_request_is_waited_for() -> None:
    with running("--deadline", "30") as service, service.connect() as sock:
        sock.sendall(b"what\nwork 300\n")
        assert sock.recv(100) == b"what?\n"
        service.terminate()
        assert read_lines(sock) == [b"done 300"]
        sock.close()
        assert service.end() == (0, "SIGTERM: stopping\naccepted 2, answered 2\n")


def test_a_stuck_one_is_aborted_at_the_deadline() -> None:
    with running("--deadline", "0.3") as service, service.connect() as stuck, service.connect() as fine:
        fine.sendall(b"work 1\n")
        assert fine.recv(100) == b"done 1\n"
        stuck.sendall(b"stuck\nwork 1\n")
        wait_until(lambda: has_taken(service, stuck))
        service.terminate()
        fine.close()
        assert read_lines(stuck) == []
        status, out = service.end()
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "SIGTERM: stopping"
    assert lines[1:3] == ["the deadline has passed: aborting 1", "accepted 2, answered 1"]
    assert lines[3] == "a connection was aborted"


def has_taken(service: Service, sock: socket.socket) -> bool:
    """Whether the service has read what was sent: nothing waits in the system's queues between the two."""
    import fcntl
    import struct
    import termios

    (unsent,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))
    if unsent:
        return False
    ours = sock.getsockname()[1]
    for line in Path(f"/proc/{service.process.pid}/net/tcp").read_text().splitlines()[1:]:
        fields: list[Any] = line.split()
        local, remote = (int(each.rpartition(":")[2], 16) for each in fields[1:3])
        if (local, remote) == (service.address[1], ours):
            return int(fields[4].split(":")[1], 16) == 0
    return False


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)],
)
def test_a_second_signal_does_not_wait(first: signal.Signals, second: signal.Signals) -> None:
    """Under load: what is answered until then is answered rightly, and nothing is printed but that it does not wait."""
    with running("--deadline", "3600") as service, service.connect() as stuck:
        stuck.sendall(b"stuck\n")
        wait_until(lambda: has_taken(service, stuck))
        clients = [Client(service, 5, 2) for _ in range(8)]
        over = threading.Event()
        with in_threads(len(clients), lambda i: clients[i].run(over)):
            wait_until(lambda: all(client.rounds for client in clients))
            service.terminate(first)
            assert service.process.stdout is not None
            assert service.process.stdout.readline() == f"{first.name}: stopping\n"
            service.terminate(second)
            status, out = service.end()
            over.set()
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == "again: not waiting"
    assert set(lines[1:]) <= {"a connection was aborted"} | {line for line in lines if "a client went away" in line}
