"""`Config`: every setting of a runtime, checked, with its default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .unhandled import Policy

__all__ = ["Config", "thread_names"]

type Hook = Callable[[], object]
type TaskHook = Callable[[int], object]


def thread_names(prefix: str) -> Callable[[str, int], str]:
    """Names such as "web-0" for workers, "web-b0" for blocking threads. The system keeps 15 bytes of a name."""
    marks = {"worker": "", "blocking": "b", "isolated": "i"}

    def name(kind: str, index: int) -> str:
        return f"{prefix}-{marks[kind]}{index}" if kind in marks else f"{prefix}-{kind}"

    return name


_default_names = thread_names("freerun")


@dataclass(slots=True)
class Config:
    """What `Builder` collects and `Runtime` starts from."""

    current_thread: bool = False
    pinned: bool = False  # to the thread that builds it; current-thread only
    worker_threads: int | None = None  # None: the environment, else the CPUs, when the runtime is built
    max_blocking_threads: int = 512
    thread_keep_alive: float = 10.0
    thread_name: Callable[[str, int], str] = _default_names
    thread_stack_size: int = 0  # 0: the system's
    io: bool = True
    time: bool = True
    driver: str = "auto"
    workers: str = "auto"
    event_interval: int = 61
    global_queue_interval: int = 0  # 0: the engine's choice
    lifo_slot: bool = True
    stand_in: bool = True
    start_paused: bool = False
    rng_seed: int | None = None
    slow_poll_warning: float = 10.0
    unhandled: Policy = "log"
    on_thread_start: Hook | None = None
    on_thread_stop: Hook | None = None
    on_thread_park: Hook | None = None
    on_thread_unpark: Hook | None = None
    on_task_spawn: TaskHook | None = None
    on_task_terminate: TaskHook | None = None
