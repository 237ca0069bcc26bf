"""`@freerun.test`."""

from __future__ import annotations

import datetime as dt
import inspect
import threading
import time
import unittest
from typing import Any

import pytest
from support import wait_until

import freerun
from freerun.testing import _runner
from freerun.time import Instant

seen: list[Any] = []


@freerun.test
async def test_is_run_by_pytest() -> None:
    """The plain form: current-thread, on the thread that called."""
    await freerun.time.sleep(0.001)
    assert freerun.Handle.current().metrics().num_workers == 1
    assert threading.current_thread() is threading.main_thread()


@freerun.test(worker_threads=3)
async def test_worker_threads_means_multi_thread() -> None:
    assert freerun.Handle.current().metrics().num_workers == 3
    assert threading.get_ident() != threading.main_thread().ident


@freerun.test(flavor="multi_thread")
async def test_flavor() -> None:
    assert threading.get_ident() != threading.main_thread().ident


@freerun.test(start_paused=True)
async def test_start_paused() -> None:
    start = Instant.now()
    await freerun.time.sleep(1e6)
    assert start.elapsed() >= 1e6


@pytest.fixture
def number() -> int:
    return 42


@freerun.test(worker_threads=1)
async def test_fixtures(number: int, tmp_path: Any) -> None:
    assert number == 42
    assert tmp_path.is_dir()


@pytest.mark.parametrize("x", [1, 2])
@freerun.test
async def test_parameters(x: int, number: int) -> None:
    assert x in {1, 2}
    assert number == 42


class TestMethods:
    @freerun.test
    async def test_method(self, number: int) -> None:
        assert isinstance(self, TestMethods)
        assert number == 42

    @staticmethod
    @freerun.test
    async def test_static_method(number: int) -> None:
        assert number == 42


class TestWithUnittest(unittest.TestCase):
    @freerun.test
    async def test_method(self) -> None:
        await freerun.yield_now()
        self.assertEqual(freerun.Handle.current().metrics().num_workers, 1)


def test_called_by_hand() -> None:
    @freerun.test
    async def check(x: int, *, y: int) -> None:
        await freerun.yield_now()
        seen.append(x + y)

    assert check.__name__ == "check"
    assert not inspect.iscoroutinefunction(check)
    assert check(1, y=2) is None
    assert seen.pop() == 3


def test_each_call_has_its_own_runtime() -> None:
    handles = []

    @freerun.test
    async def check() -> None:
        handles.append(freerun.Handle.current())

    check()
    check()
    first, second = handles
    assert first != second
    for handle in handles:
        with pytest.raises(freerun.RuntimeShutdown):
            handle.spawn(freerun.lowlevel.checkpoint)


def test_failures_come_out() -> None:
    @freerun.test(worker_threads=2)
    async def fails() -> None:
        await freerun.yield_now()
        raise KeyError("k")

    with pytest.raises(KeyError):
        fails()


def test_what_a_test_leaves_running_is_cancelled() -> None:
    log: list[str] = []

    async def lingers() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            log.append("cleaned up")

    @freerun.test
    async def leaves() -> None:
        freerun.spawn(lingers)
        await freerun.yield_now()

    leaves()
    assert log == ["cleaned up"]


def test_spawn_without_a_task() -> None:
    """The runtime is entered while the test runs, so that fixtures made by hand may use it."""

    @freerun.test(worker_threads=1)
    async def check() -> None:
        assert await freerun.Handle.current().spawn(freerun.lowlevel.checkpoint) is None

    check()
    assert freerun.Handle.try_current() is None


@pytest.fixture
def watches_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a test begins to count when its other tasks wait, however long the machine takes to get there."""
    watch = _runner._Watchdog._watch

    def watch_later(self: Any, runtime: freerun.Runtime) -> None:
        wait_until(lambda: "await freerun.lowlevel.park()" in runtime.handle().dump_tasks())
        watch(self, runtime)

    monkeypatch.setattr(_runner._Watchdog, "_watch", watch_later)


@pytest.mark.usefixtures("watches_late")
@pytest.mark.parametrize("options", [{}, {"worker_threads": 2}], ids=["current_thread", "multi_thread"])
def test_a_hang_is_dumped_and_ended(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    async def waits_for_ever() -> None:
        await freerun.lowlevel.park()

    @freerun.test(timeout=0.1, **options)
    async def hangs() -> None:
        freerun.spawn(waits_for_ever, name="the culprit")
        await freerun.time.sleep(3600)

    with pytest.raises(TimeoutError, match=r"hangs did not finish within 0\.1 s"):
        hangs()
    err = capfd.readouterr().err
    assert "hangs" in err
    assert "'the culprit'" in err
    assert "in test_a_hang_is_dumped_and_ended.<locals>.waits_for_ever" in err
    assert "await freerun.lowlevel.park()" in err


def test_a_test_that_never_awaits_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "_GRACE", 0.3)

    @freerun.test(timeout=0.1)
    async def spins() -> None:
        while True:
            time.sleep(0.001)

    with pytest.raises(TimeoutError, match="spins did not finish"):
        spins()


def test_a_test_that_swallows_cancelled_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "_GRACE", 0.3)

    @freerun.test(timeout=dt.timedelta(milliseconds=100))
    async def stubborn() -> None:
        while True:
            try:
                await freerun.time.sleep(3600)
            except freerun.Cancelled:
                pass

    with pytest.raises(TimeoutError):
        stubborn()


def test_a_ctrl_c_of_the_watchdog_that_comes_late_is_not_for_pytest() -> None:
    class Thread:
        joined = 0

        def join(self) -> None:
            self.joined += 1
            if self.joined < 3:
                raise KeyboardInterrupt

    watchdog, thread = _runner._Watchdog(1, "late"), Thread()
    watchdog.expired = True
    watchdog._stop(thread)  # type: ignore[arg-type]
    assert thread.joined == 3
    watchdog, thread = _runner._Watchdog(1, "in time"), Thread()
    with pytest.raises(KeyboardInterrupt):  # the user's
        watchdog._stop(thread)  # type: ignore[arg-type]


def test_a_test_that_ends_in_time_leaves_no_watchdog() -> None:
    @freerun.test(timeout=3600)
    async def quick() -> None: ...

    before = threading.active_count()
    quick()
    assert threading.active_count() == before


def test_no_limit() -> None:
    @freerun.test(timeout=0)
    async def quick() -> None:
        await freerun.time.sleep(0.001)

    quick()


def test_bad_arguments() -> None:
    for options, error, name in (
        ({"flavor": "threads"}, ValueError, "flavor"),
        ({"flavor": 5}, TypeError, "flavor"),
        ({"worker_threads": 0}, ValueError, "worker_threads"),
        ({"worker_threads": "2"}, TypeError, "worker_threads"),
        ({"start_paused": 1}, TypeError, "start_paused"),
        ({"start_paused": True, "worker_threads": 2}, ValueError, "start_paused"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": "x"}, TypeError, "timeout"),
    ):
        with pytest.raises(error, match=f"argument '{name}'"):
            freerun.test(**options)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="async function"):

        @freerun.test  # type: ignore[arg-type]
        def no_coroutine() -> None: ...

    with pytest.raises(TypeError, match="async function"):
        freerun.test(5)  # type: ignore[call-overload]


def test_inside_a_task() -> None:
    @freerun.test
    async def inner() -> None: ...

    async def outer() -> None:
        with pytest.raises(RuntimeError):
            inner()

    freerun.run(outer)
