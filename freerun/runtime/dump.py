"""`dump_tasks`: where every task is."""

from __future__ import annotations

import gc
import threading
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .stacks import Frame, format_frames, thread_stacks
from .task_info import TaskInfo

if TYPE_CHECKING:
    from freerun._core._native import Core

__all__ = ["Stack", "await_stack", "dump_tasks", "format_stack"]

# Coroutines, generators and asynchronous generators: the frame, and what it awaits.
_KINDS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
_DEEPEST = 200
_WIDEST = 100
# Generators of ours that step what they await by hand, and the variable that has it.
_BY_HAND = {
    ("freerun.stream._polling", "first"): "pollable",
    ("freerun.stream._polling", "cancel"): "left",
    ("freerun.task.task_local", "TaskLocal._steps"): "iterator",
}


@dataclass(slots=True)
class Stack:
    """The frames that something awaited waits in, outermost first, and then the branches that the last one waits for.

    `end` is the type of what is awaited last, if that has no frame: a sleep, a lock.
    """

    frames: list[Frame] = field(default_factory=list)
    branches: list[tuple[str, Stack]] = field(default_factory=list)
    end: str = ""


def dump_tasks(core: Core) -> str:
    """Every incomplete task with its stack, as text."""
    found: list[tuple[TaskInfo, Stack | None]] = []

    def visit(description: Mapping[str, Any], coro: Coroutine[Any, Any, Any] | None) -> None:
        found.append((TaskInfo._from(description), None if coro is None else await_stack(coro)))

    core.dump(visit)
    found.sort(key=lambda each: each[0].id)
    text = "".join(_section(task, stack) for task, stack in found)
    running = any(task.state == "running" for task, _ in found)
    count = "1 task" if len(found) == 1 else f"{len(found)} tasks"
    return f"{count}\n{text}{_threads() if running else ''}"


def _section(task: TaskInfo, stack: Stack | None) -> str:
    state = f"{task.state}, aborted" if task.cancelled else task.state
    head = f"{task} ({state})\n"
    if stack is None:
        why = "  running: see the threads below\n" if task.state == "running" else "  not started\n"
        return head + why
    return head + format_stack(stack)


def format_stack(stack: Stack, indent: str = "") -> str:
    """Frames as a traceback shows them; branches below, further in."""
    if not stack.frames and not stack.branches:
        return f"{indent}  (no frame)\n"
    parts = [format_frames(stack.frames, indent)]
    for label, branch in stack.branches:
        if branch.frames or branch.branches:
            parts.append(f"{indent}  {label}\n{format_stack(branch, indent + '  ')}")
        else:
            parts.append(f"{indent}  {label}{': ' if branch.end else ''}{branch.end}\n")
    return "".join(parts)


def _threads() -> str:
    """What runs right now can only be seen on the threads."""
    parts = ["threads\n"]
    for thread, frames in thread_stacks().items():
        if frames and thread != threading.get_ident():
            parts.append(f"  thread {thread:#x}\n{format_frames(frames, '  ')}")
    return "".join(parts)


def await_stack(awaitable: object, deepest: int = _DEEPEST) -> Stack:
    """The frames that something suspended waits in, and those of all its branches. Nobody may resume it meanwhile."""
    stack = Stack()
    current: object = awaitable
    while current is not None and len(stack.frames) < deepest:
        branches = _of_group(current)
        if branches is None:
            stack.end = type(current).__name__
            current, branches = _next(current, stack.frames)
        if branches is not None:
            left = deepest - len(stack.frames) - 1
            stack.branches = [(label, await_stack(each, left)) for label, each in branches[:_WIDEST]]
            if len(branches) > _WIDEST:
                stack.branches.append((f"and {len(branches) - _WIDEST} more", Stack()))
            break
    return stack


def _of_group(current: object) -> list[tuple[str, object]] | None:
    """Those of `join` and `select`."""
    branches = getattr(current, "_branches", None)
    return None if branches is None else [(f"branch {label!r}", each) for label, each in branches]


def _next(current: object, frames: list[Frame]) -> tuple[object, list[tuple[str, object]] | None]:
    """Note the frame of `current`; what it awaits, or the branches that it polls."""
    for frame_name, await_name in _KINDS:
        if hasattr(current, frame_name):
            frame = getattr(current, frame_name)
            if frame is None:
                return None, None
            frames.append((frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname))
            by_hand = _BY_HAND.get((frame.f_globals.get("__name__", ""), frame.f_code.co_qualname))
            if by_hand is None:
                return getattr(current, await_name), None
            polled = frame.f_locals.get(by_hand)
            return (polled, None) if by_hand == "iterator" else (None, _strands(polled))
    return _wrapped(current), None


def _strands(polled: Iterable[Any] | None) -> list[tuple[str, object]]:
    """What a stream polls: sources, each of which has begun with its next item or not, and strands."""
    found: list[tuple[str, object]] = []
    for each in polled or ():
        strand = getattr(each, "_next", each)
        if strand is not None:
            found.append((getattr(each, "name", "awaitable"), strand))
    return found


def _wrapped(current: object) -> object:
    """What `aiter.asend()`, `coro.__await__()` and the like wrap; they have no attribute for it."""
    if type(current).__name__ not in {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}:
        return getattr(current, "_coro", None)
    kinds = [name for name, _ in _KINDS]
    return next((each for each in gc.get_referents(current) if any(hasattr(each, kind) for kind in kinds)), None)
