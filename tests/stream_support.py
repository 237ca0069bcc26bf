"""What the tests of streams share: sources that keep books."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Self

import freerun
from freerun.sync import mpsc


async def collect(stream: Any, most: int | None = None) -> list[Any]:
    """Its items, or the first `most` of them."""
    items: list[Any] = []
    while most is None or len(items) < most:
        try:
            items.append(await anext(stream))
        except StopAsyncIteration:
            break
    return items


def channel_of(*items: Any, closed: bool = True) -> Any:
    """A receiver that has these items; the end comes after them, unless it stays open."""
    tx, rx = mpsc.unbounded_channel()
    for item in items:
        tx.send(item)
    if closed:
        tx.close()
    else:
        _open.append(tx)
    return rx


_open: list[Any] = []


class Book:
    """Generators, and how they ended."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    async def numbers(self, name: str, count: int, pause: float = 0.0) -> AsyncGenerator[int]:
        try:
            for n in range(count):
                await freerun.time.sleep(pause)
                yield n
        finally:
            await freerun.yield_now()
            self.closed.append(name)

    async def fails(self, name: str, after: int = 0) -> AsyncGenerator[int]:
        try:
            for n in range(after):
                yield n
            await freerun.yield_now()
            raise KeyError(name)
        finally:
            self.closed.append(name)

    async def waits(self, name: str) -> AsyncGenerator[int]:
        try:
            await freerun.time.sleep(3600)
            yield 0
        finally:
            await freerun.yield_now()
            self.closed.append(name)


class Counted:
    """An async iterator that counts its `aclose()`s and notices two at once."""

    def __init__(self, count: int = 1 << 30) -> None:
        self.left = count
        self.closes = 0
        self.inside = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        assert not self.inside
        self.inside = True
        try:
            await freerun.yield_now()
            if self.left == 0:
                raise StopAsyncIteration
            self.left -= 1
            return self.left
        finally:
            self.inside = False

    async def aclose(self) -> None:
        assert not self.inside
        self.closes += 1
