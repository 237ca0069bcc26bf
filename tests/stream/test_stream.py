"""What every stream of `freerun.stream` does: closing its sources, keeping what was begun, one task at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from stream_support import Book, Counted, channel_of, collect
from support import check_script, every_flavor, is_freed, is_parked, seeded, until
from waiting_support import abort, gives_way

import freerun
from freerun import stream
from freerun.stream import Stream
from freerun.sync import mpsc

EVERY: dict[str, Callable[[Any], Stream[Any]]] = {
    "merge": lambda source: stream.merge(source),
    "stream_map": lambda source: stream.StreamMap({"key": source}),
    "timeout": lambda source: stream.timeout(source, 3600),
    "throttle": lambda source: stream.throttle(source, 0),
    "chunks_timeout": lambda source: stream.chunks_timeout(source, 1, 3600),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())


def plain(item: Any) -> Any:
    """The item itself, whichever stream it came through."""
    return item[0] if isinstance(item, list) else item[1] if isinstance(item, tuple) else item


@every
@every_flavor
async def test_everything_comes_through(make: Any) -> None:
    assert [plain(item) async for item in make(channel_of(1, 2, 3))] == [1, 2, 3]
    assert [plain(item) async for item in make(stream.iter(range(200)))] == list(range(200))
    assert await anext(make(make(stream.iter("abc")))) in ("a", [["a"]], ("key", ("key", "a")))
    assert await collect(make(channel_of())) == []
    ticks = await collect(make(freerun.time.interval(0.001)), 3)
    assert len(ticks) == 3


@every
@every_flavor
async def test_sources_are_closed_at_the_end(make: Any) -> None:
    source = Counted(3)
    opened = make(source)
    assert len(await collect(opened)) == 3
    if not isinstance(opened, stream.StreamMap):  # from a map it is gone; by then it has ended by itself
        assert source.closes == 1
    with pytest.raises(StopAsyncIteration):
        await anext(opened)
    await opened.aclose()
    await opened.aclose()
    assert source.closes <= 1


@every
@every_flavor
async def test_sources_are_closed_by_aclose(make: Any) -> None:
    book = Book()
    opened = make(book.numbers("numbers", 100))
    async with opened:
        async for item in opened:
            assert plain(item) == 0
            break
    assert book.closed == ["numbers"]
    with pytest.raises(StopAsyncIteration):
        await anext(opened)
    assert "closed" in repr(opened)
    source = Counted()
    opened = make(source)
    await opened.aclose()  # before anything of it was asked for
    assert source.closes == 1


@every
@every_flavor
async def test_what_was_begun_is_cancelled_and_awaited(make: Any) -> None:
    book = Book()
    opened = make(book.waits("waits"))
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.005, anext(opened))
    assert book.closed == []
    await opened.aclose()
    assert book.closed == ["waits"]


@every
@every_flavor
async def test_sources_are_closed_when_the_task_is_aborted(make: Any) -> None:
    book = Book()

    async def body() -> None:
        async with make(book.waits("waits")) as opened:
            async for _ in opened:
                pass

    task = freerun.spawn(body)
    await until(lambda: is_parked(task))
    await abort(task)
    assert book.closed == ["waits"]


@every
@every_flavor
async def test_one_that_is_dropped_is_closed(make: Any) -> None:
    """As an async generator: in a task of its own."""
    book = Book()

    async def body() -> None:
        async for _ in make(book.numbers("dropped", 100)):
            break
        opened = make(book.waits("half done"))
        with pytest.raises(TimeoutError):
            await freerun.time.timeout(0.001, anext(opened))

    await freerun.spawn(body)
    gc.collect()
    await until(lambda: sorted(book.closed) == ["dropped", "half done"])


@every
@every_flavor
async def test_a_failing_source(make: Any) -> None:
    book = Book()
    opened = make(book.fails("fails", 2))
    assert [plain(item) for item in await collect(opened, 2)] == [0, 1]
    with pytest.raises(KeyError, match="fails"):
        await anext(opened)
    assert book.closed == ["fails"]
    with pytest.raises(StopAsyncIteration):
        await anext(opened)


@every
@every_flavor
async def test_a_failing_cleanup(make: Any) -> None:
    async def bad() -> Any:
        try:
            yield 1
        finally:
            raise ValueError("cleanup")

    async def bad_inside() -> Any:
        try:
            await freerun.time.sleep(3600)
            yield 1
        finally:
            raise ValueError("cleanup")

    opened = make(bad())
    await anext(opened)
    with pytest.raises(ValueError, match="cleanup"):
        await opened.aclose()
    opened = make(bad_inside())
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.001, anext(opened))
    with pytest.raises(ValueError, match="cleanup"):
        await opened.aclose()


@every_flavor
async def test_several_failing_cleanups() -> None:
    async def bad(n: int) -> Any:
        try:
            yield n
        finally:
            raise ValueError(n)

    opened = stream.merge(bad(1), bad(2), stream.iter([3]))
    await collect(opened, 3)
    with pytest.raises(ExceptionGroup) as caught:
        await opened.aclose()
    assert sorted(str(error) for error in caught.value.exceptions) == ["1", "2"]


@every
@every_flavor
async def test_a_cancelled_anext_loses_nothing(make: Any) -> None:
    """Whatever the source is: a channel, a generator that a cancel would end, an interval."""
    random = seeded()
    tx, rx = mpsc.channel(3)
    opened = make(rx)

    async def send() -> None:
        with tx:
            for n in range(100):
                await tx.send(n)
                if random.random() < 0.3:
                    await freerun.time.sleep(0.001)

    sender = freerun.spawn(send)
    seen: list[int] = []
    while len(seen) < 100:
        try:
            seen.append(plain(await freerun.time.timeout(random.choice([0, 0.0005, 0.002]), anext(opened))))
        except TimeoutError:
            pass
    assert seen == list(range(100))
    await sender
    book = Book()
    opened = make(book.numbers("numbers", 20, 0.001))
    seen = []
    while len(seen) < 20:
        try:
            seen.append(plain(await freerun.time.timeout(random.choice([0, 0.0005, 0.002]), anext(opened))))
        except TimeoutError:
            pass
    assert seen == list(range(20))
    assert await collect(opened) == [] and book.closed == ["numbers"]


@every
@every_flavor
async def test_one_task_at_a_time(make: Any) -> None:
    opened = make(channel_of(closed=False))
    task = freerun.spawn(anext, opened)
    await until(lambda: is_parked(task))
    with pytest.raises(RuntimeError, match="iterated by another task"):
        await anext(opened)
    with pytest.raises(RuntimeError, match="iterated by another task"):
        await opened.aclose()
    await abort(task)
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0, anext(opened))
    await opened.aclose()


@every
@every_flavor
async def test_from_task_to_task(make: Any) -> None:
    tx, rx = mpsc.channel(3)
    opened = make(rx)
    for n in range(5):
        await tx.send(n)
        assert plain(await freerun.spawn(anext, opened)) == n
    await tx.send(5)
    assert plain(await anext(opened)) == 5
    waits = freerun.spawn(anext, opened)  # what this task has begun, or left, goes on there
    await until(lambda: is_parked(waits))
    await tx.send(6)
    assert plain(await waits) == 6


@every
@every_flavor
async def test_half_done_it_goes_on_in_another_task(make: Any) -> None:
    """Whatever it waits in: a leaf, a line, a scope."""
    go = freerun.sync.Notify()
    line = freerun.lowlevel.WaitList()
    scopes: list[Any] = []

    async def source() -> Any:
        await go.notified()
        yield "leaf"
        async with freerun.time.timeout(3600):
            with line.enlist() as place:
                await place
        yield "line"
        try:
            async with freerun.time.timeout(3600) as scope:
                scopes.append(scope)
                await freerun.time.sleep(3600)
        except TimeoutError:
            yield "scope"
        yield await freerun.time.timeout(60, go.notified()) or "timeout"

    async def begin(opened: Any) -> None:
        with pytest.raises(TimeoutError):
            await freerun.time.timeout(0.001, anext(opened))

    def let_scope_end() -> None:  # not earlier: it might be over before anybody waits in it
        scopes[0].reschedule(freerun.time.Instant.now())

    opened = make(source())
    for wake in (go.notify_one, line.wake_one, let_scope_end, go.notify_one):
        await begin(opened)  # here, in a task that lives on, and in one that does not
        await freerun.spawn(begin, opened)
        taker = freerun.spawn(anext, opened)
        await until(lambda taker=taker: is_parked(taker))
        wake()
        assert plain(await taker) in {"leaf", "line", "scope", "timeout"}
    await opened.aclose()


@every
@every_flavor
async def test_in_the_branches_of_select(make: Any) -> None:
    """A select in a loop ends its branches; the stream's items are not lost, whatever it waits in."""
    random = seeded()
    line = freerun.lowlevel.WaitList()
    sent = 0

    async def source() -> Any:
        for n in range(60):
            with line.enlist() as place:
                while sent <= n:
                    await place
            yield n

    async def send() -> None:
        nonlocal sent
        for _ in range(60):
            if random.random() < 0.5:
                await freerun.time.sleep(0.001)
            sent += 1
            line.wake_all()

    opened = make(source())
    sender = freerun.spawn(send)
    seen: list[int] = []
    while len(seen) < 60:
        which, item = await freerun.select(anext(opened), freerun.time.sleep(random.choice([0, 0.0005, 0.002])))
        if which == 0:
            seen.append(plain(item))
    assert seen == list(range(60))
    await sender


