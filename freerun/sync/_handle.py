"""`Handle`: what the ends of a channel share. They are closed explicitly, by `with`, or at last by garbage collection.

`ProcessBound`: what they have in common belongs to the process that made it. A forked child gets a copy, whose lock may
be held by a thread that does not exist there, and Python drops that thread's frames in the child: a finalizer that
waited for the lock would hang the fork itself. So finalizers leave copies alone.

Finalizers also run when the interpreter ends and the globals of modules are gone. What they need they reach through
`self`.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import NoReturn, Self, SupportsIndex

__all__ = ["Handle", "ProcessBound"]


class ProcessBound:
    """Something with a lock that finalizers take."""

    __slots__ = ("_pid",)

    _getpid = staticmethod(os.getpid)

    def __init__(self) -> None:
        self._pid = self._getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a forked child."""
        return self._pid != self._getpid()


class Handle:
    """One end of a channel, or one of several. Where `_channel` and `_closed` are is the business of the subclass."""

    __slots__ = ()

    _channel: ProcessBound
    _closed: bool

    def close(self) -> None:
        """Give this handle up. May be called twice. Any thread, and finalizers."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # A copy would count for nothing, and its end be the channel's.
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled; clone() and subscribe() make others")

    def __del__(self) -> None:
        if hasattr(self, "_channel") and not self._closed and not self._channel.forked:
            self.close()
