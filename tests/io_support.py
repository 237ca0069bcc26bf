"""Streams that follow a script, and tasks that are aborted at random."""

from __future__ import annotations

import random as rnd
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from support import until

import freerun
from freerun.io import AsyncReadExt, AsyncWriteExt

PENDING = object()
"""In a script: give way once, as a stream does that has nothing yet."""


class Script(AsyncReadExt, AsyncWriteExt):
    """Gives out pieces as `reads` says, then an end; takes what is written in pieces of `takes` bytes.

    A step of either is `PENDING`, an exception, or bytes to read, or how many bytes to take; without, it takes all.
    """

    def __init__(self, *reads: Any, takes: Iterable[Any] = ()) -> None:
        self.reads = list(reads)
        self.takes = list(takes)
        self.asked: list[int] = []
        self.written: list[bytes] = []
        self.flushes = 0
        self.shut_down = False
        self.closed = False

    @property
    def got(self) -> bytes:
        return b"".join(self.written)

    async def read(self, n: int = 65536, /) -> bytes:
        self.asked.append(n)
        while self.reads:
            step = self.reads.pop(0)
            if step is PENDING:
                await freerun.yield_now()
            elif isinstance(step, BaseException):
                raise step
            else:
                if len(step) > n:
                    self.reads.insert(0, step[n:])
                return step[:n]
        return b""

    async def write(self, data: Any, /) -> int:
        while self.takes:
            step = self.takes.pop(0)
            if step is PENDING:
                await freerun.yield_now()
            elif isinstance(step, BaseException):
                raise step
            else:
                self.written.append(bytes(data[:step]))
                return min(step, len(data))
        self.written.append(bytes(data))
        return len(data)

    async def flush(self) -> None:
        self.flushes += 1

    async def shutdown(self) -> None:
        self.shut_down = True

    def close(self) -> None:
        self.closed = True


def chunks(random: rnd.Random, data: bytes, most: int = 50) -> list[bytes]:
    """Cut data into pieces at random."""
    pieces = []
    while data:
        n = random.randrange(1, most + 1)
        pieces.append(data[:n])
        data = data[n:]
    return pieces


def with_pauses(random: rnd.Random, pieces: list[bytes]) -> list[Any]:
    """The same with `PENDING` strewn in."""
    script: list[Any] = []
    for piece in pieces:
        script += [PENDING] * random.randrange(3)
        script.append(piece)
    return script


class Aborts:
    """Runs something in tasks that are aborted at random moments, until one ends by itself."""

    def __init__(self, random: rnd.Random) -> None:
        self.random = random
        self.count = 0

    async def until_done(self, work: Callable[[], Awaitable[None]], pauses: int = 6) -> None:
        """`work` keeps what it has done, so that the next task goes on where this one stopped."""
        while True:
            task = freerun.spawn(work)
            for _ in range(self.random.randrange(pauses)):
                await freerun.yield_now()
            if self.random.random() < 0.1:
                await freerun.time.sleep(self.random.random() * 0.001)
            task.abort()
            try:
                return await task
            except freerun.JoinError as error:
                if not error.is_cancelled():
                    raise
                self.count += 1


async def feed(random: rnd.Random, stream: Any, data: bytes, most: int = 50, aborts: Aborts | None = None) -> None:
    """Write data in random pieces with random pauses, then end the stream. In the middle wait for some aborts."""
    pieces = chunks(random, data, most)
    for i, piece in enumerate(pieces):
        if aborts and i == len(pieces) // 2:
            await until(lambda: aborts.count >= 5)
        await stream.write_all(piece)
        for _ in range(random.randrange(3)):
            await freerun.yield_now()
    await stream.shutdown()
