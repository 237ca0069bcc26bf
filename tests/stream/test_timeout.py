"""`stream.timeout`: Tokio's stream_timeout.rs, by a paused clock."""

from __future__ import annotations

from typing import Any

import pytest
from stream_support import Book, channel_of, collect
from support import CURRENT, every_flavor, only

import freerun
from freerun import stream
from freerun.sync import mpsc
from freerun.time import sleep


@pytest.fixture
def paused() -> Any:
    with freerun.Builder.new_current_thread().start_paused().build() as rt:
        yield rt


async def delays(*waits: float) -> Any:
    for n, wait in enumerate(waits):
        await sleep(wait)
        yield n


async def noted(opened: Any) -> list[Any]:
    """Items, and "late" for every TimeoutError."""
    seen: list[Any] = []
    while True:
        try:
            seen.append(await anext(opened))
        except TimeoutError:
            seen.append("late")
        except StopAsyncIteration:
            return seen


def test_basic_usage(paused: freerun.Runtime) -> None:
    """One error at the most for each item; the item comes after all."""
    assert paused.block_on(noted, stream.timeout(delays(1, 5, 1, 10), 2)) == [0, "late", 1, 2, "late", 3]


def test_return_elapsed_errors_only_once(paused: freerun.Runtime) -> None:
    assert paused.block_on(noted, stream.timeout(delays(100, 1), 2)) == ["late", 0, 1]


def test_no_timeouts(paused: freerun.Runtime) -> None:
    assert paused.block_on(noted, stream.timeout(delays(1, 1, 1), 2)) == [0, 1, 2]


def test_the_time_counts_from_the_item_before(paused: freerun.Runtime) -> None:
    async def main() -> str:
        opened = stream.timeout(delays(0, 5), 2)
        await anext(opened)
        await sleep(1.5)
        before = freerun.time.Instant.now()
        with pytest.raises(TimeoutError, match="no item within 2 s"):
            await anext(opened)
        return f"{before.elapsed():.1f}"

    assert paused.block_on(main) == "0.5"


def test_what_is_there_counts_as_in_time(paused: freerun.Runtime) -> None:
    async def main() -> list[int]:
        opened = stream.timeout(channel_of(1, 2, 3), 1)
        seen = []
        async for item in opened:
            seen.append(item)
            await sleep(10)
        return seen

    assert paused.block_on(main) == [1, 2, 3]


def test_a_cancelled_anext_leaves_the_limit_where_it_was(paused: freerun.Runtime) -> None:
    async def main() -> None:
        opened = stream.timeout(delays(10), 2)
        for _ in range(3):
            with pytest.raises(TimeoutError, match="not done"):
                await freerun.time.timeout(0.5, anext(opened))
        before = freerun.time.Instant.now()
        with pytest.raises(TimeoutError, match="no item"):
            await anext(opened)
        assert before.elapsed() == pytest.approx(0.5, abs=0.01)
        assert await anext(opened) == 0

    paused.block_on(main)


@every_flavor
async def test_zero_and_its_own_timeout_error() -> None:
    assert await collect(stream.timeout(channel_of(1, 2), 0)) == [1, 2]

    async def fails() -> Any:
        await freerun.yield_now()
        raise TimeoutError("its own")
        yield

    opened = stream.timeout(fails(), 60)
    with pytest.raises(TimeoutError, match="its own"):
        await anext(opened)
    with pytest.raises(StopAsyncIteration):
        await anext(opened)


@every_flavor
async def test_a_late_one_is_not_cancelled() -> None:
    book = Book()
    tx, rx = mpsc.channel(1)

    async def through() -> Any:
        try:
            while True:
                yield await rx.recv()
        finally:
            book.closed.append("through")

    opened = stream.timeout(through(), 0.001)
    with pytest.raises(TimeoutError):
        await anext(opened)
    assert book.closed == []
    await tx.send(1)
    assert await anext(opened) == 1
    await opened.aclose()
    assert book.closed == ["through"]


@only(CURRENT)
@every_flavor
async def test_refuses() -> None:
    for bad, error in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="argument 'limit'"):
            stream.timeout(channel_of(), bad)  # type: ignore[arg-type]
