"""Testing: `@freerun.test`, and a pytest plugin that gives each test a fresh runtime. Tokio: `#[tokio::test]`.

`io_mock()` is a peer that plays a script, `task_spawn()` an awaitable that is polled by hand, `localhost_tls()` has
certificates for tests of TLS.

The plugin is `freerun.testing.plugin`; pytest finds it by itself.
"""

from __future__ import annotations

from freerun.lowlevel import PENDING

from ._decorator import test
from .io_mock import IoMock, IoMockBuilder, IoMockHandle, io_mock
from .localhost_tls import localhost_tls
from .task_spawn import Spawn, task_spawn

__all__ = [
    "PENDING",
    "IoMock",
    "IoMockBuilder",
    "IoMockHandle",
    "Spawn",
    "io_mock",
    "localhost_tls",
    "task_spawn",
    "test",
]
