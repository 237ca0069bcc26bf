"""The two directions of a `TcpStream`, apart: borrowed halves and owned ones."""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from .tcp_stream import TcpStream

__all__ = ["OwnedReadHalf", "OwnedWriteHalf", "ReadHalf", "WriteHalf"]


class ReadHalf:
    """The reading direction of a stream; it ends with the stream. Made by `TcpStream.split()`.

    Errors, cancel safety and thread safety are those of the stream's methods of the same name.
    Tokio: `tokio::net::tcp::ReadHalf`.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: TcpStream) -> None:
        self._stream = stream

    def read(self, n: int = 65536, /) -> Awaitable[bytes]:
        """Up to `n` bytes as soon as there are any; `b""` at the end of the stream. Cancel safe."""
        return self._stream.read(n)

    def read_exact(self, n: int, /) -> Awaitable[bytes]:
        """Exactly `n` bytes, or `freerun.io.UnexpectedEof`. Not cancel safe."""
        return self._stream.read_exact(n)

    def readable(self) -> Awaitable[None]:
        """Wait until `read` would not wait. Cancel safe."""
        return self._stream.readable()

    @property
    def peer_addr(self) -> tuple[Any, ...]:
        """The other end's address."""
        return self._stream.peer_addr

    @property
    def local_addr(self) -> tuple[Any, ...]:
        """This end's address."""
        return self._stream.local_addr


class WriteHalf:
    """The writing direction of a stream; it ends with the stream. Made by `TcpStream.split()`.

    Errors, cancel safety and thread safety are those of the stream's methods of the same name.
    Tokio: `tokio::net::tcp::WriteHalf`.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: TcpStream) -> None:
        self._stream = stream

    def write(self, data: Any, /) -> Awaitable[int]:
        """Write some of `data` and say how many bytes. Cancel safe: then nothing was written."""
        return self._stream.write(data)

    def write_all(self, data: Any, /) -> Awaitable[None]:
        """Write all of `data`. Not cancel safe: some of it may have been written."""
        return self._stream.write_all(data)

    def writable(self) -> Awaitable[None]:
        """Wait until `write` would not wait. Cancel safe."""
        return self._stream.writable()

    def shutdown(self) -> Awaitable[None]:
        """Close this direction: the peer sees the end of the stream."""
        return self._stream.shutdown()

    @property
    def peer_addr(self) -> tuple[Any, ...]:
        """The other end's address."""
        return self._stream.peer_addr

    @property
    def local_addr(self) -> tuple[Any, ...]:
        """This end's address."""
        return self._stream.local_addr


class _Shared:
    """How many owned halves are open; the last one closes the stream."""

    __slots__ = ("lock", "open", "stream")

    def __init__(self, stream: TcpStream) -> None:
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


class OwnedReadHalf(_Owned, ReadHalf):
    """The reading direction of a stream, owned. Made by `TcpStream.into_split()`.

    `close()`, leaving `async with` and garbage collection give it up; the stream closes when both halves are given up.
    Errors, cancel safety and thread safety are those of the stream's methods of the same name.
    Tokio: `tokio::net::tcp::OwnedReadHalf`.
    """

    def __init__(self, shared: _Shared) -> None:
        _Owned.__init__(self, shared)
        ReadHalf.__init__(self, shared.stream)

    @classmethod
    def _of(cls, stream: TcpStream) -> tuple[OwnedReadHalf, OwnedWriteHalf]:
        shared = _Shared(stream)
        return OwnedReadHalf(shared), OwnedWriteHalf(shared)

    def reunite(self, other: OwnedWriteHalf, /) -> TcpStream:
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
        return self._stream


class OwnedWriteHalf(_Owned, WriteHalf):
    """The writing direction of a stream, owned. Made by `TcpStream.into_split()`.

    `close()`, leaving `async with` and garbage collection give it up: the peer then sees the end of the stream. The
    stream closes when both halves are given up. `forget()` gives it up without telling the peer.
    Errors, cancel safety and thread safety are those of the stream's methods of the same name.
    Tokio: `tokio::net::tcp::OwnedWriteHalf`.
    """

    def __init__(self, shared: _Shared) -> None:
        _Owned.__init__(self, shared)
        WriteHalf.__init__(self, shared.stream)

    def close(self) -> None:
        """Tell the peer that nothing more comes, and give this half up. May be called twice. Any thread."""
        if self._give_up():
            if not self._stream.closed:
                self._stream._shut_down_writing()
            self._shared.release()

    def forget(self) -> None:
        """Give this half up without ending the peer's input. Any thread. Tokio: `OwnedWriteHalf::forget`."""
        if self._give_up():
            self._shared.release()
