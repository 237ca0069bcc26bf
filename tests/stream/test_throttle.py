"""`stream.throttle`: Tokio's time_throttle.rs, by a paused clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from stream_support import channel_of, collect
from support import every_flavor

import freerun
from freerun import stream
from freerun.time import Instant, sleep


@pytest.fixture
def paused() -> Any:
    with freerun.Builder.new_current_thread().start_paused().build() as rt:
        yield rt


async def times(opened: Any, most: int = 100) -> list[int]:
    """When its items came, in whole seconds."""
    start = Instant.now()
    seen: list[int] = []
    while len(seen) < most:
        try:
            await anext(opened)
        except StopAsyncIteration:
            break
        seen.append(round(start.elapsed()))
    return seen


def test_usage(paused: freerun.Runtime) -> None:
    """The first at once, no pause after the last."""
    assert paused.block_on(times, stream.throttle(channel_of(1, 2, 3), 10)) == [0, 10, 20]
    assert paused.block_on(times, stream.throttle(channel_of(1, 2), timedelta(seconds=5))) == [0, 5]


def test_slow_streams_are_not_slowed_down(paused: freerun.Runtime) -> None:
    async def slow() -> Any:
        for n in range(3):
            await sleep(20)
            yield n

    assert paused.block_on(times, stream.throttle(slow(), 10)) == [20, 50, 80]
    assert paused.block_on(times, stream.throttle(freerun.time.interval(20), 10), 3) == [0, 20, 40]


def test_the_pause_counts_on_while_nobody_asks(paused: freerun.Runtime) -> None:
    async def main() -> float:
        opened = stream.throttle(channel_of(1, 2), 10)
        await anext(opened)
        with pytest.raises(TimeoutError):
            await freerun.time.timeout(4, anext(opened))
        await sleep(4)
        before = Instant.now()
        assert await anext(opened) == 2
        return before.elapsed()

    assert paused.block_on(main) == pytest.approx(2, abs=0.01)


def test_the_source_is_not_polled_meanwhile(paused: freerun.Runtime) -> None:
    async def main() -> None:
        made: list[float] = []

        async def source() -> Any:
            start = Instant.now()
            while True:
                made.append(round(start.elapsed()))
                yield 1

        assert len(await collect(stream.throttle(source(), 10), 3)) == 3
        assert made == [0, 10, 20]

    paused.block_on(main)


@every_flavor
async def test_zero() -> None:
    assert await collect(stream.throttle(stream.iter(range(100)), 0)) == list(range(100))
    with pytest.raises(ValueError, match="argument 'pause'"):
        stream.throttle(channel_of(), -1)
