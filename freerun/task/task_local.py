"""`task_local`: a value that belongs to a part of a task. Tokio: `tokio::task_local!`."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast, final, overload

from freerun.lowlevel import PENDING, Pending

from ._awaitable import as_awaitable

__all__ = ["TaskLocal", "task_local"]


@final
class TaskLocal[T]:
    """A context variable that has a value within `scope()` and none outside. `task_local()` makes it.

    `var` is the `contextvars.ContextVar` itself. As with every context variable, a task that is spawned within the
    scope begins with the value (Tokio's has none there).

    Thread safety: every method, from any thread. Tokio: `tokio::task::LocalKey`.
    """

    __slots__ = ("var",)

    def __init__(self, name: str) -> None:
        self.var: contextvars.ContextVar[T] = contextvars.ContextVar(name)

    @property
    def name(self) -> str:
        """The name given to `task_local()`."""
        return self.var.name

    @overload
    def scope(self, value: T, /) -> AbstractContextManager[None]: ...
    @overload
    def scope[R](self, value: T, awaitable: Awaitable[R], /) -> Awaitable[R]: ...
    @overload
    def scope[*Ts, R](self, value: T, awaitable: Callable[[*Ts], Awaitable[R]], /, *args: *Ts) -> Awaitable[R]: ...
    def scope(self, value: T, awaitable: Any = None, /, *args: Any) -> Any:  # type: ignore[misc]  # mypy on TypeVarTuple
        """`await x.scope(value, awaitable)`, or `(value, async_fn, *args)`: await it with this value.

        The value is there only while the awaited itself is polled: another branch of the same task, in a `select` or
        `join`, does not see it. `with x.scope(value):` sets it for a block of ordinary code; if the block awaits, other
        branches of the task see the value meanwhile.

        Errors: `TypeError` for what cannot be awaited; what is awaited raises. Cancel safety: as what is awaited.
        Thread safety: any thread. Tokio: `LocalKey::scope`.

        Example::

            import freerun
            from freerun.task import task_local

            user = task_local("user")

            async def greet() -> str:
                await freerun.yield_now()
                return f"hello {user.get()}"

            async def main() -> str:
                with user.scope("nobody"):
                    assert user.get() == "nobody"
                return await user.scope("you", greet())

            assert freerun.run(main) == "hello you"
        """
        if awaitable is None:
            return self._block(value)
        return self._poll(as_awaitable(awaitable, args), value)

    @contextmanager
    def _block(self, value: T) -> Iterator[None]:
        token = self.var.set(value)
        try:
            yield
        finally:
            self.var.reset(token)

    async def _poll(self, awaitable: Awaitable[Any], value: T) -> Any:
        return await self._steps(awaitable, value)

    @types.coroutine
    def _steps(self, awaitable: Awaitable[Any], value: T) -> Generator[Any, Any, Any]:
        """Step it with the value, which is taken away before anything else of the task is stepped."""
        iterator = self._within(value, awaitable.__await__)
        step: Callable[..., Any] = iterator.__next__
        thrown: tuple[BaseException, ...] = ()
        while True:
            try:
                token = self._within(value, step, *thrown)
            except StopIteration as stop:
                return stop.value
            try:
                yield token
                step, thrown = iterator.__next__, ()
            except BaseException as error:
                if not hasattr(iterator, "throw"):  # a plain iterator just ends
                    raise
                step, thrown = cast(Any, iterator).throw, (error,)

    def sync_scope[**P, R](self, value: T, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` with this value, and return what it returns. Tokio: `LocalKey::sync_scope`.

        Thread safety: any thread.

        Example::

            from freerun.task import task_local

            user = task_local("user")
            assert user.sync_scope("you", user.get) == "you"
        """
        return self._within(value, fn, *args, **kwargs)

    def _within[**P, R](self, value: T, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        token = self.var.set(value)
        try:
            return fn(*args, **kwargs)
        finally:
            self.var.reset(token)

    def get[D](self, default: D | Pending = PENDING) -> T | D:
        """The value, or `default`.

        Errors: `LookupError` outside of `scope()`, without a default. Any thread. Tokio: `LocalKey::get`.
        """
        if default is not PENDING:
            return self.var.get(default)
        return self.try_get()

    def try_get(self) -> T:
        """The value. Errors: `LookupError` outside of `scope()`. Any thread. Tokio: `LocalKey::try_get`."""
        try:
            return self.var.get()
        except LookupError:
            raise LookupError(f"task-local {self.name!r} has no value here: call this within its scope()") from None

    def with_[R](self, fn: Callable[[T], R], /) -> R:
        """`fn(value)`. Errors: `LookupError` outside of `scope()`. Tokio: `LocalKey::with`.

        Thread safety: any thread.

        Example::

            from freerun.task import task_local

            user = task_local("user")
            with user.scope("you"):
                assert user.with_(len) == 3
        """
        return fn(self.try_get())

    def __repr__(self) -> str:
        return f"<TaskLocal {self.name!r}>"


def task_local(name: str, /) -> TaskLocal[Any]:
    """A new `TaskLocal`; make it once, at the top of a module. `TaskLocal[int]("name")` is one with a type.

    Errors: `TypeError` if `name` is no string. Thread safety: any thread. Tokio: `tokio::task_local!`.

    Example::

        import freerun
        from freerun.task import task_local

        number = task_local("number")

        async def main() -> int:
            return await number.scope(1, read)

        async def read() -> int:
            return number.get()

        assert freerun.run(main) == 1
    """
    return TaskLocal(name)
