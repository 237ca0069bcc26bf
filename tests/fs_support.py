"""What the tests of files share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import FLAVORS, PATIENCE, only, until

import freerun
from freerun import fs

on_the_pool = only(*FLAVORS)
"""For tests that stop a call in the middle, which io_uring's requests have none of."""


class Gate:
    """Calls of `os.<name>` on the blocking pool stop here until `open()`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._real: Callable[..., Any] = getattr(os, name)
        self._release = threading.Event()
        self.entered = threading.Event()
        self.calls = 0
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        self.entered.set()
        assert self._release.wait(PATIENCE)
        return self._real(*args)

    def open(self) -> None:
        self._release.set()


async def aborted_inside(gate: Gate, fn: Callable[..., Any], *args: Any) -> None:
    """Run `fn(*args)` in a task, abort it while its call is in the gate; the call goes on."""
    task = freerun.spawn(fn, *args)
    await until(gate.entered.is_set)
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task


async def filled(path: Path, data: bytes) -> fs.File:
    """A file with that content, open to read and write."""
    await fs.write(path, data)
    return await fs.File.options().read(True).write(True).open(path)
