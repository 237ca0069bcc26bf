"""`signal()`: listeners, in this very process. SIGUSR1 and SIGUSR2 have a handler of the test's own beneath."""

from __future__ import annotations

import os
import signal as system
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    FLAVORS_AND_DRIVERS,
    Flavor,
    every_flavor,
    in_threads,
    is_freed,
    is_parked,
    open_fds,
    seeded,
    until,
    wait_until,
)

import freerun
from freerun.signal import Signal, signal
from freerun.sync import Notify

USR1, USR2 = system.SIGUSR1, system.SIGUSR2


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.fixture(autouse=True)
def beneath() -> Iterator[list[int]]:
    """The signals that nobody listened for."""
    heard: list[int] = []
    before = {each: system.signal(each, lambda number, _frame: heard.append(number)) for each in (USR1, USR2)}
    yield heard
    for each, handler in before.items():
        system.signal(each, handler)


def assert_beneath(beneath: list[int], signum: int) -> None:
    """Nobody listens: what the test installed has the signal again."""
    count = len(beneath)
    send(signum)
    wait_until(lambda: len(beneath) == count + 1)
    assert beneath[-1] == signum


@pytest.mark.parametrize("flavor", FLAVORS_AND_DRIVERS, indirect=True, ids=str)
def test_each_one_arrives(rt: freerun.Runtime, flavor: Flavor, beneath: list[int]) -> None:
    async def listen(heard: list[int], listening: Notify, enough: Notify) -> None:
        with signal(USR1) as usr1:
            listening.notify_one()
            for _ in range(3):
                heard.append(await usr1.recv())
            await enough.notified()  # one that comes later goes to what is beneath

    async def main() -> None:
        for _ in range(5):
            heard: list[int] = []
            listening, enough = Notify(), Notify()
            listener = freerun.spawn(listen, heard, listening, enough)
            await listening.notified()
            while len(heard) < 3:
                system.raise_signal(USR1)  # it has been caught when this returns
                await freerun.time.sleep(0.001)
            enough.notify_one()
            await listener
            assert heard == [USR1] * 3

    rt.block_on(main)
    assert beneath == []
    assert_beneath(beneath, USR1)


@every_flavor
async def test_one_that_waits_is_woken() -> None:
    with signal(USR1) as usr1:
        for _ in range(20):
            waiter = freerun.spawn(usr1.recv)
            await until(lambda: is_parked(waiter))
            send(USR1)
            assert await waiter is USR1


@every_flavor
async def test_nothing_is_lost_before_the_first_await() -> None:
    with signal(USR1) as usr1:
        send(USR1)
        await usr1.recv()
        with pytest.raises(freerun.WouldBlock, match="SIGUSR1 has not come"):
            usr1.try_recv()
        send(USR1)
        await until(lambda: _came(usr1))


def _came(listener: Signal) -> bool:
    try:
        return bool(listener.try_recv())
    except freerun.WouldBlock:
        return False


@every_flavor
async def test_several_at_once_are_one() -> None:
    with signal(USR1) as usr1, signal(USR2) as usr2:
        for _ in range(5):
            send(USR1)
        send(USR2)
        await usr2.recv()
        await until(lambda: _came(usr1))
        # Those that the system has not delivered yet come as one more at most.
        await freerun.time.sleep(0.01)
        _came(usr1)
        waiter = freerun.spawn(usr1.recv)
        await until(lambda: is_parked(waiter))
        assert not waiter.is_finished()
        send(USR1)
        await waiter


@every_flavor
async def test_every_listener_hears_it(beneath: list[int]) -> None:
    listeners = [signal(USR1) for _ in range(20)]
    waiters = [freerun.spawn(each.recv) for each in listeners]
    for waiter in waiters:
        await until(lambda waiter=waiter: is_parked(waiter))
    send(USR1)
    assert [await waiter for waiter in waiters] == [USR1] * 20
    for each in listeners[1:]:
        each.close()
    send(USR1)
    assert await listeners[0].recv() == USR1
    assert beneath == []
    listeners[0].close()


def test_listeners_of_several_runtimes(beneath: list[int]) -> None:
    async def listen() -> int:
        with signal(USR1) as usr1:
            return await usr1.recv()

    with freerun.Builder().worker_threads(1).build() as one, freerun.Builder().worker_threads(2).build() as two:
        waiters = [rt.spawn(listen) for rt in (one, two, one)]
        wait_until(lambda: all(map(is_parked, waiters)))
        send(USR1)
        assert [waiter.blocking_result() for waiter in waiters] == [USR1] * 3
    assert beneath == []


