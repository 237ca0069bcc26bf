"""The two directions of a stream, apart: borrowed halves and owned ones."""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["OwnedReadHalf", "OwnedWriteHalf", "ReadHalf", "Splits", "WriteHalf"]


class Splits(Protocol):
    """What can be split: `TcpStream`, `UnixStream`, `TlsStream`."""

    @property
    def closed(self) -> bool: ...
    @property
    def peer_addr(self) -> Any: ...
    @property
    def local_addr(self) -> Any: ...
    def read(self, n: int = 65536, /) -> Awaitable[bytes]: ...
    def read_into(self, buf: Any, /) -> Awaitable[int]: ...
    def read_exact(self, n: int, /) -> Awaitable[bytes]: ...
    def write(self, data: Any, /) -> Awaitable[int]: ...
    def write_all(self, data: Any, /) -> Awaitable[None]: ...
    def write_vectored(self, buffers: Any, /) -> Awaitable[int]: ...
    def shutdown(self) -> Awaitable[None]: ...
    def close(self) -> None: ...
    def _end_output(self) -> None: ...


class ReadHalf:
    """The reading direction of a stream; it ends with the stream. Made by `split()`.

    Errors, cancel safety and thread safety are those of the stream's methods of the same name. `peek`, `readable` and
    `try_read` are there if the stream has them.
    Tokio: `tokio::net::tcp::ReadHalf`, `tokio::net::unix::ReadHalf`, `tokio::io::ReadHalf`.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: Splits) -> None:
        self._stream: Any = stream

    def read(self, n: int = 65536, /) -> Awaitable[bytes]:
        """Up to `n` bytes as soon as there are any; `b""` at the end of the stream. Cancel safe."""
        return self._stream.read(n)  # type: ignore[no-any-return]

    def read_into(self, buf: Any, /) -> Awaitable[int]:
        """Read into a writable buffer: how many bytes, 0 at the end of the stream. Cancel safe."""
        return self._stream.read_into(buf)  # type: ignore[no-any-return]

    def read_exact(self, n: int, /) -> Awaitable[bytes]:
        """Exactly `n` bytes, or `freerun.io.UnexpectedEof`. Not cancel safe."""
        return self._stream.read_exact(n)  # type: ignore[no-any-return]

    def peek(self, n: int = 65536, /) -> Awaitable[bytes]:
        """Up to `n` bytes, which stay to be read again. Cancel safe."""
        return self._stream.peek(n)  # type: ignore[no-any-return]

    def readable(self) -> Awaitable[None]:
        """Wait until `read` would not wait. Cancel safe."""
        return self._stream.readable()  # type: ignore[no-any-return]

    def try_read(self, n: int = 65536, /) -> bytes:
        """As `read`, without waiting: `freerun.WouldBlock` if there is nothing."""
        return self._stream.try_read(n)  # type: ignore[no-any-return]

    @property
    def peer_addr(self) -> Any:
        """The other end's address."""
        return self._stream.peer_addr

    @property
    def local_addr(self) -> Any:
        """This end's address."""
        return self._stream.local_addr


class WriteHalf:
    """The writing direction of a stream; it ends with the stream. Made by `split()`.

    Errors, cancel safety and thread safety are those of the stream's methods of the same name. `writable` and
    `try_write` are there if the stream has them.
    Tokio: `tokio::net::tcp::WriteHalf`, `tokio::net::unix::WriteHalf`, `tokio::io::WriteHalf`.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: Splits) -> None:
        self._stream: Any = stream

    def write(self, data: Any, /) -> Awaitable[int]:
        """Write some of `data` and say how many bytes."""
        return self._stream.write(data)  # type: ignore[no-any-return]

    def write_all(self, data: Any, /) -> Awaitable[None]:
        """Write all of `data`. Not cancel safe: some of it may have been written."""
        return self._stream.write_all(data)  # type: ignore[no-any-return]

    def write_vectored(self, buffers: Any, /) -> Awaitable[int]:
        """Write some of a sequence of buffers and say how many bytes in all."""
        return self._stream.write_vectored(buffers)  # type: ignore[no-any-return]

    def writable(self) -> Awaitable[None]:
        """Wait until `write` would not wait. Cancel safe."""
        return self._stream.writable()  # type: ignore[no-any-return]

    def try_write(self, data: Any, /) -> int:
        """As `write`, without waiting: `freerun.WouldBlock` if there is no room."""
        return self._stream.try_write(data)  # type: ignore[no-any-return]

    def shutdown(self) -> Awaitable[None]:
        """Close this direction: the peer sees the end of the stream."""
        return self._stream.shutdown()  # type: ignore[no-any-return]

    @property
    def peer_addr(self) -> Any:
        """The other end's address."""
        return self._stream.peer_addr

    @property
    def local_addr(self) -> Any:
        """This end's address."""
        return self._stream.local_addr


