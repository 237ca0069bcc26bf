"""`stream.StreamMap`: Tokio's stream_stream_map.rs, and what Python adds."""

from __future__ import annotations

import threading

import pytest
from stream_support import Book, Counted, channel_of, collect
from support import every_flavor, is_parked, until

import freerun
from freerun import stream
from freerun.stream import StreamMap
from freerun.sync import mpsc


@every_flavor
async def test_empty() -> None:
    streams: StreamMap[str, int] = StreamMap()
    assert await collect(streams) == []
    assert len(streams) == 0 and streams.is_empty() and bool(streams)
    with pytest.raises(KeyError):
        await streams.remove("foo")


@every_flavor
async def test_single_entry() -> None:
    tx, rx = mpsc.unbounded_channel()
    streams = StreamMap[str, int]()
    streams.insert("foo", rx)
    assert streams.contains_key("foo") and "foo" in streams and "bar" not in streams
    with pytest.raises(ValueError, match="'foo' already"):
        streams.insert("foo", rx)
    tx.send(1)
    assert await anext(streams) == ("foo", 1)
    tx.send(2)
    assert await anext(streams) == ("foo", 2)
    tx.close()
    with pytest.raises(StopAsyncIteration):
        await anext(streams)
    assert streams.is_empty()


@every_flavor
async def test_multiple_entries_and_fairness() -> None:
    streams = StreamMap({n: channel_of(*[n] * 50) for n in range(4)})
    assert sorted(streams.keys()) == [0, 1, 2, 3]
    items = await collect(streams, 120)
    for n in range(4):
        assert 20 <= items.count((n, n)) <= 50
    assert len(await collect(streams)) == 80


@every_flavor
async def test_insert_and_remove() -> None:
    book = Book()
    streams = StreamMap({"a": book.waits("a"), "b": book.numbers("b", 1 << 30)})
    assert await collect(streams, 2) == [("b", 0), ("b", 1)]  # each has been polled first once
    await streams.remove("a")
    assert book.closed == ["a"]
    assert await anext(streams) == ("b", 2)
    await streams.remove("b")
    assert book.closed == ["a", "b"]
    assert await collect(streams) == []
    streams.insert("c", channel_of(1))  # an empty map was no end
    assert await collect(streams) == [("c", 1)]


@every_flavor
async def test_a_removed_receiver_is_as_good_as_before() -> None:
    tx, rx = mpsc.channel(1)
    streams = StreamMap({"rx": rx})
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.001, anext(streams))
    await streams.remove("rx")
    await tx.send(5)
    assert await rx.recv() == 5


@every_flavor
async def test_insert_wakes_who_waits() -> None:
    streams = StreamMap({"silent": channel_of(closed=False)})
    task = freerun.spawn(anext, streams)
    await until(lambda: is_parked(task))
    streams.insert("a", channel_of("item"))
    assert await task == ("a", "item")
    task = freerun.spawn(anext, streams)
    await until(lambda: len(streams) == 1 and is_parked(task))
    threading.Thread(target=lambda: streams.insert("b", channel_of("other"))).start()
    assert await task == ("b", "other")
    await streams.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        streams.insert("c", channel_of())


@every_flavor
async def test_one_that_fails_leaves_the_others() -> None:
    book = Book()
    streams = StreamMap({"bad": book.fails("fails"), "good": channel_of(1, 2, closed=False)})
    items = []
    with pytest.raises(KeyError) as caught:
        while True:
            items.append(await anext(streams))
    assert caught.value.__notes__ == ["in the stream 'bad' of a StreamMap"]
    assert list(streams.keys()) == ["good"]
    items += await collect(streams, 2 - len(items))
    assert items == [("good", 1), ("good", 2)]


@every_flavor
async def test_aclose_closes_all() -> None:
    sources = {n: Counted() for n in range(3)}
    async with StreamMap(sources) as streams:
        await collect(streams, 5)
    assert [each.closes for each in sources.values()] == [1, 1, 1]


@every_flavor
async def test_remove_while_another_task_iterates() -> None:
    streams = StreamMap({"silent": channel_of(closed=False)})
    task = freerun.spawn(anext, streams)
    await until(lambda: is_parked(task))
    with pytest.raises(RuntimeError, match="another task"):
        await streams.remove("silent")
    task.abort()
    await until(task.is_finished)
    await streams.remove("silent")


@every_flavor
async def test_iterating_while_inserting() -> None:
    """The body of the loop adds streams."""
    streams: StreamMap[int, int] = StreamMap({0: channel_of(3)})
    seen = []
    async for _key, left in streams:
        seen.append(left)
        if left:
            streams.insert(len(seen), stream.iter([left - 1]))
    assert seen == [3, 2, 1, 0]