def test_from_one_runtime_to_another(rt: freerun.Runtime) -> None:
    with signal(USR1) as usr1:
        for _ in range(2):
            send(USR1)
            assert rt.block_on(usr1.recv) == USR1
        with freerun.Builder.new_current_thread().build() as other:
            waiter = other.spawn(usr1.recv)

            async def main() -> None:
                await until(lambda: is_parked(waiter))
                send(USR1)
                assert await waiter == USR1

            other.block_on(main)
        send(USR1)
        assert rt.block_on(usr1.recv) == USR1


def test_a_runtime_that_is_not_on_the_main_thread(flavor: Flavor, beneath: list[int]) -> None:
    """And the main thread is not in freerun at all."""
    listening = threading.Event()

    async def main() -> int:
        with signal(USR1) as usr1:
            listening.set()
            return await usr1.recv()

    results: list[int] = []

    def run(_: int) -> None:
        with flavor.builder().build() as rt:
            results.append(rt.block_on(main))

    with in_threads(1, run):
        listening.wait()
        send(USR1)
    assert results == [USR1]
    assert beneath == []
    assert_beneath(beneath, USR1)


@every_flavor
async def test_iteration_ends_with_close() -> None:
    usr1 = signal(USR1)
    seen: list[int] = []

    async def collect() -> None:
        async for each in usr1:
            seen.append(each)

    collecting = freerun.spawn(collect)
    for n in range(1, 4):
        await until(lambda: is_parked(collecting))
        send(USR1)
        await until(lambda n=n: len(seen) == n)
    await until(lambda: is_parked(collecting))
    assert not usr1.closed
    usr1.close()
    await collecting
    usr1.close()
    assert usr1.closed
    assert repr(usr1) == "<Signal SIGUSR1, closed>"
    with pytest.raises(freerun.RecvError, match="the listener for SIGUSR1 is closed"):
        await usr1.recv()
    with pytest.raises(freerun.RecvError):
        usr1.try_recv()


@every_flavor
async def test_close_wakes_who_waits() -> None:
    async with signal(USR1) as usr1:
        waiter = freerun.spawn(usr1.recv)
        await until(lambda: is_parked(waiter))
    with pytest.raises(freerun.RecvError):
        await waiter


@every_flavor
async def test_one_at_a_time_waits() -> None:
    with signal(USR1) as usr1:
        waiter = freerun.spawn(usr1.recv)
        await until(lambda: is_parked(waiter))
        with pytest.raises(RuntimeError, match="another task is already waiting with"):
            await usr1.recv()
        send(USR1)
        await waiter


@every_flavor
async def test_a_cancelled_wait_loses_nothing() -> None:
    with signal(USR1) as usr1:
        for _ in range(20):
            waiter = freerun.spawn(usr1.recv)
            await until(lambda: is_parked(waiter))
            waiter.abort()
            send(USR1)
            try:
                await waiter
            except freerun.JoinError:
                await usr1.recv()


@every_flavor
async def test_dropped_it_listens_no_more(beneath: list[int]) -> None:
    first, second = signal(USR1), signal(USR1)
    ref, last = weakref.ref(first), weakref.ref(second)
    del first
    await until(lambda: is_freed(ref))
    send(USR1)
    await second.recv()
    assert beneath == []
    del second
    await until(lambda: is_freed(last))
    send(USR1)
    await until(lambda: beneath == [USR1])


@every_flavor
async def test_descriptors_are_given_back() -> None:
    def anonymous() -> int:
        return sum("eventfd" in what for what in open_fds().values())

    with signal(USR1) as usr1:  # a runtime opens what it needs
        send(USR1)
        await usr1.recv()
    before = anonymous()
    for _ in range(50):
        with signal(USR1) as usr1:
            send(USR1)
            await usr1.recv()
    assert anonymous() <= before


