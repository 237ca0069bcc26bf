"""`examples/`: the seed patterns run as they say, and Ctrl-C stops the servers."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("sleep.py", [r"a nap of 0\.1 s is over", r"a nap of 0\.3 s is over", r"[\d.]+ s after the start"]),
        ("timeout.py", [r"quick after 0\.05 s", r"slow: not done within 0\.1 s", r"the whole is cut off after \[.*\]"]),
        ("interval.py", [r"  burst .*", r"  delay .*", r"  skip .*"]),
        ("echo_server.py --demo", [r"200 echoes over 20 connections, all of them right"]),
        ("tls_echo.py --demo", [r"100 echoes over 10 connections, all of them right: TLS.*"]),
    ],
    ids=lambda value: value.partition(".")[0] if isinstance(value, str) else "",
)
def test_they_run(command: str, lines: list[str]) -> None:
    name, *options = command.split()
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLES / name), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    for line in lines:
        assert re.search(f"^{line}$", done.stdout, re.MULTILINE), (line, done.stdout)


def test_ctrl_c_stops_the_echo_server() -> None:
    """With connections open, one in the middle of a message."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(EXAMPLES / "echo_server.py"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found
            address = ("127.0.0.1", int(found[1]))
            with socket.create_connection(address, PATIENCE) as busy, socket.create_connection(address, PATIENCE):
                busy.sendall(b"hello")
                assert busy.recv(5, socket.MSG_WAITALL) == b"hello"
                process.send_signal(signal.SIGINT)
                stdout, stderr = process.communicate(timeout=PATIENCE)
                assert (process.returncode, stdout, stderr) == (0, "stopped\n", "")
                assert busy.recv(1) == b""
        finally:
            process.kill()
