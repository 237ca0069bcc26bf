"""TCP. Tokio: `tokio::net`."""

from __future__ import annotations

from .lookup import lookup_host
from .tcp_listener import TcpListener
from .tcp_split import OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf
from .tcp_stream import TcpStream

__all__ = ["OwnedReadHalf", "OwnedWriteHalf", "ReadHalf", "TcpListener", "TcpStream", "WriteHalf", "lookup_host"]
