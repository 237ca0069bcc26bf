"""`Stream`: what the combinators have in common."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

from freerun._core._native import Strand, consume_budget

from ._polling import Failed, cancel
from ._source import Source

__all__ = ["Stream"]


class Stream[T](ABC):
    """An async iterator over what other async iterators give: `async for item in stream`.

    It polls them inside the task that iterates it, and owns them. It closes them (`aclose()`, where they have it) when
    it ends, when one of them fails, and when it is closed itself: by `await stream.aclose()` or at the end of `async
    with stream:`. As with an async generator, one that is dropped before its end is closed in a task of its own, and
    at the latest when the runtime is shut down. What has no `aclose()`, a channel's receiver for one, is just left.

    Cancel safety: a cancelled `anext(stream)` loses no item. What was begun stays half done, and goes on with the next.
    Thread safety: one task at a time; another one, of the same runtime, may go on with it in between.
    Errors: `RuntimeError` for a second one at the same time, or in another runtime. Tokio: `tokio_stream::Stream`.
    """

    __slots__ = ("__weakref__", "_busy", "_closed", "_final", "_started")

    def __init__(self) -> None:
        self._busy = threading.Lock()  # held by who polls, for one `anext()` or `aclose()`; never waited for
        self._closed = False
        self._started = False
        self._final: Callable[[Any], object] | None = None  # the runtime's, for what is dropped

    @abstractmethod
    async def _next(self) -> T:
        """The next item, or `StopAsyncIteration`. Cancelled at any await, it has lost none."""

    @abstractmethod
    def _sources(self) -> Sequence[Source[Any]]:
        """All of them, to be closed."""

    def _half_done(self) -> list[Strand[Any] | Failed]:
        """What was begun and has not ended, to be cancelled."""
        return [begun for source in self._sources() for begun in source.half_done()]

    def _is_over(self) -> bool:
        """Whether an exception of `_next()` was the end, since a source has failed."""
        return any(source.failed for source in self._sources())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        self._enter()
        try:
            if self._closed:
                raise StopAsyncIteration
            self._start()
            await consume_budget()  # what is always ready must not starve the others
            return await self._polled()
        finally:
            self._busy.release()

    async def _polled(self) -> T:
        try:
            return await self._next()
        except StopAsyncIteration:
            await self._close()
            raise
        except BaseException:
            if self._is_over():
                await self._close()
            raise

    async def aclose(self) -> None:
        """Cancel what was begun, wait for its cleanup, and close the sources. Nothing if that was done before.

        Errors: what the cleanup raises, as it is or as an `ExceptionGroup`; `RuntimeError` while a task iterates it.
        Cancel safety: what is being closed is cancelled again, and the rest is closed nonetheless.
        """
        self._enter()
        try:
            if not self._closed:
                await self._close()
        finally:
            self._busy.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    def _enter(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this stream is being iterated by another task; give each a stream of its own")

    def _start(self) -> None:
        """As async generators do, tell the runtime when it is iterated first."""
        if not self._started:
            self._started = True
            begun, self._final = sys.get_asyncgen_hooks()
            if begun is not None:
                begun(self)  # type: ignore[arg-type]  # all it needs is aclose()

    def _become_source(self) -> None:
        """It belongs to another stream, which closes it."""
        self._started = True

    async def _close(self) -> None:
        self._closed = True
        errors: list[Exception] = []
        outer: BaseException | None = None
        try:
            errors += await cancel(self._half_done())
        except BaseException as error:
            outer = error
        for source in self._sources():
            try:
                await source.aclose()
            except Exception as error:
                errors.append(error)
            except BaseException as error:
                outer = error
        try:
            if outer is not None:
                raise outer
            if len(errors) == 1:
                raise errors[0]
            if errors:
                raise ExceptionGroup("several sources of a stream failed while they were closed", errors)
        finally:
            del outer, errors  # no cycle with their tracebacks

    def __del__(self) -> None:
        if not self._closed and self._final is not None:
            self._final(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{' closed' if self._closed else ''} at {id(self):#x}>"