@every
@every_flavor
async def test_it_gives_way(make: Any) -> None:
    async def endless() -> Any:
        while True:
            yield 1

    opened = make(endless())
    await gives_way(lambda: anext(opened))


@every
@every_flavor
async def test_polls_in_the_same_task(make: Any) -> None:
    async def ids() -> Any:
        while True:
            yield freerun.task.current().id
            await freerun.yield_now()

    assert {plain(item) for item in await collect(make(ids()), 5)} == {freerun.task.current().id}


@every
@every_flavor
async def test_scopes_in_a_source(make: Any) -> None:
    """A timeout in a generator is its own, also when the consumer's comes first, or goes away."""

    async def body() -> Any:
        for _ in range(3):
            try:
                async with freerun.time.timeout(0.003):
                    await freerun.time.sleep(3600)
            except TimeoutError:
                yield "late"

    opened = make(body())
    seen = []
    while len(seen) < 3:
        try:
            async with freerun.time.timeout(0.002):
                seen.append(plain(await anext(opened)))
        except TimeoutError:
            pass
    assert seen == ["late"] * 3
    assert await collect(opened) == []


@every
@every_flavor
async def test_foreign_awaitables_are_refused_where_they_are(make: Any) -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield "what"

    async def body() -> Any:
        try:
            await Foreign()
        except TypeError as error:
            yield str(error)

    assert "cannot await str" in plain(await anext(make(body())))


