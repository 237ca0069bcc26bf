"""A meeting point for a number of tasks. Tokio: `tokio::sync::Barrier`."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from freerun._arguments import integer
from freerun._core._native import Waker, current_waker, park
from freerun.task import consume_budget

__all__ = ["Barrier", "BarrierWaitResult"]


class Barrier:
    """Lets tasks go on when `n` of them have arrived. It may be used again and again, with `n` tasks each time.

    `Barrier(0)` lets everybody pass, as `Barrier(1)` does.

    Errors: `ValueError`/`TypeError` if `n` is not an `int`, or negative. Thread safety: any thread; `wait` in a task.
    Tokio: `tokio::sync::Barrier`.

    Example::

        import freerun
        from freerun.sync import Barrier

        async def work(barrier: Barrier) -> bool:
            return (await barrier.wait()).is_leader()

        async def main() -> None:
            barrier = Barrier(3)
            tasks = [freerun.spawn(work, barrier) for _ in range(3)]
            assert sorted([await task for task in tasks]) == [False, False, True]

        freerun.run(main)
    """

    __slots__ = ("__weakref__", "_lock", "_n", "_round")

    def __init__(self, n: int) -> None:
        self._n = integer(n, "n", least=0)
        self._lock = threading.RLock()
        self._round = _Round()  # the one that is not complete; under the lock

    async def wait(self) -> BarrierWaitResult:
        """Arrive, and wait for the others. Exactly one of them is told that it is the leader.

        Cancel safe, which it is not in Tokio: a cancelled task counts as not arrived, unless the others have come
        meanwhile. Thread safety: inside a task. Tokio: `Barrier::wait`.
        """
        await consume_budget()
        waker = current_waker()
        with self._lock:
            round = self._round
            round.arrived[waker] = None
            if len(round.arrived) < self._n:
                leads = False
            else:
                self._round = _Round()
                leads = round.complete = True
        if leads:
            for other in round.arrived:
                if other is not waker:
                    other.wake()
            return BarrierWaitResult(leader=True)
        try:
            while not round.complete:
                await park()
        except BaseException:
            with self._lock:
                if not round.complete:
                    round.arrived.pop(waker)
            raise
        return BarrierWaitResult(leader=False)

    def __repr__(self) -> str:
        return f"<Barrier {len(self._round.arrived)} of {self._n} arrived>"


class _Round:
    __slots__ = ("arrived", "complete")

    def __init__(self) -> None:
        self.arrived: dict[Waker, None] = {}  # nothing is added or removed once it is complete
        self.complete = False


@dataclass(frozen=True, slots=True)
class BarrierWaitResult:
    """What `Barrier.wait()` gives. Tokio: `BarrierWaitResult`."""

    leader: bool

    def is_leader(self) -> bool:
        """Whether this task is the one that was chosen."""
        return self.leader
