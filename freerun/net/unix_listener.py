"""`UnixListener`: takes connections over a Unix socket."""

from __future__ import annotations

import socket
from typing import ClassVar, Self

from freerun._arguments import integer

from ._listener import Listener
from ._opening import Opening
from ._socket import a_socket, error_of
from .unix_stream import UnixAddress, UnixPath, UnixStream, parse_path, unix_socket

__all__ = ["UnixListener"]


class UnixListener(Listener[UnixStream]):
    """A Unix socket that takes connections: `accept()`, or `async for stream, addr in listener`.

    It behaves as `TcpListener` does, out of descriptors too. The peer's address is `""` unless it has bound itself;
    `stream.peer_cred()` says who it is.
    Tokio: `tokio::net::UnixListener`.

    Example::

        import os
        import tempfile
        import freerun
        from freerun.net import UnixListener, UnixStream

        async def main(path: str) -> bytes:
            async with UnixListener.bind(path) as listener:
                async with UnixStream.connect(path) as ours:
                    theirs, _ = await listener.accept()
                    async with theirs:
                        await ours.write_all(b"hello")
                        return await theirs.read()

        with tempfile.TemporaryDirectory() as directory:
            assert freerun.run(main, os.path.join(directory, "socket")) == b"hello"
    """

    __slots__ = ()

    _kind: ClassVar = UnixStream

    @classmethod
    def bind(cls, path: UnixPath, backlog: int = 1024) -> Opening[Self]:
        """Listen at a path, or at an abstract name (`"\\0name"`).

        The path must be free, and stays when the listener is closed: remove it (`os.unlink`) before or afterwards.
        Await it, or enter it: `async with UnixListener.bind(path) as x`.

        Errors: `ValueError`/`TypeError` for a bad argument; `OSError` (`EADDRINUSE`: there is something at the path),
        naming the path. Cancel safety: does not wait. Thread safety: for tasks. Tokio: `UnixListener::bind`.
        """
        return Opening(cls._bind(parse_path(path, "path"), min(integer(backlog, "backlog", least=0), 0x7FFFFFFF)))

    @classmethod
    async def _bind(cls, path: str | bytes, backlog: int) -> Self:
        with unix_socket(socket.SOCK_STREAM) as sock:
            try:
                sock.bind(path)
                sock.listen(backlog)
            except OSError as error:
                raise error_of(error.errno or 0, repr(path)) from None
            return cls(sock)

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Self:
        """Take over a listening Unix socket; `sock` is detached and made non-blocking.

        Errors: `TypeError`/`ValueError` for what is no such socket, `RuntimeError` outside a runtime.
        Thread safety: any thread inside a runtime. Tokio: `UnixListener::from_std`.
        """
        return cls(a_socket(sock, "sock", socket.SOCK_STREAM, {socket.AF_UNIX}, "Unix stream socket"))

    @property
    def local_addr(self) -> UnixAddress:
        """The path or abstract name that it listens at. Tokio: `UnixListener::local_addr`."""
        address: UnixAddress = self._local
        return address
