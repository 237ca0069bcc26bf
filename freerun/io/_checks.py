"""Checks of the arguments that streams share, and what one does to a stream that may lack a method."""

from __future__ import annotations

import sys
from collections.abc import Buffer
from typing import Any

from freerun._arguments import integer

__all__ = [
    "CAPACITY",
    "check_limit",
    "check_n",
    "check_reader",
    "check_writer",
    "close_inner",
    "contiguous",
    "flush_inner",
]

CAPACITY = 65536
"""How much is read or gathered at once, if nobody says otherwise. Nothing is reserved: it is a limit."""


def check_reader[R](value: R, argument: str) -> R:
    """Check that something can be read."""
    if not callable(getattr(value, "read", None)):
        raise TypeError(f"argument '{argument}' must have an async read(n), as TcpStream has: {value!r}")
    return value


def check_writer[W](value: W, argument: str) -> W:
    """Check that something can be written."""
    if not callable(getattr(value, "write", None)):
        raise TypeError(f"argument '{argument}' must have an async write(data), as TcpStream has: {value!r}")
    return value


def check_n(n: int) -> int:
    """Check how much is to be read at most."""
    return integer(n, "n")


def check_limit(limit: int | None, argument: str = "limit") -> int:
    """Check a limit in bytes; `None` is none."""
    return sys.maxsize if limit is None else integer(limit, argument, least=0)


def contiguous(data: Buffer) -> bytes | memoryview:
    """What is to be written, with a length in bytes."""
    if type(data) is bytes:
        return data
    try:
        view = memoryview(data)
    except TypeError:
        hint = "; encode() it" if isinstance(data, str) else ""
        raise TypeError(f"argument 'data' must be bytes-like, not {type(data).__name__}{hint}") from None
    if not view.c_contiguous:
        raise BufferError("argument 'data' must be contiguous in memory; pass bytes(data)")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


async def flush_inner(inner: Any) -> None:
    """Flush a stream, if it has something to flush."""
    flush = getattr(inner, "flush", None)
    if flush is not None:
        await flush()


def close_inner(inner: Any) -> None:
    """Close a stream, if it can be closed."""
    close = getattr(inner, "close", None)
    if close is not None:
        close()
