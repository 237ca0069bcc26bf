"""`TcpStream`: a connection."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Self

from freerun._arguments import Seconds, flag, integer, seconds
from freerun._core._native import IoSource
from freerun.io import UnexpectedEof
from freerun.time import timeout as within

from ._opening import Opening
from ._socket import Borrowed, error_of, owner_of
from .addr import Address, ToAddress, parse_address
from .lookup import SocketAddress, resolve
from .tcp_split import OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TcpStream"]


class TcpStream(IoSource):
    """A TCP connection. Made by `connect()`, `TcpListener.accept()` or `from_socket()`.

    Reading and writing:

    * `await read(n=65536)` gives up to `n` bytes as soon as there are any, `b""` at the end of the stream.
    * `await write(data)` writes some of `data` (any bytes-like object) and gives how many; `await write_all(data)` all.
    * `await readable()`, `await writable()` wait until a `read`/`write` would not wait.
    * `close()` closes both directions at once; leaving `async with` does the same. `closed`, `fileno()` (-1 once
      closed), `detach()` (gives the descriptor away).

    Nagle's algorithm is off: accepted and connected streams have `TCP_NODELAY` set, so what is written leaves at once;
    `set_nodelay(False)` brings it back.

    Errors: `OSError`. One task may read while another writes; a second reader or writer gets `RuntimeError`.
    Cancel safety: `read`, `write`, `readable` and `writable` lose nothing; `write_all` and `read_exact` do not tell how
    far they got. Thread safety: every method may be called from any thread, those that are awaited inside a task.
    Tokio: `tokio::net::TcpStream`.

    Example::

        import freerun
        from freerun.net import TcpListener, TcpStream

        async def shout(listener: TcpListener) -> None:
            stream, _ = await listener.accept()
            async with stream:
                await stream.write_all((await stream.read()).upper())

        async def main() -> bytes:
            async with TcpListener.bind("127.0.0.1:0") as listener:
                freerun.spawn(shout, listener)
                async with TcpStream.connect(listener.local_addr) as stream:
                    await stream.write_all(b"hello")
                    return await stream.read_exact(5)

        assert freerun.run(main) == b"HELLO"
    """

    __slots__ = ()

    @classmethod
    def connect(cls, addr: ToAddress, timeout: Seconds | None = None) -> Opening[Self]:
        """Connect to `"host:port"`, `"[v6]:port"` or `(host, port)`, trying each address of the host in turn.

        `timeout` limits the whole of it, the lookup included; in seconds or as a `timedelta`, `None`: the system's.
        Await the result, or enter it: `async with TcpStream.connect(addr) as stream`.

        Errors: `ValueError`/`TypeError` for a bad argument, `socket.gaierror` for an unknown host, `TimeoutError`, and
        the `OSError` of the address that failed last (`ConnectionRefusedError` and so on).
        Cancel safety: the attempt is given up and its socket closed. Thread safety: for tasks.
        Tokio: `tokio::net::TcpStream::connect`.

        Example::

            import freerun
            from freerun.net import TcpStream

            async def main() -> str:
                try:
                    await TcpStream.connect("127.0.0.1:1", timeout=5)
                except ConnectionRefusedError:
                    return "nobody there"
                return "somebody there"

            assert freerun.run(main) == "nobody there"
        """
        address = parse_address(addr)
        limit = None if timeout is None else seconds(timeout, "timeout")
        return Opening(cls._connect(address, limit))

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Self:
        """Take over a connected stream socket; `sock` is detached and made non-blocking.

        Errors: `TypeError`/`ValueError` for what is no stream socket, `RuntimeError` outside a runtime.
        Thread safety: any thread inside a runtime. Tokio: `tokio::net::TcpStream::from_std`.

        Example::

            import socket
            import freerun
            from freerun.net import TcpStream

            async def main() -> bytes:
                ours, theirs = socket.socketpair()
                with theirs:
                    theirs.sendall(b"hi")
                    async with TcpStream.from_socket(ours) as stream:
                        return await stream.read()

            assert freerun.run(main) == b"hi"
        """
        if not isinstance(sock, socket.socket):
            raise TypeError(f"argument 'sock' must be a socket.socket, not {type(sock).__name__}: {sock!r}")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"argument 'sock' must be a stream socket: {sock!r}")
        sock.setblocking(False)
        return cls._adopt(sock)

    @classmethod
    def _adopt(cls, sock: socket.socket) -> Self:
        return owner_of(cls, sock.detach())

    @classmethod
    async def _connect(cls, address: Address, limit: float | None) -> Self:
        if limit is None:
            return await cls._connect_any(address)
        try:
            return await within(limit, cls._connect_any(address))
        except TimeoutError as error:
            if error.errno is not None:  # the system's ETIMEDOUT
                raise
            where = f"{address.host}:{address.port}"
            raise TimeoutError(errno.ETIMEDOUT, f"no connection to {where} within {limit:g} s") from None

    @classmethod
    async def _connect_any(cls, address: Address) -> Self:
        errors: list[OSError] = []
        for family, where in await resolve(address):
            try:
                return await cls._connect_one(family, where)
            except OSError as error:
                errors.append(error)
        try:
            raise _summary(address, errors)
        finally:
            errors.clear()  # their tracebacks hold this frame

    @classmethod
    async def _connect_one(cls, family: int, where: SocketAddress) -> Self:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            await _handshake(sock, where)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return cls._adopt(sock)

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
        integer(n, "n", least=0)
        if n == 0:
            return b""
        first = await self.read(n)
        if len(first) == n:
            return first
        parts = bytearray(first)
        while (missing := n - len(parts)) and (part := await self.read(missing) if first else b""):
            parts += part
        if missing:
            raise UnexpectedEof(bytes(parts), n)
        return bytes(parts)

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
        self._shut_down_writing()

    def _shut_down_writing(self) -> None:
        with Borrowed(self) as sock:
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise

    def split(self) -> tuple[ReadHalf, WriteHalf]:
        """Two halves that share this stream, for two tasks. Closing stays the stream's business.

        Thread safety: any thread. Tokio: `TcpStream::split`.

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

    def into_split(self) -> tuple[OwnedReadHalf, OwnedWriteHalf]:
        """Two halves that own the stream: closing the write half ends the peer's input, closing both closes the stream.

        Do not use the stream itself afterwards. `read.reunite(write)` gives it back.
        Thread safety: any thread. Tokio: `TcpStream::into_split`.

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
    def nodelay(self) -> bool:
        """Whether `TCP_NODELAY` is set: what is written leaves at once. Tokio: `TcpStream::nodelay`."""
        with Borrowed(self) as sock:
            return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def set_nodelay(self, nodelay: bool, /) -> None:
        """Set or clear `TCP_NODELAY`. Tokio: `TcpStream::set_nodelay`."""
        flag(nodelay, "nodelay")
        with Borrowed(self) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(nodelay))

    @property
    def peer_addr(self) -> SocketAddress:
        """The other end's address: `(host, port)`, with flow and scope for IPv6. Tokio: `TcpStream::peer_addr`."""
        with Borrowed(self) as sock:
            address: Any = sock.getpeername()
        return address if isinstance(address, tuple) else (address,)

    @property
    def local_addr(self) -> SocketAddress:
        """This end's address: `(host, port)`, with flow and scope for IPv6. Tokio: `TcpStream::local_addr`."""
        with Borrowed(self) as sock:
            address: Any = sock.getsockname()
        return address if isinstance(address, tuple) else (address,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<TcpStream closed>"
        try:
            return f"<TcpStream local_addr={self.local_addr} peer_addr={self.peer_addr}>"
        except OSError:
            return "<TcpStream not connected>"


def _is_connected(sock: socket.socket, where: SocketAddress) -> bool:
    """Whether the handshake is over; raises what it failed with."""
    if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise error_of(number, where)
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return False
    return True


async def _handshake(sock: socket.socket, where: SocketAddress) -> None:
    """Connect the socket.

    The readiness is cleared before each look, so that no edge is lost in between. It belongs to a duplicate, for the
    stream has to start with a readiness of its own. Made first, it also says that there is no runtime, or none with
    I/O, before anything happens.
    """
    source = owner_of(IoSource, os.dup(sock.fileno()))
    try:
        number = sock.connect_ex(where)
        if number not in {0, errno.EINPROGRESS, errno.EINTR}:
            raise error_of(number, where)
        while True:
            source.clear_writable()
            if _is_connected(sock, where):
                return
            await source.writable()
    finally:
        source.close()


def _summary(address: Address, errors: list[OSError]) -> OSError:
    """One error for all attempts; of the last one's type, naming every address."""
    last = errors[-1]
    if len(errors) == 1:
        return last
    attempts = "; ".join(error.strerror or str(error) for error in errors)
    return OSError(last.errno, f"no connection to {address.host}:{address.port}: {attempts}")
