"""`Engine`: a running core and what belongs to it; how it starts and how it is shut down."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

from freerun._core._native import Core
from freerun.interp._isolated import Isolated

from . import atexit, companions, drivers, futurelock, signals, slow_poll
from .asyncgens import AsyncGenerators
from .background import background_thread
from .config import Config
from .cpus import default_worker_threads
from .log import logger
from .task_info import TaskInfo
from .unhandled import Unhandled

__all__ = ["DEFAULT_GRACE", "Engine"]

DEFAULT_GRACE = 10.0
"""Seconds that tasks get for their cleanup, and blocking calls to end, when a runtime is shut down."""


class Engine:
    """Thread safety: every method may be called from any thread."""

    __slots__ = ("_asyncgens", "_finisher", "_pid", "core", "isolated", "unhandled")

    def __init__(self, config: Config) -> None:
        atexit.check_running()
        self._pid = os.getpid()
        self._finisher: threading.Thread | None = None  # of shutdown_background()
        self._asyncgens = AsyncGenerators()
        self.unhandled = Unhandled(config.unhandled)
        workers = config.worker_threads or default_worker_threads()[0]
        self.isolated = Isolated(config.workers, workers, config.thread_name)
        self.core = self._start(config, 1 if config.current_thread else workers)
        self.isolated.open(self.core)
        self._asyncgens.core = self.core
        self.unhandled.stop = self.shutdown_background
        atexit.add(self)

    def _start(self, config: Config, threads: int) -> Core:
        io_uring = drivers.wants_io_uring(config.driver)
        core = Core(
            current_thread=config.current_thread,
            pinned=config.pinned,
            worker_threads=threads,
            max_blocking_threads=config.max_blocking_threads,
            thread_keep_alive=config.thread_keep_alive,
            thread_stack_size=config.thread_stack_size,
            event_interval=config.event_interval,
            global_queue_interval=config.global_queue_interval,
            lifo_slot=config.lifo_slot,
            stand_in=config.stand_in,
            io=config.io,
            time=config.time,
            io_uring=io_uring,
            start_paused=config.start_paused,
            rng_seed=config.rng_seed,
            slow_poll_warning=config.slow_poll_warning,
            thread_name=config.thread_name,
            unhandled=self.unhandled,
            slow_poll=slow_poll.report,
            futurelock=futurelock.report,
            agen_first=self._asyncgens.first,
            agen_final=self._asyncgens.final,
            drained=self._asyncgens.drained,
            on_thread_start=config.on_thread_start,
            on_thread_stop=config.on_thread_stop,
            on_thread_park=config.on_thread_park,
            on_thread_unpark=config.on_thread_unpark,
            on_task_spawn=config.on_task_spawn,
            on_task_terminate=config.on_task_terminate,
        )
        drivers.say_if_refused(io_uring, core)
        return core

    @property
    def forked(self) -> bool:
        """Whether this is the child of a fork: the engine's threads stayed in the parent."""
        return os.getpid() != self._pid

    def shutdown(self, timeout: float) -> None:
        """Cancel every task, close the generators, stop the threads; say what did not end in time. Idempotent."""
        if self.core.on_worker():
            raise RuntimeError(
                "shutdown() waits for every task, so a task cannot call it; call shutdown_background() here, or "
                "shutdown() after block_on() has returned"
            )
        deadline = time.monotonic() + timeout
        with signals.Deferred():  # a shutdown is whole, or it leaves threads behind
            companions.cancel(self.core, timeout)
            leftovers = self.core.shutdown(timeout)
            companions.shutdown(self.core, max(0.0, deadline - time.monotonic()))
            self.isolated.close(max(0.0, deadline - time.monotonic()))
            self._finish()
            if leftovers:
                _report(leftovers, timeout)
        finisher = self._finisher
        if finisher is not None and finisher is not threading.current_thread():
            finisher.join(timeout)  # it finds everything done

    def cancel(self) -> None:
        """Refuse new tasks, cancel the others; wait for nothing, end nothing."""
        self.core.shutdown_background()
        companions.cancel(self.core, DEFAULT_GRACE)

    def shutdown_background(self) -> None:
        """Cancel every task and wait for nothing; a thread of its own waits and stops the engine's threads."""
        self.cancel()
        with contextlib.suppress(RuntimeError):  # the interpreter is exiting: atexit does it
            self._finisher = background_thread(self.shutdown, DEFAULT_GRACE, name="freerun-shutdown")

    def _finish(self) -> None:
        """Let go of the core, which holds the callbacks that lead here."""
        self._asyncgens.close_rest()
        self.unhandled.stop = None
        atexit.discard(self)


def _report(leftovers: list[dict[str, Any]], timeout: float) -> None:
    lines = [f"\n  {TaskInfo._from(each)} ({each.get('state', 'unknown')})" for each in leftovers]
    logger().warning("shutdown did not wait longer than %.3g s; this did not end:%s", timeout, "".join(lines))
