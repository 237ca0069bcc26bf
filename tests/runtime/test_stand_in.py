"""Tasks are polled while every worker is stuck, by the stand-in; and what becomes of it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from engine_support import build, drive_until_parked, occupy_all, threads_named, unique_name, wait_gone
from support import (
    PATIENCE,
    STOOD_IN_FOR,
    STOOD_IN_FOR_ON_EVERY_DRIVER,
    STRICT,
    Flavor,
    all_at_once,
    check_script,
    only,
    wait_until,
)

import freerun
from freerun.sync import oneshot

MANY = 200


async def tick(ticks: list[int]) -> None:
    for i in range(MANY):
        await freerun.time.sleep(0.001)
        ticks.append(i)


@only(*STOOD_IN_FOR_ON_EVERY_DRIVER)
def test_timers_go_on(rt: freerun.Runtime, flavor: Flavor) -> None:
    ticks: list[int] = []
    handle = rt.spawn(tick, ticks)
    wait_until(lambda: ticks)
    release = occupy_all(rt, flavor)
    handle.blocking_result(PATIENCE)
    assert ticks == list(range(MANY))
    assert rt.metrics().stand_in_polls > 0
    release()


COMPUTES_UNTIL_A_TIMER_FIRES = """
import sys, threading, time
import freerun

began, fired = threading.Event(), threading.Event()

async def fire():
    began.set()
    await freerun.time.sleep(0.01)
    fired.set()

async def main():
    freerun.spawn(fire)
    while not began.is_set():
        await freerun.yield_now()
    deadline = time.monotonic() + float(sys.argv[1])
    while not fired.is_set() and time.monotonic() < deadline:
        pass
    print(fired.is_set())

runtime = freerun.Builder().worker_threads(1).build()
with runtime:
    runtime.block_on(main)
"""


@pytest.mark.parametrize("env", [{}, {"PYTHON_GIL": "1"}])
def test_a_timer_fires_beside_a_poll_that_computes(env: dict[str, str]) -> None:
    """Also where the GIL is on, for which threads wait a while: that is no garbage collection."""
    assert check_script(COMPUTES_UNTIL_A_TIMER_FIRES, str(PATIENCE / 2), env=env) == "True\n"


@only(*STOOD_IN_FOR_ON_EVERY_DRIVER)
def test_connections_are_accepted_and_served(rt: freerun.Runtime, flavor: Flavor) -> None:
    async def serve(listener: freerun.net.TcpListener) -> None:
        async for stream, _ in listener:
            freerun.spawn(answer, stream)

    async def answer(stream: freerun.net.TcpStream) -> None:
        async with stream:
            while data := await stream.read():
                await stream.write_all(data.upper())

    async def bind() -> freerun.net.TcpListener:
        return await freerun.net.TcpListener.bind("127.0.0.1:0")

    listener = rt.block_on(bind)
    server = rt.spawn(serve, listener)
    drive_until_parked(rt, server)
    release = occupy_all(rt, flavor)
    for _ in range(10):
        with socket.create_connection(listener.local_addr, PATIENCE) as client:
            client.settimeout(PATIENCE)
            for _ in range(3):
                client.sendall(b"hello")
                assert client.recv(10) == b"HELLO"
    release()
    server.abort()
    listener.close()


@only(*STOOD_IN_FOR)
def test_what_was_queued_behind_the_call_is_run(rt: freerun.Runtime, flavor: Flavor) -> None:
    """Tasks in the slot and in the ring of a worker that does not come back for them."""
    done = threading.Event()
    ran: list[int] = []

    async def main() -> bool:
        release = threading.Event()
        hogs = [freerun.spawn(hog, release) for _ in range(flavor.workers - 1)]
        for i in range(MANY):
            freerun.spawn(counts, i)
        try:
            return done.wait(PATIENCE)  # this worker, too
        finally:
            release.set()
            for each in hogs:
                await each

    async def hog(release: threading.Event) -> None:
        release.wait(PATIENCE)

    async def counts(i: int) -> None:
        await freerun.yield_now()
        ran.append(i)
        if len(ran) == MANY:
            done.set()

    assert rt.block_on(main)
    assert sorted(ran) == list(range(MANY))


ONE = Flavor(1)
"""A single worker and the stand-in: who spawns and what is spawned have the same thread, if nobody stands in."""


@only(ONE)
def test_a_worker_that_spawns_is_not_stood_in_for(rt: freerun.Runtime) -> None:
    """It would be if the machine did not let it run for 10 ms: one of several times it does not happen."""

    async def spawns_for_long() -> int:
        before = rt.metrics().stand_in_polls
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            freerun.spawn(freerun.task.consume_budget)
        return rt.metrics().stand_in_polls - before

    wait_until(lambda: rt.block_on(spawns_for_long) == 0)


@only(ONE)
@pytest.mark.parametrize("pause", [0.002, 0.0])
def test_a_worker_that_spawns_for_too_long_is(rt: freerun.Runtime, pause: float) -> None:
    """One that is slow at it, which makes it like any that is stuck; and one that does it for more than a second."""
    ran = threading.Event()

    async def sets() -> None:
        ran.set()

    async def main() -> bool:
        freerun.spawn(sets)
        deadline = time.monotonic() + PATIENCE
        while not ran.is_set() and time.monotonic() < deadline:
            freerun.spawn(freerun.task.consume_budget)
            time.sleep(pause)
        return ran.is_set()

    assert rt.block_on(main)
    assert rt.metrics().stand_in_polls > 0


@only(*STOOD_IN_FOR)
def test_nothing_is_left_behind_when_the_workers_come_back(rt: freerun.Runtime, flavor: Flavor) -> None:
    """It is in the middle of its queue, and in a poll that does not end, when a worker is free again."""
    first, stuck = threading.Event(), threading.Event()

    async def sticks() -> None:
        first.set()
        stuck.wait(PATIENCE)

    async def waits() -> None:
        await freerun.yield_now()

    release = occupy_all(rt, flavor)
    sticking = rt.spawn(sticks)
    assert first.wait(PATIENCE)  # the stand-in runs it
    others = [rt.spawn(waits) for _ in range(MANY)]
    release()
    for each in others:
        each.blocking_result(PATIENCE)
    assert not sticking.is_finished()
    stuck.set()
    sticking.blocking_result(PATIENCE)


@only(*STOOD_IN_FOR)
def test_a_task_that_it_woke_is_not_stranded_with_it(rt: freerun.Runtime, flavor: Flavor) -> None:
    """The woken one is in the stand-in's slot, the waker blocks, and a worker is free: it takes the task."""
    release = occupy_all(rt, flavor)
    inside, done = threading.Event(), threading.Event()

    async def main() -> bool:
        tx, rx = oneshot.channel()

        async def receives() -> None:
            await rx
            done.set()

        handle = freerun.spawn(receives)
        while "waiting" not in repr(handle):
            await freerun.yield_now()
        tx.send(None)
        inside.set()
        return done.wait(PATIENCE)

    handle = rt.spawn(main)
    assert inside.wait(PATIENCE)
    release()
    assert handle.blocking_result(PATIENCE)


