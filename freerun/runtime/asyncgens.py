"""Asynchronous generators of one runtime: their cleanup runs in it, or at its shutdown.

Python cannot finish an asynchronous generator by itself, for its `finally` may await. It tells the runtime when one is
first iterated (`first`) and when one is about to be freed unfinished (`final`). Both are called on any thread, `final`
from the garbage collector. Tokio has no counterpart: dropping a future is synchronous there.

The streams of `freerun.stream` are watched in the same way: all that matters is that they have `aclose()`.

The set of weak references is a plain `set`, of which CPython makes each method atomic, with the GIL or without it.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any

from .log import logger

if TYPE_CHECKING:
    from freerun._core._native import Core

__all__ = ["AsyncGenerators"]

type Generator = AsyncGenerator[Any, Any]


class AsyncGenerators:
    """The hooks for `sys.set_asyncgen_hooks`, and the closing at shutdown."""

    __slots__ = ("_open", "core")

    def __init__(self) -> None:
        self._open: set[weakref.ref[Generator]] = set()
        self.core: Core | None = None  # until the shutdown is over

    def first(self, generator: Generator) -> None:
        """A generator is iterated for the first time."""
        self._open.add(weakref.ref(generator, self._open.discard))

    def final(self, generator: Generator) -> None:
        """A generator is about to be freed, unfinished: close it in a task, or here if the runtime takes none."""
        if not self._close_in_task(generator):
            _close_here(generator)

    def drained(self) -> bool:
        """The runtime is shutting down and its tasks have ended: nobody iterates a generator that is still open.

        Whether there was one.
        """
        found = self._take_open()
        if streams := [each for each in found if not isinstance(each, AsyncGeneratorType)]:
            # They close what they iterate themselves; only then it is the others' turn.
            for each in found:
                if isinstance(each, AsyncGeneratorType):
                    self.first(each)
            found = streams
        for generator in found:
            self.final(generator)
        return bool(found)

    def close_rest(self) -> None:
        """After the shutdown: close what is left without awaiting."""
        self.core = None
        for generator in self._take_open():
            _close_here(generator)

    def _take_open(self) -> list[Generator]:
        """The generators that are open now; they are no longer watched."""
        found = [generator for ref in self._open.copy() if (generator := ref()) is not None]
        self._open.clear()
        return found

    def _close_in_task(self, generator: Generator) -> bool:
        core = self.core
        if core is None:
            return False
        closing = _close(generator)
        try:
            core.spawn_cleanup(closing)
        except RuntimeError:  # it is over, or this is the child of a fork
            closing.close()
            return False
        return True


async def _close(generator: Generator) -> None:
    try:
        await generator.aclose()
    except Exception:
        _report(generator)


def _close_here(generator: Generator) -> None:
    """One step of `aclose()`, without a task: enough for a cleanup that does not await."""
    closing: Any = generator.aclose()
    try:
        closing.send(None)
        closing.close()  # it awaits: there is nobody to wait for
    except StopIteration:
        pass
    except Exception:
        _report(generator)


def _report(generator: Generator) -> None:
    name = getattr(generator, "__qualname__", repr(generator))
    logger().exception("the asynchronous generator %s failed while it was closed", name)
