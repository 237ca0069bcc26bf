"""`lookup_host`: names to addresses."""

from __future__ import annotations

import socket
from typing import Any

from freerun.task import spawn_blocking

from .addr import Address, ToAddress, parse_address

__all__ = ["SocketAddress", "lookup_host", "numeric", "resolve"]

type SocketAddress = tuple[Any, ...]
"""`(host, port)` for IPv4, `(host, port, flow, scope)` for IPv6, as the socket module has them."""

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


async def lookup_host(host: ToAddress, /) -> list[SocketAddress]:
    """Look up `"host:port"` or `(host, port)`: the addresses to try, the best one first.

    The system's resolver runs on the blocking pool; an address in numbers is taken as it is, without a thread.

    Errors: `ValueError`/`TypeError` for what is no address, `socket.gaierror` (an `OSError`) when the name is unknown.
    Cancel safety: nothing is lost; a lookup in progress runs on and is forgotten. Thread safety: for tasks.
    Tokio: `tokio::net::lookup_host`.

    Example::

        import freerun
        from freerun.net import lookup_host

        assert freerun.run(lookup_host, "127.0.0.1:80") == [("127.0.0.1", 80)]
    """
    return [address for _, address in await resolve(parse_address(host, "host"))]


async def resolve(address: Address) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """Family and socket address of each of the host's addresses; never empty."""
    try:
        found = _getaddrinfo(address, _NUMERIC)
    except socket.gaierror:
        found = await spawn_blocking(_getaddrinfo, address, 0)
    return found


def numeric(address: Address, family: int) -> SocketAddress:
    """The socket address of a host in numbers, for a socket of this family; `ValueError` for another one."""
    try:
        found = _getaddrinfo(address, _NUMERIC)
    except socket.gaierror:
        raise ValueError(f"argument 'addr': the host must be an IP address here, not {address.host!r}") from None
    for each, where in found:
        if each == family:
            return where
    version = 4 if family == socket.AF_INET else 6
    raise ValueError(f"argument 'addr': {address.host!r} is no IPv{version} address, as this socket's are")


def _getaddrinfo(address: Address, flags: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"cannot look up host {address.host!r}: {error.strerror}") from None
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"{address.host!r} is no host name: {error}") from None
    pairs = [(family, _with_scope(family, where, address)) for family, _, _, _, where in found]
    return list(dict.fromkeys(pairs))


def _with_scope(family: int, where: SocketAddress, address: Address) -> SocketAddress:
    if family == socket.AF_INET6 and (address.flow or address.scope):
        return (*where[:2], address.flow, address.scope)
    return where
