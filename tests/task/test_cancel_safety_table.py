"""docs/cancel-safety.md is complete: whatever the package offers to be awaited is in its table, and says so itself.

And what the table points at is there. That it is true, the tests that it points at show.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import freerun
from freerun._core import _native

ROOT = Path(__file__).parent.parent.parent
MODULES = [
    "freerun",
    "freerun.task",
    "freerun.sync",
    "freerun.sync.mpsc",
    "freerun.sync.oneshot",
    "freerun.sync.broadcast",
    "freerun.sync.watch",
    "freerun.time",
    "freerun.stream",
    "freerun.net",
    "freerun.io",
    "freerun.io.codec",
    "freerun.fs",
    "freerun.process",
    "freerun.signal",
    "freerun.interp",
    "freerun.lowlevel",
]
BLOCKS = {"CancelScope", "Timeout"}
"""They are their own `__aenter__()`, which does not wait."""


def _stub() -> dict[tuple[str, str], str]:
    """What the native functions and methods return, by class ("" for functions) and name."""
    tree = ast.parse((Path(freerun.__file__).parent / "_core" / "_native.pyi").read_text())
    found = {}
    for node in tree.body:
        for owner, each in (
            [(node.name, inner) for inner in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        ):
            if isinstance(each, ast.FunctionDef) and each.returns is not None:
                found[owner, each.name] = ast.unparse(each.returns)
    return found


STUB = _stub()
AWAITABLE = {owner for owner, name in STUB if name == "__await__"} - {"JoinHandle"}


def _waits(owner: type | None, name: str, value: Any) -> bool:
    if name == "__await__" or inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        return True
    if inspect.isfunction(value):
        return "Awaitable[" in str(value.__annotations__.get("return", ""))
    if not callable(value):
        return False
    known = [stub for stub, _ in STUB if owner is not None and getattr(_native, stub, None) is owner]
    returned = STUB.get((known[0] if known else owner.__name__ if owner else "", name), "")
    given = returned.partition("[")[0]
    is_made = name.startswith(("try_", "blocking_")) or name == "split"  # that has been awaited, as it were
    return given in {"Awaitable", "_ReserveMany"} or (given in AWAITABLE and not is_made)


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name in dir(cls):
        if name == "__await__" or not name.startswith("_"):
            owner = next((base for base in cls.__mro__ if name in base.__dict__), cls)
            value = inspect.getattr_static(cls, name)
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if _waits(owner, name, value) and not (name == "__await__" and cls.__name__ in BLOCKS):
                yield name, value


def _public() -> dict[str, tuple[str, str, str]]:
    """Everything that can be awaited: what to look for in the table, and the docstrings, its own and its class's."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if getattr(value, "_is_protocol", False):
                continue
            if isinstance(value, type) and not issubclass(value, BaseException):
                for method, function in _methods(value):
                    word = name if method == "__await__" else method
                    own = value.__doc__ if method == "__await__" else function.__doc__
                    classes = " ".join(base.__doc__ or "" for base in value.__mro__ if base is not object)
                    found[f"{module.__name__}.{name}.{method}"] = word, own or "", classes
            elif not inspect.ismodule(value) and _waits(None, name, value):
                found[f"{module.__name__}.{name}"] = name, value.__doc__ or "", ""
    return found


PUBLIC = _public()


def _table() -> list[list[str]]:
    text = (ROOT / "docs" / "cancel-safety.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_it_looks_at_the_package() -> None:
    """Or the other tests would show nothing."""
    assert len(PUBLIC) > 300
    for known in (
        "freerun.sync.mpsc.Receiver.recv",
        "freerun.sync.mpsc.Sender.reserve_many",
        "freerun.JoinHandle.__await__",
    ):
        assert known in PUBLIC
    assert "freerun.sync.Mutex.try_lock" not in PUBLIC


@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.startswith("freerun.fs.")])
def test_listed(name: str) -> None:
    """`freerun.fs` as a whole."""
    listed = {
        word for row in _table() for quoted in re.findall(r"`([^`]*)`", row[0]) for word in re.findall(r"\w+", quoted)
    }
    assert PUBLIC[name][0] in listed


@pytest.mark.parametrize("name", PUBLIC)
def test_stated(name: str) -> None:
    """In its docstring, in the one that it refers to, or in its class's."""
    _, own, of_class = PUBLIC[name]
    assert re.search(r"cancel|\b(as|see) `|Do nothing", own, re.IGNORECASE) or re.search(
        r"cancel", of_class, re.IGNORECASE
    )


def test_what_it_points_at_is_there() -> None:
    functions = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    for row in _table():
        if row[0].startswith("**"):
            continue
        assert len(row) == 3, row
        pointed = re.findall(r"`([^`]*)`", row[2])
        named = [
            name for each in pointed for name in re.findall(r"\btest_\w+(?!\.py)\b", each) if f"{name}.py" not in each
        ]
        assert named or re.search(r"\]\(|all of them|its task", row[2]), row
        for name in named:
            assert name in functions, (row[0], name)
        for path in re.findall(r"[\w/]+\.py", row[2]):
            assert (ROOT / "tests" / path).exists(), path
