"""A thousand runtimes leave nothing behind: no thread, descriptor, task, reference or memory."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from pathlib import Path
from typing import Any

from support import Flavor, open_fds, thread_count, wait_until

import freerun
from freerun.sync import oneshot

ROUNDS = 1000
WARM_UP = 100


class Thing:
    """Something to pass around."""


def rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def work(thing: Thing, listener: bool) -> Thing:
    """A little of everything."""
    tx, rx = oneshot.channel()
    first = freerun.spawn(passes, tx, thing)
    parked = freerun.spawn(freerun.time.sleep, 3600)
    parked.abort()
    freerun.spawn(freerun.time.sleep, 3600)  # for the shutdown
    assert await freerun.spawn_blocking(id, thing) == id(thing)
    await freerun.time.sleep(0)
    if listener:
        async with await freerun.net.TcpListener.bind("127.0.0.1:0"):
            pass
    await first
    async for _ in numbers(thing):
        break
    try:
        await freerun.spawn(fails, thing)
    except LookupError as error:
        assert error.args == (thing,)
    received: Thing = await rx
    return received


async def passes(tx: Any, thing: Thing) -> None:
    await freerun.yield_now()
    tx.send(thing)


async def numbers(thing: Thing) -> Any:
    yield thing
    yield thing


async def fails(thing: Thing) -> None:
    await freerun.yield_now()
    raise LookupError(thing)


def test_a_thousand_rounds(flavor: Flavor) -> None:
    thing = Thing()
    references = [weakref.ref(thing)]

    def rounds(count: int) -> None:
        for i in range(count):
            with flavor.builder().build() as rt:
                assert rt.block_on(work, thing, i % 10 == 0) is thing
            references.append(weakref.ref(rt))
            del rt
        gc.collect()

    def state() -> dict[str, int]:
        return {
            "threads": thread_count(),
            "descriptors": len(open_fds()),
            "references to the thing": sys.getrefcount(thing),
            "references to Thing": sys.getrefcount(Thing),
            "objects": len(gc.get_objects()),
        }

    rounds(WARM_UP)
    before, memory = state(), rss()
    rounds(ROUNDS)
    alive = [ref for ref in references[1:] if ref() is not None]
    assert not alive
    references = references[:1]
    wait_until(lambda: thread_count() <= before["threads"])
    gc.collect()
    after = state()
    assert after["threads"] <= before["threads"]
    assert after["descriptors"] <= before["descriptors"]
    assert after["references to the thing"] == before["references to the thing"]
    assert abs(after["references to Thing"] - before["references to Thing"]) <= 2
    assert after["objects"] <= before["objects"] + ROUNDS // 10  # nothing per round
    assert rss() - memory < ROUNDS * 8 * 1024  # thread stacks alone would be more


def test_tasks_leave_nothing(rt: freerun.Runtime) -> None:
    """Of a hundred thousand tasks, on one runtime."""
    thing = Thing()

    async def main() -> None:
        for _ in range(10):
            handles = [freerun.spawn(passes_on, thing) for _ in range(1000)]
            for handle in handles:
                assert await handle is thing
            for handle in [freerun.spawn(freerun.time.sleep, 3600) for _ in range(100)]:
                handle.abort()
                try:
                    await handle
                except freerun.JoinError:
                    pass

    async def passes_on(thing: Thing) -> Thing:
        await freerun.yield_now()
        return thing

    def settle() -> None:
        rt.block_on(main)
        wait_until(lambda: rt.metrics().alive_tasks == 0)
        gc.collect()

    settle()
    references, objects, memory = sys.getrefcount(thing), len(gc.get_objects()), rss()
    for _ in range(10):
        settle()
    wait_until(lambda: gc.collect() >= 0 and sys.getrefcount(thing) <= references)
    assert len(gc.get_objects()) <= objects + 1000
    assert rss() - memory < 16 * 1024 * 1024


def test_failing_to_start_leaves_nothing() -> None:
    """A runtime whose hooks fail, and settings that do not go together."""
    fds, threads = len(open_fds()), thread_count()
    for _ in range(50):
        try:
            freerun.Builder().start_paused().build()
        except ValueError:
            pass
    assert len(open_fds()) <= fds
    assert thread_count() <= threads
