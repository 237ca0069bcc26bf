"""fork: the parent goes on as if nothing had happened; in the child every call on the old runtime is a clear error, and
a new runtime works."""

from __future__ import annotations

import pytest
from engine_support import check_program, run_program

FLAVORS = ["current_thread", "multi_thread"]

PRELUDE = """
import os, sys, threading, time, warnings
import freerun
from freerun import time as ftime

warnings.simplefilter("ignore", DeprecationWarning)  # "this process is multi-threaded"

def build():
    if sys.argv[1] == "current_thread":
        return freerun.Builder.new_current_thread().build()
    return freerun.Builder().worker_threads(2).build()

async def value(x):
    return x

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    raise AssertionError("the child hangs")

def raises(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} did not raise")

rt = build()
"""


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_every_call_is_refused_in_the_child(flavor_name: str) -> None:
    check_program(
        PRELUDE
        + """
waiting = rt.spawn(ftime.sleep, 3600)
handle = rt.handle()
def child():
    for call in (
        lambda: rt.spawn(value, 1),
        lambda: rt.block_on(value, 1),
        lambda: rt.spawn_blocking(int),
        rt.metrics,
        rt.shutdown,
        rt.shutdown_background,
        lambda: handle.spawn(value, 1),
        lambda: handle.block_on(value, 1),
        handle.dump_tasks,
    ):
        message = raises(RuntimeError, call)
        assert "fork" in message, (call, message)
    with handle.enter():
        assert "fork" in raises(RuntimeError, lambda: freerun.spawn(value, 1))
    repr(rt), repr(handle), repr(waiting)
for _ in range(5):
    assert in_child(child) == 0
assert rt.block_on(value, 2) == 2
rt.shutdown()
assert waiting.is_finished()
""",
        flavor_name,
    )


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_a_new_runtime_works_in_the_child(flavor_name: str) -> None:
    check_program(
        PRELUDE
        + """
def child():
    async def main():
        await ftime.sleep(0.001)
        return await freerun.spawn(value, 3) + await freerun.spawn_blocking(int, 4)
    with build() as new:
        assert new.block_on(main) == 7
    assert freerun.run(main) == 7
with rt:
    for _ in range(5):
        assert in_child(child) == 0
    assert rt.block_on(value, 1) == 1
""",
        flavor_name,
    )


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_while_the_runtime_is_busy(flavor_name: str) -> None:
    """Whatever its threads held at that moment, the child can use freerun."""
    check_program(
        PRELUDE
        + """
stop = False
async def churn():
    while not stop:
        await freerun.spawn(value, 1)
        await ftime.sleep(0)
        await freerun.spawn_blocking(int)
def child():
    assert "fork" in raises(RuntimeError, lambda: rt.spawn(value, 1))
    assert freerun.run(value, 5, worker_threads=2) == 5
async def main():
    tasks = [freerun.spawn(churn) for _ in range(8)]
    await freerun.spawn_blocking(forks)
    for task in tasks:
        await task
def forks():
    global stop
    for _ in range(10):
        assert in_child(child) == 0
    stop = True
rt.block_on(main)
rt.shutdown()
""",
        flavor_name,
    )


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_dropping_it_in_the_child(flavor_name: str) -> None:
    """The child's copies go away without waiting for threads that do not exist, and it exits as any process does."""
    check_program(
        PRELUDE
        + """
import gc
h = [rt.spawn(ftime.sleep, 3600) for _ in range(10)]
pid = os.fork()
if pid == 0:
    del rt, h
    gc.collect()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
rt.shutdown()
""",
        flavor_name,
    )


def test_while_threads_start() -> None:
    """A child collects its garbage, whatever the parent's new threads were at: free-threaded CPython stops the world to
    make the first one's state, for long enough to be hit."""
    check_program(
        PRELUDE.replace("rt = build()", "")
        + """
import gc
def forks():
    rt = build()
    assert in_child(gc.collect) == 0
for _ in range(10):
    assert in_child(forks) == 0  # in a process that has made no thread yet
""",
        "multi_thread",
    )


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_leaving_with_in_the_child(flavor_name: str) -> None:
    check_program(
        PRELUDE
        + """
with rt:
    pid = os.fork()
if pid == 0:
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""",
        flavor_name,
    )


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_in_a_task_that_leaves_at_once(flavor_name: str) -> None:
    check_program(
        PRELUDE
        + """
async def main():
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert rt.block_on(main) == 5
assert rt.block_on(value, 1) == 1
rt.shutdown()
""",
        flavor_name,
    )


def test_in_a_task_that_goes_on_in_the_child() -> None:
    """It reaches an await, where there is no scheduler any more: an error, not a hang, and the parent is unharmed."""
    for flavor_name in FLAVORS:
        done = run_program(
            PRELUDE
            + """
async def main():
    pid = os.fork()
    await freerun.yield_now()
    if pid == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
status = rt.block_on(main)
assert status != 0
assert rt.block_on(value, 1) == 1
rt.shutdown()
print("parent ended")
""",
            flavor_name,
        )
        assert done.returncode == 0, done.stderr
        assert "parent ended" in done.stdout
        assert "fork()" in done.stderr


def test_subprocess_in_a_blocking_call() -> None:
    """What most programs fork for."""
    check_program(
        PRELUDE
        + """
import subprocess
async def main():
    calls = [freerun.spawn_blocking(subprocess.run, ["true"], check=True) for _ in range(10)]
    return [(await call).returncode for call in calls]
assert rt.block_on(main) == [0] * 10
rt.shutdown()
""",
        "multi_thread",
    )


def test_multiprocessing_fork() -> None:
    check_program(
        PRELUDE
        + """
import multiprocessing
def work(x):
    return freerun.run(value, x, worker_threads=1)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(4)) == [0, 1, 2, 3]
rt.shutdown()
""",
        "multi_thread",
    )
