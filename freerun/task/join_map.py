"""`JoinMap`: a `JoinSet` whose tasks have keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._core._native import JoinHandle, unconstrained

from ._entered import entered
from .join_set import JoinSet

if TYPE_CHECKING:
    from freerun.runtime.handle import Handle
    from freerun.runtime.local_runtime import LocalRuntime
    from freerun.runtime.runtime import Runtime

__all__ = ["JoinMap"]


@final
class JoinMap[K: Hashable, V]:
    """Tasks that are known by a key, and waited for in the order in which they end.

    `spawn(key, ...)` under a key that has a task already aborts that one and takes its place: its result never comes.
    For the rest it is as `JoinSet`: leaving `async with` aborts and waits, replaced tasks included; a map that is
    dropped aborts its tasks.

    Thread safety: any thread, several at once. Tokio: `tokio_util::task::JoinMap`.

    Example::

        import freerun
        from freerun.time import sleep

        async def fetch(n: int) -> int:
            await sleep(n / 100)
            return n

        async def main() -> dict[str, int]:
            tasks: freerun.task.JoinMap[str, int] = freerun.task.JoinMap()
            tasks.spawn("a", fetch, 3600)
            tasks.spawn("b", fetch, 1)
            tasks.spawn("a", fetch, 2)    # instead of the first one
            return dict([pair async for pair in tasks])

        assert freerun.run(main) == {"b": 1, "a": 2}
    """

    __slots__ = ("__weakref__", "_by_handle", "_by_key", "_lock", "_tasks")

    def __init__(self) -> None:
        self._tasks: JoinSet[V] = JoinSet()
        # Reentrant: a destructor that the garbage collector runs meanwhile may use this map.
        self._lock = threading.RLock()
        self._by_key: dict[K, JoinHandle[V]] = {}
        self._by_handle: dict[JoinHandle[V], K] = {}  # without those that were replaced

    @overload
    def spawn(
        self, key: K, coro: Coroutine[Any, Any, V], /, *, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[V]: ...
    @overload
    def spawn[*Ts](
        self,
        key: K,
        async_fn: Callable[[*Ts], Coroutine[Any, Any, V]],
        /,
        *args: *Ts,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[V]: ...
    def spawn(  # type: ignore[misc]  # mypy on TypeVarTuple
        self, key: K, coro: Any, /, *args: Any, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[V]:
        """Start a task under `key`, as `freerun.spawn()` does; the one that has the key is aborted and forgotten.

        Errors: as `freerun.spawn()`, `TypeError` if the key has no hash; nothing is replaced then.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinMap::spawn`.
        """
        hash(key)
        with self._lock:
            return self._put(key, self._tasks.spawn(coro, *args, name=name, context=context))

    def spawn_blocking[**P](self, key: K, fn: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs) -> JoinHandle[V]:
        """Call an ordinary function on the blocking pool, under `key`. Tokio: `JoinMap::spawn_blocking`."""
        hash(key)
        with self._lock:
            return self._put(key, self._tasks.spawn_blocking(fn, *args, **kwargs))

    @overload
    def spawn_on(
        self,
        key: K,
        handle: Handle | Runtime | LocalRuntime,
        coro: Coroutine[Any, Any, V],
        /,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[V]: ...
    @overload
    def spawn_on[*Ts](
        self,
        key: K,
        handle: Handle | Runtime | LocalRuntime,
        async_fn: Callable[[*Ts], Coroutine[Any, Any, V]],
        /,
        *args: *Ts,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[V]: ...
    def spawn_on(  # type: ignore[misc]  # mypy on TypeVarTuple
        self, key: K, handle: Any, coro: Any, /, *args: Any, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[V]:
        """As `spawn()`, on the runtime of a `Handle`, or on a `Runtime`.

        Errors: as `spawn()`, and `TypeError` for what is no runtime. Cancel safety: does not wait.
        Thread safety: any thread, inside a runtime or not. Tokio: `JoinMap::spawn_on`.
        """
        with entered(handle, coro):
            return self.spawn(key, coro, *args, name=name, context=context)

    def spawn_blocking_on[**P](
        self, key: K, handle: Handle | Runtime | LocalRuntime, fn: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs
    ) -> JoinHandle[V]:
        """As `spawn_blocking()`, on the pool of a `Handle` or a runtime. Tokio: `JoinMap::spawn_blocking_on`."""
        with entered(handle):
            return self.spawn_blocking(key, fn, *args, **kwargs)

    def _put(self, key: K, handle: JoinHandle[V]) -> JoinHandle[V]:
        before = self._by_key.get(key)
        self._by_key[key] = handle
        self._by_handle[handle] = key
        if before is not None:
            del self._by_handle[before]
            before.abort()
        return handle

    def _take(self, handle: JoinHandle[V]) -> tuple[K] | None:
        """The key of a task that has ended, in a tuple; None if it was replaced."""
        with self._lock:
            if handle not in self._by_handle:
                return None
            key = self._by_handle.pop(handle)
            del self._by_key[key]
            return (key,)

    def __len__(self) -> int:
        """How many keys have a task that has not been taken."""
        return len(self._by_key)

    def is_empty(self) -> bool:
        """Whether no key has a task. Tokio: `JoinMap::is_empty`."""
        return not self._by_key

    def __contains__(self, key: object) -> bool:
        """Whether the key has a task. Tokio: `JoinMap::contains_key`."""
        return key in self._by_key

    def contains_key(self, key: K, /) -> bool:
        """Whether the key has a task; `key in tasks`. Tokio: `JoinMap::contains_key`."""
        return key in self._by_key

    def contains_task(self, id: int, /) -> bool:
        """Whether the task of that id is in here. Tokio: `JoinMap::contains_task`."""
        with self._lock:
            return any(handle.id == id for handle in self._by_handle)

    def keys(self) -> list[K]:
        """The keys that have a task, as they are now. Tokio: `JoinMap::keys`."""
        with self._lock:
            return list(self._by_key)

    async def join_next(self) -> tuple[K, V]:
        """Wait for the next task that ends, and take it out: its key and its result.

        Errors: what the task raised, `JoinError` if it was aborted: `join_next_handle()` tells whose it is.
        `IndexError` if no task is in here, or none any more.
        Cancel safety: no result is lost. Thread safety: for tasks. Tokio: `JoinMap::join_next`.
        """
        key, handle = await self.join_next_handle()
        return key, await unconstrained(handle)  # it has ended, and this must not be cancelled

    async def join_next_handle(self) -> tuple[K, JoinHandle[V]]:
        """Wait as `join_next()` does; the task's handle, which tells how it ended, comes with the key.

        Errors: `IndexError` if no task is in here, or none any more.
        Cancel safety: no handle is lost. Thread safety: for tasks. Tokio: `JoinMap::join_next`.

        Example::

            import freerun

            async def work(n: int) -> float:
                return 1 / n

            async def main() -> int:
                tasks: freerun.task.JoinMap[int, float] = freerun.task.JoinMap()
                tasks.spawn(0, work, 0)
                key, handle = await tasks.join_next_handle()
                try:
                    await handle
                except ZeroDivisionError:
                    return key
                return -1

            assert freerun.run(main) == 0
        """
        while True:
            handle = await self._tasks.join_next_handle()
            taken = self._take(handle)
            if taken is not None:
                return taken[0], handle

    def try_join_next_handle(self) -> tuple[K, JoinHandle[V]]:
        """Take a task that has ended, without waiting: its key and its handle, which tells how.

        Errors: `WouldBlock` if none has ended yet; `IndexError` if no task is in here.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: none; as `JoinSet::try_join_next`.
        """
        while True:
            handle = self._tasks.try_join_next_handle()
            taken = self._take(handle)
            if taken is not None:
                return taken[0], handle

    def __aiter__(self) -> Self:
        """Iterate over keys and results, in the order in which the tasks end, until none is left."""
        return self

    async def __anext__(self) -> tuple[K, V]:
        """Wait as `join_next()` does; the iteration ends where that would raise `IndexError`."""
        try:
            key, handle = await self.join_next_handle()
        except IndexError:
            raise StopAsyncIteration from None
        return key, await unconstrained(handle)

    def abort(self, key: K, /) -> bool:
        """Abort the task of that key. `False` if there is none, or it has ended or been aborted already.

        Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinMap::abort`.
        """
        with self._lock:
            handle = self._by_key.get(key)
        return handle is not None and handle.abort()

    def abort_matching(self, predicate: Callable[[K], object], /) -> None:
        """Abort the tasks whose keys satisfy the predicate. Tokio: `JoinMap::abort_matching`."""
        with self._lock:
            found = list(self._by_key.items())
        for key, handle in found:
            if predicate(key):
                handle.abort()

    def abort_all(self) -> None:
        """Abort every task in here. They stay, until they have ended and were waited for.

        Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinMap::abort_all`.
        """
        self._tasks.abort_all()

    def detach_all(self) -> None:
        """Let go of all tasks: those that run go on by themselves. Tokio: `JoinMap::detach_all`."""
        with self._lock:
            self._tasks.detach_all()
            self._forget()

    async def shutdown(self) -> None:
        """Abort all tasks and wait until they have ended. Their results are dropped; the map may be used again.

        Errors: `RuntimeError` for those who spawn meanwhile. Cancel safety: it goes on waiting, and raises `Cancelled`
        at the end. Thread safety: for tasks. Tokio: `JoinMap::shutdown`.
        """
        try:
            await self._tasks.shutdown()
        finally:
            self._forget()

    def _forget(self) -> None:
        with self._lock:
            handles = self._by_handle, self._by_key
            self._by_handle, self._by_key = {}, {}
        del handles  # outside the lock: this may free anything

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            self._forget()
