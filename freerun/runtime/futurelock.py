"""The report on a task that was given a lock and does not look: who is next in line waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any

from .dump import Stack, await_stack, format_stack
from .log import logger
from .stacks import thread_stacks
from .task_info import TaskInfo

__all__ = ["report"]


def report(description: Mapping[str, Any], coro: Coroutine[Any, Any, Any] | None, thread: int, seconds: float) -> None:
    """Log one warning. The engine calls it on the driver's thread; it never raises.

    `coro` is the task's while it waits and nobody runs it; `thread` the one that has it in a poll, or 0.
    """
    with contextlib.suppress(Exception):
        task = TaskInfo._from(description)
        stack = Stack(thread_stacks().get(thread, [])) if thread or coro is None else await_stack(coro)
        where = "is in one poll" if thread else "waits elsewhere"
        if description.get("in_stream"):
            where = "does not go on with the stream in which it awaits it"
        logger().warning(
            "%s was given a lock or a permit (Mutex, RwLock, Semaphore) for %.1f s now and %s: nobody polls what "
            "awaits it, so whoever is next in line waits in vain. Cancel, or await, what is not wanted any more. Its "
            "stack:\n%s",
            task,
            seconds,
            where,
            format_stack(stack).rstrip("\n"),
        )
