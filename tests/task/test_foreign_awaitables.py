"""Awaiting what belongs to another event loop: an error in that coroutine, and nobody else notices."""

from __future__ import annotations

import asyncio
import concurrent.futures
import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support import every_flavor

import freerun


def asyncio_future() -> Awaitable[Any]:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop.create_future()


@types.coroutine
def bare_yield() -> Any:
    yield


@types.coroutine
def yields_a_number() -> Any:
    yield 17


@types.coroutine
def yields_the_token() -> Any:
    yield ...


class AwaitsIterator:
    def __await__(self) -> Any:
        return iter([1, 2, 3])


FOREIGN = {
    "asyncio.Future": asyncio_future,
    "asyncio.sleep(0)": lambda: asyncio.sleep(0),
    "bare yield": bare_yield,
    "a number": yields_a_number,
    "an ellipsis": yields_the_token,
    "an iterator": AwaitsIterator,
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_foreign(rt: freerun.Runtime, foreign: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="a freerun task cannot await .* belongs to another event loop"):
            await foreign()
        await freerun.yield_now()  # the same task goes on
        assert await freerun.spawn(fine) == 1

    async def fine() -> int:
        await freerun.yield_now()
        return 1

    for _ in range(3):
        rt.block_on(main)


@every_flavor
async def test_asyncio_sleep() -> None:
    """It wants a running asyncio loop even before it yields."""
    with pytest.raises((RuntimeError, TypeError)):
        await asyncio.sleep(0.01)


@every_flavor
async def test_concurrent_future_is_no_awaitable() -> None:
    with pytest.raises(TypeError):
        await concurrent.futures.Future()  # type: ignore[misc]


@every_flavor
async def test_not_awaitable() -> None:
    with pytest.raises(TypeError):
        await 5  # type: ignore[misc]


@every_flavor
async def test_swallowed_a_few_times() -> None:
    """Each await is refused anew, and a proper one works afterwards."""
    refused = 0
    for _ in range(10):
        try:
            await bare_yield()
        except TypeError:
            refused += 1
    assert refused == 10
    await freerun.time.sleep(0.001)


@every_flavor
async def test_unhandled_refusal_ends_the_task() -> None:
    async def wrong() -> None:
        await bare_yield()

    with pytest.raises(TypeError, match="another event loop"):
        await freerun.spawn(wrong)


@every_flavor
async def test_a_refused_await_that_returns() -> None:
    @types.coroutine
    def catches() -> Any:
        try:
            yield
        except TypeError:
            return "caught"

    assert await freerun.spawn(catches()) == "caught"
