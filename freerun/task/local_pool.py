"""`LocalPool` and `spawn_pinned`: tasks that stay on one of several threads. Tokio: `LocalPoolHandle`.

Each thread has a `LocalRuntime` and is in its `block_on` until the pool ends. Then the thread itself shuts its runtime
down, so that the tasks' cleanup runs where the tasks did.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, cast, final

from freerun._arguments import Seconds, close_unstarted, integer, seconds
from freerun._core._native import Core, JoinHandle, current_core, refuse_on_worker, timeout
from freerun._errors import JoinError, RuntimeShutdown
from freerun.runtime import atexit, companions
from freerun.runtime.config import Config
from freerun.runtime.cpus import default_worker_threads
from freerun.runtime.engine import DEFAULT_GRACE
from freerun.runtime.local_runtime import LocalRuntime
from freerun.runtime.log import logger
from freerun.sync.set_once import SetOnce

from .cancellation_token import CancellationToken

if TYPE_CHECKING:
    from freerun.runtime.engine import Engine

__all__ = ["LocalPool", "spawn_pinned"]

_MOST_THREADS = 1 << 12
_SLACK = 1.0
"""Seconds that a thread needs, at the most, for the rest when its tasks had all the time there was."""


@final
class LocalPool:
    """Threads, each with a `LocalRuntime`; `spawn_pinned` runs an async function on one of them, from start to end.

    For objects that must stay on one thread, where one thread is not enough. Dropping the pool cancels its tasks in the
    background; `shutdown()`, or leaving `with` or `async with`, cancels them and waits for their cleanup, which runs on
    their threads. What still runs at the interpreter's exit is cancelled then.

    `threads`: how many. Errors: `ValueError` or `TypeError` for a bad number; `RuntimeError` or `OSError` if the system
    has no more threads or descriptors. Thread safety: every method, from any thread.
    Tokio: `tokio_util::task::LocalPoolHandle`.

    Example::

        import threading
        import freerun
        from freerun.task import LocalPool

        async def where() -> int:
            before = threading.get_ident()
            await freerun.time.sleep(0.001)
            assert threading.get_ident() == before
            return before

        async def main() -> int:
            async with LocalPool(2) as pool:
                tasks = [pool.spawn_pinned(where) for _ in range(4)]
                return len({await task for task in tasks})

        assert freerun.run(main) == 2
    """

    __slots__ = ("__weakref__", "_pid", "_threads")

    _getpid = staticmethod(os.getpid)  # here: when a finalizer runs, the module's names may be gone

    def __init__(self, threads: int) -> None:
        self._pid = -1  # nothing to end yet, should starting fail
        self._threads = _Threads(integer(threads, "threads", most=_MOST_THREADS))
        self._threads.start()
        self._pid = self._getpid()

    def spawn_pinned[*Ts, T](
        self, async_fn: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, name: str | None = None
    ) -> JoinHandle[T]:
        """Run `async_fn(*args)` as a task on the thread that has the fewest; the handle is like any other.

        The coroutine is made there. What it spawns with `spawn` or `spawn_local` stays there as well.

        Errors: `TypeError` for a coroutine, which would have been made on the wrong thread, and for what cannot be
        called; `RuntimeShutdown` once the pool was shut down. Cancel safety: does not wait; `abort()` works anywhere.
        Thread safety: any thread. Tokio: `LocalPoolHandle::spawn_pinned`.
        """
        return self._threads.spawn(async_fn, args, name)

    def spawn_pinned_by_idx[*Ts, T](
        self, index: int, async_fn: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, name: str | None = None
    ) -> JoinHandle[T]:
        """As `spawn_pinned`, on the thread with this number, from 0 on. Tokio: `LocalPoolHandle::spawn_pinned_by_idx`.

        Errors: `IndexError` if there is no such thread; `TypeError`; as `spawn_pinned`.

        Example::

            import threading
            import freerun
            from freerun.task import LocalPool

            async def where() -> int:
                return threading.get_ident()

            async def main() -> bool:
                async with LocalPool(2) as pool:
                    a, b = [await pool.spawn_pinned_by_idx(i, where) for i in range(2)]
                    return a != b

            assert freerun.run(main)
        """
        return self._threads.spawn_on(index, async_fn, args, name)

    def num_threads(self) -> int:
        """How many threads the pool has. Any thread. Tokio: `LocalPoolHandle::num_threads`."""
        return len(self._threads.all)

    def get_task_loads_for_each_worker(self) -> list[int]:
        """How many tasks each thread has now. Any thread. Tokio: `LocalPoolHandle::get_task_loads_for_each_worker`."""
        return [each.load() for each in self._threads.all]

    def shutdown(self, timeout: Seconds | None = None) -> None:
        """Cancel every task, let their cleanup run on their threads, end the threads. May be called more than once.

        `timeout`: for all of that, in seconds or as a `timedelta`; `None`: 10 s. What has not ended by then is closed
        if it can be, and logged; a thread that is stuck in a call ends with it.

        Errors: `RuntimeError` inside a task, whose worker it would block: use `async with` there.
        Thread safety: any thread that runs no tasks.

        Example::

            from freerun.task import LocalPool

            pool = LocalPool(1)
            pool.shutdown(timeout=1)
        """
        grace = DEFAULT_GRACE if timeout is None else seconds(timeout, "timeout")
        refuse_on_worker("LocalPool.shutdown", "use 'async with', or call shutdown_background()")
        self._threads.cancel(grace)
        self._threads.shutdown(grace)

    def shutdown_background(self) -> None:
        """Cancel every task and wait for nothing: the threads end by themselves. Any thread, own tasks included."""
        self._threads.cancel(DEFAULT_GRACE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._threads.cancel(DEFAULT_GRACE)
        with contextlib.suppress(TimeoutError):  # shutdown() finds out
            await timeout(DEFAULT_GRACE + _SLACK, self._threads.ended())
        self._threads.shutdown(0)

    def __del__(self) -> None:
        if self._pid == self._getpid():
            self._threads.cancel(DEFAULT_GRACE)

    def __repr__(self) -> str:
        return f"<LocalPool threads={len(self._threads.all)}{' shut down' if self._threads.cancelled else ''}>"


class _Threads:
    """The threads of a pool; they end as a whole. At the interpreter's exit it is ended as engines are."""

    def __init__(self, count: int) -> None:
        self.all = [_Thread(index) for index in range(count)]
        self.cancelled = False
        self._lock = threading.RLock()  # a task's load is looked at, and added to, by one at a time
        self._turn = 0

    def start(self) -> None:
        atexit.check_running()
        try:
            for each in self.all:
                each.start()
            for each in self.all:
                each.wait_until_running()
        except BaseException:
            self.cancel(0)
            raise
        atexit.add(cast("Engine", self))

    def spawn(self, async_fn: Any, args: tuple[Any, ...], name: str | None) -> JoinHandle[Any]:
        _check(async_fn)
        with self._lock:
            self._turn += 1  # among equals, one after the other
            order = [self.all[(i + self._turn) % len(self.all)] for i in range(len(self.all))]
            return min(order, key=_Thread.load).spawn(async_fn, args, name)

    def spawn_on(self, index: int, async_fn: Any, args: tuple[Any, ...], name: str | None) -> JoinHandle[Any]:
        number = integer(index, "index", least=0)
        if number >= len(self.all):
            raise IndexError(f"argument 'index' must be less than the number of threads, {len(self.all)}: {number}")
        _check(async_fn)
        return self.all[number].spawn(async_fn, args, name)

    def cancel(self, grace: float = DEFAULT_GRACE) -> None:
        """Begin to end, for at most that many seconds from now; the first call says how many."""
        self.cancelled = True
        if atexit.is_exiting():
            grace = min(grace, atexit.EXIT_GRACE)
        for each in self.all:
            each.end(grace)

    async def ended(self) -> None:
        """Wait until all of them are through."""
        for each in self.all:
            await each.ended.wait()

    def shutdown(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout + _SLACK
        for each in self.all:
            each.join(deadline)
        atexit.discard(cast("Engine", self))


class _Thread:
    """One thread with its runtime."""

    def __init__(self, index: int) -> None:
        self._name = f"freerun-local-{index}"
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._ready = threading.Event()
        self._over = CancellationToken()
        self._grace = atexit.EXIT_GRACE  # unless end() says otherwise, it is the interpreter's exit
        self._core: Core | None = None
        self._error: BaseException | None = None
        self.ended: SetOnce[None] = SetOnce()

    def start(self) -> None:
        contextvars.Context().run(self._thread.start)  # or it would keep what the caller's context variables hold

    def wait_until_running(self) -> None:
        self._ready.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def load(self) -> int:
        """How many tasks it has, its own main task not counted."""
        core = self._core
        if core is None:
            return 0
        with contextlib.suppress(RuntimeShutdown):
            return max(0, cast(int, core.metrics()["alive_tasks"]) - 1)
        return 0

    def spawn(self, async_fn: Any, args: tuple[Any, ...], name: str | None) -> JoinHandle[Any]:
        core = self._core
        if core is None or self._over.is_cancelled():
            raise RuntimeShutdown("the pool has been shut down and takes no new tasks")
        return core.spawn(async_fn, *args, name=name)

    def end(self, grace: float) -> None:
        if not self._over.is_cancelled():
            self._grace = grace
            self._over.cancel()

    def join(self, deadline: float) -> None:
        if not self._thread.ident or self._thread is threading.current_thread():
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            logger().warning(
                "the thread %s of a LocalPool did not end in time: it is in the middle of a task", self._name
            )

    def _run(self) -> None:
        try:
            local = LocalRuntime(Config(thread_name=self._name_of))
        except BaseException as error:
            self._error = error
            self._ready.set()
            self.ended.set(None)
            return
        engine = local._runtime._engine
        atexit.discard(engine)  # the pool is in that list, and ends this one on its own thread
        self._core = engine.core
        try:
            self._serve(local)
        finally:
            self._ready.set()
            try:
                local.shutdown(self._grace)
            finally:
                self.ended.set(None)

    def _serve(self, local: LocalRuntime) -> None:
        """Run tasks until the pool ends, or somebody else ends the runtime."""
        while not self._over.is_cancelled():
            try:
                local.block_on(self._wait)
            except (KeyboardInterrupt, SystemExit):  # of a task: whoever has its handle gets it, this thread goes on
                logger().exception("a task of %s raised what ends a program; the thread goes on", self._name)
            except (JoinError, RuntimeShutdown):
                return

    async def _wait(self) -> None:
        self._ready.set()  # not before: load() leaves this task out
        await self._over.cancelled()

    def _name_of(self, kind: str, index: int) -> str:
        return f"{self._name}-{kind[0]}{index}"


def _check(async_fn: Any) -> None:
    if hasattr(async_fn, "__await__"):
        close_unstarted(async_fn)
        raise TypeError(
            "argument 'async_fn' must be an async function, not a coroutine: that belongs to the thread that made it; "
            "pass the function and its arguments"
        )
    if not callable(async_fn):
        raise TypeError(f"argument 'async_fn' must be an async function, not {type(async_fn).__name__}: {async_fn!r}")


def spawn_pinned[*Ts, T](
    async_fn: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts, name: str | None = None
) -> JoinHandle[T]:
    """Run `async_fn(*args)` as a task that stays on one thread, of a pool that belongs to the current runtime.

    The pool is made when this is first called; it has as many threads as a runtime has workers by default. It is shut
    down together with the runtime: its tasks are cancelled when the runtime's are. See `LocalPool.spawn_pinned`.

    Errors: `RuntimeError` outside a runtime; `RuntimeShutdown`; `TypeError`, as `LocalPool.spawn_pinned`.
    Cancel safety: does not wait. Thread safety: any thread, inside a runtime. Tokio: `LocalPoolHandle::spawn_pinned`.

    Example::

        import threading
        import freerun
        from freerun.task import spawn_pinned

        async def query(n: int) -> int:
            here = threading.get_ident()     # say, a connection that must stay on its thread
            await freerun.time.sleep(0.001)
            assert threading.get_ident() == here
            return n * n

        async def main() -> int:
            return await spawn_pinned(query, 7)

        assert freerun.run(main) == 49
    """
    threads = companions.of(current_core(), _default)
    return cast(_Threads, threads).spawn(async_fn, args, name)


def _default() -> _Threads:
    threads = _Threads(default_worker_threads()[0])
    threads.start()
    atexit.discard(cast("Engine", threads))  # its runtime is in that list
    return threads
