"""`within`: run a coroutine with a deadline, in the same task.

It polls the coroutine and a sleep in turn; whichever is woken wakes the task. On expiry the coroutine gets `Cancelled`
and is awaited to its end before `TimeoutError` is raised, so nothing of it is left behind.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

from freerun._core._native import sleep
from freerun._errors import Cancelled

__all__ = ["Within"]


class Within[T]:
    """Await a coroutine for `limit` seconds at the most."""

    __slots__ = ("_coro", "_limit")

    def __init__(self, limit: float, coro: Coroutine[Any, Any, T]) -> None:
        self._limit = limit
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, T]:
        timer: Any = sleep(self._limit).__await__()
        error: BaseException | None = None
        expired = aborted = False
        try:
            while True:
                # The timer first: of the leaves polled in one step, the last one tells the engine how to suspend.
                fires = not expired and next(timer, None) is None
                token = self._step(error)
                if fires:
                    expired = True
                    token = self._step(Cancelled())
                error = None
                try:
                    yield token
                except BaseException as thrown:
                    error = thrown
                    aborted = aborted or isinstance(thrown, Cancelled)
        except _Finished as finished:
            result: T = finished.value
            return result
        except Cancelled:
            if expired and not aborted:
                raise TimeoutError(f"not done within {self._limit:g} s") from None
            raise

    def _step(self, error: BaseException | None) -> Any:
        """Poll the coroutine once; `_Finished` carries its result out of the loop."""
        try:
            return self._coro.send(None) if error is None else self._coro.throw(error)
        except StopIteration as stop:
            finished = _Finished(stop.value)
        raise finished


class _Finished(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value