@only(*STOOD_IN_FOR)
def test_a_task_there_is_in_the_runtime_like_any_other(rt: freerun.Runtime, flavor: Flavor) -> None:
    release = occupy_all(rt, flavor)
    collected = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            collected.append("closed")

    async def main() -> str:
        with pytest.raises(RuntimeError, match="inside a task"):
            rt.block_on(freerun.yield_now())
        handle = freerun.spawn(freerun.yield_now)
        with pytest.raises(RuntimeError, match="await the handle"):
            handle.blocking_result()
        await handle
        assert await freerun.spawn_blocking(lambda: 7) == 7
        async for _ in generator():
            break
        return freerun.block_in_place(lambda: "in place")

    assert rt.spawn(main).blocking_result(PATIENCE) == "in place"
    release()
    wait_until(lambda: collected == ["closed"])


@only(*STOOD_IN_FOR)
def test_block_in_place_gives_the_core_to_another_thread(rt: freerun.Runtime, flavor: Flavor) -> None:
    """Again and again: one blocks in place, the next one is polled meanwhile."""
    release = occupy_all(rt, flavor)
    inside = threading.Semaphore(0)
    free = threading.Event()

    def block() -> None:
        inside.release()
        assert free.wait(PATIENCE)

    async def in_place() -> None:
        freerun.block_in_place(block)
        await freerun.yield_now()

    handles = [rt.spawn(in_place) for _ in range(10)]
    for _ in handles:
        assert inside.acquire(timeout=PATIENCE)
    free.set()
    for each in handles:
        each.blocking_result(PATIENCE)
    release()


