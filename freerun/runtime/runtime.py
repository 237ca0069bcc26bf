"""`Runtime`: workers, driver and blocking pool, owned."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._arguments import Seconds, seconds
from freerun._errors import JoinError, RuntimeShutdown
from freerun.interp._isolated import spawning_isolated

from . import signals
from .config import Config
from .engine import DEFAULT_GRACE, Engine
from .handle import Entered, Handle
from .metrics import RuntimeMetrics

if TYPE_CHECKING:
    from types import TracebackType

    from freerun.interp.spawn_isolated import SpawnIsolated
    from freerun.task.spawn import Spawn, SpawnBlocking

__all__ = ["Runtime"]


@final
class Runtime:
    """Workers that poll tasks, the driver for I/O and timers, the pool for blocking calls. `Builder` configures one.

    `Runtime()` is `Builder().build()`: multi-thread, everything enabled, running when it is made. Leaving
    `with Runtime() as rt:` shuts it down; inside, `freerun.spawn` and others use it. One that is dropped without
    shutdown gives a `ResourceWarning` and is shut down in the background; the interpreter's exit shuts down the rest.

    Thread safety: every method may be called from any thread. After a fork, in the child, they raise `RuntimeError`.
    Tokio: `tokio::runtime::Runtime`.

    Example::

        import freerun

        async def add(a: int, b: int) -> int:
            return a + b

        with freerun.Runtime() as rt:
            handle = rt.spawn(add, 1, 2)
            assert rt.block_on(add, 3, 4) == 7
            assert handle.blocking_result() == 3
    """

    __slots__ = ("__weakref__", "_closed", "_engine", "_entered")

    def __init__(self, _config: Config | None = None) -> None:
        self._closed = True  # nothing to close yet, should starting fail
        self._engine = Engine(Config() if _config is None else _config)
        self._entered: list[Entered] = []
        self._closed = False

    @property
    def spawn(self) -> Spawn:
        """`rt.spawn(coro)` or `rt.spawn(async_fn, *args, name=None)`: run a task; see `freerun.spawn`.

        With `async_fn, *args` the coroutine is made on the worker that runs it, which is faster.
        Errors: `TypeError` for what is neither, `RuntimeShutdown` after shutdown.
        Cancel safety: does not wait. Thread safety: any thread, inside the runtime or not. Tokio: `Runtime::spawn`.

        Example::

            import freerun

            async def one() -> int:
                return 1

            with freerun.Runtime() as rt:
                assert rt.spawn(one).blocking_result() == 1
        """
        return self._engine.core.spawn  # type: ignore[return-value]  # the stub is less exact

    @property
    def spawn_blocking(self) -> SpawnBlocking:
        """`rt.spawn_blocking(fn, *args, **kwargs)`: call a function on the blocking pool; see `freerun.spawn_blocking`.

        Errors: `TypeError` for what cannot be called or is async, `RuntimeShutdown` after shutdown.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `Runtime::spawn_blocking`.

        Example::

            import freerun

            with freerun.Runtime() as rt:
                assert rt.spawn_blocking(max, 1, 2).blocking_result() == 2
        """
        return self._engine.core.spawn_blocking

    @property
    def spawn_isolated(self) -> SpawnIsolated:
        """`rt.spawn_isolated(fn, *args)`: run a function that shares nothing; see `freerun.spawn_isolated`.

        Errors: `TypeError` that names what cannot cross, `RuntimeShutdown`. Cancel safety: does not wait.
        Thread safety: any thread. Tokio has no such thing.

        Example::

            import math
            import freerun

            with freerun.Runtime() as rt:
                assert rt.spawn_isolated(math.factorial, 4).blocking_result() == 24
        """
        return spawning_isolated(self._engine.core)

    @overload
    def block_on[T](self, coro: Coroutine[Any, Any, T], /) -> T: ...
    @overload
    def block_on[*Ts, T](self, coro: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts) -> T: ...
    def block_on(self, coro: Any, /, *args: Any) -> Any:  # type: ignore[misc]  # mypy on TypeVarTuple
        """Run a coroutine, or `async_fn(*args)`, as the main task and wait for it; its result, or what it raises.

        On a current-thread runtime all tasks run on the calling thread, for as long as this call takes. Ctrl-C on the
        main thread cancels the main task, its cleanup runs, then `KeyboardInterrupt` is raised; a second Ctrl-C raises
        at once. `KeyboardInterrupt` and `SystemExit` raised in any task cancel the main task and are raised here.

        Errors: `RuntimeError` inside a task (await instead), `RuntimeShutdown` after shutdown, `TypeError` for what is
        neither a coroutine nor an async function, `JoinError` if the main task was aborted.
        Thread safety: any thread; several may be in it at once. Tokio: `Runtime::block_on`.

        Example::

            import freerun

            async def add(a: int, b: int) -> int:
                return a + b

            with freerun.Runtime() as rt:
                assert rt.block_on(add(1, 2)) == rt.block_on(add, 1, 2) == 3
        """
        try:
            return signals.block_on(self._engine.core, coro, *args)
        except JoinError as error:
            fatal = self._engine.unhandled.fatal
            if fatal is None or not error.is_cancelled():
                raise
            message = 'a task failed, and unhandled_exception("shutdown") stopped the runtime'
            raise RuntimeShutdown(message) from fatal

    def handle(self) -> Handle:
        """A handle to this runtime, to pass around. Thread safety: any thread. Tokio: `Runtime::handle`."""
        return Handle(self._engine.core)

    def metrics(self) -> RuntimeMetrics:
        """The runtime's counters now. Thread safety: any thread. Tokio: `Runtime::metrics`."""
        return RuntimeMetrics._from(self._engine.core.metrics())

    def shutdown(self, timeout: Seconds | None = None) -> None:
        """Cancel every task, let their cleanup run, close asynchronous generators, stop the threads.

        `timeout`: how long to wait for that in all, in seconds or as a `timedelta`; `None`: 10 s. What has not ended by
        then is closed if it can be, and logged: logger `freerun`, a warning with each task's or call's name and spawn
        site. A blocking call cannot be stopped; its thread ends with it. May be called more than once.

        Errors: `RuntimeError` in one of the runtime's own tasks; `ValueError`/`TypeError` for a bad timeout.
        Thread safety: any thread. Tokio: `Runtime::shutdown_timeout`, and `drop`.

        Example::

            import freerun

            async def for_ever() -> None:
                while True:
                    await freerun.time.sleep(60)

            rt = freerun.Runtime()
            handle = rt.spawn(for_ever)
            rt.shutdown(timeout=1)
            assert handle.is_finished()
        """
        self._engine.shutdown(DEFAULT_GRACE if timeout is None else seconds(timeout, "timeout"))
        self._closed = True

    def shutdown_background(self) -> None:
        """Cancel every task and wait for nothing: threads end by themselves once their work does.

        Thread safety: any thread, tasks of this runtime included. Tokio: `Runtime::shutdown_background`.

        Example::

            import freerun

            rt = freerun.Runtime()
            rt.shutdown_background()
        """
        self._closed = True
        self._engine.shutdown_background()

    def __enter__(self) -> Self:
        entered = self.handle().enter()
        entered.__enter__()
        self._entered.append(entered)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine.forked:
            return
        self._entered.pop().__exit__(kind, error, trace)
        self.shutdown()

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A default argument: while the interpreter ends, the names of this module may be gone already.
        if _is_finalizing() or getattr(self, "_closed", True) or self._engine.forked:
            return
        self._engine.shutdown_background()
        message = f"{self!r} was dropped without shutdown(); use it in a with block, or call shutdown()"
        warnings.warn(message, ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        core = self._engine.core
        flavor = "current_thread" if core.is_current_thread else f"multi_thread, {core.worker_threads} workers"
        return f"<Runtime {flavor}{', shut down' if self._closed else ''}>"
