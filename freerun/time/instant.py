"""`Instant`: a point on the runtime's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self, overload

from freerun._arguments import Seconds, nanoseconds
from freerun._core._native import try_current_core

__all__ = ["Instant"]


@dataclass(frozen=True, order=True, slots=True)
class Instant:
    """A point on the monotonic clock, as the runtime sees it: a paused runtime's clock stands still.

    `ns` counts nanoseconds from an unspecified beginning. Instants compare with one another; `instant + s` and
    `instant - s` give instants (`s`: float seconds or a `timedelta`; with infinity, one that nobody lives to see),
    `a - b` gives float seconds, negative when `a` is earlier. Outside a runtime the clock is `time.monotonic()`'s.

    Thread safety: immutable. Tokio: `tokio::time::Instant`.

    Example::

        import freerun
        from freerun.time import Instant

        async def main() -> float:
            start = Instant.now()
            await freerun.time.sleep(0.01)
            return start.elapsed()

        assert freerun.run(main) >= 0.01
    """

    ns: int

    @classmethod
    def now(cls) -> Self:
        """The current instant. Works anywhere; inside a runtime it is that runtime's clock."""
        core = try_current_core()
        return cls(time.monotonic_ns() if core is None else core.now())

    def elapsed(self) -> float:
        """Seconds from this instant until now; negative for one that is still to come."""
        return (self.now().ns - self.ns) / 1e9

    def duration_since(self, earlier: Instant) -> float:
        """Seconds from `earlier` until this instant; 0.0 when `earlier` is later."""
        return max(0.0, self - earlier)

    def __add__(self, other: Seconds) -> Instant:
        return Instant(self.ns + nanoseconds(other, "seconds"))

    __radd__ = __add__

    @overload
    def __sub__(self, other: Instant) -> float: ...
    @overload
    def __sub__(self, other: Seconds) -> Instant: ...
    def __sub__(self, other: Instant | Seconds) -> float | Instant:
        if isinstance(other, Instant):
            return (self.ns - other.ns) / 1e9
        return Instant(self.ns - nanoseconds(other, "seconds"))


def check_instant(value: object, argument: str, hint: str) -> Instant:
    """Check an argument that has to be an `Instant`; `hint` says what else there is."""
    if not isinstance(value, Instant):
        kind = type(value).__name__
        raise TypeError(f"argument '{argument}' must be a freerun.time.Instant, not {kind}: {value!r}; {hint}")
    return value
