"""`timeout_at`: a limit that is an instant rather than a duration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, overload

from freerun._core._native import Timeout, timeout_at_ns

from .instant import Instant, check_instant

__all__ = ["timeout_at"]


@overload
def timeout_at(deadline: Instant, awaitable: None = None, /) -> Timeout: ...
@overload
def timeout_at[T](deadline: Instant, awaitable: Awaitable[T], /) -> Awaitable[T]: ...
@overload
def timeout_at[*Ts, T](deadline: Instant, async_fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> Awaitable[T]: ...
def timeout_at(deadline: Instant, awaitable: Any = None, /, *args: Any) -> Any:  # type: ignore[misc]  # mypy on TypeVarTuple
    """Limit something as `timeout()` does, until `deadline`: `await timeout_at(deadline, awaitable)`, or `async with`.

    One that has passed lets what does not have to wait succeed, and nothing else.

    Errors: `TimeoutError`; `TypeError` if `deadline` is no `Instant`; for the rest see `timeout()`.
    Cancel safety: an abort is passed on to what is awaited, and takes the limit away.
    Thread safety: for tasks. Tokio: `tokio::time::timeout_at`.

    Example::

        import freerun
        from freerun.time import Instant, sleep, timeout_at

        async def main() -> str:
            await timeout_at(Instant.now() + 60, sleep(0.001))
            try:
                async with timeout_at(Instant.now() + 0.01):
                    await sleep(3600)
            except TimeoutError:
                return "too late"
            return "in time"

        assert freerun.run(main) == "too late"
    """
    return timeout_at_ns(check_instant(deadline, "deadline", "timeout() takes seconds").ns, awaitable, *args)
