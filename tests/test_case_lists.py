"""The lists of cases in docs/ say which test covers what: each of those tests is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
C_TESTS = ROOT / "freerun" / "_core" / "tests"


def defined_in(*paths: Path) -> set[str]:
    return {name for path in paths for name in re.findall(r"\b(test_\w+)\(", path.read_text())}


def rows(document: str) -> list[tuple[str, str]]:
    """The first and the last cell of every row."""
    lines = (ROOT / "docs" / document).read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [(first, last) for first, *_, last in cells]


@pytest.mark.parametrize("document", ["sync-tests.md", "task-tests.md"])
def test_the_tests_are_there(document: str) -> None:
    python = defined_in(*(ROOT / "tests").rglob("*.py"))
    c = defined_in(*C_TESTS.glob("*.c"))
    missing = []
    for _, here in rows(document):
        for named in re.findall(r"`([^`]+)`", here):
            for name in re.findall(r"\btest_\w+\b(?!\.)", named):
                if name not in (c if ".c:" in named else python | c):
                    missing.append(named)
    assert missing == []


def test_of_the_same_name() -> None:
    """Rows that say that our test is called as Tokio's."""
    python = defined_in(*(ROOT / "tests" / "sync").glob("*.py"))
    same = [tokio for tokio, here in rows("sync-tests.md") if here.endswith("the same name")]
    names = [name for tokio in same for name in re.findall(r"`(\w+)`", tokio)]
    assert len(names) > 40
    missing = [name for name in names if name not in python and f"test_{name}" not in python]
    assert missing == []
