"""`UdpSocket`: datagrams over IP."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Any, Self

from freerun._arguments import flag, integer
from freerun._core._native import IoDatagram

from ._opening import Opening
from ._socket import a_socket, error_of, get_option, own, set_option, with_socket
from .addr import Address, ToAddress, parse_address
from .lookup import SocketAddress, numeric, resolve

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["UdpSocket"]


class UdpSocket(IoDatagram):
    """A UDP socket. Made by `bind()` or `from_socket()`.

    * `await recv_from(n=65536)` gives a datagram and its sender's address, `await recv_from_into(buf)` its length and
      the address; `await peek_from(n)` leaves it to be received again. Of a longer datagram the rest is lost.
    * `await send_to(data, addr)` sends a datagram.
    * After `connect(addr)`, which chooses the peer, `await send(data)`, `await recv(n)`, `await recv_into(buf)` and
      `await peek(n)`.
    * `try_recv`, `try_recv_from`, `try_send` and `try_send_to` do not wait: `freerun.WouldBlock`.
    * `await readable()`, `await writable()` wait until there is something to receive, or room to send.
    * `close()`, leaving `async with`; `closed`, `fileno()` (-1 once closed), `detach()` (gives the descriptor away).

    Errors: `OSError`; a later call may say `ConnectionRefusedError` of a peer at which nobody listens. One task may
    receive while another sends; a second receiver or sender gets `RuntimeError`: put a lock around it, or let one task
    receive for all.
    Cancel safety: whoever is cancelled neither received nor sent a datagram. Thread safety: every method may be called
    from any thread, those that are awaited inside a task.
    Tokio: `tokio::net::UdpSocket`.

    Example::

        import freerun
        from freerun.net import UdpSocket

        async def main() -> tuple[bytes, bool]:
            async with UdpSocket.bind("127.0.0.1:0") as ours, UdpSocket.bind("127.0.0.1:0") as theirs:
                await ours.send_to(b"hello", theirs.local_addr)
                data, addr = await theirs.recv_from()
                await theirs.send_to(data.upper(), addr)
                answer, sender = await ours.recv_from()
                return answer, sender == theirs.local_addr

        assert freerun.run(main) == (b"HELLO", True)
    """

    __slots__ = ()

    @classmethod
    def bind(cls, addr: ToAddress, reuse_port: bool = False) -> Opening[Self]:
        """A socket at `"host:port"`, `"[v6]:port"` or `(host, port)`; port 0 lets the system choose one.

        `"0.0.0.0:0"` or `"[::]:0"` is for a socket that sends first. `reuse_port` sets `SO_REUSEPORT`, for several
        sockets at one address. Await it, or enter it: `async with UdpSocket.bind(addr) as x`.

        Errors: `ValueError`/`TypeError` for a bad argument, `socket.gaierror` for an unknown host, `OSError`
        (`EADDRINUSE` and so on), naming the address. Cancel safety: nothing is left behind. Thread safety: for tasks.
        Tokio: `UdpSocket::bind`.
        """
        return Opening(cls._bind(parse_address(addr), flag(reuse_port, "reuse_port")))

    @classmethod
    async def _bind(cls, address: Address, reuse_port: bool) -> Self:
        failed: OSError | None = None
        for family, where in await resolve(address):
            try:
                with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
                    if reuse_port:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    sock.bind(where)
                    return own(cls, sock.detach())
            except OSError as error:
                failed = error_of(error.errno or 0, where)
        assert failed is not None  # resolve() gives one address at least
        raise failed

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Self:
        """Take over a UDP socket; `sock` is detached and made non-blocking.

        Errors: `TypeError`/`ValueError` for what is no UDP socket, `RuntimeError` outside a runtime.
        Thread safety: any thread inside a runtime. Tokio: `UdpSocket::from_std`.

        Example::

            import socket
            import freerun
            from freerun.net import UdpSocket

            async def main() -> bool:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                async with UdpSocket.from_socket(sock) as ours:
                    return ours.broadcast

            assert freerun.run(main)
        """
        families = {socket.AF_INET, socket.AF_INET6}
        return own(cls, a_socket(sock, "sock", socket.SOCK_DGRAM, families, "UDP socket").detach())

    async def connect(self, addr: ToAddress, /) -> None:
        """Choose the peer: `send()` sends to it, and only its datagrams are received. May be called again.

        Of a host with several addresses the first of the socket's family is taken.
        Errors: `ValueError`/`TypeError` for a bad address, `socket.gaierror` for an unknown host, `OSError`.
        Cancel safety: the peer is chosen or it is not. Thread safety: for tasks. Tokio: `UdpSocket::connect`.

        Example::

            import freerun
            from freerun.net import UdpSocket

            async def main() -> bytes:
                async with UdpSocket.bind("127.0.0.1:0") as ours, UdpSocket.bind("127.0.0.1:0") as theirs:
                    await ours.connect(theirs.local_addr)
                    await theirs.connect(ours.local_addr)
                    await ours.send(b"ping")
                    return await theirs.recv()

            assert freerun.run(main) == b"ping"
        """
        where = await self._where(addr)
        with_socket(self, lambda sock: sock.connect(where))

    async def send_to(self, data: Any, addr: ToAddress, /) -> int:
        """Send one datagram to `"host:port"`, `"[v6]:port"` or `(host, port)`; how many bytes it had.

        A name is looked up each time: look it up once (`lookup_host`) to send often.
        Errors: `ValueError`/`TypeError` for a bad argument, `socket.gaierror`, `OSError` (`EMSGSIZE`: too long for a
        datagram). Cancel safety: then it was not sent. Thread safety: for tasks. Tokio: `UdpSocket::send_to`.
        """
        if type(addr) is tuple:
            try:
                return await self._send_to(data, addr)
            except (TypeError, ValueError):
                pass  # not in numbers, or wrong: the long way says which
        return await self._send_to(data, await self._where(addr))

    def try_send_to(self, data: Any, addr: ToAddress, /) -> int:
        """As `send_to`, without waiting: `freerun.WouldBlock` if there is no room. The host must be an IP address.

        Thread safety: any thread. Tokio: `UdpSocket::try_send_to`.
        """
        return self._try_send_to(data, numeric(parse_address(addr), self._family()))

    async def _where(self, addr: ToAddress) -> SocketAddress:
        """The address in numbers, of the socket's family."""
        family = self._family()
        found = await resolve(parse_address(addr))
        for each, where in found:
            if each == family:
                return where
        for _, where in found:
            if family == socket.AF_INET6:  # an IPv4 address in IPv6's clothes
                return (f"::ffff:{where[0]}", where[1], 0, 0)
        raise ValueError(f"argument 'addr': {addr!r} has no address of this socket's family")

    def _family(self) -> int:
        return with_socket(self, lambda sock: sock.family)

    @property
    def local_addr(self) -> SocketAddress:
        """The address that it is bound to. Tokio: `UdpSocket::local_addr`."""
        address: SocketAddress = with_socket(self, socket.socket.getsockname)
        return address

    @property
    def peer_addr(self) -> SocketAddress:
        """The peer that `connect()` chose; `OSError` (`ENOTCONN`) without one. Tokio: `UdpSocket::peer_addr`."""
        address: SocketAddress = with_socket(self, socket.socket.getpeername)
        return address

    @property
    def broadcast(self) -> bool:
        """Whether it may send to broadcast addresses. Tokio: `UdpSocket::broadcast`."""
        return bool(get_option(self, socket.SOL_SOCKET, socket.SO_BROADCAST))

    def set_broadcast(self, broadcast: bool, /) -> None:
        """Allow sending to broadcast addresses. Tokio: `UdpSocket::set_broadcast`."""
        set_option(self, socket.SOL_SOCKET, socket.SO_BROADCAST, int(flag(broadcast, "broadcast")))

    @property
    def ttl(self) -> int:
        """The time to live of what it sends; hop limit for IPv6. Tokio: `UdpSocket::ttl`."""
        return get_option(self, *self._for_family(_TTL))

    def set_ttl(self, ttl: int, /) -> None:
        """Set the time to live, 1 to 255. Tokio: `UdpSocket::set_ttl`."""
        set_option(self, *self._for_family(_TTL), integer(ttl, "ttl", most=255))

    @property
    def multicast_ttl(self) -> int:
        """The time to live of what it sends to groups: 1 stays in this network. Tokio: `multicast_ttl_v4`."""
        return get_option(self, *self._for_family(_MULTICAST_TTL))

    def set_multicast_ttl(self, ttl: int, /) -> None:
        """Set the time to live of what it sends to groups, 0 to 255. Tokio: `set_multicast_ttl_v4`."""
        set_option(self, *self._for_family(_MULTICAST_TTL), integer(ttl, "ttl", least=0, most=255))

    @property
    def multicast_loop(self) -> bool:
        """Whether this machine's members of a group get what it sends. Tokio: `multicast_loop_v4`, `_v6`."""
        return bool(get_option(self, *self._for_family(_MULTICAST_LOOP)))

    def set_multicast_loop(self, loop: bool, /) -> None:
        """Whether this machine's members of a group get what it sends. Tokio: `set_multicast_loop_v4`, `_v6`."""
        set_option(self, *self._for_family(_MULTICAST_LOOP), int(flag(loop, "loop")))

    def join_multicast_v4(self, group: str, interface: str = "0.0.0.0", /) -> None:
        """Receive what is sent to an IPv4 group, on the interface with that address (the system's choice: 0.0.0.0).

        Errors: `ValueError` for a bad address, `OSError`. Tokio: `UdpSocket::join_multicast_v4`.

        Example::

            import freerun
            from freerun.net import UdpSocket

            async def main() -> bytes:
                async with UdpSocket.bind("0.0.0.0:0") as member, UdpSocket.bind("127.0.0.1:0") as sender:
                    member.join_multicast_v4("239.1.2.3", "127.0.0.1")
                    await sender.send_to(b"to all", ("239.1.2.3", member.local_addr[1]))
                    return await member.recv()

            assert freerun.run(main) == b"to all"
        """
        set_option(self, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership_v4(group, interface))

    def leave_multicast_v4(self, group: str, interface: str = "0.0.0.0", /) -> None:
        """Leave a group; the arguments of `join_multicast_v4`. Tokio: `UdpSocket::leave_multicast_v4`."""
        set_option(self, socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, _membership_v4(group, interface))

    def join_multicast_v6(self, group: str, interface: int = 0, /) -> None:
        """Receive what is sent to an IPv6 group, on the interface with that index (`socket.if_nametoindex`; 0: any).

        Errors: `ValueError` for a bad address, `OSError`. Tokio: `UdpSocket::join_multicast_v6`.
        """
        set_option(self, socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _membership_v6(group, interface))

    def leave_multicast_v6(self, group: str, interface: int = 0, /) -> None:
        """Leave a group; the arguments of `join_multicast_v6`. Tokio: `UdpSocket::leave_multicast_v6`."""
        set_option(self, socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _membership_v6(group, interface))

    def _for_family(self, options: tuple[tuple[int, int], tuple[int, int]]) -> tuple[int, int]:
        return options[self._family() == socket.AF_INET6]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<UdpSocket {'closed' if self.closed else f'local_addr={self.local_addr}'}>"


# Level and option, for IPv4 and for IPv6.
_TTL = ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS))
_MULTICAST_TTL = ((socket.IPPROTO_IP, socket.IP_MULTICAST_TTL), (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS))
_MULTICAST_LOOP = ((socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP), (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP))


def _membership_v4(group: str, interface: str) -> bytes:
    return _packed(ipaddress.IPv4Address, group, "group") + _packed(ipaddress.IPv4Address, interface, "interface")


def _membership_v6(group: str, interface: int) -> bytes:
    return _packed(ipaddress.IPv6Address, group, "group") + struct.pack("I", integer(interface, "interface", least=0))


def _packed(kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address], value: str, argument: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"argument '{argument}' must be an address as str, not {type(value).__name__}: {value!r}")
    try:
        return kind(value).packed
    except ValueError as error:
        raise ValueError(f"argument '{argument}': {error}") from None
