"""`Builder`: every setter checks, stores and takes effect."""

from __future__ import annotations

import datetime as dt
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from engine_support import threads_named
from support import PATIENCE, Flavor, check_script, run_script, wait_until

import freerun

NAN = float("nan")

WHOLE = [("0", TypeError), (1.5, TypeError), (None, TypeError), (True, TypeError)]
SECONDS = [(-1, ValueError), (NAN, ValueError), (float("inf"), ValueError), ("1", TypeError), (None, TypeError)]
FUNCTION = [(5, TypeError), (None, TypeError), ("x", TypeError)]

BAD: dict[str, list[tuple[Any, type[Exception]]]] = {
    "worker_threads": [(0, ValueError), (-1, ValueError), (1025, ValueError), *WHOLE],
    "max_blocking_threads": [(0, ValueError), (-5, ValueError), *WHOLE],
    "thread_keep_alive": [*SECONDS, (dt.timedelta(-1), ValueError)],
    "thread_name": [("", ValueError), ("a\0b", ValueError), (5, TypeError), (b"x", TypeError)],
    "thread_name_fn": FUNCTION,
    "thread_stack_size": [(0, ValueError), (-1, ValueError), (1000, ValueError), *WHOLE],
    "driver": [("select", ValueError), (5, TypeError)],
    "workers": [("processes", ValueError), (5, TypeError)],
    "event_interval": [(0, ValueError), (-1, ValueError), *WHOLE],
    "global_queue_interval": [(0, ValueError), (-1, ValueError), *WHOLE],
    "start_paused": [(1, TypeError), ("yes", TypeError)],
    "rng_seed": [(-1, ValueError), (1 << 64, ValueError), *WHOLE],
    "slow_poll_warning": SECONDS,
    "unhandled_exception": [("ignore", ValueError), (5, TypeError), (None, TypeError)],
    "on_thread_start": FUNCTION,
    "on_thread_stop": FUNCTION,
    "on_thread_park": FUNCTION,
    "on_thread_unpark": FUNCTION,
    "on_task_spawn": FUNCTION,
    "on_task_terminate": FUNCTION,
}

GOOD: dict[str, list[Any]] = {
    "worker_threads": [1, 3],
    "max_blocking_threads": [1, 10_000],
    "thread_keep_alive": [0, 0.5, dt.timedelta(seconds=1)],
    "thread_name": ["w", "a very long name indeed"],
    "thread_name_fn": [lambda: "x"],
    "thread_stack_size": [256 * 1024, 1 << 20],
    "driver": ["auto", "epoll", "io_uring"],
    "workers": ["auto", "threads", "interpreters"],
    "event_interval": [1, 61],
    "global_queue_interval": [1, 31],
    "start_paused": [False],
    "rng_seed": [0, (1 << 64) - 1],
    "slow_poll_warning": [0, 1.5, dt.timedelta(1)],
    "unhandled_exception": ["log", "shutdown", print],
    "on_thread_start": [lambda: None],
    "on_thread_stop": [lambda: None],
    "on_thread_park": [lambda: None],
    "on_thread_unpark": [lambda: None],
    "on_task_spawn": [lambda task: None],
    "on_task_terminate": [lambda task: None],
}


def test_the_tables_are_whole() -> None:
    setters = {name for name in vars(freerun.Builder) if not name.startswith("_")}
    setters -= {"new_multi_thread", "new_current_thread", "enable_io", "enable_time", "enable_all"}
    setters -= {"disable_lifo_slot", "disable_stand_in", "check", "build", "build_local"}
    assert setters == set(BAD) == set(GOOD)


@pytest.mark.parametrize(("name", "value", "error"), [
    (name, value, error) for name, cases in BAD.items() for value, error in cases
], ids=lambda x: repr(x) if not isinstance(x, type) else x.__name__)  # fmt: skip
def test_bad(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"argument '{name}'"):
        getattr(freerun.Builder(), name)(value)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in GOOD.items() for v in values])
