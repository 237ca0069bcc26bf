"""`stream.chunks_timeout`: Tokio's chunks_timeout.rs, by a paused clock."""

from __future__ import annotations

from typing import Any

import pytest
from stream_support import channel_of, collect
from support import every_flavor, seeded

import freerun
from freerun import stream
from freerun.sync import mpsc
from freerun.time import sleep


@pytest.fixture
def paused() -> Any:
    with freerun.Builder.new_current_thread().start_paused().build() as rt:
        yield rt


async def waits(*pattern: float) -> Any:
    """A number after each pause."""
    for n, pause in enumerate(pattern):
        await sleep(pause)
        yield n


def test_usage(paused: freerun.Runtime) -> None:
    async def main() -> list[list[int]]:
        return await collect(stream.chunks_timeout(waits(0, 0, 0, 3, 0, 0), 4, 2))

    assert paused.block_on(main) == [[0, 1, 2], [3, 4, 5]]


def test_full_chunk_with_timeout(paused: freerun.Runtime) -> None:
    async def main() -> list[list[int]]:
        return await collect(stream.chunks_timeout(waits(0, 0, 0, 0.5, 3), 3, 1))

    assert paused.block_on(main) == [[0, 1, 2], [3], [4]]


def test_the_time_counts_from_the_first_of_a_batch(paused: freerun.Runtime) -> None:
    async def main() -> list[list[int]]:
        return await collect(stream.chunks_timeout(waits(10, 1, 1, 1, 1), 100, 2.5))

    assert paused.block_on(main) == [[0, 1, 2], [3, 4]]


@every_flavor
async def test_real_time() -> None:
    batches = await collect(stream.chunks_timeout(waits(0, 0.001, 0.05, 0.001), 100, 0.02))
    assert [n for batch in batches for n in batch] == [0, 1, 2, 3]
    assert all(batches)


@every_flavor
async def test_no_list_is_empty() -> None:
    assert await collect(stream.chunks_timeout(channel_of(), 3, 0)) == []
    assert await collect(stream.chunks_timeout(channel_of(1, 2, 3), 3, 60)) == [[1, 2, 3]]
    assert [n for batch in await collect(stream.chunks_timeout(channel_of(1, 2), 3, 0)) for n in batch] == [1, 2]


@every_flavor
async def test_what_was_collected_comes_before_the_failure() -> None:
    async def fails() -> Any:
        yield 1
        yield 2
        raise KeyError("fails")

    opened = stream.chunks_timeout(fails(), 10, 60)
    assert await anext(opened) == [1, 2]
    with pytest.raises(KeyError):
        await anext(opened)
    with pytest.raises(StopAsyncIteration):
        await anext(opened)


@every_flavor
async def test_cancelled_at_random_it_loses_nothing() -> None:
    random = seeded()
    tx, rx = mpsc.channel(5)

    async def send() -> None:
        with tx:
            for n in range(200):
                await tx.send(n)
                if random.random() < 0.1:
                    await sleep(0.001)

    sender = freerun.spawn(send)
    opened = stream.chunks_timeout(rx, 7, 0.001)
    seen: list[int] = []
    while True:
        try:
            batch = await freerun.time.timeout(random.choice([0, 0.0005, 0.002]), anext(opened))
        except TimeoutError:
            continue
        except StopAsyncIteration:
            break
        assert 1 <= len(batch) <= 7
        seen += batch
    assert seen == list(range(200))
    await sender


@every_flavor
async def test_refuses() -> None:
    with pytest.raises(ValueError, match="argument 'max_size'"):
        stream.chunks_timeout(channel_of(), 0, 1)
    with pytest.raises(TypeError, match="argument 'max_size'"):
        stream.chunks_timeout(channel_of(), 1.5, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="argument 'wait'"):
        stream.chunks_timeout(channel_of(), 1, -1)
