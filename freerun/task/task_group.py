"""`TaskGroup`: tasks that succeed or fail together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._core._native import CancelScope, JoinHandle, TaskSet
from freerun._errors import Cancelled

__all__ = ["TaskGroup"]


@final
class TaskGroup(TaskSet):
    """Tasks that succeed or fail together: `async with TaskGroup() as group:`, then `group.spawn(...)`.

    The block ends when its body and every task have ended. The first task that fails aborts the others and cancels the
    body where it waits; so does a body that raises, or is cancelled. They are all waited for, and their cleanup may
    await. Then the failures are raised as an `ExceptionGroup` (`BaseExceptionGroup` if they must), the body's own
    among them, last. A task that ends by abort is no failure.

    `KeyboardInterrupt` and `SystemExit` of a task or the body are raised as they are. If the block is cancelled from
    outside, by an abort or a scope around it, the tasks are aborted and `Cancelled` goes on; with failures at the same
    time the `ExceptionGroup` is raised, and `Cancelled` comes at the next await.

    Tasks may spawn tasks in their own group. What `spawn()` returns is a `JoinHandle`; there is no need to await it,
    and nothing else keeps the result of a task that succeeded. A group that is dropped or closed without having been
    left aborts its tasks.

    Errors: `RuntimeError` if it is entered twice, and for `spawn()` before it is entered, once it is shutting down, and
    after its end. Cancel safety: see above. Thread safety: `spawn()`, `cancel()` and `abort_all()` from any thread;
    tasks go to the runtime in which the group was entered. Tokio: none; `asyncio.TaskGroup`.

    Example::

        import freerun
        from freerun.time import sleep

        async def fetch(n: int) -> int:
            await sleep(0.001)
            if n == 2:
                raise ValueError(n)
            await sleep(3600)
            return n

        async def main() -> str:
            try:
                async with freerun.TaskGroup() as group:
                    for n in range(4):
                        group.spawn(fetch, n)
            except* ValueError as failures:
                outcome = repr(failures.exceptions)
            return outcome

        assert freerun.run(main) == "(ValueError(2),)"
    """

    __slots__ = ("__weakref__", "_scope")
    _scope: CancelScope

    if TYPE_CHECKING:

        @overload
        def spawn[T](
            self, coro: Coroutine[Any, Any, T], /, *, name: str | None = None, context: Context | None = None
        ) -> JoinHandle[T]: ...
        @overload
        def spawn[*Ts, T](
            self,
            async_fn: Callable[[*Ts], Coroutine[Any, Any, T]],
            /,
            *args: *Ts,
            name: str | None = None,
            context: Context | None = None,
        ) -> JoinHandle[T]: ...
        def spawn(self, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[misc]  # mypy on TypeVarTuple
        def spawn_blocking[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JoinHandle[T]: ...

        create_task = spawn
    else:
        create_task = TaskSet.spawn  # asyncio's name for it

    def __new__(cls) -> Self:
        """Make a group, to be entered once."""
        self = super().__new__(cls, True)
        self._scope = CancelScope()
        return self

    def cancel(self) -> None:
        """Abort the tasks and cancel the body; the block then ends without an error of its own.

        Failures that there are, and those of the cleanup, are raised all the same.

        Cancel safety: does not wait. Thread safety: any thread. Tokio: none; asyncio's `TaskGroup.cancel` of 3.15.

        Example::

            import freerun
            from freerun.time import sleep

            async def main() -> str:
                async with freerun.TaskGroup() as group:
                    group.spawn(sleep, 3600)
                    group.cancel()
                    await sleep(3600)
                return "left"

            assert freerun.run(main) == "left"
        """
        self._scope.cancel()
        self._refuse_and_abort()

    async def __aenter__(self) -> Self:
        self._open(self._scope)
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            self._refuse_and_abort()
        if kind is GeneratorExit:  # the coroutine is being closed, and may not wait
            self._scope.__exit__(kind, error, trace)
            return None
        cancelled = error if isinstance(error, Cancelled) else None
        errors: list[BaseException] = []
        try:
            cancelled = await self._wait(cancelled)
            errors = self._take_errors()
            caught = self._scope.__exit__(None if cancelled is None else Cancelled, cancelled, None)
            if error is not None and error is not cancelled and not isinstance(error, Cancelled):
                errors.append(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                return None
            _raise_fatal(errors)
            if errors:
                if cancelled is not None and not caught:
                    self._scope._cancel_again()
                raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors) from None
            if cancelled is None or caught:
                return caught
            if cancelled is error:
                return None
            raise cancelled
        finally:  # exceptions have this frame in their tracebacks
            del cancelled, errors, error, trace

    async def _wait(self, cancelled: Cancelled | None) -> Cancelled | None:
        """Wait for all tasks, whatever happens; the last Cancelled."""
        try:
            while True:
                try:
                    await self._close()
                    return cancelled
                except Cancelled as again:
                    cancelled = again
                    self._refuse_and_abort()
        except BaseException:
            self._refuse_and_abort()
            raise
        finally:
            del cancelled


def _raise_fatal(errors: list[BaseException]) -> None:
    for error in errors:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            try:
                raise error
            finally:  # its traceback has this frame
                del error, errors
