"""What belongs to a runtime and is made when it is first asked for: the threads behind `task.spawn_pinned()`.

It is cancelled together with the runtime's tasks, and has the same time to end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from freerun._errors import RuntimeShutdown

if TYPE_CHECKING:
    from freerun._core._native import Core

__all__ = ["Companion", "cancel", "of", "shutdown"]


class Companion(Protocol):
    """What can be ended in two steps."""

    def cancel(self, grace: float) -> None:
        """Begin to end, which may take `grace` seconds. Does not wait. May be called twice."""

    def shutdown(self, timeout: float) -> None:
        """Wait until it has ended, for that many seconds."""


class _Registry:
    def __init__(self) -> None:
        self.lock = threading.RLock()  # a companion is made under it: that may be anything, a finalizer too
        self.companions: dict[Core, Companion] = {}


_registry = _Registry()


def of(core: Core, make: Callable[[], Companion]) -> Companion:
    """The runtime's companion, made by the first who asks. `RuntimeShutdown` once the runtime takes no new work."""
    found = _registry.companions.get(core)
    if found is None:
        with _registry.lock:
            found = _registry.companions.get(core)
            # A shutdown refuses new work first and looks for a companion then, so it finds the one that is made here.
            if found is None and not core.is_shut_down():
                found = _registry.companions[core] = make()
    if found is None or core.is_shut_down():
        raise RuntimeShutdown("the runtime is shutting down and takes no new tasks")
    return found


def cancel(core: Core, grace: float) -> None:
    """The runtime is being shut down."""
    with _registry.lock:
        found = _registry.companions.get(core)
    if found is not None:
        found.cancel(grace)


def shutdown(core: Core, timeout: float) -> None:
    """The runtime's tasks have ended, or had the time to."""
    with _registry.lock:
        found = _registry.companions.pop(core, None)
    if found is not None:
        found.cancel(timeout)
        found.shutdown(timeout)


def _after_fork() -> None:
    """In the child: the lock may have been held, the threads are the parent's."""
    global _registry
    _parents.append(_registry)  # still referenced: nothing of it is finalised here
    _registry = _Registry()


_parents: list[_Registry] = []

os.register_at_fork(after_in_child=_after_fork)
