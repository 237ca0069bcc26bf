"""A lint of the engine's C: comments that cite a function, an invariant or a test must cite one that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "freerun" / "_core"
SOURCES = sorted([*CORE.glob("rt/*.[ch]"), *CORE.glob("py/*.[ch]")])
IDS = [str(path.relative_to(CORE)) for path in SOURCES]

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
FUNCTION = re.compile(r"\b([a-z_][a-z0-9_]*)\(")
CITED_CALL = re.compile(r"\b((?:fr_)?[a-z0-9]+(?:_[a-z0-9]+)+)\(\)")
DEFINED = re.compile(r"^(?:static )?(?:inline )?[\w *]*?\b(\w+)\([^;]*?\)\s*\{", re.MULTILINE)
DECLARED = re.compile(r"\b(\w+)\([^;{}]*\);")
INVARIANT_CITED = re.compile(r"\[([A-Z]{1,2}\d+)\]")
INVARIANT_STATED = re.compile(r"\b([A-Z]{1,2}\d+)\s")
PYTHON_NAMES = {"spawn_blocking", "block_in_place", "block_on", "yield_now", "enable_io", "enable_time",
                "enable_all", "shutdown_background", "consume_budget", "current_task", "fetch_add"}  # fmt: skip


def comments(path: Path) -> list[str]:
    return COMMENT.findall(path.read_text())


def without_comments(path: Path) -> str:
    return COMMENT.sub("", path.read_text())


ALL_CODE = "\n".join(without_comments(path) for path in SOURCES)
KNOWN = set(DEFINED.findall(ALL_CODE)) | set(DECLARED.findall(ALL_CODE)) | set(FUNCTION.findall(ALL_CODE))
STATED = {tag for path in SOURCES for text in comments(path) for tag in INVARIANT_STATED.findall(text)}


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 20
    assert "fr_queue_push_owner" in KNOWN
    assert "Q5" in STATED


def test_every_free_list_knows_its_type() -> None:
    """Without it what is freed never gets into the list."""
    kinds = set(re.findall(r"\bFR_FREE_(?!KINDS)[A-Z_]+(?=,)", (CORE / "py" / "module.h").read_text()))
    assert len(kinds) > 10
    assert kinds == set(re.findall(r"free\[(\w+)\]\.type =", (CORE / "py" / "worker.c").read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_cited_functions_exist(path: Path) -> None:
    cited = {name for text in comments(path) for name in CITED_CALL.findall(text)}
    missing = sorted(name for name in cited - PYTHON_NAMES if name not in KNOWN)
    assert not missing, f"{path.name} cites functions that do not exist: {missing}"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_cited_invariants_are_stated(path: Path) -> None:
    cited = {tag for text in comments(path) for tag in INVARIANT_CITED.findall(text)}
    missing = sorted(cited - STATED)
    assert not missing, f"{path.name} cites invariants that no header states: {missing}"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_proofs_exist(path: Path) -> None:
    for text in comments(path):
        for cited in re.findall(r"(?:freerun/_core/)?(tests/[\w/]+(?:\.\w+)?/?)", text):
            here = cited.rstrip("/")
            assert (ROOT / here).exists() or (CORE / here).exists(), f"{path.name} cites {cited}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name == "rt"], ids=lambda p: p.name)
def test_rt_never_includes_python(path: Path) -> None:
    assert "Python.h" not in without_comments(path)


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_no_stand_alone_fences(path: Path) -> None:
    """But where sanitizers are given something else instead."""
    seen_by_sanitizers = re.sub(
        r"(#ifdef __SANITIZE_THREAD__.*?\n)#else\n.*?(?=#endif)", r"\1", without_comments(path), flags=re.DOTALL
    )
    assert "atomic_thread_fence" not in seen_by_sanitizers, "thread sanitizers cannot see fences"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_header_comment(path: Path) -> None:
    first = path.read_text().lstrip()
    if path.suffix == ".h":
        assert first.startswith("/* "), f"{path.name} does not open with what it is and who may call it"
