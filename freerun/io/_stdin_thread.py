"""`stdin_thread`: reads what the driver cannot watch, on threads of its own.

A blocked read can be neither interrupted nor waited for. So it happens on a daemon thread, one per read, outside the
blocking pool: a runtime's shutdown and the interpreter's exit pay no attention to it. It reads only when somebody
asked. What it read for a task that is gone by then is kept for the next one, of whichever handle and runtime: there is
one standard input.
"""

from __future__ import annotations

import os
import threading

from freerun.lowlevel import Waker, current_waker, park

from ._buffer import Buffer
from ._checks import CAPACITY
from ._claim import Claim

__all__ = ["stdin_thread"]


class _StdinThread:
    def __init__(self) -> None:
        self._claim = Claim("reading from")
        self._lock = threading.RLock()
        # Under the lock:
        self._buffer = Buffer()
        self._ended: list[OSError | None] = []  # one read said that it is over: why, `None` for the end of the stream
        self._asked = False  # a thread is reading
        self._waker: Waker | None = None

    async def read(self, n: int) -> bytes:
        """Up to `n` bytes. Cancel safe."""
        with self._claim:
            waker = current_waker()
            try:
                while (data := self._take(n, waker)) is None:
                    await park()
            finally:
                self._waker = None
            return data

    def _take(self, n: int, waker: Waker) -> bytes | None:
        with self._lock:
            self._waker = waker
            if self._buffer:
                return self._buffer.take(n)
            if self._ended:
                return self._end()
            asked, self._asked = self._asked, True
        if not asked:
            self._start()
        return None

    def _end(self) -> bytes:
        """Said once: after the end of its input a terminal can be read again."""
        error = self._ended.pop()
        if error is not None:
            raise error
        return b""

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="freerun-stdin", daemon=True).start()
        except BaseException:
            self._asked = False
            raise

    def _run(self) -> None:
        error: OSError | None = None
        data = b""
        try:
            data = os.read(0, CAPACITY)
        except OSError as failed:
            error = failed
        with self._lock:
            self._asked = False
            self._buffer.append(data)
            if not data:
                self._ended.append(error)
            waker, self._waker = self._waker, None
        if waker is not None:
            waker.wake()


stdin_thread = _StdinThread()


def _after_fork() -> None:
    """In the child: its thread does not exist, its lock may be held by one that does not."""
    stdin_thread.__init__()  # type: ignore[misc]  # in place: it was imported by name


os.register_at_fork(after_in_child=_after_fork)
