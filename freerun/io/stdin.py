"""`stdin`: the standard input."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from freerun.task import consume_budget
from freerun.task.spawn import spawn_blocking

from ._checks import CAPACITY, check_n
from ._claim import Claim
from ._stdin_thread import stdin_thread
from ._stdio import NotPollable, Polled, is_regular, was_closed
from .read_ext import AsyncReadExt

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Stdin", "stdin"]

FD = 0


def stdin() -> Stdin:
    """The standard input, descriptor 0, without a buffer: `BufReader(stdin()).lines()` for lines.

    Thread safety: any thread. Tokio: `tokio::io::stdin`.

    Example::

        import freerun
        from freerun import io

        async def main() -> int:
            count = 0
            async for line in io.BufReader(io.stdin()).lines():
                count += 1
            return count

        async def nothing_typed() -> None:
            counting = freerun.spawn(main)    # waits for a line, maybe for ever
            await freerun.yield_now()
            counting.abort()

        freerun.run(nothing_typed)            # and nobody waits for it
    """
    return Stdin()


class Stdin(AsyncReadExt):
    """The standard input. Made by `stdin()`.

    A read that waits holds nothing up: neither the runtime's shutdown nor the interpreter's exit. Pipes, terminals and
    sockets are watched by the driver, without making them non-blocking for the other processes that share them; files
    are read on the blocking pool; anything else on a daemon thread. A process that was started without a standard input
    reads an end. What `sys.stdin` has read ahead is not seen here: use one or the other.

    `close()`, leaving `async with` and garbage collection give up what the handle needed; the standard input stays
    open.

    Errors: `OSError`; `RuntimeError` for a second reader. Cancel safety: `read` loses nothing.
    Thread safety: any thread; what is awaited, inside a task. Tokio: `tokio::io::Stdin`.
    """

    __slots__ = ("_claim", "_pollable", "_polled")

    def __init__(self) -> None:
        self._claim = Claim("reading from")
        self._polled: Polled | None = None
        self._pollable = True

    def fileno(self) -> int:
        """0."""
        return FD

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes as soon as there are any, `b""` at the end. Of a terminal one line, at most. Cancel safe."""
        size = min(check_n(n), 1 << 26)
        with self._claim:
            await consume_budget()
            if was_closed(FD):
                return b""
            if is_regular(FD):
                return await _read_file(size)
            if (polled := self._watched()) is not None:
                return await polled.read(size)
            return await stdin_thread.read(size)

    def _watched(self) -> Polled | None:
        if self._polled is not None and not self._polled.belongs_here():
            self.close()
        if self._polled is None and self._pollable:
            try:
                self._polled = Polled(FD, write=False)
            except NotPollable:
                self._pollable = False
        return self._polled

    def close(self) -> None:
        """Give up what the handle needed; it can still be used. Any thread."""
        polled, self._polled = self._polled, None
        if polled is not None:
            polled.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Stdin>"


async def _read_file(n: int) -> bytes:
    """Read on the pool, and move the file's position only when the bytes are here: cancelled, it has not moved."""
    data = await spawn_blocking(os.pread, FD, n, os.lseek(FD, 0, os.SEEK_CUR))
    os.lseek(FD, len(data), os.SEEK_CUR)
    return data
