"""`copy`, `copy_buf`, `copy_bidirectional`: Tokio's io_copy and io_copy_bidirectional; aborts."""

from __future__ import annotations

from typing import Any

import pytest
from io_support import PENDING, Aborts, Script, feed
from net_support import connected, fill, pair, read_to_end, reset
from support import every_driver, every_flavor, is_parked, seeded, until

import freerun
from freerun import io
from freerun.io import BufReader, BufWriter, copy, copy_bidirectional, copy_buf, duplex


@pytest.mark.parametrize("buffered", [False, True])
@freerun.test
async def test_copy(buffered: bool) -> None:
    source, target = Script(b"hello ", PENDING, b"world"), Script(takes=[1, PENDING, 3])
    count = await (copy_buf(BufReader(source), target) if buffered else copy(source, target))
    assert (count, target.got, target.shut_down) == (11, b"hello world", False)
    assert target.flushes > 0
    assert await copy(Script(), target) == 0


@freerun.test
async def test_nothing_is_held_back_while_the_source_waits() -> None:
    """Tokio's `proxy`: both sides wait for each other, with a buffered writer in between."""
    client, left = duplex(64)
    right, server = duplex(64)
    for reader in (left, BufReader(left)):
        method: Any = copy_buf if isinstance(reader, BufReader) else copy
        writer = BufWriter(right, 1000)
        copying = freerun.spawn(method, reader, writer)
        await client.write_all(b"ping")
        assert await server.read() == b"ping"
        copying.abort()
        with pytest.raises(freerun.JoinError):
            await copying


@pytest.mark.parametrize("method", [copy, copy_buf])
@freerun.test
async def test_errors_end_it(method: Any) -> None:
    for source, target in (
        (Script(b"x", ConnectionError("read")), Script()),
        (Script(b"x"), Script(takes=[ConnectionError("write")])),
    ):
        with pytest.raises(ConnectionError):
            await method(BufReader(source), target)
    with pytest.raises(TypeError, match="'reader'"):
        await method(object(), Script())
    with pytest.raises(TypeError, match="'writer'"):
        await method(BufReader(Script()), object())
    with pytest.raises(TypeError, match="'reader'.*fill_buf"):
        await copy_buf(Script(), Script())  # type: ignore[arg-type]
    with pytest.raises(io.WriteZero):
        await method(BufReader(Script(b"x")), Script(takes=[0]))


@every_flavor
async def test_copy_is_cooperative() -> None:
    task = freerun.spawn(copy, io.repeat(b"x"), io.sink())
    buffered = freerun.spawn(copy_buf, BufReader(io.repeat(b"x")), io.sink())
    for _ in range(20):
        await freerun.yield_now()
    await freerun.time.sleep(0.001)
    for each in (task, buffered):
        each.abort()
        with pytest.raises(freerun.JoinError):
            await each


@every_flavor
async def test_an_aborted_copy_buf_loses_and_repeats_nothing() -> None:
    random = seeded()
    data = random.randbytes(5000)
    source, theirs = duplex(100)
    target, end = duplex(random.randrange(1, 100))
    reader = BufReader(source, 50)
    aborts = Aborts(random)

    async def work() -> None:
        await copy_buf(reader, target)

    writing = freerun.spawn(feed, random, theirs, data, 50, aborts)
    reading = freerun.spawn(end.read_to_end)
    await aborts.until_done(work)
    target.close()
    await writing
    assert await reading == data


@pytest.mark.parametrize("swap", [False, True])
@every_driver
@every_flavor
async def test_basic_transfer(swap: bool) -> None:
    async with pair() as (a, left), pair() as (b, right):
        proxy = freerun.spawn(copy_bidirectional, *((right, left) if swap else (left, right)))
        await a.write_all(b"test")
        assert await b.read_exact(4) == b"test"
        await b.write_all(b"back!")
        assert await a.read_exact(5) == b"back!"
        await a.shutdown()
        assert await b.read() == b""
        await b.shutdown()
        assert await proxy == ((5, 4) if swap else (4, 5))


