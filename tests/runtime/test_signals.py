"""Ctrl-C and other signals while `block_on` runs; KeyboardInterrupt and SystemExit raised in tasks."""

from __future__ import annotations

import logging
import signal
import subprocess
from typing import Any

import pytest
from engine_support import drive_until_parked, expect_line, finish, process
from support import FREE_THREADED, MULTI, PATIENCE, Flavor, in_threads, only, wait_until

import freerun

FLAVORS = ["current_thread", "multi_thread"]

PRELUDE = """
import os, signal, sys, threading, time
import freerun
from freerun import time as ftime

def build():
    if sys.argv[1] == "current_thread":
        return freerun.Builder.new_current_thread().build()
    return freerun.Builder().worker_threads(2).build()

def at_rest():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1
"""


ANNOUNCED = """
from freerun.runtime import signals
handle = signals._Guard.__call__
def announce(self, number, frame):
    handle(self, number, frame)
    os.write(1, b"handled\\n")
signals._Guard.__call__ = announce
"""
"""Says when an interrupt has been handled without raising anything."""


def interrupt(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGINT)


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_cleanup_runs_then_it_is_raised(flavor_name: str) -> None:
    source = """
with build() as rt:
    async def other():
        try:
            await ftime.sleep(3600)
        finally:
            print("other ended")
    async def main():
        global h
        h = freerun.spawn(other)
        while "waiting" not in repr(h):
            await freerun.yield_now()
        try:
            print("ready")
            await ftime.sleep(3600)
        except freerun.Cancelled:
            await ftime.sleep(0.01)
            print("cleaned up")
            raise
    try:
        rt.block_on(main)
    except KeyboardInterrupt:
        print("raised", h.is_finished())
    at_rest()
    async def again(): return 5
    assert rt.block_on(again) == 5
print("end")
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        assert finish(child) == (0, "cleaned up\nraised False\nother ended\nend\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_uncaught_it_ends_the_process_as_the_signal(flavor_name: str) -> None:
    source = """
async def main():
    print("ready")
    await ftime.sleep(3600)
freerun.run(main, flavor=sys.argv[1])
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        status, out, err = finish(child)
    assert (status, out) == (-signal.SIGINT, "")
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_main_that_swallows_it(flavor_name: str) -> None:
    """The task may finish as it likes; the interrupt is raised all the same."""
    source = """
rt = build()
async def main():
    print("ready")
    try:
        await ftime.sleep(3600)
    except freerun.Cancelled:
        return "swallowed"
try:
    print(rt.block_on(main))
except KeyboardInterrupt:
    print("raised")
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        assert finish(child) == (0, "raised\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_the_second_one_does_not_wait(flavor_name: str) -> None:
    source = """
rt = build()
async def main():
    print("ready")
    try:
        await ftime.sleep(3600)
    finally:
        print("cleanup")
        await ftime.sleep(3600)
try:
    rt.block_on(main)
except KeyboardInterrupt:
    print("raised")
at_rest()
rt.shutdown(0.01)
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        expect_line(child, "cleanup")
        interrupt(child)
        status, out, err = finish(child)
    assert (status, out) == (0, "raised\n"), err
    assert not err or "this did not end" in err  # unless the second one was raised in the task itself


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_during_a_loop_that_does_not_await(flavor_name: str) -> None:
    """The first one arrives at the next await."""
    source = """
rt = build()
stop = []
threading.Thread(target=lambda: stop.append(sys.stdin.readline()), daemon=True).start()
async def main():
    print("ready")
    while not stop:
        pass
    print("loop ended")
    try:
        await ftime.sleep(3600)
    finally:
        print("cancelled")
try:
    rt.block_on(main)
except KeyboardInterrupt:
    print("raised")
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name, stdin=subprocess.PIPE) as child:
        expect_line(child, "ready")
        interrupt(child)
        assert child.stdin
        child.stdin.write("stop\n")
        child.stdin.flush()
        assert finish(child) == (0, "loop ended\ncancelled\nraised\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_twice_during_a_loop_that_never_ends(flavor_name: str) -> None:
    source = """
import logging
logging.disable()
rt = build()
count = 0
async def main():
    print("ready")
    while True:
        pass
try:
    rt.block_on(main)
except KeyboardInterrupt:
    print("raised")
rt.shutdown(0.01)
"""
    with process(PRELUDE + ANNOUNCED + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        expect_line(child, "handled")  # two signals at once are one
        interrupt(child)
        assert finish(child) == (0, "raised\n", "")


INTERRUPTING_HOOK = """
import logging
logging.disable()
interrupts = 0
def hook():
    global interrupts
    if ready and interrupts < 2:
        interrupts += 1
        signal.raise_signal(signal.SIGINT)
