"""Polling several awaitables within a task, and leaving them half done.

`select` and `join` end their branches before they return. The next item of a stream must not be ended because another
stream was faster: that would end an async generator altogether. So what streams poll are strands of the engine, which
outlive the await that polled them, and the task as well.

Whoever polls a strand holds the stream that it belongs to, see `_stream.py`.
"""

from __future__ import annotations

import types
from collections.abc import Generator, Iterable
from typing import Any, Final, NoReturn, Protocol

from freerun._core._native import Strand
from freerun._errors import Cancelled

__all__ = ["Failed", "Pollable", "cancel", "first"]

_TOKEN: Final = ...
"""What the engine's tasks yield when they wait."""


class Pollable(Protocol):
    """What `first()` polls."""

    def poll(self) -> bool:
        """Go on; whether it is done."""


class Failed:
    """In place of a strand: something that could not even be begun."""

    __slots__ = ("_error",)

    is_done = True

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def poll(self) -> bool:
        return True

    def throw(self, _error: BaseException, /) -> bool:
        return True

    def take(self) -> NoReturn:
        raise self._error

    def close(self) -> None:
        """There is nothing to end."""


@types.coroutine
def first[P: Pollable](pollable: Iterable[P]) -> Generator[Any, Any, P]:
    """Wait until one of them is done, polling them in this order, and return it. Each turn iterates `pollable` anew.

    Cancelled, it leaves them as they are.
    """
    while True:
        for each in pollable:
            if each.poll():
                return each
        yield _TOKEN


@types.coroutine
def cancel(strands: Iterable[Strand[Any] | Failed]) -> Generator[Any, Any, list[Exception]]:
    """Throw `Cancelled` into each and wait until all have ended; what they raised instead.

    If the wait is cancelled, by an abort or otherwise, that is thrown into those that are left, and raised in the end.
    """
    every = list(strands)
    left = _throw(every, Cancelled)
    thrown: BaseException | None = None
    while left:
        try:
            yield _TOKEN
        except GeneratorExit:
            for each in left:
                each.close()
            raise
        except BaseException as error:
            thrown = error
            left = _throw(left, type(error))
        else:
            left = [each for each in left if not each.poll()]
    errors = [failed for each in every if (failed := _error_of(each)) is not None]
    if thrown is not None:
        try:
            raise thrown
        finally:
            thrown = None  # no cycle with its traceback
    return errors


def _throw(strands: list[Strand[Any] | Failed], kind: type[BaseException]) -> list[Strand[Any] | Failed]:
    """Those that have not ended by it."""
    left = []
    for each in strands:
        try:
            if not each.throw(kind()):
                left.append(each)
        except RuntimeError:  # begun in a runtime that is another one, or over: it cannot clean up in this one
            each.close()
    return left


def _error_of(ended: Strand[Any] | Failed) -> Exception | None:
    try:
        ended.take()
    except (Cancelled, StopAsyncIteration):
        return None
    except RuntimeError as error:
        return None if "taken already" in str(error) else error
    except Exception as error:
        return error
    return None