@pytest.mark.parametrize("swap", [False, True])
@every_driver
@every_flavor
async def test_transfer_after_close(swap: bool) -> None:
    """One direction ends, the other one goes on."""
    async with pair() as (a, left), pair() as (b, right):
        proxy = freerun.spawn(copy_bidirectional, *((right, left) if swap else (left, right)))
        await a.shutdown()
        assert await read_to_end(b) == b""
        await b.write_all(b"quux")
        assert await a.read_exact(4) == b"quux"
        b.close()
        assert await proxy == ((4, 0) if swap else (0, 4))


@pytest.mark.parametrize("swap", [False, True])
@every_driver
@every_flavor
async def test_blocking_one_side_does_not_block_the_other(swap: bool) -> None:
    async with pair() as (a, left), pair() as (b, right):
        proxy = freerun.spawn(copy_bidirectional, *((right, left) if swap else (left, right)))
        sent = await fill(a)
        await b.write_all(b"quux")
        assert await a.read_exact(4) == b"quux"
        await a.shutdown()
        assert len(await read_to_end(b)) == sent
        b.close()
        assert await proxy == ((4, sent) if swap else (sent, 4))


@every_flavor
async def test_an_error_ends_both() -> None:
    """The other direction would wait for ever."""
    waiting, _end = duplex(10)
    for failing in (
        Script(ConnectionResetError("read")),
        Script(PENDING, PENDING, ConnectionResetError("read")),
    ):
        with pytest.raises(ConnectionResetError, match="read"):
            await copy_bidirectional(waiting, failing)
        failing.reads = [ConnectionResetError("read")]
        with pytest.raises(ConnectionResetError, match="read"):
            await copy_bidirectional(failing, waiting)
    a, end = duplex(10)
    await end.write_all(b"x")
    with pytest.raises(ConnectionError, match="write"):
        await copy_bidirectional(a, Script(PENDING, takes=[ConnectionError("write")] * 2))


@every_flavor
async def test_both_fail_at_once() -> None:
    for _ in range(20):
        with pytest.raises(ConnectionError, match="[ab]"):
            await copy_bidirectional(Script(ConnectionError("a")), Script(ConnectionError("b")))


@every_driver
@every_flavor
async def test_a_reset_ends_both() -> None:
    async with pair() as (a, left):
        b, right = await connected()
        proxy = freerun.spawn(copy_bidirectional, left, right)
        await a.write_all(b"x")
        assert await b.read() == b"x"
        reset(b)
        with pytest.raises(OSError):
            await proxy
        right.close()


@every_flavor
async def test_an_aborted_proxy_leaves_no_task(rt: freerun.Runtime) -> None:
    client, left = duplex(10)
    right, _server = duplex(10)
    before = rt.metrics().alive_tasks
    proxy = freerun.spawn(copy_bidirectional, left, right)
    await client.write_all(b"x")
    await until(lambda: is_parked(proxy))
    proxy.abort()
    with pytest.raises(freerun.JoinError) as caught:
        await proxy
    assert caught.value.is_cancelled()
    assert rt.metrics().alive_tasks == before
    assert await freerun.spawn(left.write, b"free again") == 10  # nobody else writes, nobody else reads


@every_flavor
async def test_nothing_is_reported_as_unhandled(reports: Any) -> None:
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await copy_bidirectional(Script(ConnectionError("a")), Script(ConnectionError("b")))
    await freerun.time.sleep(0.01)
    assert reports.messages == []


@freerun.test
async def test_bad_arguments() -> None:
    for a, b, name in ((object(), Script(), "'a'"), (Script(), object(), "'b'")):
        with pytest.raises(TypeError, match=name):
            await copy_bidirectional(a, b)  # type: ignore[arg-type]


@every_driver
@every_flavor
async def test_a_lot_through_a_proxy() -> None:
    random = seeded()
    data = random.randbytes(300_000)
    async with pair() as (a, left), pair() as (b, right):
        proxy = freerun.spawn(copy_bidirectional, left, right)
        tasks = [freerun.spawn(feed, random, a, data, 5000), freerun.spawn(feed, random, b, data[::-1], 5000)]
        readers = [freerun.spawn(read_to_end, b), freerun.spawn(read_to_end, a)]
        for task in tasks:
            await task
        assert [await reader for reader in readers] == [data, data[::-1]]
        assert await proxy == (len(data), len(data))
