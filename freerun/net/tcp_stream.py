"""`TcpStream`: a connection."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Self

from freerun._arguments import Seconds, flag, integer, seconds
from freerun._core._native import current_core
from freerun.time import timeout as within

from ._connect import Race
from ._opening import Opening
from ._socket import get_option, set_option, with_socket
from ._stream import SocketStream
from .addr import Address, ToAddress, parse_address
from .lookup import SocketAddress, resolve

__all__ = ["TcpStream", "connect_to"]

_LINGER = struct.Struct("ii")
_MOST = 0x7FFFFFFF


class TcpStream(SocketStream):
    """A TCP connection. Made by `connect()`, `TcpListener.accept()` or `from_socket()`.

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

    Nagle's algorithm is off: accepted and connected streams have `TCP_NODELAY` set, so what is written leaves at once;
    `set_nodelay(False)` brings it back.

    Errors: `OSError`. One task may read while another writes; a second reader or writer gets `RuntimeError`. A buffer
    is held from the call until its operation is over: a `bytearray` cannot be resized meanwhile.
    Cancel safety: `read`, `read_into`, `peek`, `write`, `write_vectored`, `readable` and `writable` lose nothing;
    `write_all` and `read_exact` do not tell how far they got.
    Thread safety: every method may be called from any thread, those that are awaited inside a task.
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
                    buffer = bytearray(100)
                    n = await stream.read_into(buffer)
                    return bytes(buffer[:n])

        assert freerun.run(main) == b"HELLO"
    """

    __slots__ = ()

    @classmethod
    def connect(cls, addr: ToAddress, timeout: Seconds | None = None) -> Opening[Self]:
        """Connect to `"host:port"`, `"[v6]:port"` or `(host, port)`, by the address that answers first.

        The addresses of the host are tried in turn, IPv6 and IPv4 alternating as in RFC 8305: the next one as soon as
        one has failed, or besides it when it has not answered for 250 ms. The first connection is taken and the others
        are closed.

        `timeout` limits the whole of it, the lookup included; in seconds or as a `timedelta`, `None`: the system's.
        Await the result, or enter it: `async with TcpStream.connect(addr) as stream`.

        Errors: `ValueError`/`TypeError` for a bad argument, `socket.gaierror` for an unknown host, `TimeoutError`, and
        the `OSError` of the address that failed last (`ConnectionRefusedError` and so on). It names every address; if
        there were several, its `__cause__` is an `ExceptionGroup` of what each failed with.
        Cancel safety: every attempt is given up and its socket closed. Thread safety: for tasks.
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
        return Opening(connect_to(cls, parse_address(addr), limit_of(timeout), new_socket))

    @property
    def nodelay(self) -> bool:
        """Whether `TCP_NODELAY` is set: what is written leaves at once. Tokio: `TcpStream::nodelay`."""
        return bool(get_option(self, socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def set_nodelay(self, nodelay: bool, /) -> None:
        """Set or clear `TCP_NODELAY`. Tokio: `TcpStream::set_nodelay`."""
        set_option(self, socket.IPPROTO_TCP, socket.TCP_NODELAY, int(flag(nodelay, "nodelay")))

    @property
    def keepalive(self) -> bool:
        """Whether the system probes a silent peer. Tokio: `TcpSocket::keepalive`."""
        return bool(get_option(self, socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def set_keepalive(
        self,
        keepalive: bool,
        /,
        *,
        idle: Seconds | None = None,
        interval: Seconds | None = None,
        count: int | None = None,
    ) -> None:
        """Let the system probe the peer when it has been silent, and end the connection if it does not answer.

        The first probe after `idle` seconds, the next ones every `interval`, `count` in all; whole seconds, from 1 on.
        What is not given keeps the system's default. Tokio: `TcpSocket::set_keepalive`, and socket2's `TcpKeepalive`.

        Example::

            import freerun
            from freerun.net import TcpListener, TcpStream

            async def main() -> bool:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    async with TcpStream.connect(listener.local_addr) as stream:
                        stream.set_keepalive(True, idle=60, interval=10, count=3)
                        return stream.keepalive

            assert freerun.run(main)
        """
        options: list[tuple[int, int]] = []
        if idle is not None:
            options.append((socket.TCP_KEEPIDLE, _whole_seconds(idle, "idle")))
        if interval is not None:
            options.append((socket.TCP_KEEPINTVL, _whole_seconds(interval, "interval")))
        if count is not None:
            options.append((socket.TCP_KEEPCNT, integer(count, "count", most=127)))
        set_option(self, socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(flag(keepalive, "keepalive")))
        for option, value in options:
            set_option(self, socket.IPPROTO_TCP, option, value)

    @property
    def linger(self) -> int | None:
        """0: closing resets the connection; `None`: the system sends the rest. Tokio: `TcpStream::linger`."""
        on, value = _LINGER.unpack(
            with_socket(self, lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
        )
        return int(value) if on else None

    def set_linger(self, linger: int | None, /) -> None:
        """What closing does with data that was not sent yet.

        `None`: the system goes on sending it. 0: it is thrown away and the peer sees a reset. There is nothing in
        between: with another value `close()` would block its thread. Await `shutdown()` and read to the end instead.
        Tokio: `TcpStream::set_linger`, `set_zero_linger`.

        Example::

            import freerun
            from freerun.net import TcpListener, TcpStream

            async def main() -> str:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    async with TcpStream.connect(listener.local_addr) as stream:
                        theirs, _ = await listener.accept()
                        theirs.set_linger(0)
                        theirs.close()
                        try:
                            await stream.read()
                        except ConnectionResetError:
                            return "reset"
                return "ended"

            assert freerun.run(main) == "reset"
        """
        if linger is not None and integer(linger, "linger", least=0) != 0:
            raise ValueError(f"argument 'linger' must be None or 0: close() would block its thread for {linger!r} s")
        set_option(self, socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(int(linger is not None), 0))

    @property
    def ttl(self) -> int:
        """The time to live of its packets; hop limit for IPv6. Tokio: `TcpStream::ttl`."""
        return get_option(self, *self._ttl_option())

    def set_ttl(self, ttl: int, /) -> None:
        """Set the time to live of its packets, 1 to 255. Tokio: `TcpStream::set_ttl`."""
        set_option(self, *self._ttl_option(), integer(ttl, "ttl", most=255))

    def _ttl_option(self) -> tuple[int, int]:
        if with_socket(self, _family) == socket.AF_INET6:
            return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
        return socket.IPPROTO_IP, socket.IP_TTL

    @property
    def recv_buffer_size(self) -> int:
        """Bytes that the system receives in advance, as it counts them. Tokio: `TcpSocket::recv_buffer_size`."""
        return get_option(self, socket.SOL_SOCKET, socket.SO_RCVBUF)

    def set_recv_buffer_size(self, size: int, /) -> None:
        """Ask for a receive buffer of `size` bytes; Linux takes twice that. Tokio: `set_recv_buffer_size`."""
        set_option(self, socket.SOL_SOCKET, socket.SO_RCVBUF, integer(size, "size", most=_MOST // 2))

    @property
    def send_buffer_size(self) -> int:
        """Bytes that the system takes before a write waits, as it counts them. Tokio: `TcpSocket::send_buffer_size`."""
        return get_option(self, socket.SOL_SOCKET, socket.SO_SNDBUF)

    def set_send_buffer_size(self, size: int, /) -> None:
        """Ask for a send buffer of `size` bytes; Linux takes twice that. Tokio: `set_send_buffer_size`."""
        set_option(self, socket.SOL_SOCKET, socket.SO_SNDBUF, integer(size, "size", most=_MOST // 2))

    @property
    def peer_addr(self) -> SocketAddress:
        """The other end's address: `(host, port)`, with flow and scope for IPv6. Tokio: `TcpStream::peer_addr`."""
        return as_tuple(super().peer_addr)

    @property
    def local_addr(self) -> SocketAddress:
        """This end's address: `(host, port)`, with flow and scope for IPv6. Tokio: `TcpStream::local_addr`."""
        return as_tuple(super().local_addr)


def as_tuple(address: object) -> SocketAddress:
    """A stream made from some other socket than TCP's has an address of another form."""
    return address if isinstance(address, tuple) else (address,)


def limit_of(timeout: Seconds | None) -> float | None:
    """Check a `timeout` argument."""
    return None if timeout is None else seconds(timeout, "timeout", for_ever=True)


def new_socket(family: int) -> socket.socket:
    """A socket to connect with."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def connect_to[S: SocketStream](
    kind: type[S], address: Address, limit: float | None, make: Callable[[int], socket.socket]
) -> S:
    """Look the host up and connect to the address that answers first, with a deadline."""
    current_core()  # says that there is no runtime before anything happens
    if limit is None:
        return await _connect(kind, address, make)
    try:
        return await within(limit, _connect(kind, address, make))
    except TimeoutError as error:
        if error.errno is not None:  # the system's ETIMEDOUT
            raise
        where = f"{address.host}:{address.port}"
        raise TimeoutError(errno.ETIMEDOUT, f"no connection to {where} within {limit:g} s") from None


async def _connect[S: SocketStream](kind: type[S], address: Address, make: Callable[[int], socket.socket]) -> S:
    return await Race(kind, [(int(family), where) for family, where in await resolve(address)], make, address)


def _family(sock: socket.socket) -> int:
    return sock.family


def _whole_seconds(value: Seconds, argument: str) -> int:
    number = seconds(value, argument)
    if number != int(number) or not 1 <= number <= 32767:
        raise ValueError(f"argument '{argument}' must be whole seconds from 1 to 32767: {value!r}")
    return int(number)
