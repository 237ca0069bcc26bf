"""The interpreter exits although nobody shut the runtime down: quickly, quietly, with the program's own status."""

from __future__ import annotations

import re

import pytest
from engine_support import check_program, run_program
from support import PATIENCE, in_threads

FLAVORS = ["current_thread", "multi_thread"]

PRELUDE = """
import sys, threading, time
import freerun
from freerun import time as ftime

if sys.argv[1] == "current_thread":
    rt = freerun.Builder.new_current_thread().build()
else:
    rt = freerun.Builder().worker_threads(2).build()

def drive(condition):
    async def wait():
        while not condition():
            await ftime.sleep(0.001)
    rt.block_on(wait)
"""


def script(body: str, grace: float = PATIENCE) -> str:
    """A program; `grace` is how long its exit waits for what does not end. Nothing that ends shall be cut off by it."""
    return f"{PRELUDE}\nimport freerun.runtime.atexit\nfreerun.runtime.atexit.EXIT_GRACE = {grace}\n{body}"


BODIES = {
    "idle": "",
    "parked": """
async def parked():
    try:
        await ftime.sleep(3600)
    finally:
        sys.stdout.write("cleaned up\\n")  # in one piece: print() writes the end of the line apart
h = [rt.spawn(parked) for _ in range(100)]
drive(lambda: all("waiting" in repr(each) for each in h))
""",
    "queued": """
async def body():
    await ftime.sleep(3600)
h = [rt.spawn(body) for _ in range(1000)]
""",
    "yielding": """
seen = []
async def loop():
    while True:
        seen.append(1)
        await freerun.yield_now()
        seen.clear()
h = [rt.spawn(loop) for _ in range(4)]
drive(lambda: seen)
""",
    "spawning": """
count = 0
async def spawner():
    global count
    while True:
        count += 1
        await freerun.spawn(ftime.sleep(0))
h = [rt.spawn(spawner) for _ in range(4)]
drive(lambda: count > 100)
""",
    "blocking pool, idle": """
assert rt.spawn_blocking(int).blocking_result() == 0
""",
    "sockets": """
async def accept():
    async with await freerun.net.TcpListener.bind("127.0.0.1:0") as listener:
        await listener.accept()
h = rt.spawn(accept)
drive(lambda: rt.metrics().io_registered)
""",
    "asynchronous generator": """
async def numbers():
    try:
        while True:
            yield 1
    finally:
        await ftime.sleep(0)
        print("generator closed")
agen = numbers()
async def first():
    return await anext(agen)
assert rt.block_on(first) == 1
""",
    "entered": """
rt.__enter__()
""",
    "several runtimes": """
more = [freerun.Builder().worker_threads(2).build() for _ in range(5)]
h = [each.spawn(ftime.sleep, 3600) for each in more]
""",
    "reference cycles": """
async def body():
    await ftime.sleep(3600)
class Cycle: pass
c = Cycle(); c.c = c; c.rt = rt; c.h = rt.spawn(body)
del c
""",
}


@pytest.mark.parametrize("flavor_name", FLAVORS)
@pytest.mark.parametrize("body", BODIES)
def test_without_shutdown(flavor_name: str, body: str) -> None:
    out = check_program(script(BODIES[body]), flavor_name)
    if body == "parked":
        assert out == "cleaned up\n" * 100
    if body == "asynchronous generator":
        assert out == "generator closed\n"


