"""`Listener`: what listening sockets have in common, over TCP or a Unix socket."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any, ClassVar, Self

from freerun._core._native import IoAcceptor
from freerun._errors import WouldBlock
from freerun.runtime.log import logger
from freerun.time import timeout as within

from ._socket import own
from ._stream import SocketStream

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Listener"]

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 1.0

# The process or the system has no descriptor or no memory for another connection, which goes on waiting.
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
_READ = 0


class Listener[S: SocketStream]:
    """A listening socket.

    When the process runs out of descriptors (`EMFILE`, `ENFILE`) or the system out of memory (`ENOBUFS`, `ENOMEM`),
    connections stay in the queue. The attempt that failed is then followed by a pause, of 10 ms at first, twice as long
    each time, 1 s at the most, so that nothing spins; after a success they begin anew.
    """

    __slots__ = ("_complained", "_io", "_local", "_pause", "_unsure")

    _kind: ClassVar[type[Any]]

    def __init__(self, sock: socket.socket) -> None:
        """Take over a listening, non-blocking socket; see `bind()` and `from_socket()`."""
        self._local: Any = sock.getsockname()
        self._io = own(IoAcceptor, sock.detach())
        self._pause = 0.0
        self._unsure = False  # the readiness was cleared although there may be connections in the queue
        self._complained = False

    async def accept(self) -> tuple[S, Any]:
        """Wait for a connection: the stream and its peer's address.

        Errors: `OSError`: out of descriptors or memory, or the listener was closed. Out of descriptors the listener
        stays usable, and the next call pauses first (10 ms, doubling, 1 s at the most). `RuntimeError` if another task
        is waiting here. Cancel safety: nothing is lost; the connection stays in the queue. Thread safety: for tasks.
        Tokio: `TcpListener::accept`, `UnixListener::accept`.

        Example::

            import freerun
            from freerun.net import TcpListener, TcpStream

            async def main() -> bool:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    async with TcpStream.connect(listener.local_addr) as client:
                        stream, addr = await listener.accept()
                        async with stream:
                            return addr == client.local_addr

            assert freerun.run(main)
        """
        try:
            fd, addr = await (self._accept_after_pause() if self._unsure else self._io.accept())
        except OSError as error:
            if error.errno in _SHORT:
                self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
                self._unsure = True
            raise
        self._pause = 0.0
        self._complained = False
        return own(self._kind, fd), addr

    async def _accept_after_pause(self) -> tuple[int, Any]:
        if self._pause:
            with contextlib.suppress(TimeoutError):
                await within(self._pause, self._until_closed())
        try:
            return self._io.try_accept()
        except WouldBlock:
            self._unsure = False
            return await self._io.accept()

    async def _until_closed(self) -> None:
        while True:
            self._io.clear_ready(_READ, await self._io.wait_ready(_READ))

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._io.closed

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._io.fileno()

    def close(self) -> None:
        """Stop listening. A task that waits in `accept()` gets `OSError`, an `async for` ends. May be called twice."""
        self._io.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[S, Any]:
        while True:
            try:
                return await self.accept()
            except OSError as error:
                if self.closed:
                    raise StopAsyncIteration from None
                if error.errno not in _SHORT:
                    raise
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        """Once per episode."""
        if not self._complained:
            self._complained = True
            text = "%r cannot accept connections: %s; it tries again after a pause, each time twice as long up to %g s"
            logger().warning(text, self, error.strerror, LONGEST_PAUSE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self.closed else f'local_addr={self._local!r}'}>"
