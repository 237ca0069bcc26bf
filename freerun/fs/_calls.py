"""How a file function gets to a thread that may block, and checks of the arguments they share."""

from __future__ import annotations

import os
from collections.abc import Callable

from freerun._core._native import spawn_file_call
from freerun._errors import Cancelled

__all__ = ["StrPath", "as_path", "call", "must"]

type StrPath = str | os.PathLike[str]
"""Where something is in the file system: a string or a `pathlib.Path`."""


async def call[*Ts, T](fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call it on the blocking pool. Cancelled before it has started, it does not start."""
    handle = spawn_file_call(False, fn, *args)
    try:
        return await handle
    except Cancelled:
        handle.abort()
        raise


async def must[*Ts, T](fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call what changes something: it runs to its end, whoever is cancelled and whatever is shut down."""
    return await spawn_file_call(True, fn, *args)


def as_path(path: StrPath, argument: str = "path") -> str:
    """Check a path; a descriptor is not one."""
    try:
        text = os.fspath(path)
    except TypeError:
        kind = type(path).__name__
        raise TypeError(f"argument '{argument}' must be a str or a path, not {kind}: {path!r}") from None
    if not isinstance(text, str):
        raise TypeError(f"argument '{argument}' must be a str or a path, not bytes; use os.fsdecode(): {path!r}")
    if "\0" in text:
        raise ValueError(f"argument '{argument}' must not contain a null character: {text!r}")
    return text
