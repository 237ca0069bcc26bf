"""Everything that takes an awaitable takes `async_fn, *args` as well."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from freerun._arguments import close_unstarted

__all__ = ["as_awaitable"]


def as_awaitable(value: Any, args: tuple[Any, ...], argument: str = "awaitable") -> Awaitable[Any]:
    """What is awaitable as it is, else `value(*args)`. `TypeError`, naming `argument`, if that is not awaitable."""
    if hasattr(value, "__await__"):
        if args:
            close_unstarted(value)
            raise TypeError(f"argument '{argument}' is awaitable and takes no arguments; pass the async function")
        return value  # type: ignore[no-any-return]
    if not callable(value):
        kind = type(value).__name__
        raise TypeError(f"argument '{argument}' must be awaitable or an async function, not {kind}: {value!r}")
    made: Awaitable[Any] = value(*args)
    if not hasattr(made, "__await__"):
        kind = type(made).__name__
        raise TypeError(f"argument '{argument}' must be an async function, but calling it returned {kind}: {value!r}")
    return made
