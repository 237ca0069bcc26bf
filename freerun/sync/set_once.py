"""A value that is set once, and can be waited for. Tokio: `tokio::sync::SetOnce`."""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import Any

from freerun.lowlevel import PENDING, Listeners, Pending

__all__ = ["SetOnce", "SetOnceError"]


class SetOnceError(Exception):
    """`SetOnce.set` came too late. `value` is what could not be set. Tokio: `SetOnceError`."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return "there is a value already; the one that was not set is in .value"


SetOnceError.__module__ = "freerun.sync"


class SetOnce[T]:
    """Holds a value that is set once; any number of tasks wait for it.

    `SetOnce(value)` has its value from the start.

    Thread safety: every method, from any thread; `wait` inside a task. Tokio: `tokio::sync::SetOnce`.

    Example::

        import freerun
        from freerun.sync import SetOnce

        async def main() -> None:
            port: SetOnce[int] = SetOnce()
            clients = [freerun.spawn(port.wait) for _ in range(3)]
            port.set(8080)
            assert [await client for client in clients] == [8080] * 3

        freerun.run(main)
    """

    __slots__ = ("__weakref__", "_lock", "_value", "_waiting")

    def __init__(self, value: T | Pending = PENDING) -> None:
        self._lock = threading.RLock()  # no call under it, and so no finalizer
        self._value = value  # changed under the lock, once
        self._waiting = Listeners()

    def set(self, value: T) -> None:
        """Set the value, and wake who waits for it. Never waits.

        Errors: `SetOnceError`, with the value in it, if there is one already. Thread safety: any thread. Tokio:
        `SetOnce::set`.
        """
        with self._lock:
            first = self._value is PENDING
            if first:
                self._value = value
        if not first:
            raise SetOnceError(value)
        self._waiting.wake_all()

    def get[D](self, default: D | Pending = PENDING) -> T | D:
        """The value, or `default`. Never waits.

        Errors: `LookupError` if there is neither. Thread safety: any thread. Tokio: `SetOnce::get`.
        """
        if (value := self._value) is not PENDING:
            return value
        if default is not PENDING:
            return default
        raise LookupError("no value was set yet; await wait(), or pass a default")

    def initialized(self) -> bool:
        """Whether there is a value. Thread safety: any thread. Tokio: `SetOnce::initialized`."""
        return self._value is not PENDING

    def wait(self) -> Awaitable[T]:
        """Wait until there is a value, and return it.

        Cancel safe. Thread safety: inside a task. Tokio: `SetOnce::wait`.
        """
        return self._waiting.wait(lambda: self._value)

    def __repr__(self) -> str:
        return "<SetOnce empty>" if self._value is PENDING else f"<SetOnce {self._value!r}>"