ready = False
rt = getattr(freerun.Builder.new_current_thread(), sys.argv[1])(hook).build()
async def main():
    global ready
    while True:
        try:
            ready = True
            await ftime.sleep(0.001)
            await ftime.sleep(3600)
        except freerun.Cancelled:
            print("cancelled")
try:
    rt.block_on(main)
except KeyboardInterrupt:
    print("raised")
at_rest()
rt.shutdown(0.01)
"""


@pytest.mark.parametrize("hook", ["on_thread_park", "on_thread_unpark"])
def test_twice_during_a_hook(hook: str) -> None:
    """The signal may come while the main thread runs any Python code at all; what it raises there is not lost."""
    with process(PRELUDE + INTERRUPTING_HOOK, hook) as child:
        assert finish(child) == (0, "cancelled\nraised\n", "")


@pytest.mark.parametrize("hook", ["on_thread_park", "on_thread_unpark"])
def test_a_handler_that_raises_during_a_hook(hook: str) -> None:
    source = """
def stop(number, frame):
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
def hook():
    if ready:
        signal.raise_signal(signal.SIGTERM)
ready = False
async def main():
    global ready
    try:
        ready = True
        await ftime.sleep(0.001)
        await ftime.sleep(3600)
    finally:
        ready = False
        await ftime.sleep(0.001)
        print("cleaned up")
with getattr(freerun.Builder.new_current_thread(), sys.argv[1])(hook).build() as rt:
    rt.block_on(main)
"""
    with process(PRELUDE + source, hook) as child:
        assert finish(child) == (5, "cleaned up\n", "")


@pytest.mark.skipif(not FREE_THREADED, reason="with the GIL nothing is drained")
@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_a_handler_that_raises_while_garbage_is_drained(flavor_name: str) -> None:
    """The engine itself has the main thread run a bit of Python now and then (freerun/_core/drain.py)."""
    source = """
from freerun._core import drain
def stop(number, frame):
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
def raise_signal():  # once
    import signal, threading
    if threading.current_thread() is threading.main_thread():
        drain.__code__ = (lambda: None).__code__
        signal.raise_signal(signal.SIGTERM)
async def main():
    drain.drain.__code__ = raise_signal.__code__
    try:
        await ftime.sleep(3600)
    finally:
        print("cleaned up")
with build() as rt:
    rt.block_on(main)
"""
    with process(PRELUDE + source, flavor_name) as child:
        assert finish(child) == (5, "cleaned up\n", "")


def test_none_is_lost_between_two_polls() -> None:
    """It comes during a poll that runs no more Python; the worker looks at its driver, finds nothing, and sleeps."""
    source = """
import ctypes, functools
libc = ctypes.PyDLL(None)
rt = freerun.Builder.new_current_thread().event_interval(1).build()
tx, rx = freerun.sync.oneshot.channel()
signal.signal(signal.SIGTERM, lambda number, frame: tx.send("handled"))
class InC:
    def __await__(self):
        return iter(functools.partial(getattr(libc, "raise"), signal.SIGTERM.value), 0)
async def main():
    with freerun.net.AsyncFd(os.eventfd(0)):  # a driver that has descriptors looks at them
        freerun.spawn(InC()).detach()
        return await rx
print(rt.block_on(main))
rt.shutdown()
"""
    with process(PRELUDE + source, "current_thread") as child:
        assert finish(child) == (0, "handled\n", "")


def test_none_is_lost_while_another_thread_runs_the_core() -> None:
    """Both threads wait for the signal pipe, and the one that is not concerned may empty it."""
    source = """
rt = build()
handled = threading.Semaphore(0)
signal.signal(signal.SIGTERM, lambda number, frame: handled.release())
inside = threading.Semaphore(0)
ends = [freerun.sync.oneshot.channel() for _ in range(2)]
async def wait(i):
    inside.release()
    await ends[i][1]
def send_signals():
    for _ in range(200):
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # so that the main thread's poll() goes on
        assert handled.acquire(timeout=60)
def run_core():
    rt.block_on(wait, 0)
def send():
    assert inside.acquire(timeout=60)
    send_signals()
    for tx, _ in ends:
        tx.send(None)
runs_core, sends = threading.Thread(target=run_core), threading.Thread(target=send)
runs_core.start()
assert inside.acquire(timeout=60)
sends.start()
rt.block_on(wait, 1)
runs_core.join()
sends.join()
rt.shutdown()
print("end")
"""
    with process(PRELUDE + source, "current_thread") as child:
        assert finish(child) == (0, "end\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_ones_own_handler_is_kept(flavor_name: str) -> None:
    source = """
