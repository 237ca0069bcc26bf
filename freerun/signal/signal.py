"""`signal` and `Signal`: hear a signal of the process.

The engine installs its own handler with `sigaction`, not through `signal.signal`, which Python allows on the main
thread only. The handler writes to an eventfd per listener, and the runtime's driver watches that: so any task on any
worker may listen, and it makes no difference what the main thread is doing. See docs/signal.md for what follows.
"""

from __future__ import annotations

import errno
import signal as system
import threading
from typing import TYPE_CHECKING, Self

from freerun._arguments import integer
from freerun._core._native import Core, IoSource, SignalListener, consume_budget, current_core, signals_rearm
from freerun._errors import RecvError, WouldBlock
from freerun.io._claim import Claim

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Signal", "signal"]

UNCATCHABLE = {system.SIGKILL, system.SIGSTOP}
FAULTS = {system.SIGSEGV, system.SIGBUS, system.SIGFPE, system.SIGILL}


def signal(signum: int, /) -> Signal:
    """Listen for a signal of this process, from now on: `async for`, or `await recv()`.

    `signum` is a `signal.Signals` or its number. While anybody listens, the signal does nothing else: neither what the
    system does by default, nor what a handler of `signal.signal()` would. When the last listener is closed or dropped,
    what was there before is there again. Every listener hears every signal; those that come before one of them looks
    are one to it.

    Errors: `ValueError` for what is no signal, cannot be caught (`SIGKILL`, `SIGSTOP`) or stands for a fault in the
    program (`SIGSEGV`, `SIGBUS`, `SIGFPE`, `SIGILL`); `TypeError` for what is no number; `OSError` (`EMFILE`: too many
    descriptors are open). Thread safety: any thread, inside a runtime or not. Tokio: `tokio::signal::unix::signal`.

    Example::

        import os
        import signal

        import freerun

        async def main() -> int:
            reloads = 0
            with freerun.signal.signal(signal.SIGHUP) as hangups:
                os.kill(os.getpid(), signal.SIGHUP)
                async for _ in hangups:
                    reloads += 1
                    if reloads == 3:
                        break
                    os.kill(os.getpid(), signal.SIGHUP)
            return reloads

        assert freerun.run(main) == 3
    """
    return Signal(signum)


class Signal:
    """A listener for one signal. Made by `signal()`. An asynchronous iterator, which never ends until it is closed.

    It listens from its creation until `close()`, leaving `with` or `async with`, or garbage collection; a signal in
    between is not lost, also when nobody is waiting. It belongs to no runtime.

    Errors: `OSError`; `RuntimeError` for a second task that waits, and in a runtime without I/O.
    Thread safety: every method may be called from any thread, `recv` inside a task. Tokio:
    `tokio::signal::unix::Signal`.
    """

    __slots__ = ("__weakref__", "_claim", "_closed", "_core", "_listener", "_lock", "_number", "_source")

    def __init__(self, signum: int, /) -> None:
        self._number = _checked(signum)
        self._claim = Claim("waiting with")
        self._lock = threading.RLock()  # a handler of Python's may call close() between any two lines
        self._closed = False
        self._core: Core | None = None
        self._source: IoSource | None = None
        self._listener = SignalListener(self._number)

    @property
    def signum(self) -> int:
        """The signal: a `signal.Signals` if it has a name, else its number."""
        return self._number

    async def recv(self) -> int:
        """Wait for the signal, or for nothing if it came since the last time; returns its number.

        Errors: `freerun.RecvError` once closed, by whomever. Cancel safety: no signal is lost. Thread safety: for
        tasks. Tokio: `Signal::recv`.
        """
        with self._claim:
            await consume_budget()
            # Somebody may have called signal.signal() meanwhile: who waits last has it.
            signals_rearm(self._number)
            while not self._take():
                await self._edge()
        return self._number

    def try_recv(self) -> int:
        """The signal, if it came since the last time.

        Errors: `freerun.WouldBlock` if it did not, `freerun.RecvError` once closed. Thread safety: any thread. Tokio:
        `Signal::poll_recv`.

        Example::

            import os
            import signal

            import freerun

            with freerun.signal.signal(signal.SIGUSR1) as usr1:
                os.kill(os.getpid(), signal.SIGUSR1)
                assert usr1.try_recv() == signal.SIGUSR1
        """
        if not self._take():
            raise WouldBlock(f"{_name(self._number)} has not come")
        return self._number

    def _take(self) -> bool:
        if self._closed:
            raise _no_more(self._number)
        return self._listener.take()

    async def _edge(self) -> None:
        """Until there may be something to take. What came since the last wait makes it return at once."""
        source = self._watched()
        source.clear_readable()
        try:
            await source.readable()
        except OSError:
            if self._closed:
                raise _no_more(self._number) from None
            raise

    def _watched(self) -> IoSource:
        """Its descriptor in the driver of the running task's runtime."""
        core = current_core()
        with self._lock:
            if self._closed:
                raise _no_more(self._number)
            if self._source is None or self._core is not core:
                self._source = IoSource(self._dup_fd(), assume_ready=False)
                self._core = core
            return self._source

    def _dup_fd(self) -> int:
        try:
            return self._listener.dup_fd()
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            message = f"this listener for {_name(self._number)} was made before fork(), and is the parent's"
            raise RuntimeError(message) from None

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def close(self) -> None:
        """Listen no more. A task that waits gets `RecvError`, an `async for` ends. May be called twice. Any thread."""
        with self._lock:
            self._closed = True
            source, self._source = self._source, None
        if source is not None:
            source.close()
        self._listener.close()

    def __del__(self) -> None:
        # Not left to what it consists of: on free-threaded builds each part may wait for the thread that made it.
        if hasattr(self, "_listener"):
            self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        try:
            return await self.recv()
        except RecvError:
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Signal {_name(self._number)}{', closed' if self._closed else ''}>"


def _checked(signum: int) -> int:
    number = integer(signum, "signum")
    if number not in system.valid_signals():
        raise ValueError(f"argument 'signum' must be one of signal.valid_signals(): {number} is none on this system")
    if number in UNCATCHABLE:
        raise ValueError(f"argument 'signum': {_name(number)} cannot be caught, by anybody")
    if number in FAULTS:
        hint = "it would only happen again after a handler; see Python's faulthandler"
        raise ValueError(f"argument 'signum': {_name(number)} stands for a fault of the running code, {hint}")
    return _named(number)


def _named(number: int) -> int:
    try:
        return system.Signals(number)
    except ValueError:  # of the real-time signals only the first and the last have a name
        return number


def _name(number: int) -> str:
    named = _named(number)
    return named.name if isinstance(named, system.Signals) else f"signal {number}"


def _no_more(number: int) -> RecvError:
    return RecvError(f"the listener for {_name(number)} is closed")
