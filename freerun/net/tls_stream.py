"""`TlsStream`: TLS over a stream."""

from __future__ import annotations

import errno
import ssl
import threading
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, overload

from freerun._arguments import Seconds, flag, integer
from freerun._errors import WouldBlock
from freerun.io._checks import contiguous
from freerun.task import spawn_blocking
from freerun.time import timeout as within

from ._opening import Opening
from ._stream import read_exact
from ._tls_session import CHUNK, Session
from ._turn import Turn
from .addr import Address, ToAddress, parse_address
from .split import OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf
from .tcp_stream import TcpStream, limit_of

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ByteStream", "TlsStream"]

_READ_SIZE = 65536


class ByteStream(Protocol):
    """What TLS runs over: a `TcpStream`, a `UnixStream`, another `TlsStream`, or anything like them.

    `read` and `write` must be cancel safe.
    """

    def read(self, n: int = 65536, /) -> Awaitable[bytes]:
        """Up to `n` bytes; `b""` at the end."""

    def write(self, data: Any, /) -> Awaitable[int]:
        """Write some of `data`; how much."""

    def close(self) -> None:
        """Close both directions."""


class TlsStream:
    """A TLS connection. Made by `connect()`, `wrap()` or `TlsListener.accept()`.

    * `await read(n=65536)`, `await read_into(buf)`, `await read_exact(n)`: as for `TcpStream`; the end of the stream is
      the peer's close_notify.
    * `await write(data)`, `await write_all(data)`, `await write_vectored(buffers)`.
    * `await shutdown()` ends this end's output (close_notify); reading goes on.
    * `close()` closes both directions at once, after a close_notify if there is room for it; leaving `async with` does
      the same. `closed`.
    * `selected_alpn_protocol()`, `version()`, `cipher()`, `peer_certificate()`, `peer_addr`, `local_addr`, `inner`.

    Errors: `ssl.SSLError` and its kinds, all of them `OSError`s, and those of the stream below.
    `ssl.SSLCertVerificationError`: the peer is not who it should be. `ssl.SSLEOFError`: the peer is gone without a
    close_notify, so that what came may have been cut short by anybody; with `suppress_ragged_eofs=True` that is taken
    for the end.
    One task may read while another writes, on different threads too; a second reader or writer gets `RuntimeError`.

    Cancel safety: `read` and `read_into` lose nothing; `read_exact` loses what it has read so far. A cancelled `write`,
    `write_all` or `write_vectored` does not say how much it took; what it took arrives whole and before anything that
    is written later, so the stream stays intact.
    Thread safety: every method may be called from any thread, those that are awaited inside a task.
    Tokio: `tokio_rustls::TlsStream`, `tokio_native_tls::TlsStream`.

    Example::

        import freerun
        from freerun.net import TlsListener, TlsStream
        from freerun.testing import localhost_tls

        async def shout(listener: TlsListener) -> None:
            async for stream, _ in listener:
                async with stream:
                    await stream.write_all((await stream.read()).upper())

        async def main() -> bytes:
            server, client = localhost_tls()  # certificates for tests
            async with TlsListener.bind("127.0.0.1:0", server) as listener:
                serving = freerun.spawn(shout, listener)
                port = listener.local_addr[1]
                async with TlsStream.connect(("localhost", port), context=client) as stream:
                    await stream.write_all(b"hello")
                    return await stream.read()

        assert freerun.run(main) == b"HELLO"
    """

    __slots__ = ("_closed", "_inner", "_lenient", "_reader", "_reads", "_session", "_writer", "_writes")

    def __init__(self, stream: ByteStream, session: Session, lenient: bool) -> None:
        """See `connect()` and `wrap()`."""
        self._inner: Any = stream
        self._session = session
        self._lenient = lenient
        self._closed = False
        self._reader = threading.Lock()  # held by the task that reads; never waited for
        self._writer = threading.Lock()
        self._reads = Turn()  # reading from the stream below
        self._writes = Turn()  # writing to it

    @classmethod
    def connect(
        cls,
        addr: ToAddress,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        timeout: Seconds | None = None,
        alpn: Sequence[str] | None = None,
        suppress_ragged_eofs: bool = False,
    ) -> Opening[Self]:
        """Connect to `"host:port"`, `"[v6]:port"` or `(host, port)` and shake hands.

        The server has to prove that it is `server_name` (the host of `addr`, if not given) to `context`; without one,
        to the system's certificates (`ssl.create_default_context()`, made once per process). `alpn` names the
        protocols to offer, the best first; for a `context` of your own call its `set_alpn_protocols()`. `timeout`
        limits the whole of it: lookup, connecting and handshake. Await the result, or enter it.

        Errors: those of `TcpStream.connect()`, `ssl.SSLCertVerificationError`, `ssl.SSLError`, `TimeoutError`.
        Cancel safety: the connection is closed. Thread safety: for tasks. Tokio: `tokio_rustls::TlsConnector::connect`.

        Example::

            import ssl
            import freerun
            from freerun.net import TlsListener, TlsStream
            from freerun.testing import localhost_tls

            async def main() -> str:
                server, _ = localhost_tls()
                async with TlsListener.bind("127.0.0.1:0", server) as listener:
                    freerun.spawn(listener.accept)
                    try:
                        await TlsStream.connect(listener.local_addr, timeout=10)
                    except ssl.SSLCertVerificationError:
                        return "the system does not know who signed this certificate"
                return "trusted"

            assert "does not know" in freerun.run(main)
        """
        address = parse_address(addr)
        _check_context(context, optional=True)
        protocols = _protocols(alpn, context)
        name = _name(server_name) or address.host
        lenient = flag(suppress_ragged_eofs, "suppress_ragged_eofs")
        return Opening(cls._connect_within(limit_of(timeout), address, context, protocols, name, lenient))

    @classmethod
    async def _connect_within(cls, limit: float | None, address: Address, *rest: Any) -> Self:
        if limit is None:
            return await cls._connect(address, *rest)
        return await _within(limit, cls._connect(address, *rest), f"{address.host}:{address.port}")

    @classmethod
    async def _connect(
        cls, address: Address, context: ssl.SSLContext | None, protocols: tuple[str, ...], name: str, lenient: bool
    ) -> Self:
        chosen = context or _contexts.get(protocols)
        if chosen is None:
            chosen = await spawn_blocking(_default_context, protocols)
        stream = await TcpStream.connect(_to_address(address))
        return await cls._open(stream, chosen, False, name, lenient)

    @classmethod
    def wrap(
        cls,
        stream: ByteStream,
        context: ssl.SSLContext,
        server_side: bool = False,
        server_name: str | None = None,
        timeout: Seconds | None = None,
        suppress_ragged_eofs: bool = False,
    ) -> Opening[Self]:
        """Shake hands over a stream that is connected already, as the client or as the server.

        The stream is taken over: it is closed with this one, and when the handshake fails. A client has to name the
        server, unless its context does not check that (`check_hostname`). Await the result, or enter it.

        Errors: `ValueError`/`TypeError` for a bad argument, `ssl.SSLCertVerificationError`, `ssl.SSLError`,
        `TimeoutError`, those of the stream. Cancel safety: the stream is closed. Thread safety: for tasks.
        Tokio: `tokio_rustls::TlsConnector::connect`, `TlsAcceptor::accept`.

        Example::

            import freerun
            from freerun.net import TlsStream, UnixStream
            from freerun.testing import localhost_tls

            async def serve(stream: UnixStream, context) -> None:
                async with TlsStream.wrap(stream, context, server_side=True) as secured:
                    await secured.write_all(b"in secret")

            async def main() -> bytes:
                server, client = localhost_tls()
                ours, theirs = UnixStream.pair()
                freerun.spawn(serve, theirs, server)
                async with TlsStream.wrap(ours, client, server_name="localhost") as stream:
                    return await stream.read()

            assert freerun.run(main) == b"in secret"
        """
        _check_stream(stream)
        _check_context(context, optional=False)
        flag(server_side, "server_side")
        if not server_side and not server_name and context.check_hostname:
            raise ValueError("argument 'server_name' is missing: the context checks it (check_hostname)")
        lenient = flag(suppress_ragged_eofs, "suppress_ragged_eofs")
        return Opening(cls._wrap(limit_of(timeout), stream, context, server_side, _name(server_name), lenient))

    @classmethod
    async def _wrap(cls, limit: float | None, *arguments: Any) -> Self:
        opening = cls._open(*arguments)
        return await (opening if limit is None else _within(limit, opening, "the peer"))

    @classmethod
    async def _open(
        cls, stream: ByteStream, context: ssl.SSLContext, server_side: bool, name: str | None, lenient: bool
    ) -> Self:
        try:
            secured = cls(stream, Session(context, server_side, name), lenient)
            await secured._handshake()
        except BaseException:
            stream.close()
            raise
        return secured

    async def _handshake(self) -> None:
        try:
            while not self._session.handshake():
                await self._flush()
                self._session.feed(await self._inner.read(_READ_SIZE))
        except ssl.SSLEOFError:
            text = "the peer closed the connection during the TLS handshake"
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, text) from None
        except ssl.SSLError:
            self._push()  # the alert that says why
            raise
        await self._flush()

    # ---- reading ----

    async def read(self, n: int = _READ_SIZE, /) -> bytes:
        """Up to `n` bytes as soon as there are any; `b""` once the peer has ended its output.

        Errors: `ssl.SSLEOFError`: the peer is gone without having said that this is the end; `ssl.SSLError`, `OSError`.
        Cancel safety: nothing is lost. Thread safety: for tasks. Tokio: `AsyncReadExt::read`.
        """
        if type(n) is not int or n < 1:
            integer(n, "n")
        if not self._reader.acquire(False):
            raise RuntimeError("another task is already reading from this stream; one reader and one writer at a time")
        try:
            while True:
                fed = self._session.fed
                if (data := self._decrypt(n)) is not None:
                    return data
                await self._fill(fed)
        finally:
            self._reader.release()

    def _decrypt(self, n: int) -> bytes | None:
        if self._closed:
            raise _closed()
        if not self._session.has_input:
            return None
        try:
            return self._session.decrypt(n)
        except ssl.SSLEOFError:
            if self._lenient:
                return b""
            text = (
                "the peer closed the connection without a TLS close_notify, so data may be missing; "
                "suppress_ragged_eofs=True takes this for the end of the stream"
            )
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, text) from None
        except ssl.SSLError:
            self._push()  # the alert that says why
            raise

    async def _fill(self, fed: int) -> None:
        """Read what the peer sends, unless the other direction has done that since `fed` was looked at.

        During a renegotiation both directions want to read, and what one gets may be all that the other waits for.
        What reading has produced for the peer goes out first, without waiting: whoever waits to write must not keep
        others from reading.
        """
        session = self._session
        if session.has_output:
            self._push()
        if not self._reads.try_take() and not await self._reads.take(lambda: session.fed != fed):
            return
        try:
            if session.fed == fed:
                session.feed(await self._inner.read(_READ_SIZE))
        finally:
            self._reads.give()

    async def read_into(self, buf: Any, /) -> int:
        """Read into a writable buffer: how many bytes, 0 once the peer has ended its output.

        Errors: `TypeError`/`ValueError` for a buffer that is read-only or empty; as `read`. Cancel safety: nothing is
        lost. Thread safety: for tasks. Tokio: `AsyncReadExt::read`.
        """
        with memoryview(buf) as view, view.cast("B") as room:
            if room.readonly:
                raise TypeError(f"argument 'buf' must be a writable bytes-like object, not {type(buf).__name__}")
            if not room:
                raise ValueError("argument 'buf' must not be empty")
            data = await self.read(len(room))
            room[: len(data)] = data
            return len(data)

    async def read_exact(self, n: int, /) -> bytes:
        """Read exactly `n` bytes.

        Errors: `freerun.io.UnexpectedEof` if the peer ends its output first; as `read`. Cancel safety: what was read so
        far is lost. Thread safety: for tasks. Tokio: `AsyncReadExt::read_exact`.
        """
        return await read_exact(self, n)

    # ---- writing ----

    async def write(self, data: Any, /) -> int:
        """Write some of `data`, 128 KiB at the most; how many bytes.

        It returns when the stream below has taken everything. Errors: `BrokenPipeError` after `shutdown()`,
        `ssl.SSLError`, `OSError`. Cancel safety: none, but the stream stays intact: see the class. Thread safety: for
        tasks. Tokio: `AsyncWriteExt::write`, with its `flush`.
        """
        with memoryview(contiguous(data)) as octets:
            self._begin_write()
            try:
                return await self._write(octets) if octets else 0
            finally:
                self._writer.release()

    async def write_all(self, data: Any, /) -> None:
        """Write all of `data`; it returns when the stream below has taken everything.

        Errors: as `write`. Cancel safety: none: some of it may have been written; the stream stays intact. Thread
        safety: for tasks. Tokio: `AsyncWriteExt::write_all`, with its `flush`.
        """
        if type(data) is bytes and 0 < len(data) <= CHUNK:
            self._begin_write()
            try:
                await self._write(data)
            finally:
                self._writer.release()
            return
        with memoryview(contiguous(data)) as octets:
            self._begin_write()
            try:
                done = 0
                while done < len(octets):
                    done += await self._write(octets[done:])
            finally:
                self._writer.release()

    async def write_vectored(self, buffers: Any, /) -> int:
        """Write some of a sequence of buffers, one after the other; how many bytes in all.

        Errors, cancel safety and thread safety: as `write`. Tokio: `AsyncWriteExt::write_vectored`.
        """
        if isinstance(buffers, bytes | bytearray | memoryview):
            raise TypeError("argument 'buffers' must be a sequence of bytes-like objects, not one of them")
        parts: list[Any] = []
        room = CHUNK
        for each in buffers:
            if room <= 0:
                break
            parts.append(each)
            room -= memoryview(each).nbytes
        return await self.write(b"".join(parts))

    def _begin_write(self) -> None:
        if not self._writer.acquire(False):
            raise RuntimeError("another task is already writing to this stream; one reader and one writer at a time")
        if self._closed or self._session.ended:
            self._writer.release()
            if self._closed:
                raise _closed()
            raise BrokenPipeError(errno.EPIPE, "this end's output was ended by shutdown()")

    async def _write(self, data: bytes | memoryview) -> int:
        """One piece. What an earlier, cancelled write has left goes out first, so the rest never grows."""
        if self._session.has_output:
            await self._flush()
        while True:
            fed = self._session.fed
            done = self._session.encrypt(data)
            await self._flush()
            if done:
                return done
            await self._fill(fed)

    async def _flush(self) -> None:
        """Write all there is for the peer.

        Whoever has the turn looks again after giving it back, so what is added meanwhile is not forgotten.
        """
        session = self._session
        while session.has_output:
            if not self._writes.try_take():
                await self._writes.take()
            try:
                output = session.output()
                while output:
                    output = session.sent(await self._inner.write(output))
            finally:
                self._writes.give()

    def _push(self) -> None:
        """Write what the stream below takes without waiting, if it can do that."""
        write = getattr(self._inner, "try_write", None)
        if write is None or not self._writes.try_take():
            return
        try:
            output = self._session.output()
            while output:
                output = self._session.sent(write(output))
        except (OSError, WouldBlock, RuntimeError):
            pass  # the next read or write below meets it again, unless there was just no room
        finally:
            self._writes.give()

    async def shutdown(self) -> None:
        """Tell the peer that nothing more comes: close_notify, then the end of the stream below. Reading goes on.

        Errors: `ssl.SSLError`, `OSError`. Cancel safety: may be called again. Thread safety: for tasks.
        Tokio: `AsyncWriteExt::shutdown`.

        Example::

            import freerun
            from freerun.net import TlsStream, UnixStream
            from freerun.testing import localhost_tls

            async def answer(stream: UnixStream, context) -> None:
                async with TlsStream.wrap(stream, context, server_side=True) as secured:
                    question = b""
                    while piece := await secured.read():
                        question += piece
                    await secured.write_all(b"answer to " + question)

            async def main() -> bytes:
                server, client = localhost_tls()
                ours, theirs = UnixStream.pair()
                freerun.spawn(answer, theirs, server)
                async with TlsStream.wrap(ours, client, server_name="localhost") as stream:
                    await stream.write_all(b"question")
                    await stream.shutdown()
                    return await stream.read()

            assert freerun.run(main) == b"answer to question"
        """
        if self._closed:
            raise _closed()
        if not self._writer.acquire(blocking=False):
            raise RuntimeError("another task is already writing to this stream; shutdown() comes after it")
        try:
            self._session.end()
            await self._flush()
            if hasattr(self._inner, "shutdown"):
                await self._inner.shutdown()
        finally:
            self._writer.release()

    def _end_output(self) -> None:
        """As `shutdown()`, as far as that goes without waiting."""
        self._session.end()
        self._push()

    def close(self) -> None:
        """Close both directions at once; who waits gets `OSError`. May be called twice. Any thread.

        The peer is sent a close_notify if there is room for it. Await `shutdown()` first to be sure.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._end_output()
        except ssl.SSLError:
            pass  # in the middle of a handshake, or after a failure: the peer knows already
        finally:
            self._inner.close()

    # ---- what there is to know ----

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    @property
    def inner(self) -> Any:
        """The stream below. Tokio: `TlsStream::get_ref`."""
        return self._inner

    def selected_alpn_protocol(self) -> str:
        """The protocol that both ends agreed on (ALPN), `""` if they did not talk about it."""
        return self._session.ssl.selected_alpn_protocol() or ""

    def version(self) -> str:
        """The protocol's version, as `"TLSv1.3"`."""
        return self._session.ssl.version() or ""

    def cipher(self) -> tuple[str, str, int]:
        """The cipher in use: its name, the protocol that defines it, the secret bits."""
        found = self._session.ssl.cipher()
        assert found is not None  # there was a handshake
        return found

    @overload
    def peer_certificate(self, binary: Literal[False] = False) -> dict[str, Any]: ...
    @overload
    def peer_certificate(self, binary: Literal[True]) -> bytes: ...
    def peer_certificate(self, binary: bool = False) -> dict[str, Any] | bytes:
        """The peer's certificate, as `ssl.SSLSocket.getpeercert()` gives it, or in DER; empty if it sent none.

        As a `dict` it is empty too if it was not verified.
        """
        if flag(binary, "binary"):
            return self._session.ssl.getpeercert(True) or b""
        return dict(self._session.ssl.getpeercert() or {})

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed an earlier session."""
        return bool(self._session.ssl.session_reused)

    @property
    def server_name(self) -> str:
        """The name that the server was asked for (SNI); `""` at the server, whose context has `sni_callback`."""
        return self._session.ssl.server_hostname or ""

    @property
    def peer_addr(self) -> Any:
        """The other end's address, if the stream below has one."""
        return self._inner.peer_addr

    @property
    def local_addr(self) -> Any:
        """This end's address, if the stream below has one."""
        return self._inner.local_addr

    def split(self) -> tuple[ReadHalf, WriteHalf]:
        """Two halves that share this stream, for two tasks. Closing stays the stream's business. Any thread."""
        return ReadHalf(self), WriteHalf(self)

    def into_split(self) -> tuple[OwnedReadHalf[Self], OwnedWriteHalf[Self]]:
        """Two halves that own the stream. Closing the write half ends this end's output; closing both, the stream.

        Do not use the stream itself afterwards. `read.reunite(write)` gives it back. Any thread.
        """
        return OwnedReadHalf._of(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TlsStream {'closed' if self._closed else f'{self.version()} over {self._inner!r}'}>"


# ---- arguments ----


def _check_context(context: object, optional: bool) -> None:
    if not isinstance(context, ssl.SSLContext) and not (optional and context is None):
        raise TypeError(f"argument 'context' must be an ssl.SSLContext, not {type(context).__name__}: {context!r}")


def _check_stream(stream: object) -> None:
    for name in ("read", "write", "close"):
        if not callable(getattr(stream, name, None)):
            kind = type(stream).__name__
            raise TypeError(f"argument 'stream' must have read(), write() and close(); {kind} has no {name}()")


def _name(server_name: object) -> str | None:
    if server_name is not None and not isinstance(server_name, str):
        raise TypeError(f"argument 'server_name' must be a str, not {type(server_name).__name__}: {server_name!r}")
    return server_name


def _protocols(alpn: Sequence[str] | None, context: ssl.SSLContext | None) -> tuple[str, ...]:
    if alpn is None:
        return ()
    if isinstance(alpn, str) or not all(isinstance(each, str) for each in alpn):
        raise TypeError(f"argument 'alpn' must be a sequence of names, as ['h2', 'http/1.1'], not {alpn!r}")
    if context is not None:
        raise ValueError("argument 'alpn': the context is yours; call its set_alpn_protocols() instead")
    return tuple(alpn)


_contexts: dict[tuple[str, ...], ssl.SSLContext] = {}


def _default_context(protocols: tuple[str, ...]) -> ssl.SSLContext:
    """The system's certificates. Reading them takes a while, so it is done on the blocking pool, and once."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if len(_contexts) >= 16:
        _contexts.clear()
    return _contexts.setdefault(protocols, context)


def _to_address(address: Address) -> ToAddress:
    return (*address,) if address.flow or address.scope else (address.host, address.port)


def _closed() -> OSError:
    return OSError(errno.EBADF, "the stream is closed")


async def _within[T](limit: float, opening: Any, whom: str) -> T:
    try:
        done: T = await within(limit, opening)
    except TimeoutError as error:
        if error.errno is not None:  # the system's ETIMEDOUT
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"no TLS connection to {whom} within {limit:g} s") from None
    return done