rt = build()
tx, rx = freerun.sync.oneshot.channel()
def mine(number, frame):
    assert threading.current_thread() is threading.main_thread()
    tx.send("from the handler")
signal.signal(signal.SIGINT, mine)
async def main():
    print("ready")
    return await rx
print(rt.block_on(main))
assert signal.getsignal(signal.SIGINT) is mine
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        assert finish(child) == (0, "from the handler\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_a_handler_set_by_a_task_is_kept(flavor_name: str) -> None:
    source = """
rt = build()
def mine(number, frame): ...
async def main():
    if sys.argv[1] == "current_thread":
        signal.signal(signal.SIGINT, mine)
rt.block_on(main)
if sys.argv[1] == "current_thread":
    assert signal.getsignal(signal.SIGINT) is mine
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name) as child:
        assert finish(child) == (0, "", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_other_handlers_run_while_it_waits(flavor_name: str) -> None:
    source = """
rt = build()
count = 0
async def spawned():
    global count
    count += 1
    mine = count                                      # the next one may begin before this one ends
    print("handled", mine)
    if mine == 3:
        tx.send(None)
tx, rx = freerun.sync.oneshot.channel()
signal.signal(signal.SIGTERM, lambda number, frame: rt.spawn(spawned))
async def main():
    print("ready")
    await rx
rt.block_on(main)
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        for i in range(3):
            child.send_signal(signal.SIGTERM)
            expect_line(child, f"handled {i + 1}")
        assert finish(child) == (0, "", "")


TO_THREADS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def to_thread(number, thread=None):
    thread = thread or threading.get_native_id()
    if libc.tgkill(os.getpid(), thread, number):
        assert ctypes.get_errno() == errno.ESRCH, ctypes.get_errno()
"""


@pytest.mark.parametrize("flavor_name", FLAVORS)
@pytest.mark.parametrize("wait", ["rt.block_on(h)", "h.blocking_result()", "rx.blocking_recv()"])
def test_a_signal_that_another_thread_takes(flavor_name: str, wait: str) -> None:
    """Its handler runs all the same, while the main thread waits."""
    source = f"""
handled = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: handled.set())
rt = build()
tx, rx = freerun.sync.oneshot.channel()
def call():
    to_thread(signal.SIGTERM)
    handled.wait()
    tx.send(None)
async def task():
    call()
for i in range(5):
    tx, rx = freerun.sync.oneshot.channel()
    handled.clear()
    h = rt.spawn(task) if sys.argv[1] == "multi_thread" and i % 2 else rt.spawn_blocking(call)
    {wait}
rt.shutdown()
"""
    with process(PRELUDE + TO_THREADS + source, flavor_name) as child:
        assert finish(child) == (0, "", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_signals_to_every_thread(flavor_name: str) -> None:
    """Whatever a thread of ours is in, it is repeated: nothing ends early, nothing is lost."""
    source = """
seen = 0
def count(number, frame):
    global seen
    seen += 1
signal.signal(signal.SIGUSR1, count)
over = threading.Event()
def shoot():
    while not over.wait(0.0005):
        for thread in os.listdir("/proc/self/task"):
            if int(thread) != threading.get_native_id():
                to_thread(signal.SIGUSR1, int(thread))

def blocking(path):
    with open(path, "wb") as file:
        file.write(b"x" * 100_000)
    time.sleep(0.001)
    return os.path.getsize(path)

async def echo(stream):
    async with stream:
        while data := await stream.read(65_536):
            await stream.write_all(data)

async def serve(listener):
    while True:
        stream, _ = await listener.accept()
        freerun.spawn(echo, stream)

async def client(address):
    async with freerun.net.TcpStream.connect(address) as stream:
        for i in range(50):
            await stream.write_all(b"y" * 1000)
            await stream.read_exact(1000)
            begin = time.monotonic()
            await ftime.sleep(0.002)
            assert time.monotonic() - begin >= 0.002

async def files():
    async with freerun.fs.temp_dir() as folder:
        for i in range(20):
            await freerun.fs.write(folder / "a", bytes([i]) * 100_000)
            assert await freerun.fs.read(folder / "a") == bytes([i]) * 100_000
            assert await freerun.spawn_blocking(blocking, folder / "b") == 100_000

async def programs():
    for i in range(3):
        output = await freerun.process.Command("sh", "-c", "sleep 0.01; echo z").output()
        assert output.stdout == b"z\\n" and output.status.success, output

