"""`TaskTracker`: waits for tasks without keeping them. Tokio: `tokio_util::task::TaskTracker`.

A tracker is a number and a flag; a task that ends leaves nothing behind. Counting down must not be forgotten, whatever
becomes of a task: aborted before its first step, a coroutine runs no `finally`. So what is spawned is a generator that
has been taken past its first `yield` before: from then on it does.
"""

from __future__ import annotations

import os
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._arguments import close_unstarted, function
from freerun._core import _native
from freerun._core._native import JoinHandle
from freerun.lowlevel import PENDING, Listeners, Pending

from ._awaitable import as_awaitable
from ._entered import entered

if TYPE_CHECKING:
    from freerun.runtime.handle import Handle
    from freerun.runtime.local_runtime import LocalRuntime
    from freerun.runtime.runtime import Runtime

__all__ = ["TaskTracker", "TaskTrackerToken"]


@final
class TaskTracker:
    """Counts tasks, and waits until all of them have ended and no more are to come.

    `await tracker.wait()` returns when the tracker is closed and empty. Tasks may be spawned on a closed one as well:
    closing only says that an empty tracker is the end. Other than a set of handles it holds no results: a task's memory
    goes when the task ends. Dropping a tracker does nothing to its tasks.

    Thread safety: every method, from any thread; what is awaited, inside a task.
    Tokio: `tokio_util::task::TaskTracker`.

    Example::

        import freerun
        from freerun.task import TaskTracker

        served: list[int] = []

        async def serve(n: int) -> None:
            await freerun.time.sleep(0.001)
            served.append(n)

        async def main() -> None:
            tracker = TaskTracker()
            for n in range(5):
                tracker.spawn(serve, n)
            tracker.close()
            await tracker.wait()

        freerun.run(main)
        assert sorted(served) == [0, 1, 2, 3, 4]
    """

    __slots__ = ("__weakref__", "_closed", "_count", "_ends", "_lock", "_waiting")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # no call under it, and so no finalizer
        self._count = 0
        self._closed = False
        self._ends = 0  # how often it became closed and empty
        self._waiting = Listeners()

    @overload
    def spawn[T](
        self, coro: Coroutine[Any, Any, T], /, *, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[T]: ...
    @overload
    def spawn[*Ts, T](
        self,
        coro: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[T]: ...
    def spawn(  # type: ignore[misc]  # mypy on TypeVarTuple
        self, coro: Any, /, *args: Any, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[Any]:
        """Spawn a task, as `freerun.spawn` does, and count it until it has ended, in whichever way.

        Its handle may be dropped. What it counts as ended has run its cleanup.

        Errors: as `freerun.spawn`; the count is then as before. Cancel safety: does not wait. Thread safety: any
        thread, inside a runtime. Tokio: `TaskTracker::spawn`.
        """
        if not callable(coro) or args:
            _check(coro, args)
        running: Any = _tracked(self, coro, args)
        running.__qualname__ = getattr(coro, "__qualname__", "") or type(coro).__qualname__  # for reports
        next(running)
        try:
            return _native.spawn(running, name=name, context=context)
        except BaseException:
            running.close()
            close_unstarted(coro)
            raise

    @overload
    def spawn_on[T](
        self,
        handle: Handle | Runtime | LocalRuntime,
        coro: Coroutine[Any, Any, T],
        /,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[T]: ...
    @overload
    def spawn_on[*Ts, T](
        self,
        handle: Handle | Runtime | LocalRuntime,
        coro: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[T]: ...
    def spawn_on(  # type: ignore[misc]  # mypy on TypeVarTuple
        self, handle: Any, coro: Any, /, *args: Any, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[Any]:
        """As `spawn`, on the runtime of a `Handle` or `Runtime`; `TypeError` for what is none.

        Tokio: `TaskTracker::spawn_on`.

        Example::

            import freerun
            from freerun.task import TaskTracker

            async def one() -> int:
                return 1

            tracker = TaskTracker()
            with freerun.Runtime() as rt:
                assert tracker.spawn_on(rt, one).blocking_result() == 1
        """
        with entered(handle, coro):
            return self.spawn(coro, *args, name=name, context=context)

    def spawn_blocking[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JoinHandle[T]:
        """Call a function on the blocking pool, as `freerun.spawn_blocking` does, and count it until it has ended.

        Errors, thread safety: as `freerun.spawn_blocking`. Tokio: `TaskTracker::spawn_blocking`.

        Example::

            import freerun
            from freerun.task import TaskTracker

            async def main() -> int:
                tracker = TaskTracker()
                handle = tracker.spawn_blocking(sum, [1, 2])
                tracker.close()
                await tracker.wait()
                return await handle

            assert freerun.run(main) == 3
        """
        return _native.spawn_blocking(_call, self.token(), function(fn, "fn"), args, kwargs)

    def spawn_blocking_on[**P, T](
        self, handle: Handle | Runtime | LocalRuntime, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JoinHandle[T]:
        """As `spawn_blocking`, on the pool of a `Handle` or a runtime. Tokio: `TaskTracker::spawn_blocking_on`."""
        with entered(handle):
            return self.spawn_blocking(fn, *args, **kwargs)

    @overload
    def track[T](self, awaitable: Awaitable[T], /) -> Awaitable[T]: ...
    @overload
    def track[*Ts, T](self, awaitable: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> Awaitable[T]: ...
    def track(self, awaitable: Any, /, *args: Any) -> Any:  # type: ignore[misc]  # mypy on TypeVarTuple
        """Something to await in place of `awaitable`, or `async_fn(*args)`, that counts until it has ended or is gone.

        Errors: `TypeError` for what cannot be awaited. Cancel safety: as what is awaited. Thread safety: any thread.
        Tokio: `TaskTracker::track_future`.

        Example::

            import freerun
            from freerun.task import TaskTracker

            async def main() -> None:
                tracker = TaskTracker()
                tracked = tracker.track(freerun.time.sleep(0.001))
                assert len(tracker) == 1
                await tracked
                assert tracker.is_empty()

            freerun.run(main)
        """
        return _awaited(self.token(), as_awaitable(awaitable, args))

    def token(self) -> TaskTrackerToken:
        """Something that counts as a task until it is released, for work that is no task. Tokio: `TaskTracker::token`.

        Example::

            from freerun.task import TaskTracker

            tracker = TaskTracker()
            with tracker.token():
                assert len(tracker) == 1
            assert len(tracker) == 0
        """
        return TaskTrackerToken(self)

    def close(self) -> bool:
        """Let `wait()` return once there is no task any more. `False`: it was closed already.

        Tasks may still be spawned. Thread safety: any thread. Tokio: `TaskTracker::close`.
        """
        with self._lock:
            changed = not self._closed
            self._closed = True
            over = changed and self._count == 0
            self._ends += over
        if over:
            self._waiting.wake_all()
        return changed

    def reopen(self) -> bool:
        """Take `close()` back. `False`: it was open. Who has been let go by then stays so.

        Thread safety: any thread. Tokio: `TaskTracker::reopen`.

        Example::

            from freerun.task import TaskTracker

            tracker = TaskTracker()
            assert tracker.close() and tracker.reopen()
            assert not tracker.is_closed()
        """
        with self._lock:
            changed = self._closed
            self._closed = False
        return changed

    def is_closed(self) -> bool:
        """Whether it is closed. Thread safety: any thread. Tokio: `TaskTracker::is_closed`."""
        return self._closed

    def is_empty(self) -> bool:
        """Whether no task is counted. Thread safety: any thread. Tokio: `TaskTracker::is_empty`."""
        return self._count == 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return True  # a tracker is something, also without tasks

    def wait(self) -> Awaitable[None]:
        """Wait until the tracker is closed and empty, at once or at any time from this call on.

        Cancel safe. Thread safety: inside a task; each needs an awaitable of its own. Tokio: `TaskTracker::wait`.

        Example::

            import freerun
            from freerun.task import TaskTracker

            async def main() -> str:
                tracker = TaskTracker()
                try:
                    await freerun.time.timeout(0.01, tracker.wait())  # it is empty, but not closed
                except TimeoutError:
                    tracker.close()
                await tracker.wait()
                return "over"

            assert freerun.run(main) == "over"
        """
        before = self._ends
        return self._waiting.wait(lambda: self._look(before))

    def _look(self, before: int) -> Pending | None:
        with self._lock:
            over = self._ends != before or (self._closed and self._count == 0)
        return None if over else PENDING

    def _add(self) -> None:
        with self._lock:
            self._count += 1

    def _remove(self) -> None:
        with self._lock:
            self._count -= 1
            over = self._closed and self._count == 0
            self._ends += over
        if over:
            self._waiting.wake_all()

    def __repr__(self) -> str:
        return f"<TaskTracker len={self._count}{' closed' if self._closed else ''}>"


@final
class TaskTrackerToken:
    """Counts as one task of its tracker until `release()`, the end of `with`, or until Python frees it.

    Thread safety: every method, from any thread. Tokio: `tokio_util::task::task_tracker::TaskTrackerToken`.
    """

    __slots__ = ("__weakref__", "_pid", "_tracker")

    _getpid = staticmethod(os.getpid)  # here: when a finalizer runs, the module's names may be gone

    def __init__(self, tracker: TaskTracker) -> None:
        self._pid = self._getpid()
        self._tracker: TaskTracker | None = tracker
        tracker._add()

    @property
    def tracker(self) -> TaskTracker:
        """Its tracker. Errors: `RuntimeError` once it was released. Tokio: `TaskTrackerToken::task_tracker`."""
        if (tracker := self._tracker) is None:
            raise RuntimeError("this token has been released")
        return tracker

    def release(self) -> None:
        """Count no longer. May be called twice. Thread safety: for one thread at a time."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def __del__(self) -> None:
        if self._pid == self._getpid():  # a forked child has a copy, whose lock may be held by nobody that is there
            self.release()


def _check(coro: Any, args: tuple[Any, ...]) -> None:
    """What `spawn` refuses at once, before it is wrapped up."""
    if hasattr(coro, "__await__"):
        if args:
            close_unstarted(coro)
            raise TypeError("argument 'coro' is awaitable and takes no arguments; pass the async function")
    elif not callable(coro):
        kind = type(coro).__name__
        raise TypeError(f"argument 'coro' must be a coroutine or an async function, not {kind}: {coro!r}")


@types.coroutine
def _tracked(tracker: TaskTracker, coro: Any, args: tuple[Any, ...]) -> Generator[Any, Any, Any]:
    """Run it as a task. The first step is taken by `_spawn`; who takes it will see the end, however that comes."""
    tracker._add()
    try:
        try:
            yield
        except BaseException:
            close_unstarted(coro)
            raise
        awaitable: Any = coro if type(coro) is CoroutineType else as_awaitable(coro, args, "coro")
        if type(awaitable) is CoroutineType:
            return (yield from awaitable)  # type: ignore[misc]  # this is a @types.coroutine
        return (yield from awaitable.__await__())
    finally:
        tracker._remove()


async def _awaited(token: TaskTrackerToken, awaitable: Awaitable[Any]) -> Any:
    with token:
        return await awaitable


def _call(token: TaskTrackerToken, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with token:
        return fn(*args, **kwargs)
