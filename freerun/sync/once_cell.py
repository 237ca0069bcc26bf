"""A value that is made once, by the first who needs it. Tokio: `tokio::sync::OnceCell`."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

from freerun._arguments import close_unstarted
from freerun.lowlevel import PENDING, Pending, WaitList

__all__ = ["OnceCell", "SetError"]


class SetError(Exception):
    """`OnceCell.set` came too late. `value` is what could not be set. Tokio: `SetError`."""

    def __init__(self, value: Any, initializing: bool = False) -> None:
        super().__init__(value, initializing)
        self.value = value
        self._initializing = initializing

    def is_already_init_err(self) -> bool:
        """Whether there is a value already."""
        return not self._initializing

    def is_initializing_err(self) -> bool:
        """Whether somebody is making the value at this moment."""
        return self._initializing

    def __str__(self) -> str:
        why = "is being initialised by somebody else" if self._initializing else "has a value already"
        return f"the cell {why}; the value that was not set is in .value"


SetError.__module__ = "freerun.sync"


class OnceCell[T]:
    """Holds a value that is set once. Who asks for it first makes it; the others wait meanwhile.

    `OnceCell(value)` has its value from the start.

    Thread safety: every method, from any thread; those that are awaited, inside a task. Tokio:
    `tokio::sync::OnceCell`.

    Example::

        import freerun
        from freerun.sync import OnceCell

        calls: list[str] = []
        connection: OnceCell[str] = OnceCell()

        async def connect(host: str) -> str:
            calls.append(host)
            await freerun.time.sleep(0.001)
            return f"connected to {host}"

        async def main() -> None:
            tasks = [freerun.spawn(connection.get_or_init, connect, "db") for _ in range(3)]
            assert [await task for task in tasks] == ["connected to db"] * 3
            assert calls == ["db"]
            assert connection.get() == "connected to db"

        freerun.run(main)
    """

    __slots__ = ("__weakref__", "_initializing", "_line", "_lock", "_value")

    def __init__(self, value: T | Pending = PENDING) -> None:
        self._lock = threading.RLock()  # no call under it, and so no finalizer
        self._value = value  # changed under the lock, once
        self._initializing = False  # somebody makes the value; under the lock
        self._line = WaitList()  # who would make it if that one failed

    def get[D](self, default: D | Pending = PENDING) -> T | D:
        """The value, or `default`. Never waits.

        Errors: `LookupError` if there is neither. Thread safety: any thread. Tokio: `OnceCell::get`.
        """
        if (value := self._value) is not PENDING:
            return value
        if default is not PENDING:
            return default
        raise LookupError("the cell has no value yet; await get_or_init(), or pass a default")

    def initialized(self) -> bool:
        """Whether there is a value. Thread safety: any thread. Tokio: `OnceCell::initialized`."""
        return self._value is not PENDING

    def set(self, value: T) -> None:
        """Set the value. Never waits.

        Errors: `SetError`, with the value in it, if there is one or somebody is making one. Thread safety: any thread.
        Tokio: `OnceCell::set`.
        """
        with self._lock:
            done, busy = self._value is not PENDING, self._initializing
            if not (done or busy):
                self._value = value
        if done or busy:
            raise SetError(value, initializing=not done)
        self._line.wake_all()

    async def get_or_init(self, init: Callable[..., Awaitable[T]] | Awaitable[T], /, *args: Any) -> T:
        """The value; if there is none, `await init(*args)` makes it. `init` may be a coroutine as well.

        Only one `init` runs at a time, and none once there is a value. If it raises, or its task is cancelled, the cell
        stays empty, the error comes out here, and the next one that waits runs its own `init`. An `init` must not wait
        for its own cell.

        Errors: what `init` raises; `TypeError` if it is not awaitable. Cancel safe: `init` is cancelled, and the cell
        as if nobody had asked. Thread safety: inside a task. Tokio: `OnceCell::get_or_init`.
        """
        if not (self.initialized() or self._claim()):
            try:
                with self._line.enlist() as place:
                    while not (self.initialized() or self._claim()):
                        await place
            except BaseException:
                close_unstarted(init)
                raise
        if (value := self._value) is not PENDING:
            close_unstarted(init)
            return value
        made: T | Pending = PENDING
        try:
            fresh: T = await _awaitable(init, args)
            made = fresh
            return fresh
        finally:
            self._finish(made)

    async def get_or_try_init(self, init: Callable[..., Awaitable[T]] | Awaitable[T], /, *args: Any) -> T:
        """As `get_or_init`, which also lets `init` fail. Tokio: `OnceCell::get_or_try_init`."""
        return await self.get_or_init(init, *args)

    def _claim(self) -> bool:
        """Become the one that makes the value."""
        with self._lock:
            mine = self._value is PENDING and not self._initializing
            if mine:
                self._initializing = True
        return mine

    def _finish(self, made: T | Pending) -> None:
        with self._lock:
            self._initializing = False
            self._value = made
        if made is PENDING:
            self._line.wake_one()
        else:
            self._line.wake_all()

    def __repr__(self) -> str:
        value = self._value
        state = repr(value) if value is not PENDING else "initialising" if self._initializing else "empty"
        return f"<OnceCell {state}>"


def _awaitable[T](init: Callable[..., Awaitable[T]] | Awaitable[T], args: tuple[Any, ...]) -> Awaitable[T]:
    made = init(*args) if callable(init) else init
    if not hasattr(made, "__await__"):
        what = f"returned {type(made).__name__}" if callable(init) else f"is {type(made).__name__}"
        raise TypeError(f"argument 'init' must be an async function or a coroutine; it {what}: {made!r}")
    if args and not callable(init):
        close_unstarted(init)
        raise TypeError("argument 'init' is a coroutine and takes no arguments; pass the async function")
    return made
