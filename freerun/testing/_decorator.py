"""`@freerun.test`: an async function that runs on a runtime of its own."""

# ruff: noqa: PT028 - the decorator is called test; it is none

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, overload

from freerun._arguments import Seconds, is_async_function

from ._options import Options

__all__ = ["test"]


@overload
def test[**P](async_fn: Callable[P, Coroutine[Any, Any, object]], /) -> Callable[P, None]: ...
@overload
def test[**P](
    *,
    flavor: str | None = None,
    worker_threads: int | None = None,
    start_paused: bool = False,
    timeout: Seconds | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, object]]], Callable[P, None]]: ...
def test(
    async_fn: Any = None,
    /,
    *,
    flavor: str | None = None,
    worker_threads: int | None = None,
    start_paused: bool = False,
    timeout: Seconds | None = None,
) -> Any:
    """Make a test of an async function: called, it runs on a fresh runtime, which is shut down afterwards.

    `flavor`: `"current_thread"` or `"multi_thread"`; by default the former, unless `worker_threads` is given.
    `start_paused`: begin with the clock stopped (current-thread only). `timeout`: seconds until the test counts as
    hung: then every task's stack is written to stderr and the test fails with `TimeoutError`; 0 is no limit, `None` the
    plugin's setting `freerun_timeout`, 60 s. Works with pytest, unittest, or called by hand; fixtures arrive as
    arguments.

    Errors: `TypeError` for what is no async function, `TypeError`/`ValueError` for bad arguments, by name.
    Thread safety: call the test on any plain thread; hangs in code that never awaits end on the main thread only.
    Tokio: `#[tokio::test]`.

    Example::

        import freerun
        from freerun.time import Instant, sleep

        @freerun.test(start_paused=True)
        async def test_an_hour() -> None:
            start = Instant.now()
            await sleep(3600)
            assert start.elapsed() >= 3600

        @freerun.test(flavor="multi_thread", worker_threads=2)
        async def test_spawn() -> None:
            await freerun.spawn(freerun.lowlevel.checkpoint)

        test_an_hour()
        test_spawn()
    """
    options = Options.checked(flavor, worker_threads, start_paused, timeout)
    if async_fn is None:
        return lambda fn: _as_test(fn, options)
    return _as_test(async_fn, options)


test.__test__ = False  # type: ignore[attr-defined]  # its name is that of a test


def _as_test[**P](async_fn: Callable[P, Coroutine[Any, Any, object]], options: Options) -> Callable[P, None]:
    if not is_async_function(async_fn):
        kind = type(async_fn).__name__
        raise TypeError(f"@freerun.test needs an async function ('async def'), not {kind}: {async_fn!r}")

    @functools.wraps(async_fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        __tracebackhide__ = True
        from ._runner import run_test

        run_test(functools.partial(async_fn, *args, **kwargs), options, async_fn.__qualname__)

    return run
