"""`socket.socket` over descriptors that belong to the engine, for the calls that never wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Container

from freerun._core._native import IoSource

__all__ = ["a_socket", "error_of", "get_option", "own", "set_option", "with_socket"]


def with_socket[T](source: IoSource, use: Callable[[socket.socket], T]) -> T:
    """Lend the source's descriptor to `use`, as a socket; whoever closes the source, it stays open until then."""
    result: T = source.with_fd(_lend, use)
    return result


def _lend[T](fd: int, use: Callable[[socket.socket], T]) -> T:
    sock = socket.socket(fileno=fd)
    try:
        return use(sock)
    finally:
        sock.detach()


def get_option(source: IoSource, level: int, option: int) -> int:
    """An integer socket option."""
    return with_socket(source, lambda sock: sock.getsockopt(level, option))


def set_option(source: IoSource, level: int, option: int, value: int | bytes) -> None:
    """Set a socket option."""
    with_socket(source, lambda sock: sock.setsockopt(level, option, value))


def a_socket(value: object, argument: str, kind: int, families: Container[int], what: str) -> socket.socket:
    """Check a socket that somebody wants to hand over."""
    if not isinstance(value, socket.socket):
        raise TypeError(f"argument '{argument}' must be a socket.socket, not {type(value).__name__}: {value!r}")
    if value.type != kind or value.family not in families:
        raise ValueError(f"argument '{argument}' must be a {what}: {value!r}")
    return value


def own[S: IoSource](kind: Callable[[int], S], fd: int) -> S:
    """Make the owner of a descriptor; if that fails, close it, for then nobody owns it."""
    try:
        return kind(fd)
    except BaseException:
        os.close(fd)
        raise


def error_of(number: int, where: object) -> OSError:
    """The `OSError` for an error number, of the fitting subclass, naming the address."""
    return OSError(number, f"{os.strerror(number)}: {where}")
