"""freerun: Tokio for CPython. Coroutines, polled in parallel by a work-stealing pool of threads.

Example::

    import freerun

    async def fetch(n: int) -> int:
        await freerun.time.sleep(0.001)
        return n * n

    @freerun.main
    async def main() -> int:
        handles = [freerun.spawn(fetch, n) for n in range(4)]
        return sum([await handle for handle in handles])

    assert main() == 14
"""

from __future__ import annotations

from . import fs, interp, io, lowlevel, net, process, runtime, signal, stream, sync, task, testing, time
from ._errors import (
    AcquireError,
    Cancelled,
    JoinError,
    RecvError,
    RuntimeShutdown,
    SendError,
    SendTimeoutError,
    TrySendError,
    WouldBlock,
)
from ._version import __version__
from .interp import spawn_isolated
from .runtime import Builder, Handle, Runtime, build_info, main, run
from .task import (
    AbortHandle,
    CancelScope,
    JoinHandle,
    JoinSet,
    TaskGroup,
    block_in_place,
    join,
    select,
    spawn,
    spawn_blocking,
    try_join,
    yield_now,
)
from .testing import test

__all__ = [
    "AbortHandle",
    "AcquireError",
    "Builder",
    "CancelScope",
    "Cancelled",
    "Handle",
    "JoinError",
    "JoinHandle",
    "JoinSet",
    "RecvError",
    "Runtime",
    "RuntimeShutdown",
    "SendError",
    "SendTimeoutError",
    "TaskGroup",
    "TrySendError",
    "WouldBlock",
    "__version__",
    "block_in_place",
    "build_info",
    "fs",
    "interp",
    "io",
    "join",
    "lowlevel",
    "main",
    "net",
    "process",
    "run",
    "runtime",
    "select",
    "signal",
    "spawn",
    "spawn_blocking",
    "spawn_isolated",
    "stream",
    "sync",
    "task",
    "test",
    "testing",
    "time",
    "try_join",
    "yield_now",
]