class _Shared:
    """How many owned halves are open; the last one closes the stream."""

    __slots__ = ("lock", "open", "stream")

    def __init__(self, stream: Splits) -> None:
        self.stream = stream
        self.open = 2
        self.lock = threading.Lock()

    def release(self) -> None:
        with self.lock:
            self.open -= 1
            last = self.open == 0
        if last:
            self.stream.close()


class _Owned:
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether this half is closed."""
        return self._closed

    def _give_up(self) -> bool:
        """Mark this half closed; `False` if it was."""
        with self._shared.lock:
            was, self._closed = self._closed, True
        return not was

    def close(self) -> None:
        """Close this half; the stream itself is closed with the second one. May be called twice. Any thread."""
        if self._give_up():
            self._shared.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()


class OwnedReadHalf[S: Splits](_Owned, ReadHalf):
    """The reading direction of a stream, owned. Made by `into_split()`.

    `close()`, leaving `async with` and garbage collection give it up; the stream closes when both halves are given up.
    Errors, cancel safety and thread safety are those of the stream's methods of the same name.
    Tokio: `tokio::net::tcp::OwnedReadHalf`, `tokio::net::unix::OwnedReadHalf`.
    """

    def __init__(self, shared: _Shared) -> None:
        _Owned.__init__(self, shared)
        ReadHalf.__init__(self, shared.stream)

    @classmethod
    def _of(cls, stream: S) -> tuple[OwnedReadHalf[S], OwnedWriteHalf[S]]:
        shared = _Shared(stream)
        return OwnedReadHalf(shared), OwnedWriteHalf(shared)

    def reunite(self, other: OwnedWriteHalf[S], /) -> S:
        """The stream again, if `other` is its write half and neither is closed; both halves are used up.

        Errors: `TypeError` if `other` is no write half, `ValueError` if it is another stream's or one is closed.
        Tokio: `OwnedReadHalf::reunite`.

        Example::

            import freerun
            from freerun.net import TcpListener, TcpStream

            async def main() -> bool:
                async with TcpListener.bind("127.0.0.1:0") as listener:
                    read, write = (await TcpStream.connect(listener.local_addr)).into_split()
                    async with read.reunite(write) as stream:
                        return stream.peer_addr == listener.local_addr

            assert freerun.run(main)
        """
        if not isinstance(other, OwnedWriteHalf):
            raise TypeError(f"argument 'other' must be an OwnedWriteHalf, not {type(other).__name__}")
        if other._shared is not self._shared:
            raise ValueError("argument 'other' is the write half of another stream")
        if self._closed or other._closed:
            raise ValueError("the halves cannot be reunited: one of them is closed")
        self._closed = other._closed = True
        stream: S = self._stream
        return stream


class OwnedWriteHalf[S: Splits](_Owned, WriteHalf):
    """The writing direction of a stream, owned. Made by `into_split()`.

    `close()`, leaving `async with` and garbage collection give it up: the peer then sees the end of the stream. The
    stream closes when both halves are given up. `forget()` gives it up without telling the peer.
    Errors, cancel safety and thread safety are those of the stream's methods of the same name.
    Tokio: `tokio::net::tcp::OwnedWriteHalf`, `tokio::net::unix::OwnedWriteHalf`.
    """

    def __init__(self, shared: _Shared) -> None:
        _Owned.__init__(self, shared)
        WriteHalf.__init__(self, shared.stream)

    def close(self) -> None:
        """Tell the peer that nothing more comes, and give this half up. May be called twice. Any thread."""
        if self._give_up():
            try:
                self._end()
            finally:
                self._shared.release()

    def _end(self) -> None:
        try:
            self._stream._end_output()
        except OSError:
            if not self._stream.closed:
                raise

    def forget(self) -> None:
        """Give this half up without ending the peer's input. Any thread. Tokio: `OwnedWriteHalf::forget`."""
        if self._give_up():
            self._shared.release()
