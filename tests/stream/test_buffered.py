"""`stream.buffer_unordered` and `stream.buffered`."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from stream_support import Book, channel_of, collect
from support import every_flavor, is_parked, seeded, until
from waiting_support import abort

import freerun
from freerun import stream
from freerun.sync import Notify
from freerun.time import sleep

both = pytest.mark.parametrize("buffer", [stream.buffer_unordered, stream.buffered])


async def value(n: int, pause: float = 0.0) -> int:
    await sleep(pause)
    return n


class Gauge:
    """How many run at once, and how each has ended."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.cancelled = 0

    async def work(self, n: int, turns: int = 3) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(turns):
                await freerun.yield_now()
            return n
        except freerun.Cancelled:
            self.cancelled += 1
            await freerun.yield_now()
            raise
        finally:
            self.running -= 1


@both
@every_flavor
async def test_results(buffer: Any) -> None:
    for n in (1, 3, 100):
        results = await collect(buffer(stream.iter(value(i) for i in range(20)), n))
        assert sorted(results) == list(range(20))
    assert await collect(buffer(stream.iter([]), 3)) == []
    assert await collect(buffer(stream.iter([functools.partial(value, 1), value(2)]), 1)) == [1, 2]
    handles = [freerun.spawn(value, i) for i in range(5)]
    assert sorted(await collect(buffer(channel_of(*handles), 2))) == list(range(5))


@every_flavor
async def test_as_they_come_or_in_order() -> None:
    def make() -> Any:
        gates = [Notify() for _ in range(3)]

        async def gated(n: int) -> int:
            await gates[n].notified()
            if n:
                gates[n - 1].notify_one()
            return n

        gates[2].notify_one()
        return stream.iter(gated(n) for n in range(3))

    assert await collect(stream.buffer_unordered(make(), 3)) == [2, 1, 0]
    assert await collect(stream.buffered(make(), 3)) == [0, 1, 2]


@both
@every_flavor
async def test_at_most_n_at_once_and_in_this_task(buffer: Any) -> None:
    gauge = Gauge()

    async def where() -> int:
        return freerun.task.current().id

    assert sorted(await collect(buffer(stream.iter(gauge.work(i) for i in range(30)), 4))) == list(range(30))
    assert gauge.most == 4 and gauge.running == 0
    assert set(await collect(buffer(stream.iter(where() for _ in range(5)), 3))) == {freerun.task.current().id}


@both
@every_flavor
async def test_a_failing_one_does_not_end_it(buffer: Any) -> None:
    async def fails(n: int) -> int:
        await freerun.yield_now()
        raise KeyError(n)

    opened = buffer(stream.iter(fails(i) if i % 3 == 0 else value(i) for i in range(9)), 2)
    good, bad = [], []
    while True:
        try:
            good.append(await anext(opened))
        except KeyError as error:
            bad.append(error.args[0])
        except StopAsyncIteration:
            break
    assert sorted(good) == [1, 2, 4, 5, 7, 8]
    assert sorted(bad) == [0, 3, 6]


@both
@every_flavor
async def test_an_item_that_cannot_be_awaited(buffer: Any) -> None:
    opened = buffer(stream.iter([1, value(2), lambda: 3]), 1)
    with pytest.raises(TypeError, match="item of the stream.*not int"):
        await anext(opened)
    assert await anext(opened) == 2
    with pytest.raises(TypeError, match="returned int"):
        await anext(opened)
    assert await collect(opened) == []


@both
@every_flavor
async def test_a_failing_stream_cancels_what_runs(buffer: Any) -> None:
    gauge = Gauge()

    async def source() -> Any:
        yield gauge.work(1, 1 << 30)
        yield gauge.work(2, 1 << 30)
        await freerun.yield_now()
        await freerun.yield_now()
        await freerun.yield_now()
        raise KeyError("source")

    opened = buffer(source(), 5)
    with pytest.raises(KeyError, match="source"):
        await anext(opened)
    assert (gauge.running, gauge.cancelled) == (0, 2)


@both
@every_flavor
async def test_closing_cancels_and_awaits(buffer: Any) -> None:
    gauge, book = Gauge(), Book()

    async def source() -> Any:
        try:
            while True:
                yield gauge.work(1, 1 << 30)
        finally:
            book.closed.append("source")

    async def body() -> None:
        async with buffer(source(), 3) as opened:
            await anext(opened)

    task = freerun.spawn(body)
    await until(lambda: gauge.running == 3)
    await abort(task)
    assert (gauge.running, gauge.cancelled, book.closed) == (0, 3, ["source"])


@both
@every_flavor
async def test_a_cancelled_anext_loses_nothing(buffer: Any) -> None:
    random = seeded()
    opened = buffer(stream.iter(value(i, random.choice([0, 0.001, 0.003])) for i in range(50)), 5)
    seen = []
    while len(seen) < 50:
        try:
            seen.append(await freerun.time.timeout(random.choice([0, 0.001]), anext(opened)))
        except TimeoutError:
            pass
    assert sorted(seen) == list(range(50))
    if buffer is stream.buffered:
        assert seen == list(range(50))
    assert await collect(opened) == []


@both
@every_flavor
async def test_one_task_at_a_time(buffer: Any) -> None:
    opened = buffer(stream.iter([sleep(3600)]), 2)
    task = freerun.spawn(anext, opened)
    await until(lambda: is_parked(task))
    with pytest.raises(RuntimeError, match="another task"):
        await anext(opened)
    await abort(task)
    await opened.aclose()


@every_flavor
async def test_coroutines_that_never_began_are_closed(recwarn: pytest.WarningsRecorder) -> None:
    """The one that the stream has given and nobody has polled, too."""
    async with stream.buffer_unordered(stream.iter([value(n, 60) for n in range(1)]), 1) as opened:
        with pytest.raises(TimeoutError):
            await freerun.time.timeout(0, anext(opened))
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


@every_flavor
async def test_refuses() -> None:
    with pytest.raises(ValueError, match="argument 'n'"):
        stream.buffer_unordered(channel_of(), 0)
    with pytest.raises(TypeError, match="argument 'n'"):
        stream.buffered(channel_of(), "1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 'stream'"):
        stream.buffered([value], 1)  # type: ignore[arg-type]
