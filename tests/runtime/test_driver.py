"""Timers and sockets while workers are busy; the slot for the task woken last; the report on slow polls."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

import pytest
from engine_support import drive, occupy_all
from support import MULTI, PATIENCE, STRICT_ON_EVERY_DRIVER, Flavor, only, wait_until

import freerun
from freerun.sync import oneshot

STEALING = [flavor for flavor in MULTI if flavor.workers > 1]


async def bind() -> freerun.net.TcpListener:
    return await freerun.net.TcpListener.bind("127.0.0.1:0")


@only(*STRICT_ON_EVERY_DRIVER)
def test_timers_fire_while_every_worker_is_busy(rt: freerun.Runtime, flavor: Flavor) -> None:
    """Nobody can run the task, but it is ready by the time somebody can: the driver's thread saw to it."""
    handle = rt.spawn(freerun.time.sleep, 0.05)
    drive(rt, lambda: "waiting" in repr(handle))
    release = occupy_all(rt, flavor)
    wait_until(lambda: "ready" in repr(handle))
    release()
    assert handle.blocking_result(PATIENCE) is None


@only(*STRICT_ON_EVERY_DRIVER)
def test_connections_arrive_while_every_worker_is_busy(rt: freerun.Runtime, flavor: Flavor) -> None:
    listener = rt.block_on(bind)
    handle = rt.spawn(listener.accept)
    drive(rt, lambda: "waiting" in repr(handle))
    release = occupy_all(rt, flavor)
    with socket.create_connection(listener.local_addr):
        wait_until(lambda: "ready" in repr(handle))
        release()
        stream, _ = handle.blocking_result(PATIENCE)
        stream.close()
    listener.close()


@only(*STEALING)
def test_one_free_worker_is_enough(rt: freerun.Runtime, flavor: Flavor) -> None:
    """All workers but one are in polls that do not end, whichever of them had the driver."""
    release = threading.Event()
    inside = threading.Semaphore(0)

    async def hog() -> None:
        inside.release()
        assert release.wait(PATIENCE)

    async def serve(listener: freerun.net.TcpListener) -> None:
        async for stream, _ in listener:
            async with stream:
                await freerun.time.sleep(0.01)
                await stream.write_all((await stream.read()).upper())

    listener = rt.block_on(bind)
    server = rt.spawn(serve, listener)
    hogs = [rt.spawn(hog) for _ in range(flavor.workers - 1)]
    for _ in hogs:
        assert inside.acquire(timeout=PATIENCE)
    for _ in range(5):
        with socket.create_connection(listener.local_addr, PATIENCE) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
    assert rt.block_on(freerun.time.sleep, 0.01) is None
    assert not any(each.is_finished() for each in hogs)
    release.set()
    for each in hogs:
        each.blocking_result(PATIENCE)
    server.abort()
    listener.close()


@only(*STEALING)
@pytest.mark.parametrize("after", [0.0, 0.002], ids=["for a task from outside", "by a timer"])
def test_who_is_woken_out_of_the_driver_leaves_it_to_another(rt: freerun.Runtime, after: float) -> None:
    """To one that sleeps, at once, and not to the driver's thread after a while, however short the queues."""
    rounds, by_workers = 30, 0

    def turns() -> int:
        return sum(worker.driver_turns for worker in rt.metrics().workers)

    for _ in range(rounds):
        release = threading.Event()
        entered: list[int] = []
        fired: list[int] = []

        async def ticks(fired: list[int], release: threading.Event) -> None:
            await freerun.time.sleep(0.005 + after)
            fired.append(turns())
            release.set()

        async def lasts(entered: list[int], release: threading.Event) -> None:
            if after:
                await freerun.time.sleep(after)
            entered.append(turns())  # the one that brought this worker here is among them
            assert release.wait(PATIENCE)

        rt.block_on(freerun.time.sleep, 0.001)  # whom this wakes goes back to the driver, to be woken next
        handle = rt.spawn(ticks, fired, release)
        wait_until(lambda handle=handle: "waiting" in repr(handle) or handle.is_finished())  # it waits for 5 ms only
        rt.spawn(lasts, entered, release).blocking_result(PATIENCE)
        handle.blocking_result(PATIENCE)
        by_workers += fired[0] > entered[0]
    assert by_workers > 2 * rounds // 3


@only(*STEALING)
def test_hogs_come_and_go(rt: freerun.Runtime, flavor: Flavor) -> None:
    """The driver changes hands between workers and its thread, again and again, and no timer is lost."""

    async def hog() -> None:
        for _ in range(10):
            time.sleep(0.005)
            await freerun.time.sleep(0.003)

    async def ticks() -> int:
        for _ in range(50):
            await freerun.time.sleep(0.002)
        return 50

    hogs = [rt.spawn(hog) for _ in range(flavor.workers)]
    tickers = [rt.spawn(ticks) for _ in range(10)]
    assert [each.blocking_result(PATIENCE) for each in tickers] == [50] * 10
    for each in hogs:
        each.blocking_result(PATIENCE)


