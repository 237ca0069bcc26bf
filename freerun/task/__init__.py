"""Tasks: spawning them, waiting for them, giving way to others. Tokio: `tokio::task`."""

from __future__ import annotations

from freerun._core._native import (
    AbortHandle,
    CancelScope,
    JoinHandle,
    block_in_place,
    consume_budget,
    join,
    select,
    try_join,
    unconstrained,
    yield_now,
)
from freerun._core._native import current_task as current
from freerun._errors import JoinError
from freerun.runtime.local_runtime import LocalRuntime

from .abort_on_drop import AbortOnDropHandle
from .cancellation_token import CancellationToken, DropGuard, TokenCancelled
from .join_map import JoinMap
from .join_set import JoinSet
from .local_pool import LocalPool, spawn_pinned
from .spawn import spawn, spawn_blocking
from .spawn_local import spawn_local
from .task_group import TaskGroup
from .task_local import TaskLocal, task_local
from .task_tracker import TaskTracker, TaskTrackerToken

__all__ = [
    "AbortHandle",
    "AbortOnDropHandle",
    "CancelScope",
    "CancellationToken",
    "DropGuard",
    "JoinError",
    "JoinHandle",
    "JoinMap",
    "JoinSet",
    "LocalPool",
    "LocalRuntime",
    "TaskGroup",
    "TaskLocal",
    "TaskTracker",
    "TaskTrackerToken",
    "TokenCancelled",
    "block_in_place",
    "consume_budget",
    "current",
    "join",
    "select",
    "spawn",
    "spawn_blocking",
    "spawn_local",
    "spawn_pinned",
    "task_local",
    "try_join",
    "unconstrained",
    "yield_now",
]
