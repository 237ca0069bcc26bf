"""A `socket.socket` over a descriptor that stays somebody else's, for the calls that never wait."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from types import TracebackType

from freerun._core._native import IoSource

__all__ = ["Borrowed", "error_of", "owner_of"]


class Borrowed:
    """`with Borrowed(source) as sock:` lends the source's descriptor; it is never closed here."""

    __slots__ = ("_sock",)

    def __init__(self, source: IoSource) -> None:
        fd = source.fileno()
        if fd < 0:
            raise OSError(errno.EBADF, f"this {type(source).__name__} is closed")
        self._sock = socket.socket(fileno=fd)

    def __enter__(self) -> socket.socket:
        return self._sock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.detach()


def owner_of[S: IoSource](kind: Callable[[int], S], fd: int) -> S:
    """Make the owner of a descriptor; if that fails, close it, for then nobody owns it."""
    try:
        return kind(fd)
    except BaseException:
        os.close(fd)
        raise


def error_of(number: int, where: object) -> OSError:
    """The `OSError` for an error number, of the fitting subclass, naming the address."""
    return OSError(number, f"{os.strerror(number)}: {where}")
