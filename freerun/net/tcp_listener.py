"""`TcpListener`: takes connections."""

from __future__ import annotations

import socket
from typing import ClassVar, Self

from freerun._arguments import flag, integer

from ._listener import Listener
from ._opening import Opening
from ._socket import a_socket, error_of
from .addr import Address, ToAddress, parse_address
from .lookup import SocketAddress, resolve
from .tcp_stream import TcpStream

__all__ = ["TcpListener"]

_LONGEST_BACKLOG = 0x7FFFFFFF


class TcpListener(Listener[TcpStream]):
    """A TCP socket that takes connections: `accept()`, or `async for stream, addr in listener`.

    Out of descriptors (`EMFILE`, `ENFILE`) or memory, an `async for` goes on: it logs one warning (logger `freerun`)
    and tries again after pauses of 10 ms, doubling up to 1 s, until it succeeds. `accept()` raises the error, and the
    next call pauses.

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

    __slots__ = ()

    _kind: ClassVar = TcpStream

    def __init__(self, sock: socket.socket) -> None:
        """Take over a listening, non-blocking socket; see `bind()` and `from_socket()`."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        super().__init__(sock)

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
        return Opening(cls._bind(address, min(backlog, _LONGEST_BACKLOG), reuse_port))

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
        return cls(a_socket(sock, "sock", socket.SOCK_STREAM, {socket.AF_INET, socket.AF_INET6}, "TCP socket"))

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

    @property
    def local_addr(self) -> SocketAddress:
        """The address that it listens at, with the port that the system chose. Tokio: `TcpListener::local_addr`."""
        address: SocketAddress = self._local
        return address
