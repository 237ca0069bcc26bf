"""Other programs, as child processes. Tokio: `tokio::process`."""

from __future__ import annotations

from .child import Child
from .child_stdio import ChildStderr, ChildStdin, ChildStdout
from .command import Command
from .exit_status import ExitStatus, Output
from .stdio import Stdio

__all__ = ["Child", "ChildStderr", "ChildStdin", "ChildStdout", "Command", "ExitStatus", "Output", "Stdio"]
