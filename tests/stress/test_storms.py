"""Seeded storms: aborts, wakes, steals and block_in_place from everywhere at once; counted exactly."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support import MULTI, PATIENCE, Flavor, in_threads, only, seeded, stress_seconds

import freerun
from freerun.sync import oneshot

pytestmark = pytest.mark.stress

EIGHT = Flavor(8)


def rounds(seconds: float) -> Iterator[int]:
    """Rounds until the time is up, one at least."""
    deadline = time.monotonic() + stress_seconds(seconds)
    number = 0
    while number == 0 or time.monotonic() < deadline:
        yield number
        number += 1


async def outcome(handle: Any) -> str:
    try:
        return str(await handle)
    except freerun.JoinError:
        return "cancelled"
    except ZeroDivisionError:
        return "failed"


def test_abort_storm(rt: freerun.Runtime) -> None:
    """Tasks of every kind, aborted by tasks and threads at random moments: every handle resolves once, every cleanup
    runs, as often as its task began."""
    random = seeded()
    lock = threading.Lock()
    counts: Counter[str] = Counter()

    def count(what: str) -> None:
        with lock:
            counts[what] += 1

    async def victim(seed: int) -> str:
        count("began")
        try:
            match seed % 6:
                case 0:
                    await freerun.time.sleep(seed % 3 / 1000)
                case 1:
                    for _ in range(seed % 20):
                        await freerun.yield_now()
                case 2:
                    await freerun.spawn(freerun.time.sleep, 0.001)
                case 3:
                    await freerun.spawn_blocking(time.sleep, 0.0002)
                case 4:
                    await oneshot.channel()[1]  # its sender is gone
                case 5:
                    1 // 0
        except freerun.sync.RecvError:
            pass
        finally:
            if seed % 4 == 0:
                try:
                    await freerun.yield_now()
                finally:
                    count("ended")
            else:
                count("ended")
        return "done"

    async def storm() -> None:
        handles = [freerun.spawn(victim, random.randrange(10_000)) for _ in range(150)]
        aborters = [handle.abort_handle() for handle in handles]
        random.shuffle(aborters)
        for aborter in aborters[:40]:
            aborter.abort()
        thread = freerun.spawn_blocking(lambda: [aborter.abort() for aborter in aborters[20:80]])

        async def aborts() -> None:
            for aborter in aborters[60:110]:
                aborter.abort()
                await freerun.yield_now()

        task = freerun.spawn(aborts)
        results = Counter([await outcome(handle) for handle in handles])
        assert results.total() == 150
        assert set(results) <= {"done", "cancelled", "failed"}
        await thread
        await task
        assert all(aborter.is_finished() and not aborter.abort() for aborter in aborters)

    for _ in rounds(0.5):
        rt.block_on(storm)
    assert counts["began"] == counts["ended"]


@only(*MULTI, EIGHT)
def test_block_in_place_storm(rt: freerun.Runtime) -> None:
    """Cores change threads all the time while queues are full and thieves at work."""
    random = seeded()
    total = 0
    lock = threading.Lock()

    async def works(seed: int) -> int:
        nonlocal total
        if seed % 3 == 0:
            freerun.block_in_place(time.sleep, seed % 5 / 10_000)
        children = [freerun.spawn(works, seed // 2 - i) for i in range(3)] if seed > 200 else []
        await freerun.yield_now()
        if seed % 7 == 0:
            freerun.block_in_place(int)
        mine = 1
        for child in children:
            mine += await child
        with lock:
            total += 1
        return mine

    async def main() -> None:
        handles = [freerun.spawn(works, random.randrange(1000)) for _ in range(20)]
        counted = 0
        for handle in handles:
            counted += await handle
        assert counted == total

    for _ in rounds(0.5):
        total = 0
        rt.block_on(main)


@only(MULTI[1], MULTI[2], EIGHT)
def test_steal_storm(rt: freerun.Runtime) -> None:
    """One task makes all the work; the others live by stealing. Each piece is done once."""
    done: list[int] = []

    async def piece(i: int) -> None:
        done.append(i)
        if i % 3 == 0:
            await freerun.yield_now()

    async def producer(n: int) -> None:
        handles = []
        for i in range(n):
            handles.append(freerun.spawn(piece, i))
            if i % 100 == 99:
                await freerun.yield_now()
        for handle in handles:
            await handle

    for _ in rounds(0.5):
        done.clear()
        rt.block_on(producer, 2000)
        assert sorted(done) == list(range(2000))


def test_wake_storm(rt: freerun.Runtime) -> None:
    """Wakers fired by threads while their tasks run, yield, park and end: no park is missed, no wake does harm."""
    random = seeded()

    async def parker(wakers: list[Any], parks: int) -> int:
        waker = freerun.lowlevel.current_waker()
        wakers.append(waker)
        for _ in range(parks):
            await freerun.lowlevel.park()
            if random.random() < 0.3:
                await freerun.yield_now()
        return parks

    for _ in rounds(0.5):
        wakers: list[Any] = []
        stop = threading.Event()

        def fires(_: int, wakers: list[Any] = wakers, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                for waker in list(wakers):
                    waker.wake()
                time.sleep(0.0001)

        async def main(wakers: list[Any] = wakers) -> None:
            handles = [freerun.spawn(parker, wakers, 20) for _ in range(20)]
            assert [await handle for handle in handles] == [20] * 20

        with in_threads(3, fires):
            try:
                rt.block_on(main)
            finally:
                stop.set()


def test_spawns_from_everywhere(rt: freerun.Runtime) -> None:
    """Workers, pool threads and plain threads spawn at once; everybody gets the results that are theirs."""

    async def echo(x: Any) -> Any:
        if x % 5 == 0:
            await freerun.yield_now()
        return x

    def pool(base: int) -> list[int]:
        return [freerun.spawn(echo, base + i).blocking_result(PATIENCE) for i in range(20)]

    async def task(base: int) -> list[int]:
        return [await freerun.spawn(echo, base + i) for i in range(100)]

    for number in rounds(0.25):
        finished: list[int] = []

        def plain(i: int, number: int = number, finished: list[int] = finished) -> None:
            for k in range(50):
                value = (number + i) * 1000 + k
                assert rt.spawn(echo, value).blocking_result(PATIENCE) == value
            finished.append(i)

        async def main(finished: list[int] = finished) -> None:
            pools = [freerun.spawn_blocking(pool, i * 1000) for i in range(4)]
            tasks = [freerun.spawn(task, i * 1000) for i in range(8)]
            for i, handle in enumerate(pools):
                assert await handle == [i * 1000 + k for k in range(20)]
            for i, handle in enumerate(tasks):
                assert await handle == [i * 1000 + k for k in range(100)]
            while len(finished) < 3:  # keeps a current-thread runtime going
                await freerun.time.sleep(0.0005)

        with in_threads(3, plain):
            rt.block_on(main)


def test_oneshot_races(rt: freerun.Runtime) -> None:
    """Send, close, drop, receive and abort of one channel at the same moment: a value arrives at most once, somebody
    always learns what became of it."""
    random = seeded()

    async def receives(rx: Any) -> Any:
        try:
            return ("got", await rx)
        except freerun.sync.RecvError:
            return ("nothing", None)

    def sends(tx: Any, how: int, value: object) -> str:
        try:
            if how == 0:
                tx.close()
                return "closed"
            if how == 1:
                return "dropped"
            tx.send(value)
        except freerun.sync.SendError as error:
            assert error.value is value
            return "refused"
        return "sent"

    async def main() -> None:
        for _ in range(100):
            tx, rx = oneshot.channel()
            value, how = object(), random.randrange(4)
            receiver = freerun.spawn(receives, rx)
            sender = freerun.spawn_blocking(sends, tx, how, value)
            del tx
            if random.random() < 0.4:
                receiver.abort()
            try:
                received = await receiver
            except freerun.JoinError:
                received = await receives(rx)
            sent = await sender
            assert received == (("got", value) if sent == "sent" else ("nothing", None)), (received, sent)

    for _ in rounds(0.25):
        rt.block_on(main)


def test_dumps_during_a_storm(rt: freerun.Runtime) -> None:
    """Reading every task's frames all the time neither loses a task nor reads one that runs."""
    handle = rt.handle()
    stop = threading.Event()

    def dumps(_: int) -> None:
        while not stop.is_set():
            handle.dump_tasks()
            handle.metrics()

    async def nested(n: int) -> int:
        await freerun.yield_now()
        return 1 + (await nested(n - 1) if n else 0)

    async def main() -> None:
        for handle in [freerun.spawn(nested, 10) for _ in range(50)]:
            assert await handle == 11

    with in_threads(2, dumps):
        try:
            for _ in rounds(0.25):
                rt.block_on(main)
        finally:
            stop.set()
