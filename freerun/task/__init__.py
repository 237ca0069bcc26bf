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

from .abort_on_drop import AbortOnDropHandle
from .join_map import JoinMap
from .join_set import JoinSet
from .spawn import spawn, spawn_blocking
from .task_group import TaskGroup

__all__ = [
    "AbortHandle",
    "AbortOnDropHandle",
    "CancelScope",
    "JoinError",
    "JoinHandle",
    "JoinMap",
    "JoinSet",
    "TaskGroup",
    "block_in_place",
    "consume_budget",
    "current",
    "join",
    "select",
    "spawn",
    "spawn_blocking",
    "try_join",
    "unconstrained",
    "yield_now",
]