def test_somebody_else_takes_the_signal(rt: freerun.Runtime, beneath: list[int]) -> None:
    """Who asks last has it, and nobody's handler is overwritten at the end."""
    others: list[int] = []

    def other(number: int, _frame: Any) -> None:
        others.append(number)

    with signal(USR1) as usr1:
        system.signal(USR1, other)
        send(USR1)
        wait_until(lambda: others == [USR1])
        waiter = rt.spawn(usr1.recv)

        async def main() -> None:
            await until(lambda: is_parked(waiter))
            send(USR1)
            assert await waiter == USR1

        rt.block_on(main)
        assert len(others) == 1
    send(USR1)
    wait_until(lambda: len(others) == 2)

    with signal(USR1):
        system.signal(USR1, other)
    send(USR1)
    wait_until(lambda: len(others) == 3)
    assert beneath == []


def test_ignored_and_default_come_back() -> None:
    for handler in (system.SIG_IGN, system.SIG_DFL):
        before = system.signal(system.SIGWINCH, handler)
        with signal(system.SIGWINCH) as resized:
            send(system.SIGWINCH)
            wait_until(lambda resized=resized: _came(resized))
            assert system.getsignal(system.SIGWINCH) is handler
        ignored = int(_status("SigIgn"), 16) >> (system.SIGWINCH - 1) & 1
        caught = int(_status("SigCgt"), 16) >> (system.SIGWINCH - 1) & 1
        assert (ignored, caught) == (handler is system.SIG_IGN, 0)
        system.signal(system.SIGWINCH, before)


def _status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field + ":"))


@pytest.mark.parametrize("signum", [system.SIGKILL, system.SIGSTOP, 9])
def test_what_cannot_be_caught(signum: int) -> None:
    name = system.Signals(signum).name
    with pytest.raises(ValueError, match=f"argument 'signum': {name} cannot be caught"):
        signal(signum)


@pytest.mark.parametrize("signum", [system.SIGSEGV, system.SIGBUS, system.SIGFPE, system.SIGILL])
def test_what_stands_for_a_fault(signum: int) -> None:
    with pytest.raises(ValueError, match=f"{system.Signals(signum).name} stands for a fault of the running code"):
        signal(signum)


@pytest.mark.parametrize("signum", [0, -1, 32, 33, 65, 100_000, 1 << 40])
def test_what_is_no_signal(signum: int) -> None:
    with pytest.raises(ValueError, match="argument 'signum' must be"):
        signal(signum)


@pytest.mark.parametrize("signum", ["SIGTERM", None, 15.0, True])
def test_what_is_no_number(signum: Any) -> None:
    with pytest.raises(TypeError, match="argument 'signum' must be an int"):
        signal(signum)


@every_flavor
async def test_every_other_signal_can_be_had() -> None:
    for signum in sorted(system.valid_signals() - {4, 7, 8, 9, 11, 19}):
        with signal(signum) as listener:
            assert listener.signum == signum
            send(signum)
            assert await listener.recv() == signum


def test_numbers_and_names() -> None:
    with signal(10) as usr1:
        assert usr1.signum is USR1
        assert repr(usr1) == "<Signal SIGUSR1>"
    with signal(system.SIGRTMIN + 1) as unnamed:
        assert unnamed.signum == system.SIGRTMIN + 1
        assert repr(unnamed) == f"<Signal signal {system.SIGRTMIN + 1}>"


def test_a_runtime_without_io() -> None:
    rt = freerun.Builder.new_current_thread().enable_time().build()
    with rt, signal(USR1) as usr1, pytest.raises(RuntimeError, match="without I/O"):
        rt.block_on(usr1.recv)


def test_a_storm(rt: freerun.Runtime, beneath: list[int]) -> None:
    """Listeners come and go, and wait, while signals pour in from other threads. The keeper hears the last of them."""
    random = seeded()
    stop = threading.Event()

    def shoot(_: int) -> None:
        while not stop.is_set():
            send(USR1)

    async def come_and_go(seed: float) -> None:
        for i in range(30):
            with signal(USR1) as usr1:
                if seed > 0.3:
                    await usr1.recv()
                if i % 3 == 0:
                    await freerun.yield_now()

    async def main() -> None:
        async with signal(USR1) as keeper:
            with in_threads(2, shoot):
                tasks = [freerun.spawn(come_and_go, random.random()) for _ in range(8)]
                for task in tasks:
                    await task
                stop.set()
            _came(keeper)
            send(USR1)
            await keeper.recv()

    rt.block_on(main)
    assert beneath == []
