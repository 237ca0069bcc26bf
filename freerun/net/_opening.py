"""`Opening`: what `bind()` and `connect()` return.

It is a coroutine that is also an asynchronous context manager, so that both of these work:

    stream = await TcpStream.connect(addr)
    async with TcpStream.connect(addr) as stream: ...
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Opening"]


class _Closes(Protocol):
    def close(self) -> None: ...


class Opening[T: _Closes](Coroutine[Any, Any, T]):
    """A coroutine whose result may be entered at once."""

    __slots__ = ("_coro", "_opened")

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coro.__await__()

    def send(self, value: Any, /) -> Any:
        return self._coro.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coro.throw(*error)

    def close(self) -> None:
        self._coro.close()

    async def __aenter__(self) -> T:
        self._opened = await self._coro
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
