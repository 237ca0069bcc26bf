"""One parametrised fixture, `rt`: a fresh runtime of every flavour. `flavor` is what it is made from."""

from __future__ import annotations

import faulthandler
import gc
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for support.py

import support

import freerun

pytest_plugins = ["pytester"]

faulthandler.enable()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every program that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def freeze() -> None:
    """Take what there is before a file's tests out of the collector's sight: pytest's hundreds of thousands of objects
    for 13,000 tests and their reports. Else each collection looks at all of them, a fifth of a second in some tests
    that need hundreds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=support.FLAVORS, ids=str)
def flavor(request: pytest.FixtureRequest) -> support.Flavor:
    """A way to run tasks: current-thread, or multi-thread with 1, 2 and 4 workers."""
    return request.param


@pytest.fixture
def rt(flavor: support.Flavor) -> Iterator[freerun.Runtime]:
    """A fresh runtime of that flavour, shut down after the test."""
    runtime = flavor.builder().build()
    yield runtime
    runtime.shutdown()


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Reports:
    """What freerun logged during the test."""
    caplog.set_level(logging.DEBUG, logger="freerun")
    return Reports(caplog)


class Reports:
    """freerun's log records."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __iter__(self) -> Iterator[logging.LogRecord]:
        return iter([record for record in self._caplog.records if record.name.split(".")[0] == "freerun"])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, i: int) -> logging.LogRecord:
        return list(iter(self))[i]

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self]
