"""`Child`: a process that was started."""

from __future__ import annotations

import contextlib
import signal as system
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from freerun._core._native import Core, IoSource, consume_budget, current_core
from freerun._errors import JoinError, WouldBlock
from freerun.net._socket import own
from freerun.sync import Mutex
from freerun.task import spawn
from freerun.time import sleep

from . import _killer
from ._process import Process
from ._spawning import Spawned
from .child_stdio import ChildStderr, ChildStdin, ChildStdout
from .exit_status import ExitStatus, Output

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Child"]

FIRST_LOOK, LAST_LOOK = 0.001, 0.05
"""Seconds between two looks at a process that cannot be watched: doubled each time, from one to the other."""


class Child:
    """A child process. Made by `Command.spawn()`.

    `close()`, leaving `async with` and garbage collection drop it: its pipes are closed, with `kill_on_drop` it is
    killed, otherwise it lives on; either way it is collected when it ends, so it does not stay a zombie. It may outlive
    the runtime, and may be used by tasks of several.

    Thread safety: every method may be called from any thread, those that are awaited inside a task.
    Tokio: `tokio::process::Child`.

    Example::

        import freerun
        from freerun.io import BufReader
        from freerun.process import Command, Stdio

        async def main() -> list[str]:
            command = Command("sort").stdin(Stdio.piped()).stdout(Stdio.piped())
            async with command.spawn() as child:
                await child.stdin.write_all(b"pear\\napple\\n")
                child.stdin.close()
                lines = [line async for line in BufReader(child.stdout).lines()]
                assert (await child.wait()).success
            return lines

        assert freerun.run(main) == ["apple", "pear"]
    """

    __slots__ = (
        "__weakref__",
        "_core",
        "_kill_on_drop",
        "_process",
        "_source",
        "_stderr",
        "_stdin",
        "_stdin_taken",
        "_stdout",
        "_waiting",
    )

    def __init__(self, spawned: Spawned) -> None:
        self._process: Process = spawned.process
        self._kill_on_drop = spawned.kill_on_drop
        self._waiting = Mutex()
        self._source: IoSource | None = None  # whoever has `_waiting`
        self._core: Core | None = None  # the same
        self._stdin = _pipe(ChildStdin, spawned, 0)
        self._stdout = _pipe(ChildStdout, spawned, 1)
        self._stderr = _pipe(ChildStderr, spawned, 2)
        self._stdin_taken = False

    @property
    def id(self) -> int:
        """The number of the process. Once it has ended, the system may give it to another one. Tokio: `Child::id`."""
        return self._process.pid

    @property
    def stdin(self) -> ChildStdin:
        """The pipe to its standard input. Errors: `RuntimeError` if there is none."""
        return _present(self._stdin, "stdin")

    @property
    def stdout(self) -> ChildStdout:
        """The pipe from its standard output. Errors: `RuntimeError` if there is none."""
        return _present(self._stdout, "stdout")

    @property
    def stderr(self) -> ChildStderr:
        """The pipe from its error stream. Errors: `RuntimeError` if there is none."""
        return _present(self._stderr, "stderr")

    def take_stdin(self) -> ChildStdin:
        """`stdin`, which `wait()` does not close then: for another task that feeds the child meanwhile.

        Errors: `RuntimeError` if there is none. Tokio: `child.stdin.take()`.

        Example::

            import freerun
            from freerun.process import ChildStdin, Command, Stdio

            async def feed(stdin: ChildStdin) -> None:
                async with stdin:
                    for _ in range(100):
                        await stdin.write_all(b"x" * 1000)

            async def main() -> bytes:
                child = await Command("wc").arg("-c").stdin(Stdio.piped()).stdout(Stdio.piped()).spawn()
                freerun.spawn(feed, child.take_stdin())
                return (await child.wait_with_output()).stdout.strip()

            assert freerun.run(main) == b"100000"
        """
        stdin = self.stdin
        self._stdin_taken = True
        return stdin

    async def wait(self) -> ExitStatus:
        """Wait until it has ended. Closes `stdin` first, so that a child that reads to the end of it gets there, unless
        it was taken (`take_stdin`) or another task is writing to it.

        Several tasks may wait, and once it has ended, each call gives the same at once. A child that writes to a pipe
        which nobody reads never ends: `wait_with_output()`, or a task that reads.

        Errors: `ChildProcessError` if something else in this program has collected the exit status. Cancel safety: yes,
        it may be called again (`stdin` is closed). Thread safety: for tasks. Tokio: `Child::wait`.
        """
        self._close_stdin()
        await consume_budget()
        if (status := self._poll()) is None:
            async with self._waiting:
                status = await self._watch()
        return status

    async def _watch(self) -> ExitStatus:
        pause = FIRST_LOOK
        try:
            while (status := self._poll()) is None:
                if (source := self._watched()) is not None and pause == FIRST_LOOK:
                    await source.readable()
                else:
                    await sleep(pause)
                pause = min(pause * 2, LAST_LOOK)
        finally:
            self._unwatch()
        return status

    def _watched(self) -> IoSource | None:
        """Its pidfd in the driver of this runtime; `None` if there is none to be had, or it ended just now."""
        core = current_core()
        if self._source is None or self._core is not core:
            self._unwatch()
            fd = self._process.open_pidfd()
            if fd is None:
                return None
            try:
                self._source = own(_as_pidfd, fd)
            except (OSError, RuntimeError):  # the driver has no room, or the runtime no I/O
                return None
            self._core = core
        return self._source

    def _unwatch(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _poll(self) -> ExitStatus | None:
        status = self._process.poll()
        if status is not None and self._kill_on_drop:
            _killer.discard(self._process)
        return status

    def _close_stdin(self) -> None:
        if self._stdin is None or self._stdin_taken or self._stdin.closed:
            return
        try:
            self._stdin.try_write(b"")
        except RuntimeError:  # another task is writing
            return
        except (OSError, WouldBlock):
            pass
        self._stdin.close()

    def try_wait(self) -> ExitStatus:
        """How it ended.

        Errors: `freerun.WouldBlock` if it has not; `ChildProcessError` as for `wait`. Thread safety: any thread.
        Tokio: `Child::try_wait`.
        """
        status = self._poll()
        if status is None:
            raise WouldBlock(f"process {self.id} has not ended")
        return status

    async def wait_with_output(self) -> Output:
        """Read all that it writes to the pipes, both at once, and wait until it has ended. `stdin` as for `wait()`.

        What is not a pipe gives `b""`. Errors: `OSError`, `ChildProcessError`. Cancel safety: what was read is lost.
        Thread safety: for tasks. Tokio: `Child::wait_with_output`.
        """
        self._close_stdin()
        stdout, stderr = await _both(self._stdout, self._stderr)
        return Output(await self.wait(), stdout, stderr)

    def send_signal(self, signum: int, /) -> None:
        """Send it a signal; nothing happens if it has ended.

        Errors: `PermissionError` if it runs as another user; `ValueError` for what is no signal. Thread safety: any
        thread, never hits another process that has got the number. Tokio has none; as `subprocess.Popen.send_signal`.
        """
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"argument 'signum' must be a signal, not {type(signum).__name__}: {signum!r}")
        if signum not in system.valid_signals():
            raise ValueError(f"argument 'signum' must be one of signal.valid_signals(): {signum}")
        self._process.send_signal(signum)

    def start_kill(self) -> None:
        """Send it `SIGKILL`, and do not wait. Errors: `PermissionError`. Any thread. Tokio: `Child::start_kill`."""
        self._process.send_signal(system.SIGKILL)

    async def kill(self) -> ExitStatus:
        """Send it `SIGKILL`, and wait until it has ended. Cancel safe: as `wait()`. Tokio: `Child::kill`.

        Example::

            import freerun
            from freerun.process import Command

            async def main() -> int | None:
                child = await Command("sleep").arg("3600").spawn()
                return (await child.kill()).signal

            assert freerun.run(main) == 9
        """
        self.start_kill()
        return await self.wait()

    def close(self) -> None:
        """Drop it: close its pipes; kill it, with `kill_on_drop`; see to it that it is collected. Any thread."""
        for pipe in (self._stdin, self._stdout, self._stderr):
            if pipe is not None:
                pipe.close()
        _killer.drop(self._process, self._kill_on_drop)

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # The pipes may be somebody else's by now. Those that are not close themselves. A default argument: while the
        # interpreter ends, the names of this module may be gone already; what was to be killed has been.
        if not _is_finalizing() and hasattr(self, "_kill_on_drop"):
            _killer.drop(self._process, self._kill_on_drop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            status = self._process.poll()
        except (OSError, RuntimeError) as error:
            return f"<Child {self.id}, {error}>"
        return f"<Child {self.id}, {'running' if status is None else status}>"


def _pipe[P: IoSource](kind: type[P], spawned: Spawned, i: int) -> P | None:
    return own(kind, fd) if (fd := spawned.take_fd(i)) >= 0 else None


def _present[P](pipe: P | None, name: str) -> P:
    if pipe is None:
        raise RuntimeError(f"the child's {name} is no pipe: ask for one with Command.{name}(Stdio.piped())")
    return pipe


def _as_pidfd(fd: int) -> IoSource:
    return IoSource(fd, assume_ready=False, set_nonblocking=False)


async def _both(stdout: Any, stderr: Any) -> tuple[bytes, bytes]:
    """Read both to their end at the same time: a child that has filled one waits until somebody reads it."""
    if stdout is None or stderr is None:
        return await _all(stdout), await _all(stderr)
    errors = spawn(_all, stderr)
    try:
        return await _all(stdout), await errors
    finally:
        if errors.abort():
            with contextlib.suppress(JoinError):
                await errors


async def _all(pipe: Any) -> bytes:
    if pipe is None or pipe.closed:
        return b""
    data: bytes = await pipe.read_to_end()
    return data
