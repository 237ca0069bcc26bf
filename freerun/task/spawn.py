"""`spawn` and `spawn_blocking`: the native functions, with types that a checker can follow.

The functions are native all the way, so that a task's spawn site is the caller's line and a spawn costs no Python call.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol, overload

from freerun._core import _native
from freerun._core._native import JoinHandle

__all__ = ["Spawn", "SpawnBlocking", "spawn", "spawn_blocking"]


class Spawn(Protocol):
    """The type of `freerun.spawn`, `Runtime.spawn` and `Handle.spawn`."""

    @overload
    def __call__[T](
        self, coro: Coroutine[Any, Any, T], /, *, name: str | None = None, context: Context | None = None
    ) -> JoinHandle[T]: ...
    @overload
    def __call__[*Ts, T](
        self,
        async_fn: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        name: str | None = None,
        context: Context | None = None,
    ) -> JoinHandle[T]: ...


class SpawnBlocking(Protocol):
    """The type of `freerun.spawn_blocking`, `Runtime.spawn_blocking` and `Handle.spawn_blocking`."""

    def __call__[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JoinHandle[T]: ...


spawn: Spawn = _native.spawn  # type: ignore[assignment]  # the stub is less exact
spawn_blocking: SpawnBlocking = _native.spawn_blocking
