"""TCP, UDP, Unix sockets, and descriptors of one's own. Tokio: `tokio::net`, `tokio::io::unix`."""

from __future__ import annotations

from .async_fd import AsyncFd, ReadyGuard
from .lookup import lookup_host
from .split import OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf
from .tcp_listener import TcpListener
from .tcp_socket import TcpSocket
from .tcp_stream import TcpStream
from .udp_socket import UdpSocket
from .unix_datagram import UnixDatagram
from .unix_listener import UnixListener
from .unix_stream import UnixCredentials, UnixStream

__all__ = [
    "AsyncFd",
    "OwnedReadHalf",
    "OwnedWriteHalf",
    "ReadHalf",
    "ReadyGuard",
    "TcpListener",
    "TcpSocket",
    "TcpStream",
    "UdpSocket",
    "UnixCredentials",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
    "WriteHalf",
    "lookup_host",
]
