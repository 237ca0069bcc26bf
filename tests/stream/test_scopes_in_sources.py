"""Scopes and sets of tasks within a source of a stream: shields, `JoinSet`, `TaskGroup`; and who is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import pytest
from support import every_flavor, until
from waiting_support import still_waits, waiting

import freerun
from freerun import Cancelled, CancelScope, JoinSet, TaskGroup, stream
from freerun.stream import StreamMap
from freerun.sync import Notify, mpsc


def merged(source: AsyncIterable[int]) -> stream.Stream[Any]:
    return stream.merge(source, endless())


def timed(source: AsyncIterable[int]) -> stream.Stream[Any]:
    return stream.timeout(source, 3600)


def mapped(source: AsyncIterable[int]) -> stream.Stream[Any]:
    streams: StreamMap[str, int] = StreamMap()
    streams.insert("source", source)
    streams.insert("endless", endless())
    return streams


def twice(source: AsyncIterable[int]) -> stream.Stream[Any]:
    return merged(timed(source))


async def endless() -> AsyncIterator[int]:
    await freerun.time.sleep(3600)
    yield -1


def number(item: Any) -> int:
    return item[1] if isinstance(item, tuple) else item


each_kind = pytest.mark.parametrize("kind", [merged, timed, mapped, twice])
Kind = Callable[[AsyncIterable[int]], stream.Stream[Any]]


class Shielded:
    """A source that waits in a shield for its second item, and would wait long for the third."""

    def __init__(self) -> None:
        self.gate = Notify()
        self.book: list[str] = []

    async def items(self) -> AsyncIterator[int]:
        yield 0
        with CancelScope(shield=True):
            self.book.append("in")
            await self.gate.notified()
            await freerun.time.sleep(0.001)
            self.book.append("protected")
        yield 1
        try:
            await freerun.time.sleep(3600)
        except Cancelled:
            self.book.append("cancelled")
            raise
        yield 2


async def closes(opened: stream.Stream[Any], got: list[int]) -> None:
    async with opened:
        async for item in opened:
            got.append(number(item))


async def leaves(opened: stream.Stream[Any], got: list[int]) -> None:
    async for item in opened:
        got.append(number(item))


async def is_cancelled(handle: freerun.JoinHandle[Any]) -> None:
    with pytest.raises(freerun.JoinError) as raised:
        await handle
    assert raised.value.is_cancelled()


@each_kind
@every_flavor
async def test_who_closes_waits_for_the_shield(kind: Kind) -> None:
    """The consumer is aborted, and closes the stream: what is shielded in the source ends first."""
    source, got = Shielded(), list[int]()
    task: freerun.JoinHandle[None] = await waiting(closes, kind(source.items()), got)
    await until(lambda: source.book == ["in"])
    task.abort()
    await still_waits(task)
    assert source.book == ["in"]
    source.gate.notify_one()
    await is_cancelled(task)
    assert (source.book, got) == (["in", "protected"], [0])


@each_kind
@every_flavor
async def test_cancelled_comes_when_the_shield_is_left(kind: Kind) -> None:
    """What waits behind the shield in the same item gets it, once."""
    gate, book, got = Notify(), list[str](), list[int]()

    async def items() -> AsyncIterator[int]:
        yield 0
        try:
            with CancelScope(shield=True):
                await gate.notified()
                book.append("protected")
            await freerun.time.sleep(3600)
        except Cancelled:
            await freerun.yield_now()  # not cancelled again
            book.append("cancelled")
            raise
        yield 1

    task: freerun.JoinHandle[None] = await waiting(closes, kind(items()), got)
    await until(lambda: got == [0])
    task.abort()
    await still_waits(task)
    assert book == []
    gate.notify_one()
    await is_cancelled(task)
    assert (book, got) == (["protected", "cancelled"], [0])


@each_kind
@every_flavor
async def test_who_leaves_it_half_done_is_cancelled_at_once(kind: Kind) -> None:
    """The shield is the source's, not the consumer's; and another one goes on with the item, uncancelled."""
    source, got = Shielded(), list[int]()
    opened = kind(source.items())
    task: freerun.JoinHandle[None] = await waiting(leaves, opened, got)
    await until(lambda: source.book == ["in"])
    task.abort()
    await is_cancelled(task)
    source.gate.notify_one()
    assert number(await anext(opened)) == 1
    assert (source.book, got) == (["in", "protected"], [0])
    await opened.aclose()


@each_kind
@every_flavor
async def test_a_timeout_around_the_item(kind: Kind) -> None:
    source = Shielded()
    opened = kind(source.items())
    assert number(await anext(opened)) == 0
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.005, anext(opened))
    with CancelScope(deadline=0.005) as scope:
        await anext(opened)
    assert scope.cancelled_caught and source.book == ["in"]
    source.gate.notify_one()
    assert number(await anext(opened)) == 1
    await opened.aclose()
    assert source.book == ["in", "protected"]


@each_kind
@every_flavor
async def test_a_shield_around_the_consumer(kind: Kind) -> None:
    """An abort of the consumer waits for its own shield, whatever the source is at."""
    source, got = Shielded(), list[int]()
    opened = kind(source.items())

    async def consume() -> None:
        with CancelScope(shield=True):
            for _ in range(2):
                got.append(number(await anext(opened)))
        await freerun.time.sleep(3600)

    task: freerun.JoinHandle[None] = await waiting(consume)
    await until(lambda: source.book == ["in"])
    task.abort()
    await still_waits(task)
    source.gate.notify_one()
    await is_cancelled(task)
    assert got == [0, 1]
    await opened.aclose()


@each_kind
@every_flavor
async def test_a_deadline_in_the_source_is_the_sources(kind: Kind) -> None:
    async def items() -> AsyncIterator[int]:
        for n in range(3):
            with CancelScope(deadline=0.001) as scope:
                await freerun.time.sleep(3600)
            assert scope.cancelled_caught
            yield n

    opened = kind(items())
    assert [number(await anext(opened)) for _ in range(3)] == [0, 1, 2]
    await opened.aclose()


@each_kind
@every_flavor
async def test_a_join_set_in_the_source(kind: Kind) -> None:
    """Its results are items; closed, it aborts its tasks."""
    ended = list[str]()

    async def child(n: int) -> int:
        await freerun.yield_now()
        return n

    async def sleeps() -> int:
        try:
            await freerun.time.sleep(3600)
        finally:
            ended.append("aborted")
        return -1

    async def items() -> AsyncIterator[int]:
        async with JoinSet[int]() as tasks:
            for n in range(5):
                tasks.spawn(child, n)
            tasks.spawn(sleeps)
            while True:
                yield await tasks.join_next()

    got = list[int]()
    task: freerun.JoinHandle[None] = freerun.spawn(closes, kind(items()), got)
    await until(lambda: len(got) == 5)
    task.abort()
    await is_cancelled(task)
    assert sorted(got) == [0, 1, 2, 3, 4]
    await until(lambda: ended == ["aborted"])


@each_kind
@every_flavor
async def test_a_task_group_in_the_source(kind: Kind) -> None:
    """Between two items; its failure is the stream's, and no Cancelled gets out."""
    tx, rx = mpsc.unbounded_channel()

    async def child(n: int) -> None:
        await freerun.yield_now()
        if n == 2:
            raise KeyError(n)
        tx.send(n)

    async def items() -> AsyncIterator[int]:
        for n in range(3):
            async with TaskGroup() as group:
                group.spawn(child, n)
                if n == 2:
                    await freerun.time.sleep(3600)  # the failure ends this
            yield await rx.recv()

    opened = kind(items())
    assert [number(await anext(opened)) for _ in range(2)] == [0, 1]
    with pytest.raises(ExceptionGroup) as raised:
        await anext(opened)
    assert raised.group_contains(KeyError)


@each_kind
@every_flavor
async def test_a_task_group_in_the_source_is_cancelled_with_it(kind: Kind) -> None:
    """By the consumer's abort: its tasks are aborted, and waited for."""
    book, got, inside = list[str](), list[int](), Notify()

    async def child() -> None:
        try:
            inside.notify_one()
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            book.append("child")

    async def items() -> AsyncIterator[int]:
        yield 0
        try:
            async with TaskGroup() as group:
                group.spawn(child)
        finally:
            book.append("source")

    task: freerun.JoinHandle[None] = freerun.spawn(closes, kind(items()), got)
    await inside.notified()
    task.abort()
    await is_cancelled(task)
    assert (book, got) == (["child", "source"], [0])
