"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import textwrap
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECK = """
import freerun, pytest
"""


# hypothesis's own plugin imports it whole, which takes longer than everything else.
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")


@pytest.fixture(autouse=True)
def keep_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest rewrites the assertions of every package with a plugin, freerun's too, and keeps that if it may."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Any:
    """Write a test module and an ini file, run pytest on it in a fresh process."""

    def run(source: str, ini: str = "", *arguments: str, others: tuple[str, ...] = QUICK) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{ini}")
        pytester.makepyfile(CHECK + textwrap.dedent(source))
        return pytester.runpytest_subprocess(*others, *arguments)

    return run


# --- Many modules in one pytest ---


MODULES: dict[str, str] = {}


def module(source: str) -> Callable[[Any], Any]:
    """A test about what pytest, in mode auto, made of that module: the fixture `outcome`. A start of pytest takes long,
    so they are all in one."""

    def note(test: Any) -> Any:
        MODULES[test.__name__] = CHECK + textwrap.dedent(source)
        return test

    return note


class Outcome:
    """How many tests of a module passed and so on, and what is said of each that failed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, str] = {}

    def add(self, case: ET.Element) -> None:
        kind = "passed"
        for child in case:
            if child.tag in {"failure", "error"}:
                kind = "failed"
                self.failures[case.attrib["name"]] = f"{child.get('message')}\n{child.text}"
            elif child.tag == "skipped":
                kind = "xfailed" if child.get("type") == "pytest.xfail" else "skipped"
        self.counts[kind] += 1


@functools.cache
def outcomes() -> dict[str, Outcome]:
    """Of each module."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\nfreerun_mode = auto\n")
        for test, source in MODULES.items():
            (folder / f"{test}.py").write_text(source)
        command = [sys.executable, "-m", "pytest", *QUICK, "--junitxml=out.xml"]
        env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        print(done.stdout, done.stderr)  # for a failure here
        assert done.returncode == pytest.ExitCode.TESTS_FAILED
        found = {test: Outcome() for test in MODULES}
        for case in ET.parse(folder / "out.xml").iter("testcase"):
            found[case.attrib["classname"].split(".")[0]].add(case)
        return found


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Outcome:
    """Of this test's module."""
    return outcomes()[request.function.__name__]


# --- Modes and settings ---


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
    run(THREE, "freerun_mode = auto", "--strict-markers").assert_outcomes(passed=3)
    run(THREE, "", "--freerun-mode=auto").assert_outcomes(passed=3)
    result = run(THREE, "freerun_mode = auto", "--freerun-mode=strict")
    assert result.parseoutcomes()["passed"] == 2


@pytest.mark.parametrize("ini", ["freerun_mode = sometimes", "freerun_timeout = soon", "freerun_timeout = -1"])
def test_bad_settings(run: Any, ini: str) -> None:
    result = run(THREE, ini)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{ini.split()[0]} must be*"])


@module("""
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
""")
def test_marker_arguments(outcome: Outcome) -> None:
    assert outcome.counts == {"passed": 4}


BAD = [
    ("worker_threads=0", "argument 'worker_threads'"),
    ("flavor='x'", "argument 'flavor'"),
    ("start_paused=1", "argument 'start_paused'"),
    ("timeout=-1", "argument 'timeout'"),
    ("start_paused=True, worker_threads=2", "argument 'start_paused'"),
    ("wrokers=1", "wrokers"),
]


@module("".join(f"@pytest.mark.freerun({bad})\nasync def test_{i}(): pass\n" for i, (bad, _) in enumerate(BAD)))
def test_bad_marker_arguments(outcome: Outcome) -> None:
    assert outcome.counts == {"failed": len(BAD)}
    for i, (_, said) in enumerate(BAD):
        assert said in outcome.failures[f"test_{i}"]


@module("@pytest.mark.freerun\ndef test_it(): pass")
def test_marker_on_an_ordinary_function(outcome: Outcome) -> None:
    assert outcome.counts == {"failed": 1}
    assert "no async function" in outcome.failures["test_it"]


@module("@pytest.mark.freerun\n@freerun.test\nasync def test_it(): await freerun.yield_now()")
def test_marker_beside_the_decorator(outcome: Outcome) -> None:
    assert outcome.counts == {"passed": 1}


@module("""
    pytestmark = pytest.mark.freerun(worker_threads=2)

    async def test_it():
        assert freerun.Handle.current().metrics().num_workers == 2

    class TestIt:
        @pytest.mark.freerun(worker_threads=1)
        async def test_closest_marker_wins(self):
            assert freerun.Handle.current().metrics().num_workers == 1
""")
def test_module_and_class_markers(outcome: Outcome) -> None:
    assert outcome.counts == {"passed": 2}


@module("""
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
""")
def test_each_test_has_a_fresh_runtime(outcome: Outcome) -> None:
    assert outcome.counts == {"passed": 6}


@module("""
    @pytest.fixture
    def base():
        yield 40

    @pytest.mark.parametrize("x", [1, 2])
    async def test_it(base, x, tmp_path):
        assert 41 <= base + x <= 42 and tmp_path.is_dir()
""")
def test_fixtures_and_parameters(outcome: Outcome) -> None:
    assert outcome.counts == {"passed": 2}


@module("""
    async def helper(x):
        await freerun.yield_now()
        assert x == 2

    async def test_it():
        await helper(1)
""")
def test_failures_show_the_test(outcome: Outcome) -> None:
    assert outcome.counts == {"failed": 1}
    assert "assert 1 == 2" in outcome.failures["test_it"]


@module("""
    async def test_skip():
        pytest.skip("not today")

    @pytest.mark.xfail(strict=True)
    async def test_xfail():
        await freerun.yield_now()
        raise ValueError
""")
def test_skip_and_xfail(outcome: Outcome) -> None:
    assert outcome.counts == {"skipped": 1, "xfailed": 1}


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
        others=("-p", "no:cacheprovider"),
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
    result = run("", "", "--markers")  # test_auto_runs_all is strict about markers
    result.stdout.fnmatch_lines(["@pytest.mark.freerun(flavor=None, worker_threads=None*"])


@module("from freerun import test\n\n@test\nasync def test_it(): await freerun.yield_now()")
def test_importing_the_decorator_makes_no_test(outcome: Outcome) -> None:
    assert outcome.counts == {"passed": 1}


@module("""
    async def fails():
        raise ValueError("nobody looks")

    async def test_it(caplog):
        freerun.spawn(fails)
        while not caplog.records:
            await freerun.time.sleep(0.001)
        assert "nobody took its result" in caplog.text
""")
def test_unhandled_failures_are_logged(outcome: Outcome) -> None:
    assert outcome.counts == {"passed": 1}
