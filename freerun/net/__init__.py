"""TCP, UDP, Unix sockets, TLS, and descriptors of one's own. Tokio: `tokio::net`, `tokio::io::unix`, `tokio-rustls`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from .tls_listener import TlsListener
    from .tls_stream import TlsStream

__all__ = [
    "AsyncFd",
    "OwnedReadHalf",
    "OwnedWriteHalf",
    "ReadHalf",
    "ReadyGuard",
    "TcpListener",
    "TcpSocket",
    "TcpStream",
    "TlsListener",
    "TlsStream",
    "UdpSocket",
    "UnixCredentials",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
    "WriteHalf",
    "lookup_host",
]

_LAZY = {"TlsListener": ".tls_listener", "TlsStream": ".tls_stream"}


def __getattr__(name: str) -> Any:
    """TLS is imported when it is used: not every program does, and not every Python has `ssl`."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_LAZY[name], __name__), name)
    globals()[name] = found
    return found