async def main():
    async with await freerun.net.TcpListener.bind(("127.0.0.1", 0)) as listener:
        server = freerun.spawn(serve, listener)
        clients = [freerun.spawn(client, listener.local_addr) for _ in range(4)]
        for handle in [*clients, freerun.spawn(files), freerun.spawn(programs)]:
            await handle
        server.abort()

shooter = threading.Thread(target=shoot)
shooter.start()
try:
    with build() as rt:
        rt.block_on(main)
        assert rt.spawn_blocking(time.sleep, 0.01).blocking_result() is None
finally:
    over.set()
shooter.join()
assert seen
"""
    with process(PRELUDE + TO_THREADS + source, flavor_name) as child:
        assert finish(child) == (0, "", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_a_handler_that_raises(flavor_name: str) -> None:
    """sys.exit() in a SIGTERM handler, as services do: cleanup runs, the status is kept."""
    source = """
def stop(number, frame):
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
async def main():
    try:
        print("ready")
        await ftime.sleep(3600)
    finally:
        await ftime.sleep(0.01)
        print("cleaned up")
with build() as rt:
    rt.block_on(main)
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        child.send_signal(signal.SIGTERM)
        assert finish(child) == (5, "cleaned up\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_the_main_thread_is_elsewhere(flavor_name: str) -> None:
    """block_on runs on another thread: Python interrupts the main thread, as always, and nobody else."""
    source = """
rt = build()
tx, rx = freerun.sync.oneshot.channel()
async def main():
    print("ready")
    return await rx
results = []
thread = threading.Thread(target=lambda: results.append(rt.block_on(main)))
try:
    thread.start()
    while thread.is_alive():
        thread.join(0.05)  # CPython itself may miss a signal just before a join() without end
except KeyboardInterrupt:
    print("interrupted")
tx.send("undisturbed")
thread.join()
print(*results)
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        assert finish(child) == (0, "interrupted\nundisturbed\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_several_in_block_on(flavor_name: str) -> None:
    """Only the main thread's main task is cancelled."""
    source = """
rt = build()
tx, rx = freerun.sync.oneshot.channel()
inside = threading.Event()
async def other():
    inside.set()
    return await rx
results = []
thread = threading.Thread(target=lambda: results.append(rt.block_on(other)))
thread.start()
assert inside.wait(60)
async def main():
    print("ready")
    await ftime.sleep(3600)
try:
    rt.block_on(main)
except KeyboardInterrupt:
    print("interrupted")
tx.send("undisturbed")
thread.join()
print(*results)
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        interrupt(child)
        assert finish(child) == (0, "interrupted\nundisturbed\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_none_is_lost_around_short_calls(flavor_name: str) -> None:
    """Signals at any moment of block_on's beginning and end: each is one KeyboardInterrupt, and nothing of it stays."""
    source = """
rt = build()
async def short():
    await freerun.yield_now()
for i in range(300):
    try:
        os.write(1, b"caught\\n" if i else b"ready\\n")
        while True:
            rt.block_on(short)
    except KeyboardInterrupt:
        pass
    at_rest()
os.write(1, b"caught\\n")
signal.signal(signal.SIGINT, signal.SIG_IGN)
rt.shutdown()
print("end")
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        for _ in range(300):
            interrupt(child)
            expect_line(child, "caught")
        assert finish(child) == (0, "end\n", "")


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_during_shutdown(flavor_name: str) -> None:
    """It does not tear the shutdown apart; it is raised once that is over."""
    source = """
inside = threading.Event()
rt = build()
tx, rx = freerun.sync.oneshot.channel()
def call():
    inside.set()
    sys.stdin.readline()
h = rt.spawn_blocking(call)
assert inside.wait(60)
try:
    print("ready")
    rt.shutdown(60)
    for _ in range(100):
        time.sleep(0.01)
except KeyboardInterrupt:
    print("raised", h.is_finished())
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name, stdin=subprocess.PIPE) as child:
        expect_line(child, "ready")
        interrupt(child)
        assert child.stdin
        child.stdin.write("on\n")
        child.stdin.flush()
        status, out, err = finish(child)
    assert (status, err) == (0, "")
    assert out in ("raised True\n", "raised False\n")  # False: before shutdown() had begun


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_blocking_result_is_interrupted(flavor_name: str) -> None:
    source = """
rt = build()
h = rt.spawn(ftime.sleep, 3600)
def once(number, frame):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, once)
try:
    print("ready")
    h.blocking_result()
except KeyboardInterrupt:
    print("raised")
rt.shutdown()
"""
    with process(PRELUDE + source, flavor_name) as child:
        expect_line(child, "ready")
        while child.poll() is None:  # one may come just before the wait begins
            try:
                child.wait(0.05)
            except subprocess.TimeoutExpired:
                interrupt(child)
        assert finish(child) == (0, "raised\n", "")