def test_good(flavor: Flavor, name: str, value: Any) -> None:
    builder = flavor.builder()
    assert getattr(builder, name)(value) is builder
    with builder.build() as rt:
        assert rt.block_on(freerun.lowlevel.checkpoint) is None


@pytest.mark.parametrize("name", sorted(name for name in GOOD if name.startswith(("on_", "thread_name_fn"))))
def test_async_functions_are_no_hooks(name: str) -> None:
    async def hook(*args: Any) -> None: ...

    with pytest.raises(TypeError, match=f"argument '{name}'"):
        getattr(freerun.Builder(), name)(hook)


def test_a_builder_builds_many() -> None:
    builder = freerun.Builder().worker_threads(1)
    with builder.build() as one:
        builder.worker_threads(2)
        with builder.build() as two:
            assert (one.metrics().num_workers, two.metrics().num_workers) == (1, 2)
    assert "multi_thread" in repr(builder)
    assert "current_thread" in repr(freerun.Builder.new_current_thread())


def test_repr_of_a_runtime() -> None:
    with freerun.Builder().worker_threads(2).build() as rt:
        assert repr(rt) == "<Runtime multi_thread, 2 workers>"
        assert repr(rt.handle()) == "<Handle multi_thread, 2 workers>"
    assert "shut down" in repr(rt)
    with freerun.Builder.new_current_thread().build() as rt:
        assert repr(rt) == "<Runtime current_thread>"


def test_worker_threads_run() -> None:
    with freerun.Builder().worker_threads(3).thread_name("wt3").build() as rt:
        wait_until(lambda: {"wt3-0", "wt3-1", "wt3-2", "wt3-driver"} <= set(threads_named("wt3")))
        assert rt.metrics().num_workers == len(rt.metrics().workers) == 3


def test_current_thread_ignores_worker_threads() -> None:
    with freerun.Builder.new_current_thread().worker_threads(8).build() as rt:
        assert rt.metrics().num_workers == 1


def test_environment_variable() -> None:
    script = "import freerun; print(freerun.Runtime().metrics().num_workers); import gc"
    source = f"import warnings; warnings.simplefilter('ignore'); {script}"
    assert check_script(source, env={"FREERUN_WORKER_THREADS": "3"}) == "3\n"
    for bad in ("0", "x", "-1", "1025", ""):
        done = run_script(source, env={"FREERUN_WORKER_THREADS": bad})
        assert done.returncode == 1
        assert "ValueError: the environment variable FREERUN_WORKER_THREADS must be" in done.stderr


def test_default_follows_affinity() -> None:
    cpu = min(os.sched_getaffinity(0))
    source = f"""
        import os
        os.sched_setaffinity(0, {{{cpu}}})
        import freerun
        with freerun.Runtime() as rt:
            print(rt.metrics().num_workers, freerun.build_info().worker_threads)
    """
    env = {key: value for key, value in os.environ.items() if key != "FREERUN_WORKER_THREADS"}
    if "FREERUN_WORKER_THREADS" not in os.environ:
        assert check_script(source, env=env) == "1 1\n"


@pytest.mark.parametrize("flavor_name", ["multi", "current"])
def test_thread_name_fn(flavor_name: str, reports: Any) -> None:
    names = iter(["alpha", "beta", "gamma", *[f"more{i}" for i in range(100)]])
    lock = threading.Lock()

    def name() -> str:
        with lock:
            return next(names)

    builder = freerun.Builder().worker_threads(2)
    if flavor_name == "current":
        builder = freerun.Builder.new_current_thread()
    with builder.thread_name_fn(name).build() as rt:
        used = rt.block_on(_blocking_name)
        assert used in {"alpha", "beta", "gamma"} or used.startswith("more")
    assert len(reports) == 0


async def _blocking_name() -> str:
    return (await freerun.spawn_blocking(Path("/proc/thread-self/comm").read_text)).strip()


