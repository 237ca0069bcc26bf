"""How a test is to be run."""

from __future__ import annotations

from dataclasses import dataclass

from freerun._arguments import Seconds, seconds
from freerun.runtime.main import builder_for

__all__ = ["DEFAULT_TIMEOUT", "Options"]

DEFAULT_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the decorator and the marker take."""

    flavor: str
    worker_threads: int | None
    start_paused: bool
    timeout: float | None  # None: the plugin's setting

    @classmethod
    def checked(
        cls,
        flavor: str | None = None,
        worker_threads: int | None = None,
        start_paused: bool = False,
        timeout: Seconds | None = None,
    ) -> Options:
        """Check the arguments and fill in the flavour: current-thread, unless a number of workers was asked for."""
        if flavor is None:
            flavor = "current_thread" if worker_threads is None else "multi_thread"
        builder_for(flavor, worker_threads, start_paused).check()
        return cls(flavor, worker_threads, start_paused, None if timeout is None else seconds(timeout, "timeout"))
