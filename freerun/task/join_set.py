"""`JoinSet`: tasks that are waited for in the order in which they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._core._native import JoinHandle, TaskSet
from freerun._errors import Cancelled

from ._entered import entered

if TYPE_CHECKING:
    from freerun.runtime.handle import Handle
    from freerun.runtime.local_runtime import LocalRuntime
    from freerun.runtime.runtime import Runtime

__all__ = ["JoinSet"]


@final
class JoinSet[T](TaskSet):
    """Tasks that are waited for in the order in which they end.

    `spawn()` puts a task in, `join_next()` gives the result of the next one that has ended, or raises what it raised;
    `async for result in tasks` takes them until none is left. A task that ends costs the same however many there are.

    `async with JoinSet() as tasks:` aborts at the end of the block whatever is still in there, and waits for it.
    Without a block a set that is dropped aborts its tasks and does not wait. A failure that nobody took is logged.

    `spawn()` returns the task's `JoinHandle`, to be told from others or aborted; its result may be read there as well.

    Thread safety: any thread, several at once; each result goes to one of them. Tokio: `tokio::task::JoinSet`.

    Example::

        import freerun
        from freerun.time import sleep

        async def fetch(n: int) -> int:
            await sleep(n / 100)
            return n

        async def main() -> list[int]:
            async with freerun.JoinSet[int]() as tasks:
                for n in (3, 1, 2, 3600):
                    tasks.spawn(fetch, n)
                return [await tasks.join_next() for _ in range(3)]    # the last one is aborted

        assert freerun.run(main) == [1, 2, 3]
    """

    __slots__ = ("__weakref__",)

    if TYPE_CHECKING:

        @overload
        def spawn(
            self, coro: Coroutine[Any, Any, T], /, *, name: str | None = None, context: Context | None = None
        ) -> JoinHandle[T]: ...
        @overload
        def spawn[*Ts](
            self,
            async_fn: Callable[[*Ts], Coroutine[Any, Any, T]],
            /,
            *args: *Ts,
            name: str | None = None,
            context: Context | None = None,
        ) -> JoinHandle[T]: ...
        def spawn(self, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[misc]  # mypy on TypeVarTuple
        def spawn_blocking[**P](  # type: ignore[override]
            self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
        ) -> JoinHandle[T]: ...

    @overload
    def spawn_on(
        self,
        handle: Handle | Runtime | LocalRuntime,
        coro: Coroutine[Any, Any, T],
        /,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[T]: ...
    @overload
    def spawn_on[*Ts](
        self,
        handle: Handle | Runtime | LocalRuntime,
        async_fn: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[T]: ...
    def spawn_on(  # type: ignore[misc]  # mypy on TypeVarTuple
        self, handle: Any, coro: Any, /, *args: Any, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[T]:
        """As `spawn()`, on the runtime of a `Handle`, or on a `Runtime`; for a set whose tasks do not all run in one.

        Errors: as `spawn()`, and `TypeError` for what is no runtime. Cancel safety: does not wait.
        Thread safety: any thread, inside a runtime or not. Tokio: `JoinSet::spawn_on`.

        Example::

            import freerun

            async def one() -> int:
                return 1

            async def main(other: freerun.Handle) -> int:
                tasks: freerun.JoinSet[int] = freerun.JoinSet()
                tasks.spawn_on(other, one)
                return await tasks.join_next()

            with freerun.Runtime() as other:
                assert freerun.run(main, other.handle()) == 1
        """
        with entered(handle, coro):
            return self.spawn(coro, *args, name=name, context=context)

    def spawn_blocking_on[**P](
        self, handle: Handle | Runtime | LocalRuntime, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JoinHandle[T]:
        """As `spawn_blocking()`, on the pool of a `Handle` or a runtime. Tokio: `JoinSet::spawn_blocking_on`."""
        with entered(handle):
            return self.spawn_blocking(fn, *args, **kwargs)

    def __new__(cls) -> Self:
        """Make an empty set."""
        return super().__new__(cls)

    def __len__(self) -> int:
        """How many tasks are in here: those that run, and those that have ended and were not taken."""
        return self._count()

    def is_empty(self) -> bool:
        """Whether no task is in here. Tokio: `JoinSet::is_empty`."""
        return self._count() == 0

    def join_next(self) -> Awaitable[T]:
        """Wait for the next task that ends, and take it out: its result.

        Errors: what the task raised; `JoinError` if it was aborted; `IndexError` if no task is in here, or none any
        more. Which task it was that failed, `join_next_handle()` tells.
        Cancel safety: no result is lost. Thread safety: for tasks. Tokio: `JoinSet::join_next`.

        Example::

            import freerun

            async def work(n: int) -> int:
                return n * n

            async def main() -> int:
                tasks: freerun.JoinSet[int] = freerun.JoinSet()
                tasks.spawn(work, 3)
                tasks.spawn(work, 4)
                return await tasks.join_next() + await tasks.join_next()

            assert freerun.run(main) == 25
        """
        return self._join_next()

    def join_next_with_id(self) -> Awaitable[tuple[int, T]]:
        """Wait as `join_next()` does; the task's id comes with the result.

        Errors: as `join_next()`. Cancel safety: no result is lost. Thread safety: for tasks.
        Tokio: `JoinSet::join_next_with_id`.

        Example::

            import freerun

            async def work() -> str:
                return "done"

            async def main() -> bool:
                tasks: freerun.JoinSet[str] = freerun.JoinSet()
                handle = tasks.spawn(work)
                return await tasks.join_next_with_id() == (handle.id, "done")

            assert freerun.run(main)
        """
        return self._join_next_with_id()

    def join_next_handle(self) -> Awaitable[JoinHandle[T]]:
        """Wait as `join_next()` does, for the handle of the task: it has ended, and awaiting it tells how.

        For who wants to know which task failed. The handle is the one that `spawn()` returned.

        Errors: `IndexError` if no task is in here, or none any more. Cancel safety: no handle is lost.
        Thread safety: for tasks. Tokio: `JoinSet::join_next`, whose result may be an error.

        Example::

            import freerun

            async def work(n: int) -> float:
                return 1 / n

            async def main() -> list[str | None]:
                tasks: freerun.JoinSet[float] = freerun.JoinSet()
                for n in range(3):
                    tasks.spawn(work, n, name=f"1/{n}")
                failed = []
                while tasks:
                    handle = await tasks.join_next_handle()
                    try:
                        await handle
                    except ZeroDivisionError:
                        failed.append(handle.name)
                return failed

            assert freerun.run(main) == ["1/0"]
        """
        return self._join_next_handle()

    def try_join_next(self) -> T:
        """Take the result of a task that has ended, without waiting.

        Errors: as `join_next()`; `WouldBlock` if none has ended yet.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinSet::try_join_next`.
        """
        result: T = self._try_join_next()
        return result

    def try_join_next_with_id(self) -> tuple[int, T]:
        """As `try_join_next()`; the task's id comes with the result. Tokio: `JoinSet::try_join_next_with_id`."""
        result: tuple[int, T] = self._try_join_next_with_id()
        return result

    def try_join_next_handle(self) -> JoinHandle[T]:
        """As `try_join_next()`; the handle of a task that has ended, which tells how. Tokio: `JoinSet::try_join_next`.

        Errors: `WouldBlock` if none has ended yet; `IndexError` if no task is in here.

        Example::

            import freerun

            async def fail() -> None:
                raise OSError

            async def main() -> str:
                tasks: freerun.JoinSet[None] = freerun.JoinSet()
                tasks.spawn(fail)
                while True:
                    try:
                        handle = tasks.try_join_next_handle()
                    except freerun.WouldBlock:
                        await freerun.yield_now()
                        continue
                    try:
                        await handle
                    except OSError:
                        return "failed"

            assert freerun.run(main) == "failed"
        """
        handle: JoinHandle[T] = self._try_join_next_handle()
        return handle

    def __aiter__(self) -> Self:
        """Iterate over the results, in the order in which the tasks end, until none is left."""
        return self

    def __anext__(self) -> Awaitable[T]:
        """Wait as `join_next()` does; the iteration ends where that would raise `IndexError`.

        A failed task raises here and ends the loop; another `async for` goes on with the rest.
        """
        return self._iterate()

    async def join_all(self) -> list[T]:
        """Wait for all tasks; their results, in the order in which they ended.

        Errors: the first failure, when the others have been aborted and have ended.
        Cancel safety: the results that it has taken are lost, the tasks that run stay in here.
        Thread safety: for tasks. Tokio: `JoinSet::join_all`.

        Example::

            import freerun

            async def work(n: int) -> int:
                await freerun.yield_now()
                return n

            async def main() -> list[int]:
                tasks: freerun.JoinSet[int] = freerun.JoinSet()
                for n in range(4):
                    tasks.spawn(work, n)
                return sorted(await tasks.join_all())

            assert freerun.run(main) == [0, 1, 2, 3]
        """
        try:
            return [result async for result in self]
        except (Cancelled, GeneratorExit):
            raise
        except BaseException:
            await self.shutdown()
            raise

    def detach_all(self) -> None:
        """Let go of all tasks: those that run go on by themselves, results that nobody took are dropped.

        Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinSet::detach_all`.
        """
        self._detach_all()

    async def shutdown(self) -> None:
        """Abort all tasks and wait until they have ended. Their results are dropped; the set may be used again.

        Errors: `RuntimeError` for those who spawn meanwhile.
        Cancel safety: it goes on waiting, and raises `Cancelled` at the end. Thread safety: for tasks.
        Tokio: `JoinSet::shutdown`.

        Example::

            import freerun
            from freerun.time import sleep

            async def main() -> bool:
                tasks: freerun.JoinSet[None] = freerun.JoinSet()
                handle = tasks.spawn(freerun.time.sleep_until, freerun.time.Instant.now() + 3600)
                await tasks.shutdown()
                return handle.is_finished() and tasks.is_empty()

            assert freerun.run(main)
        """
        try:
            await self._wind_up(self._idle)
        finally:
            self._reopen()

    async def _wind_up(self, ended: Callable[[], Awaitable[None]]) -> None:
        self._refuse_and_abort()
        cancelled: Cancelled | None = None
        while True:
            try:
                await ended()
                break
            except Cancelled as error:  # they are being aborted already
                cancelled = error
        self._detach_all()
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled  # its traceback has this frame

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:  # the coroutine is being closed, and may not wait
            self._refuse_and_abort()
            return
        await self._wind_up(self._close)
