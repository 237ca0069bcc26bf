"""`Isolated`: a runtime's isolated work: where it runs, and the interpreters it runs in.

An interpreter worker is a thread of ours that makes an interpreter, runs `freerun.interp._worker` in it until the queue
is closed, and ends the interpreter again, in this order, on this thread: CPython 3.13 aborts the process when an
interpreter ends that has other threads. Workers start when there are more jobs than workers.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from freerun._arguments import close_unstarted
from freerun._core._native import Core, JobQueue, JoinHandle, drain_lent, forget_interpreters
from freerun._errors import Cancelled, RecvError, RuntimeShutdown

if TYPE_CHECKING:
    from logging import Logger

    from freerun._core._native import Parcel

    from .spawn_isolated import SpawnIsolated

__all__ = ["Isolated", "before_exit", "isolated_of", "spawning_isolated"]

_isolated: dict[Core, Isolated] = {}


def isolated_of(core: Core) -> Isolated:
    """The isolated work of this runtime. Errors: `RuntimeShutdown`."""
    isolated = _isolated.get(core)
    if isolated is None:
        raise RuntimeShutdown("the runtime has been shut down")
    return isolated


def spawning_isolated(core: Core) -> SpawnIsolated:
    """`spawn_isolated` of this runtime."""

    def spawn_isolated(fn: Callable[..., Any], /, *args: Any) -> JoinHandle[Any]:
        return isolated_of(core).spawn(core, fn, args)

    return spawn_isolated  # type: ignore[return-value]  # the overloads are less exact


class Isolated:
    """Thread safety: every method may be called from any thread."""

    __slots__ = ("_closed", "_count", "_lock", "_name", "_queue", "_started", "_threads", "in_interpreters")

    def __init__(self, kind: str, count: int, thread_name: Callable[[str, int], str]) -> None:
        self.in_interpreters = sys._is_gil_enabled() if kind == "auto" else kind == "interpreters"
        self._count = count  # of interpreters, at most
        self._name = thread_name
        self._lock = threading.Lock()
        self._queue: JobQueue | None = None
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._closed = False

    def adopt(self, queue: JobQueue) -> None:
        """Inside an interpreter worker: isolated work goes to where this worker's own came from."""
        self.in_interpreters = True
        self._queue = queue
        self._count = 0

    def open(self, core: Core) -> None:
        """This is the isolated work of `core` until `close()`."""
        _isolated[core] = self

    def spawn(self, core: Core, fn: Any, args: tuple[Any, ...]) -> JoinHandle[Any]:
        """See `spawn_isolated`."""
        from ._parcel import finish, pack_call

        if not callable(fn):
            close_unstarted(fn)
            raise TypeError(f"argument 'fn' must be a function, sync or async, not {type(fn).__name__}: {fn!r}")
        if self.in_interpreters:
            _check_main(fn)
        name = getattr(fn, "__qualname__", None)
        if not self.in_interpreters:
            whole: list[bytes] = []
            return core.spawn(_run_here, pack_call(fn, args, whole), whole, name=name)
        parcel = pack_call(fn, args)
        queue = self._queue or self._new_queue()
        if self._started < self._count and queue.outstanding() >= self._started:
            self._start(queue, 1)  # first, so that those who have something to do leave the job to it
        job = queue.submit(parcel, finish)
        return core.spawn(job, name=name)

    # ---- workers ----

    def _new_queue(self) -> JobQueue:
        with self._lock:
            if self._closed:
                raise RuntimeShutdown("the runtime is shutting down: it takes no isolated work any more")
            if self._queue is None:
                self._queue = JobQueue()
                # Classes of the script pickle under this name over there; multiprocessing has the same.
                sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
            return self._queue

    def _start(self, queue: JobQueue, coming: int = 0) -> None:
        """One more worker, if there are more jobs than workers, with those that are `coming`."""
        with self._lock:
            if self._closed or self._started >= self._count or queue.outstanding() + coming <= self._started:
                return
            index = self._started
            self._started += 1
        queue.reserve()
        try:
            _background(self._work, queue, name=self._name("isolated", index))
        except RuntimeError as error:  # no more threads, or the interpreter is exiting
            queue.unreserve()
            self._ended(queue, error)

    def _work(self, queue: JobQueue) -> None:
        """A worker, from beginning to end."""
        error: Exception | None = None
        with self._lock:
            if self._closed:  # close() knows nothing of us
                return
            self._threads.add(threading.current_thread())
        try:
            from ._subinterpreter import run

            run(_source(queue.id))
        except Exception as raised:
            error = raised
            queue.unreserve()  # it never came
        self._ended(queue, error)

    def _ended(self, queue: JobQueue, error: Exception | None) -> None:
        with self._lock:
            self._threads.discard(threading.current_thread())
            self._started -= 1
            alone = self._started == 0
            closed = self._closed
        if closed:
            return
        if error is None:  # its code shut its runtime down
            self._start(queue)
        elif alone:
            _logger().error("no interpreter worker could be started", exc_info=error)
            _fail(queue, error)

    # ---- the end ----

    def close(self, grace: float) -> None:
        """Let the workers end within `grace` seconds, and say so if they do not. The runtime's tasks have ended."""
        for core in [core for core, isolated in list(_isolated.items()) if isolated is self]:
            _isolated.pop(core, None)
        with self._lock:
            self._closed = True
            queue, threads = self._queue, list(self._threads)
        if queue is None or self._count == 0:
            return
        try:
            self._end(queue, threads, grace)
        finally:
            drain_lent()  # what they kept of what was lent to them

    def _end(self, queue: JobQueue, threads: list[threading.Thread], grace: float) -> None:
        queue.close(grace)
        _fail(queue, None)
        if not _join(threads, max(grace, _LEAST_GRACE)):
            # One that computes without an await: SystemExit, at its next bytecode. From another thread, since it may
            # be in a call that holds its GIL.
            with contextlib.suppress(RuntimeError):  # the interpreter is exiting
                _background(queue.interrupt, name="freerun-interrupt")
            _join(threads, _END_GRACE)
            # One that starts or ends does so by itself, and must not be at it while Python is taken down.
            patience = time.monotonic() + _PATIENCE
            while _alive(threads) > queue.enlisted() and time.monotonic() < patience:
                _join(threads, 0.05)
            if _alive(threads):
                self._leave_behind(threads)

    def _leave_behind(self, threads: list[threading.Thread]) -> None:
        left = ", ".join(thread.name for thread in threads if thread.is_alive())
        _logger().warning("interpreter workers that are stuck in a call were left behind: %s", left)
        _left_behind.extend(threads)


