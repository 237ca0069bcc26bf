"""`UnixDatagram`: datagrams over a Unix socket."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Self

from freerun._core._native import IoDatagram, sleep
from freerun._errors import WouldBlock

from ._opening import Opening
from ._socket import a_socket, error_of, own, with_socket
from .unix_stream import UnixAddress, UnixPath, parse_path, unix_socket

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["UnixDatagram"]


class UnixDatagram(IoDatagram):
    """A Unix socket for datagrams; none is lost and they come in order. Made by `bind()`, `unbound()` or `pair()`.

    * `await recv_from(n=65536)` gives a datagram and its sender's address (`""` if that is not bound), `await
      recv_from_into(buf)` its length and the address; `await peek_from(n)` leaves it there. Of a longer datagram the
      rest is lost.
    * `await send_to(data, path)` sends a datagram.
    * After `connect(path)`, or in a `pair()`: `await send(data)`, `await recv(n)`, `await recv_into(buf)`, `await
      peek(n)`.
    * `try_recv`, `try_recv_from`, `try_send` and `try_send_to` do not wait: `freerun.WouldBlock`.
    * `readable()`, `writable()`, `close()`, `async with`, `closed`, `fileno()` and `detach()` as for `UdpSocket`.

    Errors: `OSError`. One task may receive while another sends; a second receiver or sender gets `RuntimeError`.
    Cancel safety: whoever is cancelled neither received nor sent a datagram. Thread safety: every method may be called
    from any thread, those that are awaited inside a task.
    Tokio: `tokio::net::UnixDatagram`.

    Example::

        import freerun
        from freerun.net import UnixDatagram

        async def main() -> list[bytes]:
            ours, theirs = UnixDatagram.pair()
            async with ours, theirs:
                await ours.send(b"one")
                await ours.send(b"two")
                return [await theirs.recv(), await theirs.recv()]

        assert freerun.run(main) == [b"one", b"two"]
    """

    __slots__ = ()

    @classmethod
    def bind(cls, path: UnixPath) -> Opening[Self]:
        """A socket at a path or an abstract name, as for `UnixListener.bind()`. Await it, or enter it.

        Errors: `ValueError`/`TypeError` for a bad path; `OSError`, naming it. Tokio: `UnixDatagram::bind`.

        Example::

            import freerun
            from freerun.net import UnixDatagram

            async def main() -> tuple[bytes, object]:
                async with UnixDatagram.bind("\\0freerun-example-bind") as theirs, UnixDatagram.unbound() as ours:
                    await ours.send_to(b"hello", "\\0freerun-example-bind")
                    return await theirs.recv_from()

            assert freerun.run(main) == (b"hello", "")
        """
        return Opening(cls._bind(parse_path(path, "path")))

    @classmethod
    async def _bind(cls, path: str | bytes) -> Self:
        with unix_socket(socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(path)
            except OSError as error:
                raise error_of(error.errno or 0, repr(path)) from None
            return own(cls, sock.detach())

    @classmethod
    def unbound(cls) -> Self:
        """A socket without a name: it sends, and nobody can answer. Tokio: `UnixDatagram::unbound`."""
        with unix_socket(socket.SOCK_DGRAM) as sock:
            return own(cls, sock.detach())

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Two sockets that are connected to each other. Tokio: `UnixDatagram::pair`."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with a, b:
            return own(cls, a.detach()), own(cls, b.detach())

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Self:
        """Take over a Unix datagram socket; `sock` is detached and made non-blocking. Tokio: `UnixDatagram::from_std`.

        Errors: `TypeError`/`ValueError` for what is no such socket, `RuntimeError` outside a runtime.
        """
        return own(cls, a_socket(sock, "sock", socket.SOCK_DGRAM, {socket.AF_UNIX}, "Unix datagram socket").detach())

    def connect(self, path: UnixPath, /) -> None:
        """Choose the peer: `send()` sends to it. May be called again. Any thread. Tokio: `UnixDatagram::connect`.

        Errors: `ValueError`/`TypeError` for a bad path; `OSError`, naming it.
        """
        where = parse_path(path, "path")
        try:
            with_socket(self, lambda sock: sock.connect(where))
        except OSError as error:
            if self.closed:
                raise
            raise error_of(error.errno or 0, repr(where)) from None

    async def send_to(self, data: Any, path: UnixPath, /) -> int:
        """Send one datagram to the socket at a path or an abstract name; how many bytes it had.

        While the receiver's queue is full, which the system tells nobody the end of, this tries again every now and
        then (1 ms at first, 20 ms at the most).
        Errors: `ValueError`/`TypeError` for a bad argument; `OSError` (`ECONNREFUSED`: nobody is there). Cancel safety:
        then it was not sent. Thread safety: for tasks. Tokio: `UnixDatagram::send_to`.
        """
        where = parse_path(path, "path")
        pause = 0.001
        while True:
            try:
                return self._try_send_to(data, where)
            except WouldBlock:
                await sleep(pause)
                pause = min(2 * pause, 0.02)

    def try_send_to(self, data: Any, path: UnixPath, /) -> int:
        """As `send_to`, without waiting: `freerun.WouldBlock` if there is no room.

        Thread safety: any thread. Tokio: `UnixDatagram::try_send_to`.
        """
        return self._try_send_to(data, parse_path(path, "path"))

    @property
    def local_addr(self) -> UnixAddress:
        """The path or abstract name that it is bound to, `""` if none. Tokio: `UnixDatagram::local_addr`."""
        address: UnixAddress = with_socket(self, socket.socket.getsockname)
        return address

    @property
    def peer_addr(self) -> UnixAddress:
        """The peer that `connect()` chose; `OSError` (`ENOTCONN`) without one. Tokio: `UnixDatagram::peer_addr`."""
        address: UnixAddress = with_socket(self, socket.socket.getpeername)
        return address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<UnixDatagram {'closed' if self.closed else f'local_addr={self.local_addr!r}'}>"
