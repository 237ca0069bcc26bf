"""`dump_tasks`: where every task is."""

from __future__ import annotations

import gc
import threading
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from .stacks import Frame, format_frames, thread_stacks
from .task_info import TaskInfo

if TYPE_CHECKING:
    from freerun._core._native import Core

__all__ = ["await_stack", "dump_tasks"]

# Coroutines, generators and asynchronous generators: the frame, and what it awaits.
_KINDS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
_DEEPEST = 200


def dump_tasks(core: Core) -> str:
    """Every incomplete task with its stack, as text."""
    found: list[tuple[TaskInfo, list[Frame] | None]] = []

    def visit(description: Mapping[str, Any], coro: Coroutine[Any, Any, Any] | None) -> None:
        found.append((TaskInfo._from(description), None if coro is None else await_stack(coro)))

    core.dump(visit)
    found.sort(key=lambda each: each[0].id)
    text = "".join(_section(task, frames) for task, frames in found)
    running = any(task.state == "running" for task, _ in found)
    count = "1 task" if len(found) == 1 else f"{len(found)} tasks"
    return f"{count}\n{text}{_threads() if running else ''}"


def _section(task: TaskInfo, frames: list[Frame] | None) -> str:
    state = f"{task.state}, aborted" if task.cancelled else task.state
    head = f"{task} ({state})\n"
    if frames is None:
        why = "  running: see the threads below\n" if task.state == "running" else "  not started\n"
        return head + why
    return head + (format_frames(frames) or "  (no frame)\n")


def _threads() -> str:
    """What runs right now can only be seen on the threads."""
    parts = ["threads\n"]
    for thread, frames in thread_stacks().items():
        if frames and thread != threading.get_ident():
            parts.append(f"  thread {thread:#x}\n{format_frames(frames, '  ')}")
    return "".join(parts)


def await_stack(awaitable: object) -> list[Frame]:
    """The chain of frames that a suspended coroutine waits through, outermost first.

    Nobody may resume it meanwhile.
    """
    frames: list[Frame] = []
    current: object = awaitable
    for _ in range(_DEEPEST):
        current = _next(current, frames)
        if current is None:
            break
    return frames


def _next(current: object, frames: list[Frame]) -> object:
    """Note the frame of `current` and return what it awaits."""
    for frame_name, await_name in _KINDS:
        if hasattr(current, frame_name):
            frame = getattr(current, frame_name)
            if frame is not None:
                frames.append((frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname))
            return getattr(current, await_name)
    return _wrapped(current)


def _wrapped(current: object) -> object:
    """What `aiter.asend()`, `coro.__await__()` and the like wrap; they have no attribute for it."""
    if type(current).__name__ not in {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}:
        inner = getattr(current, "_coro", None)
        return inner if hasattr(inner, "cr_frame") or hasattr(inner, "_coro") else None
    kinds = [name for name, _ in _KINDS]
    return next((each for each in gc.get_referents(current) if any(hasattr(each, kind) for kind in kinds)), None)
