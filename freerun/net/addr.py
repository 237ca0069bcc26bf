"""Addresses as users write them: `"host:port"`, `"[v6]:port"`, `(host, port)`."""

from __future__ import annotations

from typing import NamedTuple

from freerun._arguments import integer

__all__ = ["Address", "ToAddress", "parse_address"]

type ToAddress = str | tuple[str, int] | tuple[str, int, int, int]
"""What is taken for an address. The four-part form is what IPv6 sockets give out: host, port, flow, scope."""

_FORMS = "'host:port', '[v6]:port' or a (host, port) tuple"


class Address(NamedTuple):
    """A host, not yet looked up, and a port."""

    host: str
    port: int
    flow: int = 0
    scope: int = 0


def parse_address(value: ToAddress, argument: str = "addr") -> Address:
    """Take an address apart; an error says what is wrong with it.

    Example::

        from freerun.net.addr import parse_address

        assert parse_address("[::1]:80") == ("::1", 80, 0, 0)
        assert parse_address(("localhost", 80)).host == "localhost"
    """
    if isinstance(value, str):
        return _from_text(value, argument)
    if isinstance(value, tuple):
        return _from_tuple(value, argument)
    raise TypeError(f"argument '{argument}' must be {_FORMS}, not {type(value).__name__}: {value!r}")


def _from_tuple(value: tuple[object, ...], argument: str) -> Address:
    if len(value) not in {2, 4}:
        raise ValueError(
            f"argument '{argument}' must be a (host, port) tuple, not one of {len(value)} items: {value!r}"
        )
    host = value[0]
    if not isinstance(host, str):
        raise TypeError(f"argument '{argument}': the host must be a str, not {type(host).__name__}: {value!r}")
    if not host:
        raise ValueError(
            f"argument '{argument}' has no host: {value!r}; every address of this machine is '0.0.0.0' or '::'"
        )
    rest = [integer(part, f"{argument}[{i + 1}]", least=0) for i, part in enumerate(value[1:])]
    if rest[0] > 65535:
        raise ValueError(f"argument '{argument}': the port must be at most 65535: {value!r}")
    return Address(host, *rest)


def _from_text(value: str, argument: str) -> Address:
    host, colon, port = value.rpartition(":")
    if not colon or port.endswith("]"):
        raise ValueError(f"argument '{argument}' has no port: {value!r}; it must be {_FORMS}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"argument '{argument}': put an IPv6 address in brackets, '[::1]:80', not {value!r}")
    if not host:
        raise ValueError(
            f"argument '{argument}' has no host: {value!r}; every address of this machine is '0.0.0.0' or '[::]'"
        )
    if not (port.isascii() and port.isdigit()):
        raise ValueError(f"argument '{argument}': the port must be a number, not {port!r}: {value!r}")
    if int(port) > 65535:
        raise ValueError(f"argument '{argument}': the port must be at most 65535: {value!r}")
    return Address(host, int(port))
