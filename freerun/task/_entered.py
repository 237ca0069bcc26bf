"""`spawn_on`: the runtime that its first argument stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from freerun._arguments import close_unstarted
from freerun.runtime.handle import Entered, Handle

if TYPE_CHECKING:
    from freerun.runtime.local_runtime import LocalRuntime
    from freerun.runtime.runtime import Runtime

__all__ = ["Entered", "entered"]


def entered(runtime: Handle | Runtime | LocalRuntime, coro: object = None) -> Entered:
    """`with entered(runtime):` makes it this thread's. `TypeError` if it is none; `coro` is closed then."""
    if isinstance(runtime, Handle):
        return runtime.enter()
    found = getattr(runtime, "handle", None)
    if found is None or not isinstance(handle := found(), Handle):
        close_unstarted(coro)
        kind = type(runtime).__name__
        raise TypeError(f"argument 'handle' must be a Handle or a runtime, not {kind}: {runtime!r}")
    return handle.enter()
