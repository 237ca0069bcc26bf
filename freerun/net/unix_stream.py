"""`UnixStream`: a connection over a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple, Self

from freerun._arguments import Seconds
from freerun._core._native import current_core, sleep
from freerun.time import timeout as within

from ._opening import Opening
from ._socket import error_of, own, with_socket
from ._stream import SocketStream
from .tcp_stream import limit_of

__all__ = ["UnixAddress", "UnixCredentials", "UnixPath", "UnixStream", "parse_path", "unix_socket"]

type UnixPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A path in the file system; an abstract name begins with a zero: `"\\0name"`."""

type UnixAddress = str | bytes
"""What the system says: a path as `str`, an abstract name as `bytes`, `""` for a socket without a name."""

_CREDENTIALS = struct.Struct("iii")


class UnixCredentials(NamedTuple):
    """Who connected, as the system says. Tokio: `tokio::net::unix::UCred`."""

    pid: int
    uid: int
    gid: int


class UnixStream(SocketStream):
    """A connection over a Unix socket. Made by `connect()`, `pair()`, `UnixListener.accept()` or `from_socket()`.

    Reading and writing are those of `TcpStream`: `read`, `read_exact`, `read_into`, `peek`, `write`, `write_all`,
    `write_vectored`, `try_read`, `try_write`, `readable`, `writable`, `shutdown`, `split`, `into_split`, `close`,
    `async with`; so are errors, cancel safety and thread safety.

    A path is a `str`, `bytes` or `os.PathLike` of at most 107 bytes; an abstract name, which is in no directory and
    goes away with its socket, begins with a zero: `"\\0name"`.
    Tokio: `tokio::net::UnixStream`.

    Example::

        import freerun
        from freerun.net import UnixStream

        async def main() -> bytes:
            ours, theirs = UnixStream.pair()
            async with ours, theirs:
                await ours.write_all(b"hello")
                return await theirs.read()

        assert freerun.run(main) == b"hello"
    """

    __slots__ = ()

    @classmethod
    def connect(cls, path: UnixPath, timeout: Seconds | None = None) -> Opening[Self]:
        """Connect to the listener at a path or an abstract name.

        While its queue is full, which the system tells nobody the end of, this looks again every now and then (1 ms at
        first, 50 ms at the most), for `timeout` seconds; `None`: for ever. Await it, or enter it.

        Errors: `ValueError`/`TypeError` for a bad path; `OSError`, naming the path: `FileNotFoundError`,
        `ConnectionRefusedError` (nobody listens there), `TimeoutError`. Cancel safety: the socket is closed.
        Thread safety: for tasks. Tokio: `UnixStream::connect`.

        Example::

            import freerun
            from freerun.net import UnixListener, UnixStream

            async def main() -> bytes:
                async with UnixListener.bind("\\0freerun-example-connect") as listener:
                    async with UnixStream.connect("\\0freerun-example-connect") as stream:
                        theirs, _ = await listener.accept()
                        async with theirs:
                            await theirs.write_all(b"welcome")
                            return await stream.read()

            assert freerun.run(main) == b"welcome"
        """
        return Opening(cls._connect(parse_path(path, "path"), limit_of(timeout)))

    @classmethod
    async def _connect(cls, path: str | bytes, limit: float | None) -> Self:
        current_core()  # says that there is no runtime before anything happens
        with unix_socket(socket.SOCK_STREAM) as sock:
            if limit is None:
                await _connect(sock, path)
            else:
                try:
                    await within(limit, _connect(sock, path))
                except TimeoutError:
                    text = f"no connection to {path!r} within {limit:g} s"
                    raise TimeoutError(errno.ETIMEDOUT, text) from None
            return cls._adopt(sock)

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Both ends of a connection. Thread safety: any thread inside a runtime. Tokio: `UnixStream::pair`."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with a, b:
            return own(cls, a.detach()), own(cls, b.detach())

    def peer_cred(self) -> UnixCredentials:
        """The process, user and group that connected, or listened, at the other end. Tokio: `UnixStream::peer_cred`.

        Example::

            import os
            import freerun
            from freerun.net import UnixStream

            async def main() -> bool:
                ours, theirs = UnixStream.pair()
                async with ours, theirs:
                    return ours.peer_cred().pid == os.getpid()

            assert freerun.run(main)
        """
        data = with_socket(self, lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return UnixCredentials(*_CREDENTIALS.unpack(data))

    @property
    def peer_addr(self) -> UnixAddress:
        """The other end's path or abstract name, `""` if it has none. Tokio: `UnixStream::peer_addr`."""
        address: UnixAddress = super().peer_addr
        return address

    @property
    def local_addr(self) -> UnixAddress:
        """This end's path or abstract name, `""` if it has none. Tokio: `UnixStream::local_addr`."""
        address: UnixAddress = super().local_addr
        return address

    def __repr__(self) -> str:
        if self.closed:
            return "<UnixStream closed>"
        try:
            return f"<UnixStream local_addr={self.local_addr!r} peer_addr={self.peer_addr!r}>"
        except OSError:
            return "<UnixStream not connected>"


async def _connect(sock: socket.socket, path: str | bytes) -> None:
    pause = 0.001
    while (number := sock.connect_ex(path)) == errno.EAGAIN:
        await sleep(pause)
        pause = min(2 * pause, 0.05)
    if number:
        raise error_of(number, repr(path))


def unix_socket(kind: int) -> socket.socket:
    """A new Unix socket."""
    return socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def parse_path(value: object, argument: str) -> str | bytes:
    """Check the path of a Unix socket."""
    if not isinstance(value, str | bytes | os.PathLike):
        kind = type(value).__name__
        raise TypeError(f"argument '{argument}' must be a path (str, bytes or os.PathLike), not {kind}: {value!r}")
    path: str | bytes = os.fspath(value)
    data = os.fsencode(path)
    if not data:
        raise ValueError(f"argument '{argument}' must not be empty")
    if data[0] and 0 in data:
        raise ValueError(f"argument '{argument}' must not have a zero in it, except as the first byte: {value!r}")
    if len(data) > (108 if data[0] == 0 else 107):
        raise ValueError(f"argument '{argument}' is too long for a Unix socket, 107 bytes at most: {value!r}")
    return path
