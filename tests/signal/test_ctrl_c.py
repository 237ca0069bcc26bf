"""Ctrl-C and SIGTERM in real processes: who gets them, and what is left when nobody listens any more."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from engine_support import check_program, each_flavor_name, expect_line, finish, process
from support import DRIVERS

FLAVORS = each_flavor_name()

PRELUDE = """
import asyncio, faulthandler, os, signal, subprocess, sys, threading, time
import freerun
from freerun.signal import ctrl_c, signal as listen

def build():
    flavor, _, driver = sys.argv[1].partition(" ")
    if flavor == "current_thread":
        return freerun.Builder.new_current_thread().driver(driver or "auto").build()
    return freerun.Builder().worker_threads(2).driver(driver or "auto").build()

def interrupted():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        return True
"""


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_it_does_not_interrupt_who_listens(flavor_name: str, driver: str) -> None:
    source = """
async def main():
    stop = freerun.spawn(ctrl_c())
    print("ready")
    await stop
    await freerun.time.sleep(0.01)
    return "cleaned up"
with build() as rt:
    print(rt.block_on(main))
    assert interrupted()
"""
    with process(PRELUDE + source, f"{flavor_name} {driver}") as child:
        expect_line(child, "ready")
        child.send_signal(signal.SIGINT)
        assert finish(child) == (0, "cleaned up\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_two_in_a_row(flavor_name: str) -> None:
    source = """
async def main():
    async with listen(signal.SIGINT) as interrupts:
        print("ready")
        await interrupts.recv()
        print("once")
        await interrupts.recv()
        print("twice")
    print("listening no more")
    await freerun.time.sleep(3600)
try:
    freerun.run(main, flavor=sys.argv[1])
except KeyboardInterrupt:
    print("raised")
"""
    with process(PRELUDE + source, flavor_name) as child:
        for line in ("ready", "once", "twice"):
            expect_line(child, line)
            if line != "twice":
                child.send_signal(signal.SIGINT)
        expect_line(child, "listening no more")
        child.send_signal(signal.SIGINT)
        assert finish(child) == (0, "raised\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_a_cancelled_and_a_forgotten_one_let_go(flavor_name: str) -> None:
    source = """
async def main():
    waiting = freerun.spawn(ctrl_c())
    while "waiting" not in repr(waiting):
        await freerun.yield_now()
    waiting.abort()
    try:
        await waiting
    except freerun.JoinError:
        pass
    forgotten = ctrl_c()
    forgotten.close()
    del forgotten
    print("ready")
    await freerun.time.sleep(3600)
try:
    freerun.run(main, flavor=sys.argv[1])
