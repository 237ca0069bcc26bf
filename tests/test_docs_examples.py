"""Every example in a docstring and every python block in the documents runs.

A docstring's example stands under a line "Example::", indented. A document's stands between ```python fences; one that
cannot run says ```python no-run. Each runs by itself, in a namespace of its own, and its asserts say what it gives.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import freerun
from freerun._core import _native

PACKAGE = Path(freerun.__file__).parent
ROOT = Path(__file__).parent.parent

EXAMPLE = re.compile(r"^(?P<indent> *)Example::\n(?P<body>(?:\n|(?P=indent) +.*(?:\n|$))*)", re.MULTILINE)
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A piece of code and where it stands."""

    file: str
    line: int
    code: str

    def run(self) -> None:
        # The empty lines make a traceback point into the file.
        padded = "\n" * (self.line - 1) + self.code
        exec(compile(padded, self.file, "exec"), {"__name__": "__example__"})


def examples_in(text: str, file: str, first_line: int) -> Iterator[Example]:
    """The examples of one docstring that begins at `first_line`."""
    for match in EXAMPLE.finditer(text):
        line = first_line + text.count("\n", 0, match.start("body"))
        yield Example(file, line, textwrap.dedent(match["body"]))


def in_docstrings() -> Iterator[Example]:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                document = node.body[0] if node.body else None
                if isinstance(document, ast.Expr) and isinstance(document.value, ast.Constant):
                    yield from examples_in(str(document.value.value), str(path), document.lineno)


def in_native_docstrings() -> Iterator[Example]:
    """The compiled module's types, their methods, its functions."""
    for name, value in vars(_native).items():
        members = vars(value).items() if isinstance(value, type) else ()
        for path, each in [(name, value), *((f"{name}.{member}", each) for member, each in members)]:
            if not path.startswith("_") and not isinstance(each, ModuleType):
                yield from examples_in(inspect.cleandoc(getattr(each, "__doc__", None) or ""), f"<_native.{path}>", 1)


def in_documents() -> Iterator[Example]:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text()
        for match in FENCE.finditer(text):
            if match["info"].strip() == "python":
                line = 1 + text.count("\n", 0, match.start("body"))
                yield Example(str(path), line, match["body"])


def identity(example: Example) -> str:
    for base in (PACKAGE.parent, ROOT):
        if Path(example.file).is_relative_to(base):
            return f"{Path(example.file).relative_to(base)}:{example.line}"
    return example.file


@pytest.mark.parametrize("example", [*in_docstrings(), *in_native_docstrings(), *in_documents()], ids=identity)
def test_example(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    example.run()
    # Nothing failed where nobody looked.
    assert "Traceback" not in capsys.readouterr().err


def test_no_script_hides_a_module_of_python() -> None:
    """Its folder is the first in which a script looks for modules: `select.py` there would break every neighbour."""
    scripts = [path for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    assert scripts
    assert not {path.stem for path in scripts} & sys.stdlib_module_names


def test_the_examples_are_found() -> None:
    """A change of format must not pass for a set of examples that all run."""
    assert len(list(in_docstrings())) > 40
    assert len(list(in_documents())) > 10


PUBLIC = [
    freerun,
    freerun.fs,
    freerun.interp,
    freerun.io,
    freerun.io.codec,
    freerun.lowlevel,
    freerun.net,
    freerun.process,
    freerun.runtime,
    freerun.signal,
    freerun.stream,
    freerun.sync,
    freerun.sync.broadcast,
    freerun.sync.mpsc,
    freerun.sync.oneshot,
    freerun.sync.watch,
    freerun.task,
    freerun.testing,
    freerun.time,
]


def members(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Public names, and the public methods of public classes."""
    for name in module.__all__:
        value = getattr(module, name)
        yield f"{module.__name__}.{name}", value
        if isinstance(value, type):
            for member, each in vars(value).items():
                if not member.startswith("_"):
                    yield f"{module.__name__}.{name}.{member}", each


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names_have_docstrings(module: ModuleType) -> None:
    missing = [path for path, value in members(module) if needs_docstring(value) and not value.__doc__]
    assert missing == []
    assert module.__doc__


def needs_docstring(value: object) -> bool:
    """Slots of dataclasses are described by their class."""
    return not inspect.ismemberdescriptor(value) and (callable(value) or isinstance(value, property | classmethod))
