"""The pytest plugin: runs async tests, each on a fresh freerun runtime.

* `@pytest.mark.freerun(flavor=..., worker_threads=..., start_paused=..., timeout=...)` runs an `async def` test.
* ini `freerun_mode = auto` runs every `async def` test that no other plugin's marker claims; `strict`, the default,
  only marked ones. `--freerun-mode` overrides it.
* ini `freerun_timeout`, or `--freerun-timeout`: seconds after which a test counts as hung (60; 0: never). Then every
  task's stack is written to stderr and the test fails. With pytest-timeout the earlier one counts, and the dump still
  comes.

Nothing else is imported here until a test needs it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ._options import Options

__all__: list[str] = []

_MODES = ("strict", "auto")
_FOREIGN_MARKERS = ("asyncio", "anyio", "trio", "twisted", "tornado", "curio", "asyncio_cooperative")
_TIMEOUT = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini settings."""
    group = parser.getgroup("freerun")
    group.addoption("--freerun-mode", choices=_MODES, default=None, help="which async tests freerun runs")
    group.addoption("--freerun-timeout", type=float, default=None, help="seconds until a test counts as hung; 0: never")
    parser.addini(
        "freerun_mode", "which async tests freerun runs: strict (marked ones) or auto (all)", default="strict"
    )
    parser.addini("freerun_timeout", "seconds until a test counts as hung; 0: never", default="60")


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings and declare the marker."""
    arguments = "flavor=None, worker_threads=None, start_paused=False, timeout=None"
    config.addinivalue_line("markers", f"freerun({arguments}): run this async test on a fresh freerun runtime")
    if _mode(config) not in _MODES:
        raise pytest.UsageError(f"freerun_mode must be 'strict' or 'auto', not {_mode(config)!r}")
    _timeout(config)


def _mode(config: pytest.Config) -> str:
    mode: str = config.getoption("freerun_mode") or config.getini("freerun_mode")
    return mode


def _timeout(config: pytest.Config) -> float:
    option = config.getoption("freerun_timeout")
    text = config.getini("freerun_timeout") if option is None else option
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise pytest.UsageError(f"freerun_timeout must be a number of seconds, 0 for no limit, not {text!r}")
    return seconds


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> list[Any] | None:
    """`from freerun import test` is no test."""
    del collector
    return [] if name == "test" and getattr(obj, "__test__", True) is False else None


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """pytest-timeout tells its limit for this test."""
    item.stash[_TIMEOUT] = float(settings.timeout or 0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Put a function that runs the test in the place of the async one; pytest calls it."""
    from ._runner import settings

    settings.timeout = _timeout(pyfuncitem.config)
    settings.outer_timeout = pyfuncitem.stash.get(_TIMEOUT, None)
    if (options := _options(pyfuncitem)) is not None:
        _replace(pyfuncitem, options)


def _options(item: pytest.Function) -> Options | None:
    """How to run this test; `None` if it is not freerun's."""
    from ._options import Options

    marker = item.get_closest_marker("freerun")
    if not inspect.iscoroutinefunction(_async_function(item)):
        if marker is not None and not hasattr(item.obj, "__wrapped__"):
            pytest.fail(f"{item.name} is marked freerun, but is no async function", pytrace=False)
        return None
    if marker is None and not _is_free(item):
        return None
    try:
        return Options.checked(*marker.args, **marker.kwargs) if marker else Options.checked()
    except (TypeError, ValueError) as error:
        why = str(error)
    pytest.fail(f"{item.name}, marker freerun: {why}", pytrace=False)


def _is_free(item: pytest.Function) -> bool:
    """Whether an unmarked async test is freerun's: mode auto, and nobody else wants it."""
    if _mode(item.config) != "auto" or type(item).__module__.split(".")[0] == "pytest_asyncio":
        return False
    return not any(item.get_closest_marker(name) for name in _FOREIGN_MARKERS)


def _async_function(item: pytest.Function) -> Any:
    """The test itself; with hypothesis it is inside."""
    hypothesis = getattr(item.obj, "hypothesis", None)
    return getattr(hypothesis, "inner_test", item.obj)


def _replace(item: pytest.Function, options: Options) -> None:
    function = _runs(_async_function(item), options, item.name)
    if hasattr(item.obj, "hypothesis"):
        item.obj.hypothesis.inner_test = function
    else:
        item.obj = function


def _runs(async_fn: Callable[..., Any], options: Options, name: str) -> Callable[..., None]:
    from ._runner import run_test

    @functools.wraps(async_fn)
    def run(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        run_test(functools.partial(async_fn, *args, **kwargs), options, name)

    return run
