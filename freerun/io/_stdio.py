"""What `stdin()`, `stdout()` and `stderr()` share: waiting for a standard stream without changing it.

The descriptors 0, 1 and 2 are shared with other processes, the shell for one, down to the flags of the open file. So
they are never made non-blocking. Instead:

* A pipe or a terminal is opened a second time, through /proc/self/fd. That gives an open file of our own, which is
  non-blocking and goes to the driver.
* A socket cannot be opened again, but each call on it can be told not to wait. For the driver there is an epoll
  instance of our own with the socket in it: it becomes readable when the socket is ready.
* Neither works: the descriptor is `NotPollable`, and stdin.py and stdout.py have ways of their own.

Readiness is cleared only by a call that says EAGAIN. A terminal gives one line per read, so a short read does not mean
that nothing is left.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import stat
import sys
from collections.abc import Callable

from freerun._core._native import IoSource, current_core

__all__ = ["NotPollable", "Polled", "is_regular", "was_closed"]


class NotPollable(Exception):
    """The driver cannot watch this descriptor, or not without changing it."""


def was_closed(fd: int) -> bool:
    """Whether the process was started without it. Its number may belong to anything by now."""
    return (sys.__stdin__, sys.__stdout__, sys.__stderr__)[fd] is None


def is_regular(fd: int) -> bool:
    """Whether it is a file on disk, which never makes one wait for somebody else."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


class Polled:
    """A standard stream in a runtime's driver."""

    __slots__ = ("_core", "_fd", "_flags", "_socket", "_source")

    def __init__(self, fd: int, write: bool) -> None:
        """Errors: `NotPollable`; `RuntimeError` without a runtime, or in one without I/O."""
        self._core = current_core()
        self._flags = os.O_WRONLY if write else os.O_RDONLY
        self._socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        if self._socket and socket.getdefaulttimeout() is not None:
            raise NotPollable("socket.socket(fileno=) would make it non-blocking")
        try:
            own = self._epoll_of(fd) if self._socket else self._open_again(fd)
        except OSError as error:
            raise NotPollable from error
        try:
            self._source = IoSource(own)
        except OSError as error:  # epoll takes no such file
            os.close(own)
            raise NotPollable from error
        except BaseException:
            os.close(own)
            raise
        self._fd = fd if self._socket else own

    def _open_again(self, fd: int) -> int:
        flags = self._flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags)

    def _epoll_of(self, fd: int) -> int:
        with select.epoll() as epoll:
            epoll.register(fd, select.EPOLLOUT if self._flags == os.O_WRONLY else select.EPOLLIN)
            return os.dup(epoll.fileno())

    def belongs_here(self) -> bool:
        """Whether the running task's runtime is the one in whose driver it is."""
        return current_core() is self._core

    async def read(self, n: int) -> bytes:
        """Up to `n` bytes. Cancel safe."""
        return await self._call(functools.partial(self._receive, n))

    async def write(self, data: memoryview) -> int:
        """Write some of `data`; how much. Cancel safe."""
        return await self._call(functools.partial(self._send, data))

    async def _call[T](self, fn: Callable[[int], T]) -> T:
        """`fn(fd)`, as soon as that does not raise `BlockingIOError`."""
        # An epoll instance is readable when there is anything to report, also that one can write.
        source = self._source
        if self._socket or self._flags == os.O_RDONLY:
            wait, clear = source.readable, source.clear_readable
        else:
            wait, clear = source.writable, source.clear_writable
        while True:
            # The call first: a named pipe whose writers went before it was opened again has an end, but no event.
            try:
                return fn(self._fd)
            except BlockingIOError:
                clear()  # what the last wait reported; an edge since then makes the next one return at once
            await wait()

    def _receive(self, n: int, fd: int) -> bytes:
        if not self._socket:
            return os.read(fd, n)
        with _Lent(fd) as sock:
            return sock.recv(n, socket.MSG_DONTWAIT)

    def _send(self, data: memoryview, fd: int) -> int:
        if not self._socket:
            return os.write(fd, data)
        with _Lent(fd) as sock:
            return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Give up what was made here; the standard stream itself stays open."""
        self._source.close()


class _Lent:
    """A `socket.socket` over a descriptor that stays somebody else's."""

    __slots__ = ("_sock",)

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)

    def __enter__(self) -> socket.socket:
        return self._sock

    def __exit__(self, *error: object) -> None:
        self._sock.detach()
