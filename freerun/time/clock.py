"""`pause`, `resume`, `advance`: a clock that only moves when told to, for tests.

While the clock is paused, a runtime that has nothing to run jumps to its next timer by itself.
"""

from __future__ import annotations

from freerun._arguments import Seconds, seconds
from freerun._core._native import Core, current_core, yield_now

__all__ = ["advance", "pause", "resume"]

_END_NS = 1 << 62
"""No further: the engine counts in 64 bits, and `sleep()` needs a future."""


def pause() -> None:
    """Stop the runtime's clock. `Instant.now()` stands still; timers fire when the runtime is idle, or by `advance()`.

    Errors: `RuntimeError` outside a runtime, on a multi-thread runtime, or if the clock is paused already.
    Thread safety: for tasks and threads inside the runtime. Tokio: `tokio::time::pause`.

    Example::

        import freerun
        from freerun.time import Instant, pause, sleep

        async def main() -> float:
            pause()
            start = Instant.now()
            await sleep(3600)  # takes no time: nothing else is to be done
            return start.elapsed()

        assert freerun.run(main, flavor="current_thread") >= 3600
    """
    core = _core_of("pause")
    if core.is_paused():
        raise RuntimeError("time.pause(): the clock is paused already")
    core.pause()


def resume() -> None:
    """Let the clock run again, from where it stood.

    Errors: `RuntimeError` outside a runtime, on a multi-thread runtime, or if the clock is not paused.
    Thread safety: for tasks and threads inside the runtime. Tokio: `tokio::time::resume`.

    Example::

        import freerun
        from freerun.time import pause, resume

        async def main() -> None:
            pause()
            resume()

        freerun.run(main, flavor="current_thread")
    """
    core = _core_of("resume")
    if not core.is_paused():
        raise RuntimeError("time.resume(): the clock is not paused; call time.pause() first")
    core.resume()


async def advance(duration: Seconds, /) -> None:
    """Move the paused clock forward by `duration` (seconds or a `timedelta`) and let the tasks run whose timers fire.

    Errors: `RuntimeError` outside a runtime, on a multi-thread runtime, or if the clock is not paused; `ValueError` or
    `TypeError` for a bad duration, `ValueError` for one beyond the end of the clock, in 146 years. Cancel safety: the
    clock has moved when the abort arrives. Thread safety: for tasks. Tokio: `tokio::time::advance`.

    Example::

        import freerun
        from freerun.time import advance, sleep

        @freerun.main(flavor="current_thread", start_paused=True)
        async def main() -> bool:
            minute = freerun.spawn(sleep_for_a_minute)
            await freerun.yield_now()
            await advance(60)
            return minute.is_finished()

        async def sleep_for_a_minute() -> None:
            await sleep(60)

        assert main()
    """
    step = seconds(duration, "duration")
    core = _core_of("advance")
    if not core.is_paused():
        raise RuntimeError("time.advance(): the clock is not paused; call time.pause() first")
    if core.now() + step * 1e9 > _END_NS:
        raise ValueError(f"argument 'duration' goes beyond the end of the clock, after 146 years: {duration!r}")
    core.advance(step)
    await yield_now()


def _core_of(what: str) -> Core:
    """The current runtime, if its clock can be stopped."""
    core = current_core()
    if not core.is_current_thread:
        raise RuntimeError(
            f"time.{what}() works on a current-thread runtime only: with several workers nobody could say when the "
            'clock may move. Use flavor="current_thread"'
        )
    return core
