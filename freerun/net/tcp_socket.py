"""`TcpSocket`: a TCP socket that is neither connected nor listening yet, to set options on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from freerun._arguments import Seconds, flag, integer

from ._opening import Opening
from .addr import ToAddress, parse_address
from .lookup import SocketAddress, numeric
from .tcp_listener import TcpListener
from .tcp_stream import TcpStream, connect_to, limit_of

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TcpSocket"]

_MOST = 0x7FFFFFFF


class TcpSocket:
    """A TCP socket before `connect()` or `listen()`, which use it up.

    For what has to be set first: `bind()` to choose the local address of a connection, buffer sizes, `reuse_addr`.
    Close it, or enter it, if it may stay unused.

    Thread safety: one thread at a time. Tokio: `tokio::net::TcpSocket`.

    Example::

        import freerun
        from freerun.net import TcpListener, TcpSocket

        async def main() -> str:
            async with TcpListener.bind("127.0.0.1:0") as listener:
                socket = TcpSocket.new_v4()
                socket.bind("127.0.0.2:0")
                async with socket.connect(listener.local_addr) as stream:
                    return stream.local_addr[0]

        assert freerun.run(main) == "127.0.0.2"
    """

    __slots__ = ("_sock",)

    def __init__(self, family: int) -> None:
        """See `new_v4()` and `new_v6()`."""
        self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def new_v4(cls) -> Self:
        """A socket for IPv4. Tokio: `TcpSocket::new_v4`."""
        return cls(socket.AF_INET)

    @classmethod
    def new_v6(cls) -> Self:
        """A socket for IPv6. Tokio: `TcpSocket::new_v6`."""
        return cls(socket.AF_INET6)

    def set_reuse_addr(self, reuse: bool, /) -> None:
        """Set `SO_REUSEADDR`. Tokio: `TcpSocket::set_reuseaddr`."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(flag(reuse, "reuse")))

    def set_reuse_port(self, reuse: bool, /) -> None:
        """Set `SO_REUSEPORT`. Tokio: `TcpSocket::set_reuseport`."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(flag(reuse, "reuse")))

    def set_nodelay(self, nodelay: bool, /) -> None:
        """Set or clear `TCP_NODELAY`, which is set. Tokio: `TcpSocket::set_nodelay`."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(flag(nodelay, "nodelay")))

    def set_keepalive(self, keepalive: bool, /) -> None:
        """Let the system probe a silent peer. Tokio: `TcpSocket::set_keepalive`."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(flag(keepalive, "keepalive")))

    def set_recv_buffer_size(self, size: int, /) -> None:
        """Ask for a receive buffer of `size` bytes. Tokio: `TcpSocket::set_recv_buffer_size`."""
        size = integer(size, "size", most=_MOST // 2)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def set_send_buffer_size(self, size: int, /) -> None:
        """Ask for a send buffer of `size` bytes. Tokio: `TcpSocket::set_send_buffer_size`."""
        size = integer(size, "size", most=_MOST // 2)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def bind(self, addr: ToAddress, /) -> None:
        """Choose the local address; the host must be an IP address of the socket's family.

        Errors: `ValueError`/`TypeError` for a bad address, `OSError`. Tokio: `TcpSocket::bind`.
        """
        self._sock.bind(numeric(parse_address(addr), self._sock.family))

    def listen(self, backlog: int = 1024, /) -> TcpListener:
        """Listen at the bound address; the socket is used up.

        Errors: `OSError`; `RuntimeError` outside a runtime. Tokio: `TcpSocket::listen`.

        Example::

            import freerun
            from freerun.net import TcpSocket

            async def main() -> str:
                socket = TcpSocket.new_v4()
                socket.set_reuse_addr(True)
                socket.bind("127.0.0.1:0")
                async with socket.listen() as listener:
                    return listener.local_addr[0]

            assert freerun.run(main) == "127.0.0.1"
        """
        self._sock.listen(min(integer(backlog, "backlog", least=0), _MOST))
        return TcpListener(self._sock)

    def connect(self, addr: ToAddress, timeout: Seconds | None = None) -> Opening[TcpStream]:
        """Connect; the host must be an IP address of the socket's family. The socket is used up.

        Errors: as `TcpStream.connect()`. Cancel safety: the socket is closed. Thread safety: for tasks.
        Tokio: `TcpSocket::connect`.
        """
        address = parse_address(addr)
        numeric(address, self._sock.family)
        return Opening(connect_to(TcpStream, address, limit_of(timeout), self._take))

    def _take(self, _family: int) -> socket.socket:
        return socket.socket(fileno=self._sock.detach())

    @property
    def local_addr(self) -> SocketAddress:
        """The bound address. Tokio: `TcpSocket::local_addr`."""
        address: SocketAddress = self._sock.getsockname()
        return address

    def fileno(self) -> int:
        """The descriptor; -1 once closed or used up."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it, if it was not used up. May be called twice."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
