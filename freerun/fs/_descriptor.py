"""`Descriptor`: an open file's number, that is closed when nobody uses it any more.

Calls run on other threads and go on when their task is aborted. A number that is closed meanwhile may be another file's
a moment later; so each call counts itself, and the last one closes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator

__all__ = ["Descriptor"]


class Descriptor:
    """Owns a descriptor. Any thread."""

    __slots__ = ("_closed", "_lock", "_number", "_users")

    def __init__(self, number: int) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close()` was called, or `take()`."""
        return self._closed

    def fileno(self) -> int:
        """The number, or -1."""
        return -1 if self._closed else self._number

    def hold(self) -> int:
        """The number, that stays open until `release()`. Errors: `OSError` (`EBADF`) if it is closed."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the file is closed")
            self._users += 1
            return self._number

    def release(self) -> None:
        """Undo a `hold()`."""
        with self._lock:
            self._users -= 1
            last = self._closed and self._users == 0 and self._number >= 0
        if last:
            self._finish()

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """`with descriptor.held() as fd`."""
        number = self.hold()
        try:
            yield number
        finally:
            self.release()

    def use[*Ts, T](self, fn: Callable[[int, *Ts], T], *args: *Ts) -> T:
        """`fn(fd, *args)`."""
        with self.held() as number:
            return fn(number, *args)

    def close(self) -> None:
        """Close it, as soon as nobody uses it. Idempotent."""
        with self._lock:
            last = not self._closed and self._users == 0 and self._number >= 0
            self._closed = True
        if last:
            self._finish()

    def take(self) -> int:
        """Give the number away. Errors: `OSError` if it is closed; `RuntimeError` while a call uses it."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the file is closed")
            if self._users:
                raise RuntimeError("an operation on this file is still under way; wait for it first")
            self._closed = True
            number, self._number = self._number, -1
            return number

    def _finish(self) -> None:
        number, self._number = self._number, -1
        os.close(number)
