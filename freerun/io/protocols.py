"""What can be read and what can be written: `AsyncRead`, `AsyncBufRead`, `AsyncWrite`, `AsyncStream`.

Everything in `freerun.io` takes any object of these shapes, `TcpStream` for one. An object of your own needs no base
class; `AsyncReadExt` and `AsyncWriteExt` give it the rest of the methods, if you like.
"""

from __future__ import annotations

from collections.abc import Awaitable, Buffer
from typing import Protocol, runtime_checkable

__all__ = ["AsyncBufRead", "AsyncRead", "AsyncStream", "AsyncWrite"]


@runtime_checkable
class AsyncRead(Protocol):
    """Bytes can be read from it. Tokio: `tokio::io::AsyncRead`.

    Example::

        import freerun
        from freerun.io import AsyncRead, BufReader

        class Countdown:
            def __init__(self) -> None:
                self.left = 3

            async def read(self, n: int = 65536, /) -> bytes:
                self.left -= 1
                return b"%d\\n" % self.left if self.left >= 0 else b""

        async def main() -> list[str]:
            return [line async for line in BufReader(Countdown()).lines()]

        assert isinstance(Countdown(), AsyncRead)
        assert freerun.run(main) == ["2", "1", "0"]
    """

    def read(self, n: int = 65536, /) -> Awaitable[bytes]:
        """Up to `n` bytes as soon as there are any, `b""` at the end. Must be cancel safe: cancelled, it took none."""
        ...


@runtime_checkable
class AsyncBufRead(AsyncRead, Protocol):
    """It has a buffer of its own that one may look into. Tokio: `tokio::io::AsyncBufRead`."""

    def fill_buf(self) -> Awaitable[bytes]:
        """What is buffered, having read if that was nothing; `b""` at the end. The bytes stay until `consume`."""
        ...

    def consume(self, n: int, /) -> None:
        """The first `n` bytes of the buffer have been used."""
        ...


@runtime_checkable
class AsyncWrite(Protocol):
    """Bytes can be written to it. Tokio: `tokio::io::AsyncWrite`.

    A `flush()` that is awaited is called where there is one.
    """

    def write(self, data: Buffer, /) -> Awaitable[int]:
        """Write some of `data` and say how much. It must be cancel safe: cancelled, it wrote nothing."""
        ...

    def write_all(self, data: Buffer, /) -> Awaitable[None]:
        """Write all of `data`."""
        ...

    def shutdown(self) -> Awaitable[None]:
        """Nothing more will be written: whoever reads sees the end."""
        ...


@runtime_checkable
class AsyncStream(AsyncRead, AsyncWrite, Protocol):
    """It can be read and written, by two tasks at once. Tokio: `AsyncRead + AsyncWrite`."""