# ---- raised in tasks ----


def raiser(error: BaseException) -> Any:
    async def main() -> None:
        raise error

    return main


ERRORS = [KeyboardInterrupt("mine"), SystemExit(3)]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_raised_in_the_main_task(rt: freerun.Runtime, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        rt.block_on(raiser(error))
    assert caught.value is error
    assert rt.block_on(freerun.time.sleep, 0) is None


@pytest.mark.parametrize("how", ["spawn", "spawn_blocking"])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_raised_elsewhere(rt: freerun.Runtime, how: str, error: BaseException) -> None:
    """It cancels the main task, whose cleanup runs, and is raised by block_on."""
    cleaned = []

    def call() -> None:
        raise error

    async def main() -> None:
        handle = freerun.spawn(raiser(error)) if how == "spawn" else freerun.spawn_blocking(call)
        handle.detach()
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            cleaned.append(1)

    bystander = rt.spawn(freerun.time.sleep, 3600)
    with pytest.raises(type(error)) as caught:
        rt.block_on(main)
    assert caught.value is error
    assert cleaned == [1]
    assert not bystander.is_finished()
    assert rt.block_on(freerun.time.sleep, 0) is None


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_raised_in_a_task_that_is_awaited(rt: freerun.Runtime, error: BaseException) -> None:
    async def main() -> None:
        try:
            await freerun.spawn(raiser(error))
        except BaseException as raised:
            assert raised is error or isinstance(raised, freerun.Cancelled)
            raise

    with pytest.raises(type(error)):
        rt.block_on(main)


@only(*MULTI)
def test_raised_while_nobody_is_in_block_on(rt: freerun.Runtime, reports: Any) -> None:
    """Nobody is there to raise it to. It goes where every failure goes, and the next block_on is not to blame."""
    handle = rt.spawn(raiser(SystemExit("mine")))
    with pytest.raises(SystemExit, match="mine"):
        handle.blocking_result(PATIENCE)
    dropped = rt.spawn(raiser(SystemExit("nobody's")))
    abort = dropped.abort_handle()
    del dropped
    wait_until(abort.is_finished)
    wait_until(lambda: any(record.levelno == logging.ERROR for record in reports))
    (record,) = [record for record in reports if record.levelno == logging.ERROR]
    assert record.exc_info
    assert str(record.exc_info[1]) == "nobody's"
    assert rt.block_on(freerun.time.sleep, 0) is None


@only(*MULTI)
def test_every_block_on_ends(rt: freerun.Runtime) -> None:
    """Several threads wait; one task exits. Each wait ends, however far it had come, one with the exception itself."""
    for _ in range(20):
        outcomes: list[BaseException] = []
        entered: list[int] = []

        async def main(i: int, entered: list[int] = entered) -> None:
            entered.append(i)
            await freerun.time.sleep(3600)

        def wait(i: int, main: Any = main, outcomes: list[BaseException] = outcomes) -> None:
            try:
                rt.block_on(main, i)
            except BaseException as error:
                outcomes.append(error)

        async def exits(entered: list[int] = entered) -> None:
            while len(entered) < 3:
                await freerun.yield_now()
            raise SystemExit(1)

        with in_threads(3, wait):
            rt.spawn(exits).detach()
        assert len(outcomes) == 3
        assert [type(each) for each in outcomes].count(SystemExit) >= 1
        assert all(isinstance(each, SystemExit | freerun.JoinError) for each in outcomes)


def test_exit_status_of_run(flavor: Flavor) -> None:
    source = """
async def spawned():
    sys.exit(6)
async def main():
    freerun.spawn(spawned)
    await ftime.sleep(3600)
freerun.run(main, flavor=sys.argv[1])
"""
    with process(PRELUDE + source, "current_thread" if flavor.current_thread else "multi_thread") as child:
        assert finish(child) == (6, "", "")


def test_several_at_once_are_one(rt: freerun.Runtime) -> None:
    async def main() -> None:
        for _ in range(20):
            freerun.spawn(raiser(SystemExit(1)))
        await freerun.time.sleep(3600)

    handle = rt.spawn(freerun.time.sleep, 3600)
    drive_until_parked(rt, handle)
    with pytest.raises(SystemExit):
        rt.block_on(main)
