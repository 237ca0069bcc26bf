"""`stdout` and `stderr`: the standard output and the standard error output."""

from __future__ import annotations

import os
from collections.abc import Buffer
from typing import TYPE_CHECKING, Self

from freerun.task import consume_budget

from ._checks import contiguous
from ._stdio import NotPollable, Polled, is_regular, was_closed
from ._turns import Turns

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Stderr", "Stdout", "stderr", "stdout"]

PIECE = 65536

_turns = {1: Turns(), 2: Turns()}  # of all handles together: what one write_all writes stays together


def stdout() -> Stdout:
    """The standard output, descriptor 1, without a buffer: `BufWriter(stdout())` gathers small writes.

    Thread safety: any thread. Tokio: `tokio::io::stdout`.

    Example::

        import freerun
        from freerun import io

        async def main() -> None:
            await io.stdout().write_all(b"")

        freerun.run(main)
    """
    return Stdout()


def stderr() -> Stderr:
    """The standard error output, descriptor 2, without a buffer.

    Thread safety: any thread. Tokio: `tokio::io::stderr`.

    Example::

        import freerun
        from freerun import io

        async def main() -> None:
            await io.stderr().write_all(b"")

        freerun.run(main)
    """
    return Stderr()


class _Output:
    __slots__ = ("_pollable", "_polled")

    FD = -1

    def __init__(self) -> None:
        self._polled: Polled | None = None
        self._pollable = True

    def fileno(self) -> int:
        """The descriptor."""
        return self.FD

    async def write(self, data: Buffer, /) -> int:
        """Write some of `data` and say how many bytes. Cancel safe: then nothing was written."""
        piece = memoryview(contiguous(data))
        async with _turns[self.FD]:
            return await self._write(piece)

    async def write_all(self, data: Buffer, /) -> None:
        """Write all of `data`; nothing that other tasks write comes in between.

        Not cancel safe: any number of bytes, from the first on, may have been written.
        """
        rest = memoryview(contiguous(data))
        async with _turns[self.FD]:
            while rest:
                rest = rest[await self._write(rest) :]

    async def _write(self, data: memoryview) -> int:
        await consume_budget()
        if was_closed(self.FD):
            return len(data)
        if is_regular(self.FD):
            return os.write(self.FD, data[:PIECE])
        polled = self._watched()
        return os.write(self.FD, data[:PIECE]) if polled is None else await polled.write(data)

    def _watched(self) -> Polled | None:
        if self._polled is not None and not self._polled.belongs_here():
            self.close()
        if self._polled is None and self._pollable:
            try:
                self._polled = Polled(self.FD, write=True)
            except NotPollable:
                self._pollable = False
        return self._polled

    async def flush(self) -> None:
        """Do nothing: nothing is held back. What `sys.stdout` holds back is its own business."""

    async def shutdown(self) -> None:
        """Do nothing: the descriptor stays open. Tokio does the same."""

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
        return f"<{type(self).__name__}>"


class Stdout(_Output):
    """The standard output. Made by `stdout()`.

    Pipes, terminals and sockets are watched by the driver, without making them non-blocking for the other processes
    that share them; a full pipe makes the task wait, not its thread. A file is written at once, as `print` does. A
    process that was started without a standard output writes to nowhere. Every byte has been handed to the system when
    `write_all` returns; call `sys.stdout.flush()` first if you also use `print`.

    Errors: `OSError`, `BrokenPipeError` for one. Cancel safety: `write` loses nothing, `write_all` does not tell how
    far it got. Thread safety: any number of tasks, on any thread: each `write_all` waits for its turn.
    Tokio: `tokio::io::Stdout`.
    """

    __slots__ = ()

    FD = 1


class Stderr(_Output):
    """The standard error output. Made by `stderr()`. As `Stdout`, for descriptor 2. Tokio: `tokio::io::Stderr`."""

    __slots__ = ()

    FD = 2


def _after_fork() -> None:
    """In the child: whose turn it was in the parent means nothing here."""
    _turns.update({fd: Turns() for fd in _turns})


os.register_at_fork(after_in_child=_after_fork)