except KeyboardInterrupt:
    print("raised")
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        child.send_signal(signal.SIGINT)
        assert finish(child) == (0, "raised\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_the_main_task_itself(flavor_name: str) -> None:
    """Called outside of any runtime, and heard before it is awaited."""
    source = """
waiting = ctrl_c()
os.kill(os.getpid(), signal.SIGINT)
with build() as rt:
    rt.block_on(waiting)
    print("heard")
    assert interrupted()
    rt.block_on(freerun.time.sleep, 0)
"""
    with process(PRELUDE + source, flavor_name) as child:
        assert finish(child) == (0, "heard\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_a_listener_from_before_block_on_goes_on_after_it(flavor_name: str) -> None:
    """block_on() and shutdown() install handlers of their own meanwhile."""
    source = """
interrupts = listen(signal.SIGINT)
async def one():
    return await interrupts.recv()
for i in range(3):
    with build() as rt:
        os.kill(os.getpid(), signal.SIGINT)
        rt.block_on(one)
        rt.block_on(freerun.time.sleep, 0)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.try_recv() == 2
    os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.try_recv() == 2
interrupts.close()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert interrupted()
"""
    check_program(PRELUDE + source, flavor_name)


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_terminate_in_order(flavor_name: str) -> None:
    """The usual service: SIGTERM or Ctrl-C, whichever comes first; with a main thread that is not in freerun."""
    source = """
async def serve():
    with listen(signal.SIGTERM) as term:
        print("ready")
        await term.recv()
        print("stopping")
def run():
    with build() as rt:
        rt.block_on(serve)
thread = threading.Thread(target=run)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        child.send_signal(signal.SIGTERM)
        assert finish(child) == (-signal.SIGTERM, "stopping\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_while_the_main_thread_runs_c(flavor_name: str) -> None:
    """A handler of Python's would have to wait for it."""
    source = """
async def serve():
    with listen(signal.SIGTERM) as term:
        print("ready")
        await term.recv()
        print("heard")
        os._exit(3)
threading.Thread(target=lambda: build().block_on(serve), daemon=True).start()
"""
    main_thread = """
import ctypes
while True:
    ctypes.CDLL(None).sleep(60)
"""
    with process(PRELUDE + source + main_thread, flavor_name) as child:
        expect_line(child, "ready")
        child.send_signal(signal.SIGTERM)
        assert finish(child) == (3, "heard\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_listeners_that_nobody_closed_do_not_outlive_the_exit(flavor_name: str) -> None:
    source = """
import atexit
kept = listen(signal.SIGTERM)
async def main():
    freerun.spawn(kept.recv)
    await freerun.yield_now()
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM, sleep=time.sleep):
        kill(pid, number)
        sleep(60)
sys.late = Late()
freerun.run(main, flavor=sys.argv[1])
"""
    with process(PRELUDE + source, flavor_name) as child:
        assert finish(child) == (-signal.SIGTERM, "", "")


def test_fork() -> None:
    """The listeners are the parent's; the child has what was there before."""
    source = """
with listen(signal.SIGUSR1) as usr1, listen(signal.SIGINT) as interrupts:
    child = os.fork()
    if child == 0:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert interrupted()
        try:
            usr1.try_recv()
        except freerun.WouldBlock:
            pass
        async def wait():
            await usr1.recv()
        try:
            freerun.run(wait, flavor="current_thread")
        except RuntimeError as error:
            assert "made before fork()" in str(error), error
        with listen(signal.SIGUSR1) as mine:
            usr1.close()
            os.kill(os.getpid(), signal.SIGUSR1)
            assert mine.try_recv()
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(60)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGUSR1, status
    try:
        usr1.try_recv()
    except freerun.WouldBlock:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert usr1.try_recv()
        print("ok")
"""
    assert check_program(PRELUDE + source, "current_thread") == "ok\n"


def test_subprocesses_get_the_default() -> None:
    source = """
with listen(signal.SIGTERM):
    child = subprocess.Popen(["sleep", "60"])
    child.terminate()
    assert child.wait() == -signal.SIGTERM
"""
    check_program(PRELUDE + source, "current_thread")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_beside_asyncio_and_faulthandler(flavor_name: str) -> None:
    source = """
import tempfile
with tempfile.TemporaryFile() as dump:
    faulthandler.register(signal.SIGUSR1, file=dump)
    with listen(signal.SIGUSR1) as usr1:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert usr1.try_recv()
        assert dump.seek(0, 2) == 0
    os.kill(os.getpid(), signal.SIGUSR1)
    assert dump.seek(0, 2) > 0                    # restored, although Python does not know of it
    faulthandler.unregister(signal.SIGUSR1)

ready, stop = threading.Event(), threading.Event()
async def listening():
    with listen(signal.SIGINT) as interrupts, listen(signal.SIGTERM) as terms:
        ready.set()
        await interrupts.recv()
        await terms.recv()
        return "both"
def run():
    with build() as rt:
        results.append(rt.block_on(listening))
results = []
thread = threading.Thread(target=run)
thread.start()
ready.wait()
async def elsewhere():
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, heard.set)
    os.kill(os.getpid(), signal.SIGHUP)
    await heard.wait()
    os.kill(os.getpid(), signal.SIGTERM)
asyncio.run(elsewhere())
with listen(signal.SIGINT):                       # asyncio.run() has put Python's handler back: take it again
    os.kill(os.getpid(), signal.SIGINT)
    thread.join()
print(results)
"""
    assert check_program(PRELUDE + source, flavor_name) == "['both']\n"


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_example(flavor_name: str) -> None:
    example = Path(__file__).parents[2] / "examples" / "ctrl_c.py"
    with process(example.read_text(), flavor_name) as child:
        expect_line(child, "working; press Ctrl-C")
        child.send_signal(signal.SIGINT)
        status, out, err = finish(child)
    assert (status, err) == (0, "")
    assert out.endswith("stopped in order\n")


def test_too_many_descriptors() -> None:
    source = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
listeners = []
try:
    while True:
        listeners.append(listen(signal.SIGUSR1))
except OSError as error:
    print(error.strerror)
os.kill(os.getpid(), signal.SIGUSR1)
assert all(each.try_recv() for each in listeners)
"""
    assert check_program(PRELUDE + source, "current_thread") == "Too many open files\n"


def test_sub_interpreters() -> None:
    """They may listen, too; Python lets them install no handler."""
    source = """
import _interpreters
sub = _interpreters.create()
failed = _interpreters.exec(sub, '''if True:
    import os, signal, freerun
    async def main():
        with freerun.signal.signal(signal.SIGUSR1) as usr1:
            os.kill(os.getpid(), signal.SIGUSR1)
            await usr1.recv()
        print("heard", flush=True)
    freerun.run(main, flavor="current_thread")
''')
assert failed is None, failed
_interpreters.destroy(sub)
"""
    assert check_program(PRELUDE + source, "current_thread").endswith("heard\n")