@every
@every_flavor
async def test_what_is_no_async_iterable(make: Any) -> None:
    with pytest.raises(TypeError, match=r"argument 'stream.*freerun\.stream\.iter\(\)"):
        make([1])
    with pytest.raises(TypeError, match="must be an async iterable, not int"):
        make(1)


@every
def test_outside_a_task(make: Any) -> None:
    opened = make(stream.iter([1]))
    with pytest.raises(RuntimeError):
        opened.__anext__().send(None)


@every_flavor
async def test_nothing_is_kept() -> None:
    class Item:
        pass

    async def items() -> Any:
        while True:
            yield Item()

    opened = stream.merge(items(), items())
    ref = weakref.ref(await anext(opened))
    await freerun.yield_now()  # what an await has returned is let go of when the poll is over
    await until(lambda: is_freed(ref))
    await opened.aclose()


def test_what_is_left_at_shutdown_is_closed() -> None:
    """Streams first, then the generators they iterate: no complaint."""
    out = check_script(
        """
        import freerun
        from freerun import stream

        async def numbers(name):
            try:
                while True:
                    await freerun.time.sleep(0.001)
                    yield name
            finally:
                await freerun.yield_now()
                print("closed", name)

        kept = []

        async def main():
            kept.append(stream.merge(stream.throttle(numbers("a"), 0), stream.timeout(numbers("b"), 60)))
            kept.append(numbers("c"))
            for each in kept:
                await anext(each)

        freerun.run(main)
        """
    )
    assert sorted(out.splitlines()) == ["closed a", "closed b", "closed c"]


@every_flavor
async def test_a_second_cancel_during_the_cleanup() -> None:
    log: list[str] = []

    async def slow() -> Any:
        try:
            yield 1
            await freerun.time.sleep(3600)
        finally:
            try:
                await freerun.time.sleep(3600)
            except freerun.Cancelled:
                log.append("second")
                raise

    async def other() -> Any:
        try:
            yield 2
        finally:
            log.append("other")

    opened = stream.merge(slow(), other())
    await collect(opened, 2)
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.001, anext(opened))
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.005, opened.aclose())
    assert log == ["second"] or sorted(log) == ["other", "second"]
    assert "other" in log or opened._all[1].ended
