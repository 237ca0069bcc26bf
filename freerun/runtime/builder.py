"""`Builder`: configures a runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Self, final

from freerun._arguments import Seconds, flag, function, integer, one_of, seconds

from .config import Config, thread_names
from .cpus import MAX_WORKERS
from .local_runtime import LocalRuntime
from .log import logger
from .runtime import Runtime
from .unhandled import Policy

__all__ = ["Builder"]

_LEAST_STACK = 256 * 1024
_MOST_THREADS = 1 << 16


@final
class Builder:
    """Settings of a runtime, then `build()`. Every setter checks its argument and returns the builder.

    `Builder()` is `Builder.new_multi_thread()`. A builder may build several runtimes.
    Errors: `TypeError` and `ValueError` that name the argument. Thread safety: for one thread at a time.
    Tokio: `tokio::runtime::Builder`.

    Example::

        import freerun

        async def where() -> bool:
            return freerun.Handle.current().metrics().num_workers == 2

        with freerun.Builder().worker_threads(2).thread_name("web").build() as rt:
            assert rt.block_on(where)
    """

    __slots__ = ("_config", "_some_enabled")

    def __init__(self) -> None:
        self._config = Config()
        self._some_enabled = False

    @classmethod
    def new_multi_thread(cls) -> Self:
        """A runtime with a pool of worker threads. Tokio: `Builder::new_multi_thread`."""
        return cls()

    @classmethod
    def new_current_thread(cls) -> Self:
        """A runtime whose tasks run on the thread that is in `block_on`. Tokio: `Builder::new_current_thread`.

        Example::

            import threading
            import freerun

            async def where() -> int:
                return threading.get_ident()

            with freerun.Builder.new_current_thread().build() as rt:
                assert rt.block_on(where) == threading.get_ident()
        """
        builder = cls()
        builder._config.current_thread = True
        return builder

    def worker_threads(self, n: int) -> Self:
        """Poll tasks on `n` threads, 1 to 1024. Default: `FREERUN_WORKER_THREADS`, else the CPUs this process may use.

        A current-thread runtime polls on one thread all the same, and has `n` interpreters for isolated work, if it has
        any (see `workers`). Tokio: `Builder::worker_threads`.
        """
        self._config.worker_threads = integer(n, "worker_threads", most=MAX_WORKERS)
        return self

    def max_blocking_threads(self, n: int) -> Self:
        """Run at most `n` blocking calls at once; the others wait. Default: 512.

        Tokio: `Builder::max_blocking_threads`.
        """
        self._config.max_blocking_threads = integer(n, "max_blocking_threads", most=_MOST_THREADS)
        return self

    def thread_keep_alive(self, duration: Seconds) -> Self:
        """End a blocking thread that was idle for this long: seconds or a `timedelta`. Default: 10 s.

        Tokio: `Builder::thread_keep_alive`.
        """
        self._config.thread_keep_alive = seconds(duration, "thread_keep_alive")
        return self

    def thread_name(self, name: str) -> Self:
        """Name threads after this: `web` gives `web-0` (workers), `web-b0` (blocking), `web-driver`.

        The system keeps 15 bytes. Default: `freerun`. Tokio: `Builder::thread_name`.
        """
        self._config.thread_name = thread_names(_name(name, "thread_name"))
        return self

    def thread_name_fn(self, fn: Callable[[], str]) -> Self:
        """Call `fn()` for each new thread's name. If it fails, that is logged and the thread gets a default name.

        Tokio: `Builder::thread_name_fn`.

        Example::

            import itertools
            import freerun

            numbers = itertools.count()
            with freerun.Builder().worker_threads(1).thread_name_fn(lambda: f"t{next(numbers)}").build():
                pass
        """
        self._config.thread_name = _names_from(function(fn, "thread_name_fn"))
        return self

    def thread_stack_size(self, size: int) -> Self:
        """Give each thread a stack of `size` bytes, 262144 at least. Default: the system's.

        Tokio: `Builder::thread_stack_size`.
        """
        self._config.thread_stack_size = integer(size, "thread_stack_size", least=_LEAST_STACK, most=1 << 40)
        return self

    def enable_io(self) -> Self:
        """Make sockets work. Once an `enable_` method was called, only what was enabled does.

        Tokio: `Builder::enable_io`.
        """
        self._enable_only()
        self._config.io = True
        return self

    def enable_time(self) -> Self:
        """Make timers work. Once an `enable_` method was called, only what was enabled does.

        Tokio: `Builder::enable_time`.
        """
        self._enable_only()
        self._config.time = True
        return self

    def enable_all(self) -> Self:
        """Make sockets and timers work, as they do by default. Tokio: `Builder::enable_all`."""
        return self.enable_io().enable_time()

    def _enable_only(self) -> None:
        if not self._some_enabled:
            self._some_enabled = True
            self._config.io = self._config.time = False

    def driver(self, name: str) -> Self:
        """Choose how the system is asked for I/O: `"auto"` (default), `"epoll"` or `"io_uring"`.

        Where the system refuses io_uring, epoll is used, with a warning; `freerun.build_info()` says why, and
        `metrics().driver` what a runtime has. `"auto"` is what measured best: see `build_info().driver_why`.
        Tokio: `Builder::enable_io_uring`.
        """
        self._config.driver = one_of(name, "driver", ("auto", "epoll", "io_uring"))
        return self

    def workers(self, kind: str) -> Self:
        """Choose what `spawn_isolated()` runs on: `"auto"` (default), `"threads"` or `"interpreters"`.

        `"threads"`: the runtime's own workers. `"interpreters"`: interpreters with a GIL of their own, up to as many as
        `worker_threads`, of a current-thread runtime too. `"auto"`: interpreters where there is a GIL, threads where
        there is none. `spawn()` always runs on threads.

        Example::

            import freerun

            with freerun.Builder().worker_threads(2).workers("interpreters").build() as rt:
                assert rt.spawn_isolated(pow, 2, 10).blocking_result() == 1024
        """
        self._config.workers = one_of(kind, "workers", ("auto", "threads", "interpreters"))
        return self

    def event_interval(self, ticks: int) -> Self:
        """Look for I/O and timers after this many polls, or a millisecond, whichever comes first. Default: 61.

        Tokio: `Builder::event_interval`.
        """
        self._config.event_interval = integer(ticks, "event_interval", most=1 << 31)
        return self

    def global_queue_interval(self, ticks: int) -> Self:
        """Look at the queue shared by all workers after this many polls. Default: chosen while running.

        Tokio: `Builder::global_queue_interval`.
        """
        self._config.global_queue_interval = integer(ticks, "global_queue_interval", most=1 << 31)
        return self

    def disable_lifo_slot(self) -> Self:
        """Run tasks in the order in which they were woken, not the one woken last first.

        Tokio: `Builder::disable_lifo_slot`.
        """
        self._config.lifo_slot = False
        return self

    def disable_stand_in(self) -> Self:
        """Let tasks wait while every worker is stuck, instead of polling them on a stand-in thread.

        Without this, when all workers have been in one poll for 10 ms and tasks are waiting, one more thread polls
        them until a worker is back: a call that blocks does not stop timers and connections. A task that spawns others
        in a loop does not call it before it has done so for a second. A current-thread runtime has none. Whoever needs
        that never more than `worker_threads` tasks are polled at once turns it off; then a call that blocks every
        worker stops everything else. Tokio has no such thread.

        Example::

            import freerun

            with freerun.Builder().worker_threads(1).disable_stand_in().build() as rt:
                assert rt.block_on(freerun.yield_now()) is None
        """
        self._config.stand_in = False
        return self

    def start_paused(self, paused: bool = True) -> Self:
        """Begin with the clock stopped, see `freerun.time.pause`; current-thread only. Tokio: `Builder::start_paused`.

        Example::

            import freerun
            from freerun.time import Instant, sleep

            async def main() -> float:
                start = Instant.now()
                await sleep(3600)
                return start.elapsed()

            with freerun.Builder.new_current_thread().start_paused(True).build() as rt:
                assert rt.block_on(main) >= 3600
        """
        self._config.start_paused = flag(paused, "start_paused")
        return self

    def rng_seed(self, seed: int) -> Self:
        """Make the scheduler's random choices repeatable: 0 to 2**64 - 1. Tokio: `Builder::rng_seed`."""
        self._config.rng_seed = integer(seed, "rng_seed", least=0, most=(1 << 64) - 1)
        return self

    def slow_poll_warning(self, duration: Seconds) -> Self:
        """Log a warning when one poll takes longer: the task, its spawn site, its stack. 0: never. Default: 10 s.

        Also after that time, or 1 s if that is shorter: when a task was given a lock or a permit and does not look at
        it, because nobody polls what awaits it, while whoever is next in line waits.
        """
        self._config.slow_poll_warning = seconds(duration, "slow_poll_warning")
        return self

    def unhandled_exception(self, policy: Policy) -> Self:
        """Choose what happens when a task fails and nobody takes its result.

        `"log"` (default): logger `freerun`, with traceback and spawn site. `"shutdown"`: the same, then the runtime is
        shut down and `block_on` raises `RuntimeShutdown`. A function: it is called as `fn(exception, task)`, with a
        `freerun.runtime.TaskInfo`, on the thread that found out; what it raises is logged.
        Tokio: `Builder::unhandled_panic`.

        Example::

            import freerun

            seen: list[str] = []

            async def fails() -> None:
                raise ValueError("oh")

            async def main() -> None:
                freerun.spawn(fails)
                while not seen:
                    await freerun.yield_now()

            builder = freerun.Builder().unhandled_exception(lambda exception, task: seen.append(str(exception)))
            with builder.build() as rt:
                rt.block_on(main)
            assert seen == ["oh"]
        """
        if isinstance(policy, str) or not callable(policy):
            one_of(policy, "unhandled_exception", ("log", "shutdown"))
        else:
            function(policy, "unhandled_exception")
        self._config.unhandled = policy
        return self

    def on_thread_start(self, fn: Callable[[], object]) -> Self:
        """Call `fn()` on each new thread before its work. What it raises is reported as unraisable.

        Tokio: `Builder::on_thread_start`.
        """
        self._config.on_thread_start = function(fn, "on_thread_start")
        return self

    def on_thread_stop(self, fn: Callable[[], object]) -> Self:
        """Call `fn()` on each thread after its work. What it raises is reported as unraisable.

        Tokio: `Builder::on_thread_stop`.
        """
        self._config.on_thread_stop = function(fn, "on_thread_stop")
        return self

    def on_thread_park(self, fn: Callable[[], object]) -> Self:
        """Call `fn()` on a worker that is about to sleep. It must be quick. Tokio: `Builder::on_thread_park`."""
        self._config.on_thread_park = function(fn, "on_thread_park")
        return self

    def on_thread_unpark(self, fn: Callable[[], object]) -> Self:
        """Call `fn()` on a worker that woke up. It must be quick. Tokio: `Builder::on_thread_unpark`."""
        self._config.on_thread_unpark = function(fn, "on_thread_unpark")
        return self

    def on_task_spawn(self, fn: Callable[[int], object]) -> Self:
        """Call `fn(task_id)` when a task is spawned, on the spawning thread. Tokio: `Builder::on_task_spawn`."""
        self._config.on_task_spawn = function(fn, "on_task_spawn")
        return self

    def on_task_terminate(self, fn: Callable[[int], object]) -> Self:
        """Call `fn(task_id)` when a task ends, on its worker. Tokio: `Builder::on_task_terminate`."""
        self._config.on_task_terminate = function(fn, "on_task_terminate")
        return self

    def check(self) -> None:
        """Raise `ValueError` if the settings do not go together; `build()` does it, too.

        Example::

            import freerun

            freerun.Builder.new_current_thread().start_paused().check()
        """
        if self._config.start_paused and not self._config.current_thread:
            raise ValueError(
                "argument 'start_paused' needs a current-thread runtime (flavor=\"current_thread\", "
                "Builder.new_current_thread()): with several workers nobody could say when the clock may move"
            )

    def build(self) -> Runtime:
        """Start the runtime.

        Errors: `ValueError` if settings do not go together or `FREERUN_WORKER_THREADS` is no number of workers;
        `OSError` if the system has no more threads or descriptors. Tokio: `Builder::build`.

        Example::

            import freerun

            rt = freerun.Builder().worker_threads(1).build()
            rt.shutdown()
        """
        self.check()
        return Runtime(dataclasses.replace(self._config))

    def build_local(self) -> LocalRuntime:
        """Start a runtime whose tasks stay on this very thread; see `LocalRuntime`.

        Errors: `ValueError` if this is not `Builder.new_current_thread()`; as `build()`. Tokio: `Builder::build_local`.

        Example::

            import freerun

            async def one() -> int:
                return 1

            with freerun.Builder.new_current_thread().build_local() as local:
                assert local.block_on(one) == 1
        """
        if not self._config.current_thread:
            raise ValueError("build_local() makes a current-thread runtime: use Builder.new_current_thread()")
        return LocalRuntime(self._config)

    def __repr__(self) -> str:
        return f"<Builder {'current_thread' if self._config.current_thread else 'multi_thread'}>"


def _name(value: object, argument: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"argument '{argument}' must be a str, not {type(value).__name__}: {value!r}")
    if not value or "\0" in value:
        raise ValueError(f"argument '{argument}' must not be empty, nor contain a null character: {value!r}")
    return value


def _names_from(fn: Callable[[], str]) -> Callable[[str, int], str]:
    default = thread_names("freerun")

    def name(kind: str, index: int) -> str:
        try:
            return _name(fn(), "what thread_name_fn returns")
        except Exception:
            logger().exception("the function given to Builder.thread_name_fn() failed")
            return default(kind, index)

    return name
