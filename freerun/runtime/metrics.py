"""`RuntimeMetrics`: a snapshot of a runtime's counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

__all__ = ["RuntimeMetrics", "WorkerMetrics"]


def _known(cls: type, counters: Mapping[str, Any]) -> dict[str, Any]:
    """The counters that the class has; an engine that counts more, or less, is no error."""
    return {field.name: counters[field.name] for field in fields(cls) if field.name in counters}


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """One worker's counters since the runtime started, and its queue now.

    `polls` tasks polled; `local_queue_depth` tasks in its queue; `backlog_ns` nanoseconds of those that others could
    take off it, as far as their costs are known, which is what makes others steal (0 with one worker); `parks` times it
    went to sleep; `steals` tasks taken from others, in `steal_attempts` tries; `overflows` times its ring was full and
    half of it was put aside;
    `lifo_hits` tasks run from the slot for the task woken last; `driver_turns` times it looked for I/O and timers;
    `stuck` whether it has been in one poll for long, other than to spawn. Thread safety: immutable.
    Tokio: `RuntimeMetrics::worker_*`.

    Example::

        import freerun

        async def main() -> int:
            return freerun.Handle.current().metrics().workers[0].polls

        assert freerun.run(main, worker_threads=1) >= 0
    """

    polls: int = 0
    local_queue_depth: int = 0
    backlog_ns: int = 0
    parks: int = 0
    steals: int = 0
    steal_attempts: int = 0
    overflows: int = 0
    lifo_hits: int = 0
    driver_turns: int = 0
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeMetrics:
    """A runtime's counters at one moment.

    `driver` `"epoll"` or `"io_uring"`, which then does open files, too; `num_workers` worker threads; `alive_tasks`
    tasks that have not ended; `spawned_tasks` since the start; `global_queue_depth` tasks in the queue shared by all
    workers; `num_blocking_threads` and `num_idle_blocking_threads` threads of the blocking pool; `blocking_queue_depth`
    calls that wait for one; `io_registered` descriptors with the driver; `stand_in_polls` tasks polled while every
    worker was stuck; `workers` each worker's own. Counters are read one after another while
    the runtime runs, so they need not add up. Thread safety: immutable. Tokio: `tokio::runtime::RuntimeMetrics`.

    Example::

        import freerun

        with freerun.Builder().worker_threads(2).build() as rt:
            metrics = rt.metrics()
            assert metrics.num_workers == len(metrics.workers) == 2
    """

    driver: str = ""
    num_workers: int = 0
    alive_tasks: int = 0
    spawned_tasks: int = 0
    global_queue_depth: int = 0
    num_blocking_threads: int = 0
    num_idle_blocking_threads: int = 0
    blocking_queue_depth: int = 0
    io_registered: int = 0
    stand_in_polls: int = 0
    workers: tuple[WorkerMetrics, ...] = ()

    @classmethod
    def _from(cls, counters: Mapping[str, Any]) -> Self:
        """Make one of the engine's counters."""
        known = _known(cls, counters)
        known["workers"] = tuple(WorkerMetrics(**_known(WorkerMetrics, each)) for each in counters.get("workers", ()))
        return cls(**known)
