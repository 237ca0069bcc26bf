"""`AsyncFd`: readiness of a descriptor that is somebody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

from freerun._core._native import IoSource
from freerun._errors import WouldBlock

from ._socket import own

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AsyncFd", "ReadyGuard"]

_READ = 0
_WRITE = 1


class HasFileno(Protocol):
    """A file, a socket, a pidfd's owner."""

    def fileno(self) -> int: ...


class AsyncFd:
    """Waits for a descriptor that you read and write yourself: of a library, an eventfd, a pidfd, inotify, a terminal.

    `fd` is a number or an object with `fileno()`; it must be of a kind that can be polled (not a regular file), and in
    non-blocking mode (`os.set_blocking(fd, False)`) if it is read or written. It stays yours: the runtime's driver
    watches a duplicate, `close()` ends that, and `fd` is not closed. What it refers to (the connection, the file) stays
    open until both are.

    The readiness is remembered until a call finds that there is nothing (left) to do. So wait, try, and say so if it
    would block; `async_io` does all of that:

    Errors: `OSError` (`EPERM`: a kind that is always ready, as regular files; `EBADF`: no descriptor), `RuntimeError`
    outside a runtime, and for a second task that waits for the same direction.
    Thread safety: every method may be called from any thread, those that are awaited inside a task.
    Tokio: `tokio::io::unix::AsyncFd`.

    Example::

        import os
        import freerun
        from freerun.net import AsyncFd

        async def main() -> bytes:
            reading, writing = os.pipe2(os.O_NONBLOCK)
            with AsyncFd(reading) as fd:
                os.write(writing, b"through a pipe")
                data = await fd.async_io(lambda: os.read(reading, 100))
            os.close(reading)
            os.close(writing)
            return data

        assert freerun.run(main) == b"through a pipe"
    """

    __slots__ = ("_inner", "_io")

    def __init__(self, fd: int | HasFileno) -> None:
        number = fd if isinstance(fd, int) else _fileno(fd)
        if isinstance(fd, bool) or number < 0:
            raise ValueError(f"argument 'fd' must be an open descriptor, not {fd!r}")
        self._inner = fd
        self._io = own(_watch, os.dup(number))

    @property
    def inner(self) -> Any:
        """What it was made with. Tokio: `AsyncFd::get_ref`."""
        return self._inner

    async def readable(self) -> ReadyGuard:
        """Wait until a read may succeed. The guard says what it found.

        Cancel safety: nothing is lost. Thread safety: for tasks. Tokio: `AsyncFd::readable`.

        Example::

            import os
            import freerun
            from freerun.net import AsyncFd

            async def main() -> bytes:
                reading, writing = os.pipe2(os.O_NONBLOCK)
                with AsyncFd(reading) as fd:
                    freerun.spawn_blocking(os.write, writing, b"x").detach()
                    while True:
                        guard = await fd.readable()
                        try:
                            return guard.try_io(lambda: os.read(reading, 100))
                        except freerun.WouldBlock:
                            continue
                        finally:
                            os.close(reading)
                            os.close(writing)

            assert freerun.run(main) == b"x"
        """
        return ReadyGuard(self._io, _READ, await self._io.wait_ready(_READ))

    async def writable(self) -> ReadyGuard:
        """Wait until a write may succeed. Cancel safety: nothing is lost. Thread safety: for tasks.

        Tokio: `AsyncFd::writable`.
        """
        return ReadyGuard(self._io, _WRITE, await self._io.wait_ready(_WRITE))

    def try_io[T](self, fn: Callable[..., T], *args: Any, write: bool = False) -> T:
        """The result of `fn(*args)`, if the descriptor is ready to be read (or written).

        `fn` makes one non-blocking call; if that raises `BlockingIOError`, the readiness is forgotten.
        Errors: `freerun.WouldBlock` then, and if it is not ready; what `fn` raises. `fn` must not use this object.
        Thread safety: any thread. Tokio: `AsyncFd::try_io`.
        """
        return self._io.try_io(_WRITE if write else _READ, fn, *args)

    async def async_io[T](self, fn: Callable[..., T], *args: Any, write: bool = False) -> T:
        """The result of `fn(*args)`, tried whenever the descriptor is ready to be read (or written).

        `fn` makes one non-blocking call and raises `BlockingIOError` if it would have to wait.
        Errors: what else `fn` raises. Cancel safety: `fn` is not interrupted; what it did it returned. Thread safety:
        for tasks. Tokio: `AsyncFd::async_io`.

        Example::

            import socket
            import freerun
            from freerun.net import AsyncFd

            async def main() -> bytes:
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                with ours, theirs, AsyncFd(ours) as fd:
                    await fd.async_io(ours.send, b"ping", write=True)
                    theirs.send(theirs.recv(100))
                    return await fd.async_io(ours.recv, 100)

            assert freerun.run(main) == b"ping"
        """
        direction = _WRITE if write else _READ
        while True:
            await self._io.wait_ready(direction)
            try:
                return self._io.try_io(direction, fn, *args)
            except WouldBlock:
                continue

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._io.closed

    def fileno(self) -> int:
        """The number of the descriptor it was made with."""
        return self._inner if isinstance(self._inner, int) else self._inner.fileno()

    def close(self) -> None:
        """Stop watching; tasks that wait get `OSError`. The descriptor is not closed. May be called twice."""
        self._io.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AsyncFd {'closed' if self.closed else repr(self._inner)}>"


class ReadyGuard:
    """What `AsyncFd.readable()` or `writable()` found. Tokio: `tokio::io::unix::AsyncFdReadyGuard`."""

    __slots__ = ("_direction", "_io", "_ready")

    def __init__(self, io: IoSource, direction: int, ready: int) -> None:
        self._io = io
        self._direction = direction
        self._ready = ready

    def clear_ready(self) -> None:
        """Forget the readiness: a call has said that it would block. What came since then is not forgotten.

        Call it only then, else the next wait may never end. Tokio: `AsyncFdReadyGuard::clear_ready`.
        """
        self._io.clear_ready(self._direction, self._ready)

    def try_io[T](self, fn: Callable[..., T], *args: Any) -> T:
        """The result of `fn(*args)`; if it raises `BlockingIOError`, the readiness is forgotten.

        Errors: `freerun.WouldBlock` then; what else `fn` raises. Tokio: `AsyncFdReadyGuard::try_io`.
        """
        try:
            return fn(*args)
        except BlockingIOError as error:
            self.clear_ready()
            raise WouldBlock(str(error)) from None


def _fileno(value: HasFileno) -> int:
    if not hasattr(value, "fileno"):
        kind = type(value).__name__
        raise TypeError(f"argument 'fd' must be a descriptor or an object with fileno(), not {kind}: {value!r}")
    return value.fileno()


def _watch(fd: int) -> IoSource:
    """Nothing is assumed: some descriptors are never read, and their readiness is all there is to know."""
    return IoSource(fd, assume_ready=False, set_nonblocking=False)
