"""`sleep_until`: wait for an instant."""

from __future__ import annotations

from collections.abc import Awaitable

from freerun._core._native import sleep_until_ns

from .instant import Instant, check_instant

__all__ = ["sleep_until"]


def sleep_until(deadline: Instant, /) -> Awaitable[None]:
    """Wait until `deadline`; return at once if it has passed. Resolution: 1 ms, never early.

    Errors: `TypeError` if `deadline` is no `Instant`; `RuntimeError` outside a task, or if the runtime has no timers.
    Cancel safety: nothing is lost. Thread safety: for tasks. Tokio: `tokio::time::sleep_until`.

    Example::

        import freerun
        from freerun.time import Instant, sleep_until

        async def main() -> bool:
            deadline = Instant.now() + 0.01
            await sleep_until(deadline)
            return Instant.now() >= deadline

        assert freerun.run(main)
    """
    return sleep_until_ns(check_instant(deadline, "deadline", "sleep() waits for seconds").ns)
