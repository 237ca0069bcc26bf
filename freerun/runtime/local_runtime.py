"""`LocalRuntime`: a runtime whose tasks never leave one thread. Tokio: `tokio::runtime::LocalRuntime`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._arguments import Seconds, close_unstarted

from .config import Config
from .handle import Handle
from .metrics import RuntimeMetrics
from .runtime import Runtime

if TYPE_CHECKING:
    from types import TracebackType

    from freerun._core._native import JoinHandle
    from freerun.task.spawn import Spawn, SpawnBlocking

__all__ = ["LocalRuntime"]


@final
class LocalRuntime:
    """A current-thread runtime that belongs to the thread that makes it: only that thread polls its tasks.

    For objects that must stay on one thread: database connections that check, GUI toolkits, libraries with thread-local
    state. On a plain current-thread `Runtime`, tasks run on whichever thread is in `block_on`; here `block_on` and
    `shutdown` on another thread are a `RuntimeError`. Tasks run while its thread is in `block_on`, and wait meanwhile.
    Other threads may wake its tasks, and `handle().spawn(async_fn, *args)` new ones: they run on the runtime's thread.

    `Builder.new_current_thread().build_local()` makes one with other settings. Leaving `with` shuts it down. What is
    left when its thread is gone, or at the interpreter's exit, is closed on another one, without cleanup that awaits.

    Errors: `RuntimeError` as said. Thread safety: `handle`, `spawn`, `spawn_blocking`, `metrics` and
    `shutdown_background` from any thread, the rest on its own. Tokio: `tokio::runtime::LocalRuntime`.

    Example::

        import threading
        import freerun
        from freerun.task import LocalRuntime, spawn_local

        async def where() -> int:
            return threading.get_ident()

        async def main() -> list[int]:
            tasks = [spawn_local(where) for _ in range(3)]
            return [await task for task in tasks]

        with LocalRuntime() as local:
            assert set(local.block_on(main)) == {threading.get_ident()}
    """

    __slots__ = ("__weakref__", "_runtime")

    def __init__(self, _config: Config | None = None) -> None:
        config = Config() if _config is None else _config
        self._runtime = Runtime(dataclasses.replace(config, current_thread=True, pinned=True))

    @overload
    def spawn_local[T](
        self, coro: Coroutine[Any, Any, T], /, *, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[T]: ...
    @overload
    def spawn_local[*Ts, T](
        self,
        coro: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[T]: ...
    def spawn_local(  # type: ignore[misc]  # mypy on TypeVarTuple
        self, coro: Any, /, *args: Any, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[Any]:
        """Spawn a task that stays on this thread. It runs while this thread is in `block_on`.

        Errors: `RuntimeError` on another thread; else as `freerun.spawn`. Cancel safety: does not wait.
        Thread safety: the runtime's own thread. Tokio: `LocalRuntime::spawn_local`.

        Example::

            import freerun

            async def one() -> int:
                return 1

            async def get(task: freerun.JoinHandle[int]) -> int:
                return await task

            with freerun.task.LocalRuntime() as local:
                assert local.block_on(get, local.spawn_local(one)) == 1
        """
        core = self._runtime._engine.core
        if self._is_elsewhere():
            close_unstarted(coro)
            raise RuntimeError(
                "spawn_local() of a LocalRuntime may be called only on the thread that made it; from here, use "
                "runtime.handle().spawn(async_fn, *args), which makes the coroutine there"
            )
        return core.spawn(coro, *args, name=name, context=context)

    @property
    def spawn(self) -> Spawn:
        """As `handle().spawn`: from any thread, a task that runs on the runtime's own. Tokio: `Handle::spawn`."""
        return self._runtime.spawn

    @property
    def spawn_blocking(self) -> SpawnBlocking:
        """As `Runtime.spawn_blocking`, which takes another thread. Tokio: `LocalRuntime::spawn_blocking`."""
        return self._runtime.spawn_blocking

    @overload
    def block_on[T](self, coro: Coroutine[Any, Any, T], /) -> T: ...
    @overload
    def block_on[*Ts, T](self, coro: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts) -> T: ...
    def block_on(self, coro: Any, /, *args: Any) -> Any:  # type: ignore[misc]  # mypy on TypeVarTuple
        """Run a coroutine, or `async_fn(*args)`, and meanwhile all other tasks of this runtime, on this thread.

        Errors: `RuntimeError` on another thread than its own; else as `Runtime.block_on`, Ctrl-C included.
        Thread safety: the runtime's own thread. Tokio: `LocalRuntime::block_on`.
        """
        return self._runtime.block_on(coro, *args)

    def handle(self) -> Handle:
        """A handle, for other threads as well: what it spawns runs here. Tokio: `LocalRuntime::handle`."""
        return self._runtime.handle()

    def metrics(self) -> RuntimeMetrics:
        """The runtime's counters now. Thread safety: any thread. Tokio: `LocalRuntime::metrics`."""
        return self._runtime.metrics()

    def shutdown(self, timeout: Seconds | None = None) -> None:
        """As `Runtime.shutdown`: the tasks' cleanup runs here, on their thread.

        Errors: `RuntimeError` on another thread (`shutdown_background()` may be called there), or in a task.
        Thread safety: the runtime's own thread. Tokio: `LocalRuntime::shutdown_timeout`.
        """
        if self._is_elsewhere():
            raise RuntimeError(
                "shutdown() of a LocalRuntime may be called only on the thread that made it, where its tasks' cleanup "
                "runs; from here, call shutdown_background()"
            )
        self._runtime.shutdown(timeout)

    def shutdown_background(self) -> None:
        """Cancel every task and wait for nothing. Their cleanup runs if their thread is in `block_on`.

        Thread safety: any thread. Tokio: `LocalRuntime::shutdown_background`.
        """
        self._runtime.shutdown_background()

    def _is_elsewhere(self) -> bool:
        """Whether this is another thread than its own. Nothing of the kind once it is over, or in a forked child."""
        engine = self._runtime._engine
        return not (engine.core.is_local() or engine.core.is_shut_down() or engine.forked)

    def __enter__(self) -> Self:
        self._runtime.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        core = self._runtime._engine.core
        where = "this thread" if core.is_local() else "another thread"
        return f"<LocalRuntime {'shut down' if core.is_shut_down() else 'of ' + where}>"
