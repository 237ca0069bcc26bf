"""`TlsListener`: takes TLS connections."""

from __future__ import annotations

import contextlib
import errno
import ssl
import threading
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Self

from freerun._arguments import Seconds, flag, integer, seconds
from freerun._core._native import Waker, current_waker, park
from freerun._errors import JoinError
from freerun.runtime.log import logger
from freerun.task import JoinHandle, spawn

from ._listener import Listener
from ._opening import Opening
from .addr import ToAddress
from .tcp_listener import TcpListener
from .tls_stream import TlsStream, _check_context

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TlsListener"]


class TlsListener:
    """A listener whose connections are TLS: `accept()`, or `async for stream, addr in listener`.

    Handshakes run in tasks of their own, so a client that is slow, silent or wrong keeps nobody waiting. One that has
    not finished after `handshake_timeout` seconds is hung up on; one that fails is too, and `accept()` says nothing of
    either (the logger `freerun` does, at level DEBUG). At most `max_handshakes` connections are in a handshake, or past
    it and not yet accepted; further ones wait in the system's queue. New connections are taken while somebody waits in
    `accept()`.

    Out of descriptors, it pauses and goes on as `TcpListener` does.

    Thread safety: every method may be called from any thread, those that are awaited inside a task; one task at a time
    may wait in `accept()`, a second one gets `RuntimeError`. Tokio: `tokio_rustls::TlsAcceptor` over a `TcpListener`.

    Example::

        import freerun
        from freerun.net import TlsListener, TlsStream
        from freerun.testing import localhost_tls

        async def main() -> bytes:
            server, client = localhost_tls()
            async with TlsListener.bind("127.0.0.1:0", server) as listener:
                accepting = freerun.spawn(listener.accept)
                async with TlsStream.connect(listener.local_addr, client, "localhost") as ours:
                    theirs, addr = await accepting
                    async with theirs:
                        await theirs.write_all(b"hello")
                        return await ours.read()

        assert freerun.run(main) == b"hello"
    """

    __slots__ = (
        "_acceptor",
        "_closed",
        "_context",
        "_done",
        "_lenient",
        "_listener",
        "_lock",
        "_most",
        "_shaking",
        "_timeout",
        "_waker",
    )

    def __init__(
        self,
        listener: Listener[Any],
        context: ssl.SSLContext,
        handshake_timeout: Seconds = 10.0,
        max_handshakes: int = 256,
        suppress_ragged_eofs: bool = False,
    ) -> None:
        """Take over a `TcpListener` or `UnixListener`. See `bind()`."""
        _check_listener(listener)
        _check_context(context, optional=False)
        self._listener: Listener[Any] = listener
        self._context = context
        self._timeout = seconds(handshake_timeout, "handshake_timeout", for_ever=True)
        self._most = integer(max_handshakes, "max_handshakes")
        self._lenient = flag(suppress_ragged_eofs, "suppress_ragged_eofs")
        self._acceptor = threading.Lock()  # held by the task that accepts; never waited for
        self._lock = threading.Lock()  # of what follows; nothing is called under it
        self._closed = False
        self._shaking: set[_Handshake] = set()
        self._done: deque[tuple[TlsStream, Any]] = deque()
        self._waker: Waker | None = None

    @classmethod
    def bind(
        cls,
        addr: ToAddress,
        context: ssl.SSLContext,
        backlog: int = 1024,
        reuse_port: bool = False,
        handshake_timeout: Seconds = 10.0,
        max_handshakes: int = 256,
        suppress_ragged_eofs: bool = False,
    ) -> Opening[Self]:
        """Listen at `"host:port"`, `"[v6]:port"` or `(host, port)`, as `TcpListener.bind()` does.

        `context` has the certificate (`ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)` and its `load_cert_chain()`).
        `handshake_timeout` is in seconds or a `timedelta`. Await it, or enter it.

        Errors: those of `TcpListener.bind()`, `ValueError`/`TypeError` for a bad argument. Cancel safety: nothing is
        left behind. Thread safety: for tasks.
        """
        _check_context(context, optional=False)
        options = (
            seconds(handshake_timeout, "handshake_timeout", for_ever=True),
            integer(max_handshakes, "max_handshakes"),
            flag(suppress_ragged_eofs, "suppress_ragged_eofs"),
        )
        return Opening(cls._bind(TcpListener.bind(addr, backlog, reuse_port), context, *options))

    @classmethod
    async def _bind(cls, opening: Opening[TcpListener], context: ssl.SSLContext, *options: Any) -> Self:
        return cls(await opening, context, *options)

    async def accept(self) -> tuple[TlsStream, Any]:
        """Wait for a connection that has shaken hands: the stream and its peer's address.

        Errors: `OSError` if the listener was closed; `RuntimeError` if another task is waiting here. Cancel safety:
        nothing is lost: handshakes go on, and the next call has their connections. Thread safety: for tasks.
        """
        if not self._acceptor.acquire(blocking=False):
            raise RuntimeError("another task is already accepting from this listener; one at a time")
        try:
            return await _Acceptance(self)
        finally:
            self._waker = None
            self._acceptor.release()

    def _take(self) -> tuple[TlsStream, Any] | None:
        """A connection that is ready; `OSError` once closed."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the listener is closed")
            return self._done.popleft() if self._done else None

    def _has_room(self) -> bool:
        with self._lock:
            return len(self._shaking) + len(self._done) < self._most

    def _begin(self, stream: Any, addr: Any) -> None:
        """Start the handshake of a connection."""
        handshake = _Handshake(self, stream, addr)
        with self._lock:
            late = self._closed
            if not late:
                self._shaking.add(handshake)
        if late:
            stream.close()
        else:
            handshake.start()

    def _end(self, handshake: _Handshake, stream: TlsStream | None) -> None:
        """A handshake is over: with a connection, or without."""
        with self._lock:
            self._shaking.discard(handshake)
            late = self._closed
            if stream is not None and not late:
                self._done.append((stream, handshake.addr))
        if stream is not None and late:
            stream.close()
        self._wake()

    def _wake(self) -> None:
        if waker := self._waker:
            waker.wake()

    @property
    def local_addr(self) -> Any:
        """The address that it listens at."""
        return self._listener._local

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._listener.fileno()

    def close(self) -> None:
        """Stop listening, and hang up on whoever is in a handshake or was not accepted yet.

        A task that waits in `accept()` gets `OSError`, an `async for` ends. May be called twice. Any thread.
        Leaving `async with` does the same, and waits until the handshakes have ended.
        """
        self._close()

    def _close(self) -> set[_Handshake]:
        with self._lock:
            self._closed = True
            shaking, self._shaking = self._shaking, set()
            done, self._done = self._done, deque()
        self._listener.close()
        for handshake in shaking:
            handshake.abort()
        for stream, _ in done:
            stream.close()
        self._wake()
        return shaking

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[TlsStream, Any]:
        try:
            return await self.accept()
        except OSError:
            if self._closed:
                raise StopAsyncIteration from None
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handshake in self._close():
            await handshake.join()

    def __repr__(self) -> str:
        return f"<TlsListener {'closed' if self._closed else f'local_addr={self.local_addr!r}'}>"


def _check_listener(listener: object) -> None:
    if not isinstance(listener, Listener):
        kind = type(listener).__name__
        raise TypeError(f"argument 'listener' must be a TcpListener or a UnixListener, not {kind}: {listener!r}")


class _Handshake:
    """One connection between the listener below and `accept()`."""

    __slots__ = ("_handle", "_listener", "_stream", "addr")

    def __init__(self, listener: TlsListener, stream: Any, addr: Any) -> None:
        self._listener = listener
        self._stream = stream
        self.addr = addr
        self._handle: JoinHandle[None] | None = None

    def start(self) -> None:
        self._handle = spawn(self._run, name="TLS handshake")

    def abort(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.close()  # whatever it waits for fails; and it may not have been started yet
        if self._handle is not None:
            self._handle.abort()

    async def join(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(JoinError):
                await self._handle

    async def _run(self) -> None:
        secured: TlsStream | None = None
        listener = self._listener
        try:
            secured = await TlsStream.wrap(
                self._stream,
                listener._context,
                server_side=True,
                timeout=listener._timeout,
                suppress_ragged_eofs=listener._lenient,
            )
        except Exception as error:
            logger().debug("TLS handshake with %r failed: %s", self.addr, error)
        finally:
            self._stream = None
            listener._end(self, secured)


class _Acceptance:
    """Await it for a connection that is ready; takes new ones from the listener below meanwhile, in the same task."""

    __slots__ = ("_owner",)

    def __init__(self, owner: TlsListener) -> None:
        self._owner = owner

    def __await__(self) -> Generator[Any, Any, tuple[TlsStream, Any]]:
        owner = self._owner
        below: Any = None  # an accept() in progress
        owner._waker = current_waker()  # known before the first look
        try:
            while (ready := owner._take()) is None:
                if below is None and owner._has_room():
                    below = owner._listener.__anext__()
                try:
                    token = below.send(None) if below is not None else next(iter(park()))  # type: ignore[call-overload]
                except StopIteration as stop:
                    below = None
                    owner._begin(*stop.value)
                except StopAsyncIteration:  # closed
                    below = None
                else:
                    yield token
            return ready
        finally:
            if below is not None:
                below.close()  # cancel safe: a connection stays in the queue
