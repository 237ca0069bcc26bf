"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

CHECK = """
import freerun, pytest
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Any:
    """Write a test module and an ini file, run pytest on it in a fresh process."""

    def run(source: str, ini: str = "", *arguments: str) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{ini}")
        pytester.makepyfile(CHECK + textwrap.dedent(source))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


THREE = """
@pytest.mark.freerun
async def test_marked():
    await freerun.time.sleep(0)

async def test_unmarked():
    await freerun.time.sleep(0)

def test_ordinary():
    pass
"""


def test_strict_runs_marked_tests_only(run: Any) -> None:
    result = run(THREE)
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 2
    assert outcomes.get("failed", 0) + outcomes.get("skipped", 0) == 1  # pytest's own word on async tests
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])


def test_auto_runs_all(run: Any) -> None:
    run(THREE, "freerun_mode = auto").assert_outcomes(passed=3)
    run(THREE, "", "--freerun-mode=auto").assert_outcomes(passed=3)
    result = run(THREE, "freerun_mode = auto", "--freerun-mode=strict")
    assert result.parseoutcomes()["passed"] == 2


@pytest.mark.parametrize("ini", ["freerun_mode = sometimes", "freerun_timeout = soon", "freerun_timeout = -1"])
def test_bad_settings(run: Any, ini: str) -> None:
    result = run(THREE, ini)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{ini.split()[0]} must be*"])


def test_marker_arguments(run: Any) -> None:
    run("""
        import threading

        @pytest.mark.freerun(flavor="multi_thread", worker_threads=2)
        async def test_multi():
            assert freerun.Handle.current().metrics().num_workers == 2
            assert threading.current_thread() is not threading.main_thread()

        @pytest.mark.freerun(worker_threads=3)
        async def test_workers():
            assert freerun.Handle.current().metrics().num_workers == 3

        @pytest.mark.freerun
        async def test_current():
            assert threading.current_thread() is threading.main_thread()

        @pytest.mark.freerun(start_paused=True)
        async def test_paused():
            await freerun.time.sleep(1e6)
    """).assert_outcomes(passed=4)


@pytest.mark.parametrize(("arguments", "name"), [
    ("worker_threads=0", "worker_threads"), ("flavor='x'", "flavor"), ("start_paused=1", "start_paused"),
    ("timeout=-1", "timeout"), ("start_paused=True, worker_threads=2", "start_paused"),
])  # fmt: skip
def test_bad_marker_arguments(run: Any, arguments: str, name: str) -> None:
    result = run(f"@pytest.mark.freerun({arguments})\nasync def test_it(): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*argument '{name}'*"])


def test_unknown_marker_argument(run: Any) -> None:
    result = run("@pytest.mark.freerun(wrokers=1)\nasync def test_it(): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*wrokers*"])


def test_marker_on_an_ordinary_function(run: Any) -> None:
    result = run("@pytest.mark.freerun\ndef test_it(): pass")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no async function*"])


def test_marker_beside_the_decorator(run: Any) -> None:
    run("@pytest.mark.freerun\n@freerun.test\nasync def test_it(): await freerun.yield_now()").assert_outcomes(passed=1)


def test_module_and_class_markers(run: Any) -> None:
    run(
        """
        pytestmark = pytest.mark.freerun(worker_threads=2)

        async def test_it():
            assert freerun.Handle.current().metrics().num_workers == 2

        class TestIt:
            @pytest.mark.freerun(worker_threads=1)
            async def test_closest_marker_wins(self):
                assert freerun.Handle.current().metrics().num_workers == 1
    """,
        "",
        "-k",
        "not ordinary",
    ).assert_outcomes(passed=2)


def test_each_test_has_a_fresh_runtime(run: Any) -> None:
    run(
        """
        handles = []

        @pytest.mark.parametrize("i", range(5))
        async def test_it(i):
            handle = freerun.Handle.current()
            assert handle not in handles
            assert handle.metrics().alive_tasks == 1
            freerun.spawn(freerun.time.sleep(3600))  # left behind
            handles.append(handle)

        def test_last():
            assert len(handles) == 5
            assert freerun.Handle.try_current() is None
    """,
        "freerun_mode = auto",
    ).assert_outcomes(passed=6)


def test_fixtures_and_parameters(run: Any) -> None:
    run(
        """
        @pytest.fixture
        def base():
            yield 40

        @pytest.mark.parametrize("x", [1, 2])
        async def test_it(base, x, tmp_path):
            assert 41 <= base + x <= 42 and tmp_path.is_dir()
    """,
        "freerun_mode = auto",
    ).assert_outcomes(passed=2)


def test_failures_show_the_test(run: Any) -> None:
    result = run(
        """
        async def helper(x):
            await freerun.yield_now()
            assert x == 2

        async def test_it():
            await helper(1)
    """,
        "freerun_mode = auto",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2*"])


def test_skip_and_xfail(run: Any) -> None:
    run(
        """
        async def test_skip():
            pytest.skip("not today")

        @pytest.mark.xfail(strict=True)
        async def test_xfail():
            await freerun.yield_now()
            raise ValueError
    """,
        "freerun_mode = auto",
    ).assert_outcomes(skipped=1, xfailed=1)


def test_exit_and_interrupts(run: Any) -> None:
    result = run(
        """
        async def test_interrupted():
            raise KeyboardInterrupt

        async def test_never():
            pass
    """,
        "freerun_mode = auto",
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED


HANGS = """
from freerun.testing import _runner

