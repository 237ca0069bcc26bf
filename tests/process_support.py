"""What the tests of processes share."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import wait_until

from freerun.process import Command


def python(source: str, *arguments: str) -> Command:
    """A command that runs Python source, without site-packages: it starts sooner."""
    return Command(sys.executable, "-I", "-S", "-c", textwrap.dedent(source), *arguments)


def shell(source: str, *arguments: str) -> Command:
    """A command that runs shell source."""
    return Command("sh", "-c", source, "sh", *arguments)


def state(pid: int) -> str:
    """The state of a process as /proc has it: R, S, Z, ...; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_collected(pid: int) -> bool:
    """Whether there is no such process any more, not even a zombie."""
    return state(pid) == ""


def children() -> set[int]:
    """This process's children, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
    return found


@contextmanager
def no_child_left() -> Iterator[None]:
    """What was started in the block has been collected soon after it."""
    before = children()
    yield
    wait_until(lambda: children() <= before, f"children left: { {pid: state(pid) for pid in children() - before} }")


def own_pipes() -> set[str]:
    """This process's pipes."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            name = os.readlink(entry)
        except OSError:
            continue
        if name.startswith("pipe:"):
            found.add(name)
    return found
