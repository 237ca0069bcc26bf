"""`TcpListener`: takes connections."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Self

from freerun._arguments import flag, integer
from freerun._core._native import IoSource

from ._opening import Opening
from ._socket import error_of, owner_of
from .addr import Address, ToAddress, parse_address
from .lookup import SocketAddress, resolve
from .tcp_stream import TcpStream

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TcpListener"]

# The connection was gone before it was taken, or before it was looked at: go on with the next one, as accept(2) says.
_GONE_WAITING = {errno.ECONNABORTED, errno.EPROTO}
_GONE_TAKEN = {errno.ENOTCONN, errno.EINVAL, errno.ECONNRESET}


class TcpListener:
    """A TCP socket that takes connections: `accept()`, or `async for stream, addr in listener`.

    Thread safety: every method may be called from any thread, those that are awaited inside a task; one task at a time
    may wait in `accept()`, a second one gets `RuntimeError`. Tokio: `tokio::net::TcpListener`.

    Example::

        import freerun
        from freerun.net import TcpListener, TcpStream

        async def serve(listener: TcpListener) -> None:
            async for stream, addr in listener:
                async with stream:
                    await stream.write_all(f"hello {addr[0]}".encode())

        async def main() -> bytes:
            async with TcpListener.bind("127.0.0.1:0") as listener:
                server = freerun.spawn(serve, listener)
                async with TcpStream.connect(listener.local_addr) as stream:
                    greeting = await stream.read()
                server.abort()
                return greeting

        assert freerun.run(main) == b"hello 127.0.0.1"
    """

    __slots__ = ("_family", "_io", "_local")

    def __init__(self, sock: socket.socket) -> None:
        """Take over a listening, non-blocking socket; see `bind()` and `from_socket()`."""
        self._family = sock.family
        self._local: SocketAddress = sock.getsockname()
        self._io = owner_of(IoSource, sock.detach())

    @classmethod
    def bind(cls, addr: ToAddress, backlog: int = 1024, reuse_port: bool = False) -> Opening[Self]:
        """Listen at `"host:port"`, `"[v6]:port"` or `(host, port)`; port 0 lets the system choose one.

        `backlog` is how many connections may wait to be accepted (the system may allow fewer). `reuse_port` sets
        `SO_REUSEPORT`, for several listeners at one address. `SO_REUSEADDR` is always set. Of a host with several
        addresses the first is taken that works. Await it, or enter it: `async with TcpListener.bind(addr) as x`.

        Errors: `ValueError`/`TypeError` for a bad argument, `socket.gaierror` for an unknown host, `OSError`
        (`EADDRINUSE` and so on), naming the address. Cancel safety: nothing is left behind. Thread safety: for tasks.
        Tokio: `tokio::net::TcpListener::bind`.

        Example::

            import freerun
            from freerun.net import TcpListener

            async def main() -> int:
                async with TcpListener.bind("127.0.0.1:0", backlog=16) as listener:
                    return listener.local_addr[1]

            assert freerun.run(main) > 0
        """
        address = parse_address(addr)
        integer(backlog, "backlog", least=0)
        flag(reuse_port, "reuse_port")
        return Opening(cls._bind(address, min(backlog, 0x7FFFFFFF), reuse_port))

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Self:
        """Take over a listening TCP socket; `sock` is detached and made non-blocking.

        Errors: `TypeError`/`ValueError` for what is no TCP socket, `RuntimeError` outside a runtime.
        Thread safety: any thread inside a runtime. Tokio: `tokio::net::TcpListener::from_std`.

        Example::

            import socket
            import freerun
            from freerun.net import TcpListener

            async def main() -> bool:
                sock = socket.create_server(("127.0.0.1", 0))
                addr = sock.getsockname()
                async with TcpListener.from_socket(sock) as listener:
                    return listener.local_addr == addr

            assert freerun.run(main)
        """
        if not isinstance(sock, socket.socket):
            raise TypeError(f"argument 'sock' must be a socket.socket, not {type(sock).__name__}: {sock!r}")
        if sock.type != socket.SOCK_STREAM or sock.family not in {socket.AF_INET, socket.AF_INET6}:
            raise ValueError(f"argument 'sock' must be a TCP socket: {sock!r}")
        sock.setblocking(False)
        return cls(sock)

    @classmethod
    async def _bind(cls, address: Address, backlog: int, reuse_port: bool) -> Self:
        failed: OSError | None = None
        for family, where in await resolve(address):
            try:
                return cls._listen(family, where, backlog, reuse_port)
            except OSError as error:
                failed = error_of(error.errno or 0, where)
        assert failed is not None  # resolve() gives one address at least
        raise failed

    @classmethod
    def _listen(cls, family: int, where: SocketAddress, backlog: int, reuse_port: bool) -> Self:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)
            sock.listen(backlog)
            return cls(sock)

    async def accept(self) -> tuple[TcpStream, SocketAddress]:
        """Wait for a connection: the stream and its peer's address.

        Errors: `OSError`: out of descriptors (`EMFILE`, `ENFILE`) or memory, or the listener was closed. The listener
        stays usable; wait a little before the next call, or it fails the same way. `RuntimeError` if another task is
        waiting here. Cancel safety: nothing is lost; the connection stays in the queue. Thread safety: for tasks.
        Tokio: `TcpListener::accept`.

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
        while True:
            try:
                fd = await self._io.accept_fd()
            except OSError as error:
                if error.errno in _GONE_WAITING:
                    continue
                raise
            if (taken := self._take(fd)) is not None:
                return taken

    def _take(self, fd: int) -> tuple[TcpStream, SocketAddress] | None:
        """Make a stream of an accepted descriptor; `None` if its peer is gone."""
        with socket.socket(self._family, socket.SOCK_STREAM, 0, fd) as sock:
            try:
                address: SocketAddress = sock.getpeername()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                if error.errno in _GONE_TAKEN:
                    return None
                raise
            return TcpStream._adopt(sock), address

    @property
    def local_addr(self) -> SocketAddress:
        """The address that it listens at, with the port that the system chose. Tokio: `TcpListener::local_addr`."""
        return self._local

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

    async def __anext__(self) -> tuple[TcpStream, SocketAddress]:
        try:
            return await self.accept()
        except OSError:
            if self.closed:
                raise StopAsyncIteration from None
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TcpListener {'closed' if self.closed else f'local_addr={self._local}'}>"
