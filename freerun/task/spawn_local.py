"""`spawn_local`: a task that stays on this thread. Tokio: `tokio::task::spawn_local`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, overload

from freerun._arguments import close_unstarted
from freerun._core._native import JoinHandle, try_current_core

__all__ = ["spawn_local"]


@overload
def spawn_local[T](
    coro: Coroutine[Any, Any, T], /, *, name: str | None = None, context: Context | None = None
) -> JoinHandle[T]: ...
@overload
def spawn_local[*Ts, T](
    coro: Callable[[*Ts], Coroutine[Any, Any, T]],
    /,
    *args: *Ts,
    name: str | None = None,
    context: Context | None = None,
) -> JoinHandle[T]: ...
def spawn_local(coro: Any, /, *args: Any, name: str | None = None, context: Context | None = None) -> JoinHandle[Any]:  # type: ignore[misc]  # mypy on TypeVarTuple
    """Spawn a task on the `LocalRuntime` of this thread: it is polled here and nowhere else.

    It may use what must stay on one thread. Tasks of a `LocalRuntime`, and of `spawn_pinned()`, may call this.

    Errors: `RuntimeError` elsewhere, with the ways there are; else as `freerun.spawn`. Cancel safety: does not wait.
    Thread safety: the thread of a `LocalRuntime`. Tokio: `tokio::task::spawn_local`.

    Example::

        import threading
        import freerun
        from freerun.task import LocalRuntime, spawn_local

        async def where() -> int:
            return threading.get_ident()

        async def main() -> bool:
            return await spawn_local(where) == threading.get_ident()

        with LocalRuntime() as local:
            assert local.block_on(main)
    """
    core = try_current_core()
    if core is None or not core.is_local():
        close_unstarted(coro)
        raise RuntimeError(
            "spawn_local() works on the thread of a LocalRuntime: call it from one of its tasks, or from inside "
            '"with LocalRuntime() as local:"; spawn_pinned(async_fn, *args) works in any task'
        )
    return core.spawn(coro, *args, name=name, context=context)
