"""`freerun.run` and `@freerun.main`."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import Any

import pytest
from support import thread_count

import freerun


async def add(a: int, b: int = 0) -> int:
    await freerun.yield_now()
    return a + b


def test_run() -> None:
    assert freerun.run(add, 1, 2) == 3
    assert freerun.run(add(1, 2)) == 3
    assert freerun.run(functools.partial(add, 1, b=4)) == 5
    assert freerun.run(add, 1, flavor="current_thread") == 1
    assert freerun.run(add, 1, worker_threads=2) == 1
    assert freerun.run(add, 1, flavor="current_thread", worker_threads=4) == 1


def test_run_where() -> None:
    async def where() -> tuple[int, int]:
        return threading.get_ident(), freerun.Handle.current().metrics().num_workers

    assert freerun.run(where, flavor="current_thread") == (threading.get_ident(), 1)
    ident, workers = freerun.run(where, worker_threads=3)
    assert ident != threading.get_ident()
    assert workers == 3


def test_run_raises_what_main_raises() -> None:
    async def fails() -> None:
        raise KeyError("k")

    before = thread_count()
    for flavor in ("multi_thread", "current_thread"):
        with pytest.raises(KeyError):
            freerun.run(fails, flavor=flavor)
    assert thread_count() <= before


@pytest.mark.parametrize(("arguments", "options", "error", "name"), [
    ((5,), {}, TypeError, "main"),
    ((None,), {}, TypeError, "main"),
    ((add,), {"flavor": "threads"}, ValueError, "flavor"),
    ((add,), {"flavor": 1}, TypeError, "flavor"),
    ((add,), {"worker_threads": 0}, ValueError, "worker_threads"),
    ((add,), {"worker_threads": -3}, ValueError, "worker_threads"),
    ((add,), {"worker_threads": "2"}, TypeError, "worker_threads"),
    ((add,), {"worker_threads": 1.0}, TypeError, "worker_threads"),
], ids=repr)  # fmt: skip
def test_run_bad_arguments(arguments: Any, options: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"argument '{name}'"):
        freerun.run(*arguments, **options)
    if name != "main":  # a coroutine that is not run is closed: no warning
        with pytest.raises(error, match=f"argument '{name}'"):
            freerun.run(add(1), **options)


def test_run_coroutine_with_arguments() -> None:
    with pytest.raises(TypeError, match="argument 'main'"):
        freerun.run(add(1), 2)  # type: ignore[call-overload]


def test_run_what_is_no_async_function() -> None:
    with pytest.raises(TypeError, match="must be a coroutine"):
        freerun.run(lambda: 5)  # type: ignore[call-overload]


def test_main() -> None:
    @freerun.main
    async def plain(a: int, *, b: int) -> int:
        """Adds."""
        return await add(a, b)

    @freerun.main()
    async def called() -> int:
        return 1

    @freerun.main(flavor="current_thread", start_paused=True)
    async def paused() -> float:
        start = freerun.time.Instant.now()
        await freerun.time.sleep(1e5)
        return start.elapsed()

    @freerun.main(flavor="multi_thread", worker_threads=2)
    async def two() -> int:
        return freerun.Handle.current().metrics().num_workers

    assert plain(1, b=2) == plain(2, b=1) == 3
    assert (plain.__name__, plain.__doc__) == ("plain", "Adds.")
    assert not inspect.iscoroutinefunction(plain)
    assert called() == 1
    assert paused() >= 1e5
    assert two() == 2


def test_main_bad_arguments() -> None:
    for options, error, name in (
        ({"flavor": "x"}, ValueError, "flavor"),
        ({"worker_threads": 0}, ValueError, "worker_threads"),
        ({"start_paused": 1}, TypeError, "start_paused"),
        ({"start_paused": True}, ValueError, "start_paused"),
    ):
        with pytest.raises(error, match=f"argument '{name}'"):
            freerun.main(**options)  # type: ignore[call-overload]
    for bad in (5, lambda: None, print):
        with pytest.raises(TypeError, match="async function"):
            freerun.main(bad)  # type: ignore[call-overload]


def test_main_on_a_method() -> None:
    class App:
        @freerun.main
        async def run(self, x: int) -> int:
            return x

    assert App().run(4) == 4