watch = _runner._Watchdog._watch

def watch_when_it_hangs(self, runtime):  # however long the machine takes to get there
    while "in inner" not in runtime.handle().dump_tasks() and not self._over.wait(0.01):
        pass
    watch(self, runtime)

_runner._Watchdog._watch = watch_when_it_hangs

async def inner():
    await freerun.lowlevel.park()

@pytest.mark.freerun
async def test_hangs():
    task = freerun.spawn(inner, name="stuck one")
    await task

@pytest.mark.freerun
async def test_fine():
    pass
"""


@pytest.mark.parametrize("how", ["ini", "option", "marker"])
def test_a_hang_dumps_every_task(run: Any, how: str) -> None:
    source = HANGS.replace("mark.freerun\nasync def test_hangs", "mark.freerun(timeout=0.2)\nasync def test_hangs")
    if how == "ini":
        result = run(HANGS, "freerun_timeout = 0.2")
    elif how == "option":
        result = run(HANGS, "", "--freerun-timeout=0.2")
    else:
        result = run(source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*'stuck one'*"])
    result.stdout.fnmatch_lines(["*in inner*"])
    result.stdout.fnmatch_lines(["*TimeoutError: test_hangs did not finish*"])


def test_a_hang_under_pytest_timeout(run: Any) -> None:
    pytest.importorskip("pytest_timeout", reason="pytest-timeout is not installed")
    # A small part of a long limit, instead of most of a short one: the machine may be slow.
    result = run(HANGS + "\n_runner._EARLIER = 0.005\n", "timeout = 60")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*'stuck one'*"])


def test_hypothesis(run: Any) -> None:
    run(
        """
        from hypothesis import given, settings, strategies as st

        runtimes = []

        @settings(max_examples=10, deadline=None)
        @given(st.integers())
        async def test_it(x):
            await freerun.yield_now()
            assert freerun.Handle.current() not in runtimes
            runtimes.append(freerun.Handle.current())
            assert x == x
    """,
        "freerun_mode = auto",
    ).assert_outcomes(passed=1)


def test_another_plugins_marker_is_left_alone(run: Any) -> None:
    """With those plugins absent nobody runs the tests, which pytest says; freerun does not take them."""
    result = run(
        """
        @pytest.mark.asyncio
        async def test_theirs(): ...

        @pytest.mark.anyio
        async def test_theirs_too(): ...
        """,
        "freerun_mode = auto\nmarkers =\n    asyncio\n    anyio",
        *("-p", "no:asyncio", "-p", "no:anyio"),
    )
    assert "passed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])


def test_the_marker_is_known(run: Any) -> None:
    result = run(THREE, "freerun_mode = auto", "--strict-markers")
    result.assert_outcomes(passed=3)
    result = run("", "", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.freerun(flavor=None, worker_threads=None*"])


def test_importing_the_decorator_makes_no_test(run: Any) -> None:
    result = run("from freerun import test\n\n@test\nasync def test_it(): await freerun.yield_now()")
    result.assert_outcomes(passed=1)


def test_unhandled_failures_are_logged(run: Any) -> None:
    result = run(
        """
        async def fails():
            raise ValueError("nobody looks")

        async def test_it(caplog):
            freerun.spawn(fails)
            while not caplog.records:
                await freerun.time.sleep(0.001)
            assert "nobody took its result" in caplog.text
    """,
        "freerun_mode = auto",
    )
    result.assert_outcomes(passed=1)
