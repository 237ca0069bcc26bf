"""The engine's strands: half-done awaitables, woken wherever they are polled. See `strand.h`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator
from typing import Any

import pytest
from stream_support import collect
from support import every_flavor, in_threads, is_freed, seeded, until

import freerun
from freerun import stream
from freerun._core._native import Strand
from freerun.stream._polling import cancel, first
from freerun.sync import Notify, mpsc


async def value(n: int) -> int:
    await freerun.yield_now()
    return n


async def fails() -> None:
    await freerun.yield_now()
    raise KeyError("fails")


@every_flavor
async def test_results() -> None:
    good, bad = Strand(value(1)), Strand(fails())
    assert not good.is_done
    with pytest.raises(RuntimeError, match="not ended"):
        good.take()
    assert await first([good]) is good and good.is_done
    assert good.poll() and good.throw(KeyError())  # it is over: nothing happens
    assert good.take() == 1
    with pytest.raises(RuntimeError, match="taken already"):
        good.take()
    await first([bad])
    with pytest.raises(KeyError, match="fails"):
        bad.take()
    for leaf in (freerun.yield_now(), freerun.time.sleep(0), freerun.time.sleep(0.001)):
        assert (await first([Strand(leaf)])).take() is None


@every_flavor
async def test_refuses() -> None:
    for bad in (1, None):
        with pytest.raises(TypeError, match="awaitable"):
            Strand(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 'error'"):
        (unused := Strand(value(1))).throw(KeyError)  # type: ignore[arg-type]
    unused.close()
    coro = value(1)
    task = freerun.spawn(coro)
    twice: Strand[int] = Strand(coro)
    await first([twice])
    with pytest.raises(RuntimeError):
        twice.take()
    assert await task == 1


def test_outside_a_task() -> None:
    strand = Strand(value(1))
    with pytest.raises(RuntimeError):
        strand.poll()
    strand.close()


@every_flavor
async def test_only_what_was_woken_is_polled() -> None:
    polls = [0] * 50
    gates = [Notify() for _ in polls]

    class Counting:
        def __init__(self, n: int) -> None:
            self.n = n

        def __await__(self) -> Generator[Any, Any, int]:
            inner: Any = gates[self.n].notified().__await__()
            while True:
                polls[self.n] += 1
                try:
                    token = next(inner)
                except StopIteration:
                    return self.n
                yield token

    strands = [Strand(Counting(n)) for n in range(50)]
    for _ in range(100):  # some give way at first, since the budget is spent; then all wait
        assert {each.poll() for each in strands} == {False}
        await freerun.yield_now()
    before = polls.copy()
    tasks = [freerun.spawn(notify_soon, gates[n]) for n in (7, 30)]
    done = {(await first([each for each in strands if not each.is_done])).take() for _ in range(2)}
    assert done == {7, 30}
    for task in tasks:
        await task
    assert {n for n in range(50) if polls[n] != before[n]} == {7, 30}
    assert await cancel(strands) == []


async def notify_soon(notify: Notify) -> None:
    await freerun.time.sleep(0.005)
    notify.notify_one()


@every_flavor
async def test_yields_are_its_own() -> None:
    """`yield_now()` in one strand is not taken for another one's, nor for the task's."""
    turns: list[str] = []

    async def yields(name: str) -> None:
        for _ in range(3):
            turns.append(name)
            await freerun.yield_now()

    strands = [Strand(yields(name)) for name in "ab"]
    while left := [each for each in strands if not each.is_done]:
        await first(left)
    assert turns == ["a", "b"] * 3


def test_in_another_runtime() -> None:
    """Its timers are in the one where it was begun: another one is refused, and nothing is lost."""
    tx, rx = mpsc.unbounded_channel()
    opened = stream.merge(rx)

    async def begin() -> None:
        with pytest.raises(TimeoutError):
            await freerun.time.timeout(0.001, anext(opened))

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another runtime"):
            await anext(opened)

    async def here() -> int:
        tx.send(1)
        return await anext(opened)

    with freerun.Runtime() as a, freerun.Runtime() as b:
        a.block_on(begin)
        b.block_on(elsewhere)
        assert a.block_on(here) == 1
        a.block_on(begin)
        b.block_on(opened.aclose)
    tx.close()


@every_flavor
async def test_it_is_freed() -> None:
    class Thing:
        pass

    async def holds(thing: Thing) -> None:
        await freerun.time.sleep(3600)

    thing = Thing()
    ref = weakref.ref(thing)
    strand = Strand(holds(thing))
    assert not strand.poll()
    await freerun.yield_now()
    cycle = [strand]
    cycle.append(cycle)  # type: ignore[arg-type]
    del thing, strand, cycle
    gc.collect()
    await until(lambda: is_freed(ref))


def test_from_task_to_task_under_load(rt: freerun.Runtime) -> None:
    """Senders on threads, takers that come, are cancelled and go: no item is lost, and no wake."""
    random = seeded()
    channels = [mpsc.channel(2) for _ in range(4)]

    def send(i: int) -> None:
        with channels[i][0] as tx:
            for n in range(150):
                tx.blocking_send((i, n))

    async def through(rx: Any) -> Any:
        async for item in rx:
            yield item

    async def take(opened: Any, most: int, seconds: float) -> list[Any]:
        items: list[Any] = []
        while len(items) < most:
            try:
                items.append(await freerun.time.timeout(seconds, anext(opened)))
            except TimeoutError:
                if seconds < 1:
                    break
        return items

    async def main() -> list[Any]:
        opened = stream.merge(*(through(rx) if i % 2 else rx for i, (_, rx) in enumerate(channels)))
        items: list[Any] = []
        while len(items) < 600:
            most = min(random.randrange(1, 9), 600 - len(items))
            items += await freerun.spawn(take, opened, most, random.choice([0, 0.001, 60]))
            if len(items) < 600 and random.random() < 0.5:
                items.append(await anext(opened))
        assert await collect(opened) == []
        return items

    with in_threads(4, send):
        items = rt.block_on(main)
    for i in range(4):
        assert [n for who, n in items if who == i] == list(range(150))


@every_flavor
async def test_a_lock_that_it_was_granted_goes_along() -> None:
    """Asked for in one task, granted while nobody polls, taken in another one."""
    mutex = freerun.sync.Mutex(0)

    async def counts() -> Any:
        while True:
            async with mutex as guard:
                guard.value += 1
                yield guard.value

    async def begin(opened: Any) -> None:
        with pytest.raises(TimeoutError):
            await freerun.time.timeout(0.001, anext(opened))

    opened = stream.merge(counts())
    for n in range(1, 6):
        async with mutex:
            await freerun.spawn(begin, opened)
            await begin(opened)
        assert mutex.is_locked()  # it was granted to what is half done
        assert await freerun.spawn(anext, opened) == n
        await opened.aclose()
        assert not mutex.is_locked()
        opened = stream.merge(counts())
