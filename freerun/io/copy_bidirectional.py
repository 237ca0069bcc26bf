"""`copy_bidirectional`: two streams, each copied into the other.

Each direction is a task of its own, so they run in parallel; neither outlives the call. The first that fails ends the
other one, which would wait for ever otherwise.
"""

from __future__ import annotations

import contextlib
import threading

from freerun._core._native import JoinHandle
from freerun.task.spawn import spawn

from ._checks import check_reader, check_writer
from .copy import copy
from .protocols import AsyncRead, AsyncStream, AsyncWrite

__all__ = ["copy_bidirectional"]


async def copy_bidirectional(a: AsyncStream, b: AsyncStream, /) -> tuple[int, int]:
    """Copy `a` to `b` and `b` to `a` until both have ended; how many bytes went from `a` to `b`, and from `b` to `a`.

    When one stream ends, the other one is shut down, and its direction goes on. Neither is closed.

    Errors: the first one of either stream; the other direction is then given up. Cancel safety: what was read and not
    yet written, up to 64 KiB in each direction, is lost. Thread safety: for tasks.
    Tokio: `tokio::io::copy_bidirectional`.

    Example::

        import freerun
        from freerun.io import copy_bidirectional, duplex

        async def main() -> tuple[int, int]:
            client, left = duplex(64)
            right, server = duplex(64)
            proxy = freerun.spawn(copy_bidirectional, left, right)
            await client.write_all(b"ping")
            await client.shutdown()
            assert await server.read_to_end() == b"ping"
            await server.write_all(b"the answer")
            server.close()
            assert await client.read_to_end() == b"the answer"
            return await proxy

        assert freerun.run(main) == (4, 10)
    """
    for stream, argument in ((a, "a"), (b, "b")):
        check_reader(stream, argument)
        check_writer(stream, argument)
    return await _Both().run(a, b)


class _Both:
    """The two tasks, and the error of the one that failed first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[JoinHandle[int]] = []
        self._error: BaseException | None = None

    async def run(self, a: AsyncStream, b: AsyncStream) -> tuple[int, int]:
        try:
            self._start(a, b)
            self._start(b, a)
            there, back = self._handles
            return await there, await back
        except BaseException as error:
            await self._stop()
            if isinstance(error, Exception) and isinstance(self._error, Exception):
                raise self._error from None  # what was awaited may only say that it was aborted because of this
            raise
        finally:
            self._error = None  # its traceback leads back here
            self._handles.clear()

    def _start(self, source: AsyncRead, target: AsyncWrite) -> None:
        handle = spawn(self._one_way, source, target)
        with self._lock:
            self._handles.append(handle)
            failed = self._error is not None
        if failed:  # before it could know this one
            handle.abort()

    async def _one_way(self, source: AsyncRead, target: AsyncWrite) -> int:
        try:
            count = await copy(source, target)
            await target.shutdown()
        except BaseException as error:
            self._failed(error)
            raise
        return count

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            handles = list(self._handles)
        for handle in handles:
            handle.abort()

    async def _stop(self) -> None:
        for handle in self._handles:
            handle.abort()
        for handle in self._handles:
            with contextlib.suppress(Exception):
                await handle
