"""`spawn_isolated`: a call that shares nothing with its caller, in parallel on every CPython."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, overload

from freerun._core._native import JoinHandle, current_core

from ._isolated import isolated_of

__all__ = ["SpawnIsolated", "spawn_isolated"]


class SpawnIsolated(Protocol):
    """The type of `Runtime.spawn_isolated` and `Handle.spawn_isolated`."""

    @overload
    def __call__[*Ts, T](self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts) -> JoinHandle[T]: ...
    @overload
    def __call__[*Ts, T](self, fn: Callable[[*Ts], T], /, *args: *Ts) -> JoinHandle[T]: ...


@overload
def spawn_isolated[*Ts, T](fn: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts) -> JoinHandle[T]: ...
@overload
def spawn_isolated[*Ts, T](fn: Callable[[*Ts], T], /, *args: *Ts) -> JoinHandle[T]: ...
def spawn_isolated(fn: Any, /, *args: Any) -> JoinHandle[Any]:  # type: ignore[misc]  # mypy on TypeVarTuple
    """Run an importable function, sync or async, that shares nothing with its caller; returns its `JoinHandle`.

    Arguments, result and exception cross by value: `None`, bool, int, float, str, bytes and tuples of them as they
    are (large bytes are copied once, over there; not at all on free-threaded builds); a `memoryview` argument is a view
    of the same memory, not copied, which both sides see the other write to, and which keeps its owner alive and from
    being resized for as long as it lives over there (a result's is a copy); a `TcpListener` or `UnixListener` is one
    more listener on the same socket; ends of a `freerun.interp.channel` are themselves; the rest is pickled. The
    function goes by its import path; one of `__main__` as with `multiprocessing`: the script is imported over there, so
    it guards its main part with `if __name__ == "__main__":`. Context variables do not cross.

    On Python builds with the GIL it runs in an interpreter with a GIL of its own, of which there are as many as
    `worker_threads`, started when they are needed; each has its own runtime, so that timers, sockets, channels and
    `spawn` work inside. On free-threaded builds it runs on the runtime's own workers, under the same rules.
    `Builder.workers()` chooses otherwise. A sync function occupies its worker until it returns.

    `abort()` throws `Cancelled` in over there; the handle is finished when the cleanup is. An exception has the
    traceback from over there as its `__cause__`, a `RemoteTraceback`. `sys.exit()` and an interpreter that is lost are
    a `JoinError` whose `is_panic()` is true.

    Errors: `TypeError` that names the argument that cannot cross, and why; `RuntimeError` outside a runtime;
    `RuntimeShutdown`. Cancel safety: does not wait. Thread safety: any thread inside a runtime. Tokio has no such
    thing; `tokio::spawn` for what is `Send`.

    Example::

        import math
        import freerun

        async def main() -> int:
            handles = [freerun.spawn_isolated(math.factorial, n) for n in (3, 4, 5)]
            return sum([await handle for handle in handles])

        assert freerun.run(main) == 150
    """
    core = current_core()
    return isolated_of(core).spawn(core, fn, args)