@pytest.mark.parametrize("flavor_name", FLAVORS)
@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(3)", 3), ("raise SystemExit('')", 1), ("import os; os._exit(4)", 4)]
)
def test_status(flavor_name: str, end: str, status: int) -> None:
    done = run_program(script(BODIES["yielding"] + end), flavor_name)
    assert (done.returncode, done.stderr.strip()) == (status, "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_uncaught_exception(flavor_name: str) -> None:
    done = run_program(script(BODIES["parked"] + "raise LookupError('mine')"), flavor_name)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("LookupError: mine")
    assert done.stderr.count("Traceback") == 1


SHORT = 0.2
"""The grace for what never ends."""


def check_names(stderr: str, what: str) -> None:
    """Nothing but the one report on what did not end."""
    assert re.fullmatch(rf"shutdown did not wait longer than .* s; this did not end:\n  {what}.*\n", stderr), stderr


def test_stuck_in_a_worker() -> None:
    done = run_program(
        script(
            """
inside = threading.Event()
async def stuck():
    inside.set()
    time.sleep(600)
h = rt.spawn(stuck)
assert inside.wait(60)
print("end")
""",
            SHORT,
        ),
        "multi_thread",
    )
    assert (done.returncode, done.stdout) == (0, "end\n")
    check_names(done.stderr, "task 1, spawned at <string>")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_stuck_in_the_pool(flavor_name: str) -> None:
    done = run_program(
        script(
            """
inside = threading.Event()
def stuck():
    inside.set()
    time.sleep(600)
h = rt.spawn_blocking(stuck)
assert inside.wait(60)
print("end")
""",
            SHORT,
        ),
        flavor_name,
    )
    assert (done.returncode, done.stdout) == (0, "end\n")
    check_names(done.stderr, "blocking call 1, spawned at <string>")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_a_call_that_returns_while_the_interpreter_goes(flavor_name: str) -> None:
    """The thread comes back to an interpreter that is being taken down, or has been."""

    def run(i: int) -> None:
        done = run_program(
            script(
                f"""
inside = threading.Event()
def stuck():
    inside.set()
    time.sleep({SHORT - 0.05 + i * 0.05})
    return object()
h = rt.spawn_blocking(stuck)
assert inside.wait(60)
""",
                SHORT,
            ),
            flavor_name,
        )
        assert done.returncode == 0, done.stderr
        if done.stderr:
            check_names(done.stderr, "blocking call 1, spawned at <string>")

    with in_threads(3, run):
        pass


def test_a_busy_worker_while_the_interpreter_goes() -> None:
    """A poll that never ends, in Python code."""
    done = run_program(
        script(
            """
inside = threading.Event()
async def busy():
    inside.set()
    while True:
        pass
h = rt.spawn(busy)
assert inside.wait(60)
""",
            SHORT,
        ),
        "multi_thread",
    )
    assert done.returncode == 0, done.stderr
    check_names(done.stderr, "task 1, spawned at <string>")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_another_thread_is_in_block_on(flavor_name: str) -> None:
    """A daemon thread does not keep the process."""
    check_program(
        script("""
inside = threading.Event()
async def main():
    inside.set()
    await ftime.sleep(3600)
def block():
    try:
        rt.block_on(main)
    except freerun.JoinError:
        pass
threading.Thread(target=block, daemon=True).start()
assert inside.wait(60)
"""),
        flavor_name,
    )


def test_dropped_before_exit() -> None:
    check_program(
        script("""
import warnings
warnings.simplefilter("ignore")
async def body():
    await ftime.sleep(3600)
h = rt.spawn(body)
del rt
"""),
        "multi_thread",
    )


def test_no_runtime_can_be_started_at_exit() -> None:
    out = check_program(
        """
        import atexit
        def late():
            try:
                freerun.Runtime()
            except freerun.RuntimeShutdown as error:
                print(error)
        atexit.register(late)  # called after freerun's own, which is registered later
        import freerun
        freerun.Runtime().shutdown()
        """
    )
    assert "exiting" in out


def test_spawning_threads_while_the_interpreter_goes() -> None:
    """Daemon threads that go on spawning meet RuntimeShutdown, or the end."""
    check_program(
        script("""
async def body():
    pass
def spawn():
    while True:
        try:
            rt.spawn(body)
        except freerun.RuntimeShutdown:
            return
for _ in range(4):
    threading.Thread(target=spawn, daemon=True).start()
time.sleep(0.01)
"""),
        "multi_thread",
    )