@only(*STEALING)
def test_a_spawned_task_runs_elsewhere_if_its_spawner_blocks(rt: freerun.Runtime) -> None:
    """It is in the slot of a worker that does not come back for it."""

    async def main() -> bool:
        ran = threading.Event()

        async def sets() -> None:
            ran.set()

        freerun.spawn(sets)
        return ran.wait(PATIENCE)

    for _ in range(20):
        assert rt.block_on(main)


@only(*STEALING)
def test_a_woken_task_runs_elsewhere_if_its_waker_blocks(rt: freerun.Runtime) -> None:
    async def main() -> bool:
        ran = threading.Event()
        tx, rx = oneshot.channel()

        async def waits() -> None:
            await rx
            ran.set()

        handle = freerun.spawn(waits)
        while "waiting" not in repr(handle):
            await freerun.yield_now()
        tx.send(None)
        return ran.wait(PATIENCE)

    for _ in range(20):
        assert rt.block_on(main)


@only(*STEALING)
def test_a_queue_full_of_tasks_is_stolen_from_a_stuck_worker(rt: freerun.Runtime) -> None:
    async def main() -> int:
        ran: list[int] = []
        done = threading.Event()

        async def one(i: int) -> None:
            ran.append(i)
            if len(ran) == 1000:
                done.set()

        for i in range(1000):
            freerun.spawn(one, i)
        assert done.wait(PATIENCE)
        return len(set(ran))

    assert rt.block_on(main) == 1000


# ---- slow polls ----


def warnings_in(reports: Any) -> list[str]:
    return [record.getMessage() for record in reports if record.levelno == logging.WARNING]


def blocks_here(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_slow_poll_is_reported(flavor: Flavor, reports: Any) -> None:
    async def slow() -> None:
        blocks_here(lambda: warnings_in(reports))

    with flavor.builder().slow_poll_warning(0.05).build() as rt:
        handle = rt.spawn(slow, name="slow one")
        drive(rt, handle.is_finished)
        (message,) = warnings_in(reports)
    assert "'slow one'" in message
    assert f"spawned at {__file__}" in message
    assert "in blocks_here" in message
    assert "slow" in message


def test_slow_poll_is_reported_once_for_each_poll(flavor: Flavor, reports: Any) -> None:
    async def slow() -> None:
        blocks_here(lambda: len(warnings_in(reports)) == 1)
        ends = time.monotonic() + 0.2
        blocks_here(lambda: time.monotonic() > ends)  # long enough for another one
        await freerun.yield_now()
        blocks_here(lambda: len(warnings_in(reports)) == 2)

    with flavor.builder().slow_poll_warning(0.05).build() as rt:
        handle = rt.spawn(slow, name="slow two")
        drive(rt, handle.is_finished)
        assert len([message for message in warnings_in(reports) if "'slow two'" in message]) == 2


def test_no_report_when_it_is_turned_off(flavor: Flavor, reports: Any) -> None:
    async def slow() -> None:
        ends = time.monotonic() + 0.2
        blocks_here(lambda: time.monotonic() > ends)

    with flavor.builder().slow_poll_warning(0).build() as rt:
        rt.block_on(slow)
    assert warnings_in(reports) == []


def test_blocking_calls_are_not_slow_polls(flavor: Flavor, reports: Any) -> None:
    ends = time.monotonic() + 0.3

    async def main() -> None:
        calls = [freerun.spawn_blocking(blocks_here, lambda: time.monotonic() > ends)]
        if not flavor.current_thread:
            freerun.block_in_place(blocks_here, lambda: time.monotonic() > ends)
        for call in calls:
            await call

    with flavor.builder().slow_poll_warning(0.05).build() as rt:
        rt.block_on(main)
    assert warnings_in(reports) == []


def test_waiting_is_not_slow(flavor: Flavor, reports: Any) -> None:
    with flavor.builder().slow_poll_warning(0.05).build() as rt:
        rt.block_on(freerun.time.sleep, 0.3)
    assert warnings_in(reports) == []


@only(*STEALING)
def test_a_stuck_worker_shows_in_the_metrics(rt: freerun.Runtime, flavor: Flavor) -> None:
    release = occupy_all(rt, flavor)
    wait_until(lambda: all(worker.stuck for worker in rt.metrics().workers))
    release()
    assert rt.block_on(freerun.time.sleep, 0.01) is None
    wait_until(lambda: not any(worker.stuck for worker in rt.metrics().workers))


@pytest.mark.parametrize("event_interval", [1, 2, 1000000])
def test_event_interval(flavor: Flavor, event_interval: int) -> None:
    """Sockets and timers are looked at by time, too, so a large interval delays nothing for long."""

    async def main() -> None:
        stop = False

        async def spin() -> None:
            while not stop:
                await freerun.yield_now()

        spinner = freerun.spawn(spin)
        for _ in range(5):
            await freerun.time.sleep(0.002)
        stop = True
        await spinner

    with flavor.builder().event_interval(event_interval).build() as rt:
        rt.block_on(main)
