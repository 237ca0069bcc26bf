"""`TaskInfo`: what reports say about a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["TaskInfo"]


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task, described at one moment, for reports and dumps.

    `id` is unique in its runtime; `name` was given to `spawn`; `state` is one of `"spawned"`, `"ready"`, `"running"`,
    `"waiting"`, `"finished"`; `spawned_at` is `"file:line in function"`; `kind` is `"async"` or `"blocking"`;
    `cancelled` says that it was aborted. Thread safety: immutable.

    Example::

        from freerun.runtime import TaskInfo

        assert str(TaskInfo(7, "ping", "waiting", "app.py:3 in main")) == "task 7 'ping', spawned at app.py:3 in main"
    """

    id: int
    name: str | None = None
    state: str = "unknown"
    spawned_at: str | None = None
    kind: str = "async"
    cancelled: bool = False

    @classmethod
    def _from(cls, description: Mapping[str, Any]) -> Self:
        """Make one of the engine's description."""
        return cls(**{key: description[key] for key in cls.__slots__ if key in description})

    def __str__(self) -> str:
        what = "blocking call" if self.kind == "blocking" else "task"
        name = f" {self.name!r}" if self.name else ""
        where = f", spawned at {self.spawned_at}" if self.spawned_at else ""
        return f"{what} {self.id}{name}{where}"
