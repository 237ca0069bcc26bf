"""`ExitStatus` and `Output`: how a process ended, and what it wrote."""

from __future__ import annotations

import os
import signal as system
from dataclasses import dataclass

__all__ = ["ExitStatus", "Output"]


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: by itself, with a `code`, or by a `signal`.

    Thread safety: immutable. Tokio: `std::process::ExitStatus`.

    Example::

        import freerun
        from freerun.process import Command

        async def main() -> tuple[int | None, int | None]:
            fine = await Command("sh").args(["-c", "exit 0"]).status()
            assert fine.success and fine.code == 0
            failed = await Command("sh").args(["-c", "exit 3"]).status()
            assert not failed.success
            killed = await Command("sh").args(["-c", "kill -9 $$"]).status()
            return failed.code, killed.signal

        assert freerun.run(main) == (3, 9)
    """

    returncode: int
    """As in `subprocess`: the exit code, or the negative number of the signal."""

    @classmethod
    def _of(cls, status: int) -> ExitStatus:
        """Of what `waitpid` says."""
        return cls(os.waitstatus_to_exitcode(status))

    @property
    def success(self) -> bool:
        """Whether it ended by itself with code 0."""
        return self.returncode == 0

    @property
    def code(self) -> int | None:
        """Its exit code; `None` if a signal ended it."""
        return self.returncode if self.returncode >= 0 else None

    @property
    def signal(self) -> int | None:
        """The signal that ended it, a `signal.Signals` if it has a name; `None` if it ended by itself."""
        if self.returncode >= 0:
            return None
        try:
            return system.Signals(-self.returncode)
        except ValueError:
            return -self.returncode

    def __str__(self) -> str:
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        signum = self.signal
        return f"ended by {signum.name if isinstance(signum, system.Signals) else f'signal {signum}'}"


@dataclass(frozen=True, slots=True)
class Output:
    """What `Command.output()` gives: how the process ended, and all it wrote. Tokio: `std::process::Output`."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes
