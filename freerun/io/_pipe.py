"""`Pipe`: bytes from one task to another, in memory. `duplex()` is two of them, `simplex()` one.

It is built on `freerun.lowlevel` alone, and may be read as an example of how to build something that waits:

* The state is guarded by a lock that is held for a few lines, never across an await. Whoever is to be woken is taken
  out of the state under the lock and woken after it.
* Who waits makes its waker known, looks once more, and parks; woken, whyever, it looks again.
* The lock is reentrant, because of finalizers: dropping an end closes it, and Python may run a finalizer between any
  two lines, those under this very lock included. Therefore one makes the waker known *before* one looks: a close that
  comes in between finds it.
* Cancelled, one has taken nothing: taking and returning have no await between them.
"""

from __future__ import annotations

import errno
import threading

from freerun.lowlevel import Waker, current_waker, park
from freerun.task import consume_budget

from ._buffer import Buffer
from ._claim import Claim

__all__ = ["Pipe"]


class Pipe:
    """One direction, with at most `max_buf` bytes on the way."""

    __slots__ = (
        "_buffer",
        "_lock",
        "_max",
        "_reader",
        "_reader_gone",
        "_reading",
        "_shut_down",
        "_writer",
        "_writer_gone",
        "_writing",
    )

    def __init__(self, max_buf: int) -> None:
        self._max = max_buf
        self._reading = Claim("reading from")
        self._writing = Claim("writing to")
        self._lock = threading.RLock()
        # Under the lock:
        self._buffer = Buffer()
        self._reader: Waker | None = None  # waits for bytes, or for the end
        self._writer: Waker | None = None  # waits for room, or for the reader to go
        self._shut_down = False  # the writer has said that nothing more comes
        self._writer_gone = False
        self._reader_gone = False

    async def read(self, n: int) -> bytes:
        """Up to `n` bytes as soon as there are any; `b""` when the writer has gone and nothing is left."""
        with self._reading:
            await consume_budget()
            waker = current_waker()
            try:
                while (data := self._take(n, waker)) is None:
                    await park()
            finally:
                self._reader = None
            return data

    def _take(self, n: int, waker: Waker) -> bytes | None:
        with self._lock:
            self._reader = waker
            if self._reader_gone:
                raise closed()
            if not self._buffer:
                return b"" if self._shut_down or self._writer_gone else None
            data = self._buffer.take(n)
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.wake()
        return data

    async def write(self, data: bytes | memoryview) -> int:
        """Write what fits, at least one byte; how many."""
        with self._writing:
            return await self._write(data)

    async def write_all(self, data: bytes | memoryview) -> None:
        """Write everything, in as many turns as it takes."""
        with self._writing:
            written = await self._write(data)
            while written < len(data):
                written += await self._write(memoryview(data)[written:])

    async def _write(self, data: bytes | memoryview) -> int:
        await consume_budget()
        waker = current_waker()
        try:
            while (n := self._put(data, waker)) is None:
                await park()
        finally:
            self._writer = None
        return n

    def _put(self, data: bytes | memoryview, waker: Waker) -> int | None:
        with self._lock:
            self._writer = waker
            if self._writer_gone:
                raise closed()
            if self._shut_down or self._reader_gone:
                why = "this end was shut down" if self._shut_down else "the other end is closed"
                raise BrokenPipeError(errno.EPIPE, f"{why}: nobody will read what is written")
            room = self._max - len(self._buffer)
            if not data:
                return 0
            if room == 0:
                return None
            self._buffer.append(bytes(data[:room]))
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.wake()
        return min(room, len(data))

    def shut_down(self) -> None:
        """Nothing more will be written."""
        with self._lock:
            if self._writer_gone:
                raise closed()
            self._shut_down = True
        self._wake_both()

    def close_writer(self) -> None:
        """The writing end goes. May be called by a finalizer."""
        with self._lock:
            self._writer_gone = True
        self._wake_both()

    def close_reader(self) -> None:
        """The reading end goes. May be called by a finalizer."""
        with self._lock:
            self._reader_gone = True
        self._wake_both()

    def _wake_both(self) -> None:
        with self._lock:
            wakers = (self._reader, self._writer)
            self._reader = self._writer = None
        for waker in wakers:
            if waker is not None:
                waker.wake()


def closed() -> OSError:
    """What an end raises that was closed by its own side."""
    return OSError(errno.EBADF, "the stream is closed")
