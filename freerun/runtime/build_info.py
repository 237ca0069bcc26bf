"""`build_info()`: what this installation is and what it can do here, with reasons."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass

from freerun._version import __version__

from . import drivers
from .cpus import default_worker_threads

__all__ = ["BuildInfo", "build_info"]


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What `build_info()` returns; `str()` gives a page to read.

    `free_threaded`: the interpreter can run without the GIL; `gil_enabled`: it has one at this moment all the same.
    `drivers` that work here, the `driver` that is used, and `driver_why`; `files` is `"pool"` or `"io_uring"`, what
    open files are read and written with, and `files_why`. `workers` is `"threads"`, with `workers_why`.
    `worker_threads`: the default number of workers, with `worker_threads_why`. Thread safety: immutable.

    Example::

        import freerun

        info = freerun.build_info()
        assert info.driver in info.drivers
        assert info.worker_threads >= 1
    """

    version: str
    python: str
    free_threaded: bool
    gil_enabled: bool
    drivers: tuple[str, ...]
    driver: str
    driver_why: str
    files: str
    files_why: str
    workers: str
    workers_why: str
    worker_threads: int
    worker_threads_why: str

    def __str__(self) -> str:
        kind = "free-threaded" if self.free_threaded else "with the GIL"
        if self.free_threaded and self.gil_enabled:
            kind = "free-threaded, but the GIL is on"
        return "\n".join(
            [
                f"freerun {self.version}",
                f"python          {self.python}, {kind}",
                f"worker threads  {self.worker_threads}: {self.worker_threads_why}",
                f"workers         {self.workers}: {self.workers_why}",
                f"driver          {self.driver} (available: {', '.join(self.drivers)}): {self.driver_why}",
                f"files           {self.files}: {self.files_why}",
            ]
        )


def build_info() -> BuildInfo:
    """What this installation is and what it can do on this machine, and why.

    Errors: `ValueError` if `FREERUN_WORKER_THREADS` is no number of workers. Thread safety: any thread.
    `python -m freerun` prints it.

    Example::

        import freerun

        print(freerun.build_info())
    """
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    gil_enabled = sys._is_gil_enabled()
    threads, threads_why = default_worker_threads()
    return BuildInfo(
        version=__version__,
        python=sys.version.split()[0],
        free_threaded=free_threaded,
        gil_enabled=gil_enabled,
        drivers=drivers.available(),
        driver=drivers.AUTO,
        driver_why=_driver_why(),
        files=drivers.FILES[drivers.AUTO],
        files_why=drivers.FILES_WHY,
        workers="threads",
        workers_why=_workers_why(free_threaded, gil_enabled),
        worker_threads=threads,
        worker_threads_why=threads_why,
    )


def _driver_why() -> str:
    why = drivers.refusal()
    return f"{drivers.AUTO_WHY}; no io_uring: {why}" if why else drivers.AUTO_WHY


def _workers_why(free_threaded: bool, gil_enabled: bool) -> str:
    if not gil_enabled:
        return "tasks run in parallel"
    if free_threaded:
        return "tasks run one at a time: the GIL was turned on, by PYTHON_GIL=1 or by a module that asks for it"
    return (
        "tasks run one at a time: this Python has the GIL; to run in parallel use spawn_isolated(), or a free-threaded "
        "one (python3.14t)"
    )