_left_behind: list[threading.Thread] = []


def before_exit() -> None:
    """The interpreter is about to be taken down, and with it those that are stuck: they are left alone instead."""
    if any(thread.is_alive() for thread in _left_behind):
        forget_interpreters()


def _join(threads: list[threading.Thread], seconds: float) -> bool:
    """Wait for threads; whether they have all ended."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not _alive(threads)


def _alive(threads: list[threading.Thread]) -> int:
    return sum(thread.is_alive() for thread in threads)


_LEAST_GRACE = 0.5
"""Seconds for idle workers to notice."""
_END_GRACE = 2.0
"""Seconds for a worker that was interrupted to get out of what it does."""
_PATIENCE = 20.0
"""Seconds for an interpreter to start or to end, on the slowest of machines."""


def _background(target: Callable[..., object], *args: object, name: str) -> threading.Thread:
    from freerun.runtime.background import background_thread  # that package imports this module

    return background_thread(target, *args, name=name)


def _logger() -> Logger:
    from freerun.runtime.log import logger  # that package imports this module

    return logger()


def _fail(queue: JobQueue, error: Exception | None) -> None:
    """Whatever is queued ends with this error, or cancelled."""
    from ._parcel import CANCELLED, RAISED, pack_error

    with contextlib.suppress(RecvError):
        while (job := queue.pop(0)) is not None:
            if error is None:
                job.reply(CANCELLED)
            else:
                job.reply(RAISED, pack_error(error))


async def _run_here(parcel: Parcel, whole: list[bytes]) -> Any:
    """On free-threaded builds: the same by value, on one of the runtime's own workers."""
    from ._parcel import RAISED, finish, pack_error, pack_result, unpack

    kept: list[bytes] = []
    try:
        fn, args = unpack(parcel, whole)
        del parcel, whole
        value = fn(*args)
        del fn, args
        if hasattr(value, "__await__"):
            value = await value
        result = pack_result(value, kept)
    except Cancelled:
        raise
    except BaseException as error:
        failure = pack_error(error)  # by value, too, with its traceback as text
    else:
        value = unpack(result, kept)
        drain_lent()
        return value
    return finish(RAISED, failure)


# ---- the main module ----


def _main_path() -> tuple[str | None, str | None]:
    """The module name, or the path, by which `__main__` can be imported elsewhere; neither if it cannot."""
    import os

    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return spec.name, None
    path = getattr(main, "__file__", None)
    if path is None or (sys.argv and sys.argv[0] == "-c"):
        return None, None
    if spec is not None:  # python folder, python file.zip: what runs is the __main__.py in it
        path = os.path.dirname(path)  # noqa: PTH120  # that of an archive, too
    path = os.path.abspath(path)  # noqa: PTH100  # __file__ may be relative to where the script was started
    return None, path if os.path.exists(path) else None  # noqa: PTH110  # "<stdin>" does not


def _check_main(fn: Callable[..., Any]) -> None:
    if getattr(fn, "__module__", None) == "__main__" and _main_path() == (None, None):
        raise TypeError(
            f"argument 'fn' ({getattr(fn, '__qualname__', fn)}) cannot cross to another interpreter: it is defined in "
            "__main__, which has no file that could be imported there (python -c, interactive, or from a pipe); "
            "put it into a module"
        )


def _source(queue_id: int) -> str:
    """What the interpreter runs: it must find what this one finds."""
    return (
        f"import sys\nsys.path[:] = {[str(each) for each in sys.path]!r}\n"
        f"sys.argv[:] = {[str(each) for each in sys.argv]!r}\n"
        f"from freerun.interp._worker import main\nmain({queue_id}, {_main_path()!r})\n"
    )
