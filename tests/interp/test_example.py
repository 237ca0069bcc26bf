"""`examples/isolated_service.py` serves, and ends when it is told to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from support import PATIENCE

EXAMPLE = Path(__file__).parents[2] / "examples" / "isolated_service.py"


def test_isolated_service() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(EXAMPLE), "--workers", "2", "--port", "0", "--until-stdin-closes"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as service:
        try:
            assert service.stdin
            assert service.stdout
            line = service.stdout.readline()
            assert "listening on 127.0.0.1:" in line
            assert "2 workers" in line
            port = int(line.split(":")[1].split()[0])
            for _ in range(4):
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                    client.sendall(b'{"op": "readability", "text": "To be or not to be."}\n')
                    answer = json.loads(client.makefile().readline())
            assert answer["ok"]
            assert answer["readability"]["words"] == 6
            service.stdin.close()
            assert service.wait(PATIENCE) == 0
        finally:
            service.kill()
