"""`Opening`: what `File.open()` and the like return: await it, or `async with File.open(path) as file`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from freerun.net import _opening

__all__ = ["Opening"]


class _Entered(Protocol):
    def close(self) -> None: ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Opening[T: _Entered](_opening.Opening[T]):
    """Leaving the block leaves what was opened, which may have to wait."""

    __slots__ = ()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, trace)
