"""Awaitables that are polled by themselves within a task, and may stay half done from one poll to a much later one.

`select` and `join` end their branches before they return. The next item of a stream must not be ended because another
stream was faster: that would end an async generator altogether. So these branches outlive the await that polled them.
Each is a `timeout()` without end, for that is what gives a branch a stack of scopes of its own.

Whoever polls a branch holds the stream that it belongs to, see `_stream.py`.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Final, Protocol

from freerun._core._native import timeout_at_ns
from freerun._errors import Cancelled

__all__ = ["DONE", "Branch", "Pollable", "cancel", "first"]

_FOREVER: Final = (1 << 63) - 1
_TOKEN: Final = ...
"""What every leaf of the engine yields when it waits."""

DONE: Final = object()


class Pollable(Protocol):
    """What `first()` polls."""

    def poll(self) -> Any:
        """Go on: `DONE`, or what is to be yielded while it waits."""

    def throw(self, error: BaseException) -> Any:
        """Go on with an exception at the place where it waits; as `poll`."""


class Branch[T]:
    """One awaitable. It is polled until it is done; then `take()` gives its result, or raises what it raised."""

    __slots__ = ("_error", "_line", "_value")

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._line: Any = timeout_at_ns(_FOREVER, awaitable)
        self._value: Any = None
        self._error: BaseException | None = None

    @classmethod
    def failed(cls, error: BaseException) -> Branch[Any]:
        """One that is done from the start."""
        branch: Branch[Any] = cls.__new__(cls)
        branch._line, branch._value, branch._error = None, None, error
        return branch

    def poll(self) -> Any:
        return DONE if self._line is None else self._step(self._line.__next__)

    def throw(self, error: BaseException) -> Any:
        return DONE if self._line is None else self._step(self._line.throw, error)

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        try:
            return step(*args)
        except StopIteration as stop:
            self._value = stop.value
        except BaseException as error:
            self._error = error
        self._line = None
        return DONE

    def take(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # no cycle with its traceback
        return self._value  # type: ignore[no-any-return]

    @property
    def is_done(self) -> bool:
        """Whether there is something to take."""
        return self._line is None

    def close(self) -> None:
        """End it at once: for when nobody can await any more."""
        if self._line is not None:
            self._line.close()


@types.coroutine
def first[P: Pollable](branches: Iterable[P]) -> Generator[Any, Any, P]:
    """Wait until one of them is done, polling them in this order, and return it. Each turn iterates `branches` anew.

    Cancelled, it leaves them as they are.
    """
    while True:
        waits: Any = None
        for branch in branches:
            polled = branch.poll()
            while polled is not _TOKEN and polled is not DONE:  # not freerun's: the task refuses it, where it came from
                try:
                    yield polled
                except BaseException as error:
                    polled = branch.throw(error)
            if polled is DONE:
                return branch
            waits = polled
        yield waits


@types.coroutine
def cancel(branches: Iterable[Branch[Any]]) -> Generator[Any, Any, list[Exception]]:
    """Throw `Cancelled` into each and wait until all have ended; what they raised instead.

    If the wait is cancelled, by an abort or otherwise, that is thrown into those that are left, and raised in the end.
    """
    ended: list[Branch[Any]] = []
    left = _throw(branches, Cancelled, ended)
    thrown: BaseException | None = None
    while left:
        try:
            yield _TOKEN
        except GeneratorExit:
            for branch in left:
                branch.close()
            raise
        except BaseException as error:
            thrown = error
            left = _throw(left, type(error), ended)
        else:
            still = [branch for branch in left if branch.poll() is not DONE]
            ended += [branch for branch in left if branch not in still]
            left = still
    errors = [failed for branch in ended if (failed := _error_of(branch)) is not None]
    if thrown is not None:
        try:
            raise thrown
        finally:
            thrown = None
    return errors


def _throw(branches: Iterable[Branch[Any]], kind: type[BaseException], ended: list[Branch[Any]]) -> list[Branch[Any]]:
    """Those that have not ended by it."""
    left: list[Branch[Any]] = []
    for branch in branches:
        (ended if branch.throw(kind()) is DONE else left).append(branch)
    return left


def _error_of(branch: Branch[Any]) -> Exception | None:
    try:
        branch.take()
    except (Cancelled, StopAsyncIteration):
        return None
    except Exception as error:
        return error
    return None
