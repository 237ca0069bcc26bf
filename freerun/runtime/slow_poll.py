"""The report on a worker that is stuck in one poll: which task, where it was spawned, where it is."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from .log import logger
from .stacks import format_frames, thread_stacks
from .task_info import TaskInfo

__all__ = ["report"]


def report(worker: int, thread: int, description: Mapping[str, Any] | None, seconds: float) -> None:
    """Log one warning. The engine calls it on the driver's thread; it never raises."""
    with contextlib.suppress(Exception):
        task = "a task" if description is None else str(TaskInfo._from(description))
        stack = format_frames(thread_stacks().get(thread, [])) or "  (no Python frame)\n"
        logger().warning(
            "%s has been in one poll for %.1f s, by %s. Long work belongs in spawn_blocking() or "
            "block_in_place(). The thread's stack:\n%s",
            f"worker {worker}" if worker >= 0 else "the stand-in for the workers",
            seconds,
            task,
            stack.rstrip("\n"),
        )
