"""`main` and `run`: a runtime for the length of one call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, overload

from freerun._arguments import close_unstarted, is_async_function, main_function, one_of
from freerun._core._native import try_current_core

from .builder import Builder

__all__ = ["builder_for", "main", "run"]

type AsyncFunction[**P, T] = Callable[P, Coroutine[Any, Any, T]]


def builder_for(flavor: str, worker_threads: int | None, start_paused: bool = False) -> Builder:
    """The builder that `main`, `run` and `test` stand for."""
    one_of(flavor, "flavor", ("multi_thread", "current_thread"))
    builder = Builder.new_current_thread() if flavor == "current_thread" else Builder.new_multi_thread()
    if worker_threads is not None:
        builder.worker_threads(worker_threads)
    builder.start_paused(start_paused)
    return builder


@overload
def run[T](
    main: Coroutine[Any, Any, T], /, *, flavor: str = "multi_thread", worker_threads: int | None = None
) -> T: ...
@overload
def run[*Ts, T](
    main: Callable[[*Ts], Coroutine[Any, Any, T]],
    /,
    *args: *Ts,
    flavor: str = "multi_thread",
    worker_threads: int | None = None,
) -> T: ...
def run(  # type: ignore[misc]  # mypy on TypeVarTuple
    main: Any, /, *args: Any, flavor: str = "multi_thread", worker_threads: int | None = None
) -> Any:
    """Build a runtime, run a coroutine or `async_fn(*args)` on it, shut it down; the result, or what it raises.

    `flavor`: `"multi_thread"` or `"current_thread"` (everything on this thread). `worker_threads`: how many; `None` is
    the environment variable `FREERUN_WORKER_THREADS`, else the CPUs that this process may use. A current-thread runtime
    has one, whatever is said here.

    Errors: `TypeError`/`ValueError` for a bad argument, by name; `RuntimeError` inside a task. Ctrl-C: as with
    `Runtime.block_on`. Thread safety: any plain thread. Tokio: what `#[tokio::main]` makes of a function.

    Example::

        import freerun

        async def add(a: int, b: int) -> int:
            return a + b

        assert freerun.run(add, 1, 2) == 3
        assert freerun.run(add(1, 2), flavor="current_thread") == 3
    """
    try:
        main_function(main, args, "main")
        core = try_current_core()
        if core is not None and core.on_worker():
            raise RuntimeError("freerun.run() cannot be called inside a task: await the coroutine, or spawn it")
        runtime = builder_for(flavor, worker_threads).build()
    except BaseException:
        close_unstarted(main)
        raise
    with runtime:
        return runtime.block_on(main, *args)


@overload
def main[**P, T](async_fn: AsyncFunction[P, T], /) -> Callable[P, T]: ...
@overload
def main[**P, T](
    *, flavor: str = "multi_thread", worker_threads: int | None = None, start_paused: bool = False
) -> Callable[[AsyncFunction[P, T]], Callable[P, T]]: ...
def main(
    async_fn: Any = None,
    /,
    *,
    flavor: str = "multi_thread",
    worker_threads: int | None = None,
    start_paused: bool = False,
) -> Any:
    """Make an ordinary function of an async one: called, it builds a runtime, runs the async function, shuts down.

    With or without arguments: `flavor` and `worker_threads` as for `run()`; `start_paused` begins with the clock
    stopped (current-thread only, see `freerun.time.pause`).

    Errors: `TypeError` for what is no async function, `TypeError`/`ValueError` for bad arguments, by name; calling it
    inside a task is a `RuntimeError`. Thread safety: call it on any plain thread. Tokio: `#[tokio::main]`.

    Example::

        import freerun

        @freerun.main
        async def hello(name: str) -> str:
            return f"hello {name}"

        @freerun.main(flavor="current_thread", worker_threads=4, start_paused=False)
        async def main() -> int:
            return 1

        assert hello("world") == "hello world"
        assert main() == 1
    """
    builder = builder_for(flavor, worker_threads, start_paused)
    builder.check()
    if async_fn is None:
        return lambda fn: _as_function(fn, builder)
    return _as_function(async_fn, builder)


def _as_function[**P, T](async_fn: AsyncFunction[P, T], builder: Builder) -> Callable[P, T]:
    if not is_async_function(async_fn):
        kind = type(async_fn).__name__
        raise TypeError(f"@freerun.main needs an async function ('async def'), not {kind}: {async_fn!r}")

    @functools.wraps(async_fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        core = try_current_core()
        if core is not None and core.on_worker():
            raise RuntimeError(f"{async_fn.__qualname__}() starts a runtime, so it cannot be called inside a task")
        with builder.build() as runtime:
            return runtime.block_on(functools.partial(async_fn, *args, **kwargs))

    return call
