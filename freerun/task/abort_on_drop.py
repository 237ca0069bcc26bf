"""`AbortOnDropHandle`: a `JoinHandle` that takes its task along."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self, final

from freerun._core._native import AbortHandle, JoinHandle
from freerun._errors import Cancelled, JoinError

__all__ = ["AbortOnDropHandle"]


@final
class AbortOnDropHandle[T]:
    """A `JoinHandle` whose task is aborted when nobody holds it any more.

    Awaiting it is awaiting the `JoinHandle`. `with` aborts the task at the end of the block, `async with` also waits
    for its end, and raises what the task failed with. Garbage collection is the safety net, and may be late. `detach()`
    gives the plain handle back.

    Errors: `TypeError` for what is no `JoinHandle`.
    Cancel safety: awaiting it is cancel safe; the task then lives as long as this handle.
    Thread safety: any thread. Tokio: `tokio_util::task::AbortOnDropHandle`.

    Example::

        import freerun
        from freerun.task import AbortOnDropHandle
        from freerun.time import sleep

        async def main() -> bool:
            task = freerun.spawn(sleep, 3600)
            async with AbortOnDropHandle(task):
                await sleep(0.001)
            return task.is_finished()

        assert freerun.run(main)
    """

    __slots__ = ("__weakref__", "_handle")

    def __init__(self, handle: JoinHandle[T], /) -> None:
        self._handle: JoinHandle[T] | None = _checked(handle)

    def _get(self) -> JoinHandle[T]:
        if self._handle is None:
            raise RuntimeError("this AbortOnDropHandle has been detached: use the handle that detach() returned")
        return self._handle

    def __await__(self) -> Generator[Any, Any, T]:
        return (yield from self._get().__await__())  # a generator keeps this handle meanwhile

    @property
    def id(self) -> int:
        """The task's number."""
        return self._get().id

    @property
    def name(self) -> str | None:
        """The name given to `spawn()`."""
        return self._get().name

    def abort(self) -> bool:
        """Abort the task now, as `JoinHandle.abort()`. Tokio: `AbortOnDropHandle::abort`."""
        return self._get().abort()

    def is_finished(self) -> bool:
        """Whether the task has ended. Tokio: `AbortOnDropHandle::is_finished`."""
        return self._get().is_finished()

    def abort_handle(self) -> AbortHandle:
        """A handle that can abort the task and does not keep it. Tokio: `AbortOnDropHandle::abort_handle`."""
        return self._get().abort_handle()

    def detach(self) -> JoinHandle[T]:
        """Give the plain handle back: the task is not aborted then. Tokio: `AbortOnDropHandle::detach`.

        Errors: `RuntimeError` the second time. Thread safety: any thread.
        """
        handle = self._get()
        self._handle = None
        return handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle = self._handle
        if handle is None:
            return
        handle.abort()
        if kind is GeneratorExit:  # the coroutine is being closed, and may not wait
            return
        cancelled = await self._wait(handle, error)
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled  # its traceback has this frame

    async def _wait(self, handle: JoinHandle[T], error: BaseException | None) -> Cancelled | None:
        """Wait for its end, whatever happens meanwhile; the last Cancelled."""
        cancelled: Cancelled | None = None
        raised: BaseException | None = None
        try:
            while True:
                try:
                    await handle
                except JoinError:
                    pass
                except Cancelled as again:
                    cancelled = again
                    continue
                except Exception as failure:
                    raised = error if cancelled is None else cancelled
                    if raised is None:
                        raise
                    raised.add_note(f"task {handle.id}, which was aborted, failed: {failure!r}")
                return cancelled
        finally:
            raised = None
            del cancelled, error

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            handle.abort()


def _checked[T](handle: JoinHandle[T]) -> JoinHandle[T]:
    found: object = handle
    if not isinstance(found, JoinHandle):
        kind = type(found).__name__
        raise TypeError(f"argument 'handle' must be a JoinHandle, as spawn() returns it, not {kind}: {found!r}")
    return handle