@pytest.mark.parametrize("bad", [lambda: 1 // 0, lambda: 5, lambda: ""])
def test_thread_name_fn_that_fails(flavor: Flavor, bad: Any, reports: Any) -> None:
    with flavor.builder().thread_name_fn(bad).build() as rt:
        assert rt.block_on(_answer) == 42
    assert any("thread_name_fn" in message for message in reports.messages)


async def _answer() -> int:
    return await freerun.spawn_blocking(int, "42")


def test_stack_size(flavor: Flavor) -> None:
    """Threads have the stack that was asked for: the recursion limit is met before its end."""

    def deep(n: int) -> int:
        return 0 if n == 0 else 1 + deep(n - 1)

    async def main() -> int:
        return await freerun.spawn_blocking(deep, 400)

    with flavor.builder().thread_stack_size(16 << 20).build() as rt:
        assert rt.block_on(main) == 400


def test_global_queue_interval_of_one(flavor: Flavor) -> None:
    with flavor.builder().global_queue_interval(1).event_interval(1).build() as rt:
        assert rt.block_on(_many) == 500


async def _many() -> int:
    count = 0
    for handle in [freerun.spawn(freerun.lowlevel.checkpoint) for _ in range(500)]:
        await handle
        count += 1
    return count


def test_without_the_lifo_slot(flavor: Flavor) -> None:
    with flavor.builder().disable_lifo_slot().build() as rt:
        assert rt.block_on(_many) == 500
        assert all(worker.lifo_hits == 0 for worker in rt.metrics().workers)


@pytest.mark.parametrize("seed", [0, 1, (1 << 64) - 1])
def test_seeds(flavor: Flavor, seed: int) -> None:
    with flavor.builder().rng_seed(seed).build() as rt:
        assert rt.block_on(_many) == 500


def test_slow_poll_warning(reports: Any) -> None:
    release = threading.Event()

    async def slow_one() -> None:
        release.wait(PATIENCE)

    with freerun.Builder().worker_threads(1).slow_poll_warning(0.02).build() as rt:
        task = rt.spawn(slow_one, name="the slow one")
        wait_until(lambda: len(reports))
        release.set()
        task.blocking_result()
        record = reports[0]
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "'the slow one'" in message
    assert "test_builder.py" in message
    assert "in slow_one" in message
    assert len([each for each in reports.messages if "in one poll" in each]) == 1, "one poll, one report"


def test_no_slow_poll_warning(reports: Any) -> None:
    async def slow() -> None:
        time.sleep(0.05)

    with freerun.Builder().worker_threads(1).slow_poll_warning(0).build() as rt:
        rt.block_on(slow)
    assert len(reports) == 0


def test_start_paused_needs_current_thread() -> None:
    with pytest.raises(ValueError, match="argument 'start_paused'"):
        freerun.Builder().start_paused(True).build()
    with pytest.raises(ValueError, match="argument 'start_paused'"):
        freerun.Builder().start_paused().check()
    freerun.Builder().start_paused().start_paused(False).check()


def test_enable_nothing_but_what_is_said(flavor: Flavor) -> None:
    async def sleeps() -> None:
        await freerun.time.sleep(0.001)

    with flavor.builder().enable_io().build() as rt, pytest.raises(RuntimeError, match="enable_time"):
        rt.block_on(sleeps)
    for builder in (flavor.builder().enable_time(), flavor.builder().enable_all(), flavor.builder()):
        with builder.build() as rt:
            rt.block_on(sleeps)


def test_too_many_threads_is_an_error_not_a_hang() -> None:
    """Where the system refuses threads, build() raises and leaves nothing behind."""
    source = """
        import resource, threading
        import freerun
        from pathlib import Path

        before = len(list(Path("/proc/self/task").iterdir()))
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, hard))
        try:
            freerun.Builder().worker_threads(64).thread_stack_size(256 << 20).build()
        except (OSError, RuntimeError, MemoryError) as error:
            print("refused")
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        while len(list(Path("/proc/self/task").iterdir())) > before:
            pass
        async def main():
            return await freerun.spawn_blocking(int, "5")
        print(freerun.run(main, worker_threads=2))
    """
    done = run_script(source)
    assert (done.returncode, done.stdout) == (0, "refused\n5\n"), done.stderr