@all_at_once(*STOOD_IN_FOR)
def test_its_thread_ends_when_it_is_not_called(flavor: Flavor) -> None:
    prefix = unique_name()
    with build(flavor, prefix) as rt:
        for _ in range(2):
            release = occupy_all(rt, flavor)
            rt.spawn(freerun.yield_now).blocking_result(PATIENCE)
            assert [name for name in threads_named(prefix) if "stand" in name]
            release()
            wait_until(lambda: not [name for name in threads_named(prefix) if "stand" in name])
    wait_gone(prefix)


@all_at_once(*STOOD_IN_FOR)
def test_what_its_thread_spawns_on_its_way_out_is_run(flavor: Flavor) -> None:
    """It is no worker any more by then: nobody would look into its slot."""
    on_its_way, ran = threading.Event(), threading.Event()

    async def runs() -> None:
        ran.set()

    def stopped() -> None:
        if not on_its_way.is_set():  # the workers go when it is over
            on_its_way.set()
            freerun.spawn(runs)

    with flavor.builder().on_thread_stop(stopped).build() as rt:
        release = occupy_all(rt, flavor)
        rt.spawn(freerun.yield_now).blocking_result(PATIENCE)
        release()
        assert on_its_way.wait(PATIENCE)
        assert ran.wait(PATIENCE)


@all_at_once(*STOOD_IN_FOR)
def test_what_a_destructor_spawns_before_its_thread_ends_is_run(flavor: Flavor) -> None:
    """On free-threaded builds the stand-in itself frees what it had made and others dropped, just before it goes."""
    ran = threading.Event()
    kept: list[object] = []

    async def runs() -> None:
        ran.set()

    class Spawns:
        def __del__(self) -> None:
            rt.spawn(runs)

    async def makes() -> None:
        kept.append(Spawns())

    prefix = unique_name()
    with build(flavor, prefix) as rt:
        release = occupy_all(rt, flavor)
        rt.spawn(makes).blocking_result(PATIENCE)
        release()
        kept.clear()
        assert ran.wait(PATIENCE)
        wait_until(lambda: not [name for name in threads_named(prefix) if "stand" in name])


@only(*STOOD_IN_FOR)
def test_shutdown_while_it_runs(flavor: Flavor) -> None:
    """Every worker is stuck for the whole of the shutdown's grace: cleanup runs all the same."""
    prefix = unique_name()
    cleaned = []

    async def body() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.time.sleep(0.001)
            cleaned.append(True)

    rt = build(flavor, prefix)
    handles = [rt.spawn(body) for _ in range(10)]
    drive_until_parked(rt, *handles)
    release = occupy_all(rt, flavor)
    thread = threading.Thread(target=rt.shutdown, args=(PATIENCE,))
    thread.start()
    wait_until(lambda: len(cleaned) == 10)
    release()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    wait_gone(prefix)


@only(*STRICT)
def test_it_can_be_turned_off(rt: freerun.Runtime, flavor: Flavor, reports: Any) -> None:
    release = occupy_all(rt, flavor)
    wait_until(lambda: all(worker.stuck for worker in rt.metrics().workers))
    handle = rt.spawn(freerun.yield_now)
    release()
    handle.blocking_result(PATIENCE)
    assert rt.metrics().stand_in_polls == 0


@only(*STOOD_IN_FOR)
def test_it_is_reported_as_slow_when_it_is_stuck_itself(flavor: Flavor, reports: Any) -> None:
    free, inside = threading.Event(), threading.Event()

    async def sticks() -> None:
        inside.set()
        free.wait(PATIENCE)

    with flavor.builder().slow_poll_warning(0.05).build() as rt:
        release = occupy_all(rt, flavor)
        rt.spawn(sticks)
        assert inside.wait(PATIENCE)
        wait_until(lambda: any("stand-in" in text and "sticks" in text for text in reports.messages))
        free.set()
        release()


@only(*STOOD_IN_FOR)
def test_hooks_are_called(flavor: Flavor) -> None:
    lock = threading.Lock()
    threads: list[int] = []

    def started() -> None:
        with lock:
            threads.append(threading.get_ident())

    with flavor.builder().on_thread_start(started).build() as rt:
        release = occupy_all(rt, flavor)
        ran_on = rt.spawn(_ident).blocking_result(PATIENCE)
        release()
    assert ran_on in threads


async def _ident() -> int:
    return threading.get_ident()


@only(*STOOD_IN_FOR)
def test_fork_in_it(flavor: Flavor) -> None:
    """The child may call os._exit(); there is no runtime in it."""

    async def forks() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        return pid

    with flavor.builder().build() as rt:
        release = occupy_all(rt, flavor)
        pid = rt.spawn(forks).blocking_result(PATIENCE)
        release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
