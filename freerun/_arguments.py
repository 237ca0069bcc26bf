"""Checks of arguments. Each error names the argument, says what was wrong with it and what to pass instead."""

from __future__ import annotations

import datetime as dt
import math
import operator
from collections.abc import Callable, Coroutine
from types import CoroutineType

type Seconds = float | dt.timedelta
"""A duration: seconds as `int` or `float`, or a `datetime.timedelta`."""


_FOR_EVER_NS = 10**27
"""Nanoseconds that nobody lives to see the end of. The engine's clock ends long before."""


def seconds(value: Seconds, argument: str, *, for_ever: bool = False) -> float:
    """Turn a duration into seconds; a negative one, NaN and anything else is an error, and so is infinity, unless who
    asks knows what to do `for_ever`."""
    if isinstance(value, dt.timedelta):
        number = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(value).__name__
        raise TypeError(f"argument '{argument}' must be seconds (int or float) or a timedelta, not {kind}: {value!r}")
    else:
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(f"argument '{argument}' is too large a number of seconds") from None
    if math.isnan(number):
        raise ValueError(f"argument '{argument}' must be a number of seconds, not NaN")
    if number < 0:
        raise ValueError(f"argument '{argument}' must not be negative: {value!r}")
    if math.isinf(number) and not for_ever:
        raise ValueError(f"argument '{argument}' must be finite; pass a large number of seconds instead")
    return number


def nanoseconds(value: Seconds, argument: str) -> int:
    """The same for the runtime's clock, on which infinity, and what is beyond all bounds, means for ever."""
    return round(min(seconds(value, argument, for_ever=True) * 1e9, _FOR_EVER_NS))


def integer(value: object, argument: str, *, least: int = 1, most: int | None = None) -> int:
    """Check a whole number; `bool` is not one."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"argument '{argument}' must be an int, not {type(value).__name__}: {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"argument '{argument}' must be at least {least}: {number}")
    if most is not None and number > most:
        raise ValueError(f"argument '{argument}' must be at most {most}: {number}")
    return number


def flag(value: object, argument: str) -> bool:
    """Check a truth value: `True` or `False`, so that a misplaced argument is noticed."""
    if not isinstance(value, bool):
        raise TypeError(f"argument '{argument}' must be True or False, not {type(value).__name__}: {value!r}")
    return value


def one_of(value: object, argument: str, choices: tuple[str, ...]) -> str:
    """Check that a string is one of a few."""
    allowed = ", ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"argument '{argument}' must be one of {allowed}, not {type(value).__name__}: {value!r}")
    if value not in choices:
        raise ValueError(f"argument '{argument}' must be one of {allowed}: {value!r}")
    return value


def function[F: Callable[..., object]](value: F, argument: str) -> F:
    """Check that something can be called, and is not async."""
    if not callable(value):
        raise TypeError(f"argument '{argument}' must be a function, not {type(value).__name__}: {value!r}")
    if is_async_function(value):
        raise TypeError(f"argument '{argument}' must be an ordinary function, not an async one: {value!r}")
    return value


def is_async_function(value: object) -> bool:
    """Whether calling it makes a coroutine: as `inspect.iscoroutinefunction` says, without importing `inspect`."""
    value = getattr(value, "__func__", value)
    while type(value).__name__ == "partial" and hasattr(value, "func"):
        value = value.func
    code = getattr(value, "__code__", None)
    flags: int = getattr(code, "co_flags", 0)
    return bool(flags & (0x80 | 0x100))  # CO_COROUTINE, CO_ITERABLE_COROUTINE


def main_function(value: object, args: tuple[object, ...], argument: str) -> None:
    """Check what `run()` is given before a runtime is built for it."""
    if isinstance(value, CoroutineType):
        if args:
            raise TypeError(f"argument '{argument}' is a coroutine and takes no arguments; pass the async function")
    elif not callable(value) and not isinstance(value, Coroutine):
        kind = type(value).__name__
        raise TypeError(f"argument '{argument}' must be a coroutine or an async function, not {kind}: {value!r}")


def close_unstarted(value: object) -> None:
    """Close a coroutine that will never be awaited, so that Python does not warn about it on top of the error."""
    if isinstance(value, CoroutineType) and value.cr_frame is not None and not (value.cr_running or value.cr_suspended):
        value.close()
