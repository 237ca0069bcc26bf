"""`SocketStream`: what connections have in common, over TCP or a Unix socket."""

from __future__ import annotations

import errno
import functools
import socket
from typing import TYPE_CHECKING, Any, Self

from freerun._arguments import integer
from freerun._core._native import IoStream
from freerun.io import UnexpectedEof

from ._socket import a_socket, own, with_socket
from .split import OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SocketStream", "read_exact"]


class SocketStream(IoStream):
    """A connected stream socket: what `TcpStream` and `UnixStream` have in common.

    Reading:

    * `await read(n=65536)` gives up to `n` bytes as soon as there are any, `b""` at the end of the stream.
    * `await read_into(buf)` reads into a `bytearray` or another writable buffer and gives how many bytes; 0 at the end.
    * `await peek(n=65536)` is a `read` after which the bytes are still there.
    * `try_read(n)` and `try_read_into(buf)` do not wait: `freerun.WouldBlock` if there is nothing to read.
    * `await readable()` waits until a `read` would not wait.

    Writing:

    * `await write(data)` writes some of `data` (any bytes-like object) and gives how many bytes; `await
      write_all(data)` writes all of it.
    * `await write_vectored(buffers)` writes some of a sequence of buffers with one system call: how many bytes in all.
    * `try_write(data)` and `try_write_vectored(buffers)` do not wait: `freerun.WouldBlock` if there is no room.
    * `await writable()` waits until a `write` would not wait.

    `close()` closes both directions at once; leaving `async with` does the same. `closed`, `fileno()` (-1 once closed),
    `detach()` (gives the descriptor away).

    Errors: `OSError`. One task may read while another writes; a second reader or writer gets `RuntimeError`. A buffer
    is held from the call until its operation is over: a `bytearray` cannot be resized meanwhile.
    Cancel safety: `read`, `read_into`, `peek`, `write`, `write_vectored`, `readable` and `writable` lose nothing;
    `write_all` and `read_exact` do not tell how far they got.
    Thread safety: every method may be called from any thread, those that are awaited inside a task.
    """

    __slots__ = ()

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Self:
        """Take over a connected stream socket; `sock` is detached and made non-blocking.

        Errors: `TypeError`/`ValueError` for what is no stream socket, `RuntimeError` outside a runtime.
        Thread safety: any thread inside a runtime. Tokio: `TcpStream::from_std`, `UnixStream::from_std`.

        Example::

            import socket
            import freerun
            from freerun.net import UnixStream

            async def main() -> bytes:
                ours, theirs = socket.socketpair()
                with theirs:
                    theirs.sendall(b"hi")
                    async with UnixStream.from_socket(ours) as stream:
                        return await stream.read()

            assert freerun.run(main) == b"hi"
        """
        families = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
        return cls._adopt(a_socket(sock, "sock", socket.SOCK_STREAM, families, "stream socket"))

    @classmethod
    def _adopt(cls, sock: socket.socket, assume_ready: bool = True) -> Self:
        """Own a socket's descriptor."""
        return own(functools.partial(cls, assume_ready=assume_ready), sock.detach())

    async def read_exact(self, n: int, /) -> bytes:
        """Read exactly `n` bytes.

        Errors: `freerun.io.UnexpectedEof` (an `EOFError`, with the bytes that came in `.partial`) if the stream ends
        first; `OSError`. Cancel safety: what was read so far is lost. Thread safety: for tasks.
        Tokio: `AsyncReadExt::read_exact`.

        Example::

            import freerun
            from freerun.io import UnexpectedEof
            from freerun.net import TcpListener, TcpStream

            async def main() -> bytes:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    async with TcpStream.connect(listener.local_addr) as client:
                        server, _ = await listener.accept()
                        await server.write_all(b"abc")
                        server.close()
                        try:
                            return await client.read_exact(4)
                        except UnexpectedEof as error:
                            return error.partial

            assert freerun.run(main) == b"abc"
        """
        return await read_exact(self, n)

    async def shutdown(self) -> None:
        """Close the writing direction: the peer sees the end of the stream; reading goes on.

        Errors: `OSError`; a connection that is gone already is none. Cancel safety: does not wait. Thread safety: any
        thread. Tokio: `AsyncWriteExt::shutdown`.

        Example::

            import freerun
            from freerun.net import TcpListener, TcpStream

            async def main() -> bytes:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    async with TcpStream.connect(listener.local_addr) as client:
                        server, _ = await listener.accept()
                        async with server:
                            await client.shutdown()
                            return await server.read()

            assert freerun.run(main) == b""
        """
        self._end_output()

    def _end_output(self) -> None:
        with_socket(self, _shut_down_writing)

    def split(self) -> tuple[ReadHalf, WriteHalf]:
        """Two halves that share this stream, for two tasks. Closing stays the stream's business.

        Thread safety: any thread. Tokio: `TcpStream::split`, `UnixStream::split`.

        Example::

            import freerun
            from freerun.net import TcpListener, TcpStream

            async def main() -> bytes:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    async with TcpStream.connect(listener.local_addr) as client:
                        server, _ = await listener.accept()
                        async with server:
                            read, write = server.split()
                            await client.write_all(b"x")
                            await write.write_all(await read.read() * 2)
                            return await client.read_exact(2)

            assert freerun.run(main) == b"xx"
        """
        return ReadHalf(self), WriteHalf(self)

    def into_split(self) -> tuple[OwnedReadHalf[Self], OwnedWriteHalf[Self]]:
        """Two halves that own the stream: closing the write half ends the peer's input, closing both closes the stream.

        Do not use the stream itself afterwards. `read.reunite(write)` gives it back.
        Thread safety: any thread. Tokio: `TcpStream::into_split`, `UnixStream::into_split`.

        Example::

            import freerun
            from freerun.net import TcpListener, TcpStream

            async def main() -> bytes:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    read, write = (await TcpStream.connect(listener.local_addr)).into_split()
                    server, _ = await listener.accept()
                    async with server, read:
                        write.close()
                        return await server.read()

            assert freerun.run(main) == b""
        """
        return OwnedReadHalf._of(self)

    @property
    def peer_addr(self) -> Any:
        """The other end's address, in the form of the socket's family. Tokio: `TcpStream::peer_addr`."""
        return with_socket(self, socket.socket.getpeername)

    @property
    def local_addr(self) -> Any:
        """This end's address, in the form of the socket's family. Tokio: `TcpStream::local_addr`."""
        return with_socket(self, socket.socket.getsockname)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.closed:
            return f"<{name} closed>"
        try:
            return f"<{name} local_addr={self.local_addr} peer_addr={self.peer_addr}>"
        except OSError:
            return f"<{name} not connected>"


async def read_exact(stream: Any, n: int) -> bytes:
    """Read exactly `n` bytes of whatever has `read()`, or raise `UnexpectedEof`."""
    integer(n, "n", least=0)
    if n == 0:
        return b""
    first: bytes = await stream.read(n)
    if len(first) == n:
        return first
    parts = bytearray(first)
    while (missing := n - len(parts)) and (part := await stream.read(missing) if first else b""):
        parts += part
    if missing:
        raise UnexpectedEof(bytes(parts), n)
    return bytes(parts)


def _shut_down_writing(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
