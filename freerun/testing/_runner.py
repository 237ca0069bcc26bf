"""Runs one test on a runtime of its own, and ends it when it hangs."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from freerun._core._native import TaskRef, current_task
from freerun._errors import JoinError
from freerun.runtime import Runtime
from freerun.runtime.main import builder_for

from ._options import DEFAULT_TIMEOUT, Options

__all__ = ["run_test", "settings"]


class _Settings:
    """What the plugin found in pytest's configuration; the decorator works without it."""

    timeout = DEFAULT_TIMEOUT
    outer_timeout: float | None = None  # pytest-timeout's, for the test that runs now


settings = _Settings()

# pytest-timeout would end the test without a word about its tasks; so be earlier.
_EARLIER = 0.9
# Seconds for a test that is being ended, between the means that are tried one after the other.
_GRACE = 1.0


def run_test(async_fn: Callable[[], Coroutine[Any, Any, object]], options: Options, name: str) -> None:
    """Run the test on a fresh runtime; what it raises, or `TimeoutError` when it hangs."""
    __tracebackhide__ = True
    watchdog = _Watchdog(_limit(options), name)
    runtime = builder_for(options.flavor, options.worker_threads, options.start_paused).build()
    try:
        with runtime.handle().enter():
            watchdog.run(runtime, async_fn)
    finally:
        runtime.shutdown(_GRACE if watchdog.expired else None)


def _limit(options: Options) -> float:
    """Seconds until the test counts as hung; 0: never."""
    limit = settings.timeout if options.timeout is None else options.timeout
    outer = settings.outer_timeout
    if outer is not None and outer > 0:
        limit = min(limit or outer, outer * _EARLIER)
    return limit


class _Watchdog:
    """A thread that waits for the test to end; a timer on the runtime would not do: its clock may be paused, or stuck.

    When time is up it dumps every task and aborts the test's own. A test that does not end even then, because it never
    awaits, gets what a user would do: Ctrl-C, twice.
    """

    def __init__(self, limit: float, name: str) -> None:
        self._limit = limit
        self._name = name
        self._over = threading.Event()
        self._task: TaskRef | None = None
        self.expired = False

    def run(self, runtime: Runtime, async_fn: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run the test under watch."""
        __tracebackhide__ = True
        thread = None
        if self._limit:
            thread = threading.Thread(target=self._watch, args=(runtime,), name="freerun-watchdog", daemon=True)
            thread.start()
        try:
            runtime.block_on(self._main, async_fn)
        except (JoinError, KeyboardInterrupt):
            if not self.expired:
                raise
        finally:
            self._stop(thread)
        if self.expired:
            self._fail()

    def _stop(self, thread: threading.Thread | None) -> None:
        """From here on no Ctrl-C comes; one that was under way is not for pytest."""
        while True:
            try:
                self._over.set()
                if thread is not None:
                    thread.join()
                return
            except KeyboardInterrupt:
                if not self.expired:
                    raise

    async def _main(self, async_fn: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._task = current_task()
        try:
            await async_fn()
        finally:
            self._task = None

    def _fail(self) -> None:
        __tracebackhide__ = True
        message = f"{self._name} did not finish within {self._limit:g} s; its tasks' stacks are on stderr"
        raise TimeoutError(message) from None

    def _watch(self, runtime: Runtime) -> None:
        if self._over.wait(self._limit):
            return
        self.expired = True
        with contextlib.suppress(Exception):
            sys.stderr.write(f"\n{self._name} hangs. {runtime.handle().dump_tasks()}")
        if (task := self._task) is not None:
            task.abort()
        main = threading.main_thread().ident
        pauses = itertools.chain(
            (_GRACE, _GRACE), itertools.repeat(10 * _GRACE)
        )  # after the second one it is on its way out
        while main is not None and not self._over.wait(next(pauses)):
            signal.pthread_kill(main, signal.SIGINT)
