"""What runs in an interpreter worker: a current-thread runtime that takes jobs from the queue.

A job becomes a task. The worker takes the next one when that task waits or has ended, so that what it cannot begin
stays in the queue, where another worker finds it. Nobody polls: who waits for a job is a task that waits, and the
thread sleeps in its driver.
"""

from __future__ import annotations

import time
from typing import Any

from freerun._core._native import Core, JobQueue, WorkerJob, yield_now
from freerun._errors import Cancelled, JoinError, RecvError, RuntimeShutdown
from freerun.runtime.config import Config
from freerun.runtime.engine import Engine
from freerun.runtime.log import logger

from ._main_module import MainModule
from ._parcel import CANCELLED, RAISED, RETURNED, pack_error, pack_result, unpack

__all__ = ["main"]


def main(queue_id: int, main_path: tuple[str | None, str | None]) -> None:
    """Serve the queue until it is closed. Called in the interpreter, on its thread."""
    try:
        queue = JobQueue.attach(queue_id)
    except LookupError:  # the runtime was shut down meanwhile
        return
    engine = Engine(Config(current_thread=True))
    engine.isolated.adopt(queue)
    worker = _Worker(queue, engine.core, MainModule(*main_path))
    queue.enlist()
    try:
        while not worker.serve():
            pass
    except Exception:  # not up to here: whoever started us takes an error for one that never came
        logger().exception("an interpreter worker failed; another one takes its place")
    finally:
        worker.arrive()
        queue.delist()
        engine.shutdown(queue.grace())
        _wait_alone(engine.core)


class _Worker:
    def __init__(self, queue: JobQueue, core: Core, main_module: MainModule) -> None:
        self._queue = queue
        self._core = core
        self._main_module = main_module
        self._load = 0  # jobs that have begun
        self._arrived = False

    def serve(self) -> bool:
        """True: it is over. False: a task that a job had spawned wanted to exit; nobody else shall suffer from that."""
        try:
            self._core.block_on(self._serve)
        except (SystemExit, KeyboardInterrupt):
            return False
        except (RuntimeShutdown, JoinError):  # a job shut its runtime down
            return True
        return True

    async def _serve(self) -> None:
        queue = self._queue
        while True:
            try:
                job = queue.pop(self._load)
            except RecvError:
                return
            self.arrive()  # after it took what was kept for it
            if job is None:
                await queue.wait(self._load)
                continue
            job.bind(self._core.spawn(self._run, job))
            del job
            await yield_now()

    def arrive(self) -> None:
        """Once: it was announced by whoever started it, and a job is kept for it."""
        if not self._arrived:
            self._arrived = True
            self._queue.unreserve()

    async def _run(self, job: WorkerJob) -> None:
        self._load += 1
        try:
            reply = await self._carry_out(job)
        finally:
            self._load -= 1
        job.reply(*reply)

    async def _carry_out(self, job: WorkerJob) -> tuple[Any, ...]:
        """The reply. When it returns nothing of the arguments is held any more, so what was lent is given back."""
        try:
            fn, args = self._unpack(job)
            value = fn(*args)
            if hasattr(value, "__await__"):
                value = await value
            return RETURNED, pack_result(value)
        except (Cancelled, GeneratorExit) as error:
            _let_go(error)
            return (CANCELLED,)
        except BaseException as error:
            _explain(error)
            failure = pack_error(error)
            _let_go(error)
            return RAISED, failure

    def _unpack(self, job: WorkerJob) -> Any:
        parcel = job.parcel()
        assert parcel is not None
        self._main_module.provide(parcel)
        return unpack(parcel)


def _let_go(error: BaseException | None) -> None:
    """Of the frames that it came through, which hold the arguments: the engine still has what it has thrown in."""
    for _ in range(_CHAIN):
        if error is None:
            break
        error.__traceback__ = None
        error = error.__context__


_CHAIN = 64
"""Exceptions in a chain that are looked at: one may be in a circle."""


def _explain(error: BaseException) -> None:
    """Say what is freerun's part in an error that is none of its own."""
    if isinstance(error, ImportError) and "subinterpreters" in str(error):
        error.add_note(
            "Isolated work runs in interpreters besides the first one here, which this module refuses: use "
            'freerun.spawn_blocking() for it, or Builder.workers("threads").'
        )
    if isinstance(error, AttributeError) and "__mp_main__" in str(error):
        error.add_note(
            'What the script defines under if __name__ == "__main__": is not there in other interpreters, which import '
            "it under another name: define it above."
        )


def _wait_alone(core: Core) -> None:
    """Until no native thread of ours has anything to do with this interpreter: CPython 3.13 aborts the process if an
    interpreter ends that has some (Py_EndInterpreter: "not the last thread"); those of `threading` it joins. There are
    none, unless a blocking call of a job goes on after the deadline.

    Not by sys._current_frames(): that looks into every interpreter's threads, and gives their frames objects out of
    this one's memory (CPython 3.13; the process dies when they are freed)."""
    pause = 0.001
    while core.threads_left():
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
