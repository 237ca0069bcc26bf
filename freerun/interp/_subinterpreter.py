"""Interpreters with a GIL of their own: `concurrent.interpreters`, or `interpreters-pep-734` on 3.13."""

from __future__ import annotations

from typing import Any

__all__ = ["run"]


def _api() -> Any:
    try:
        from concurrent import interpreters  # type: ignore[attr-defined,unused-ignore]  # 3.14
    except ImportError:
        from interpreters_backport import interpreters
    return interpreters


def run(source: str) -> None:
    """Make an interpreter, run this in it, end it; on the calling thread, for as long as it takes.

    Errors: `RuntimeError` with what was raised over there.
    """
    api = _api()
    interpreter = api.create()
    try:
        interpreter.exec(source)
    except api.ExecutionFailed as error:
        raise RuntimeError(f"the interpreter failed: {error}") from None
    finally:
        interpreter.close()
