"""`BufWriter` and `BufStream`: Tokio's io_buf_writer; what a close does; aborts."""

from __future__ import annotations

import array
from typing import Any

import pytest
from io_support import PENDING, Aborts, Script
from support import every_flavor, is_parked, seeded, until

import freerun
from freerun.io import AsyncStream, BufStream, BufWriter, WriteZero, duplex


@pytest.mark.parametrize("pending", [False, True])
@freerun.test
async def test_buf_writer(pending: bool) -> None:
    script = Script(takes=[PENDING, 100] * 20 if pending else [])
    writer = BufWriter(script, capacity=2)
    await writer.write(bytes([0, 1]))
    assert (writer.buffer, script.got) == (b"", bytes([0, 1]))
    await writer.write(b"\x02")
    assert (writer.buffer, script.got) == (b"\x02", bytes([0, 1]))
    await writer.write(b"\x03")
    assert (writer.buffer, script.got) == (bytes([2, 3]), bytes([0, 1]))
    await writer.flush()
    assert (writer.buffer, script.got, script.flushes) == (b"", bytes([0, 1, 2, 3]), 1)
    await writer.write(b"\x04")
    await writer.write(b"\x05")
    assert (writer.buffer, script.got) == (bytes([4, 5]), bytes([0, 1, 2, 3]))
    await writer.write(b"\x06")
    assert (writer.buffer, script.got) == (b"\x06", bytes(range(6)))
    await writer.write(bytes([7, 8]))
    assert (writer.buffer, script.got) == (b"", bytes(range(9)))
    await writer.write(bytes([9, 10, 11]))
    assert (writer.buffer, script.got) == (b"", bytes(range(12)))
    await writer.flush()
    assert script.got == bytes(range(12))


@freerun.test
async def test_small_writes_become_one() -> None:
    script = Script()
    async with BufWriter(script, capacity=100) as writer:
        for _ in range(50):
            await writer.write_all(b"x")
        assert script.written == []
    assert (script.written, script.flushes, script.closed) == ([b"x" * 50], 1, True)


@freerun.test
async def test_partial_writes() -> None:
    script = Script(takes=[1, PENDING, 2, PENDING, 1])
    writer = BufWriter(script, capacity=10)
    await writer.write_all(b"abcdefg")
    await writer.flush()
    assert script.written == [b"a", b"bc", b"d", b"efg"]


@freerun.test
async def test_write_zero() -> None:
    writer = BufWriter(Script(takes=[1, 0]), capacity=10)
    await writer.write_all(b"abc")
    with pytest.raises(WriteZero, match="Script took 0 bytes"):
        await writer.flush()
    assert writer.buffer == b"bc"
    await writer.flush()
    with pytest.raises(WriteZero):
        await Script(takes=[0]).write_all(b"x")


@freerun.test
async def test_an_error_loses_nothing_and_repeats_nothing() -> None:
    script = Script(takes=[2, ConnectionError("no")])
    writer = BufWriter(script, capacity=10)
    await writer.write_all(b"abcdef")
    with pytest.raises(ConnectionError):
        await writer.flush()
    assert writer.buffer == b"cdef"
    await writer.shutdown()
    assert (script.got, script.shut_down) == (b"abcdef", True)


@freerun.test
async def test_close_without_flush_warns() -> None:
    for lose in ("close", "drop"):
        script = Script()
        writer = BufWriter(script)
        await writer.write_all(b"lost")
        if lose == "close":
            with pytest.warns(ResourceWarning, match="BufWriter was closed with 4 bytes"):
                writer.close()
            assert script.closed
            writer.close()
        else:
            with pytest.warns(ResourceWarning, match="BufWriter was closed with 4 bytes"):
                del writer


@freerun.test
async def test_leaving_with_an_error_writes_nothing() -> None:
    script = Script()
    with pytest.raises(ZeroDivisionError):
        async with BufWriter(script) as writer:
            await writer.write_all(b"half a thing")
            raise ZeroDivisionError
    assert (script.written, script.closed) == ([], True)


@freerun.test
async def test_kinds_of_data() -> None:
    for data in (bytearray(b"abc"), memoryview(b"abcd")[1:3], array.array("i", [1, 2, 3])):
        size = memoryview(data).nbytes
        for capacity in (1, 1000):
            script = Script()
            async with BufWriter(script, capacity) as writer:
                assert await writer.write(data) == size
                await writer.write_all(data)
            assert script.got == bytes(data) * 2
    writer = BufWriter(Script())
    for write in (writer.write, writer.write_all):
        with pytest.raises(TypeError, match="'data'.*encode"):
            await write("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'data'"):
            await write([1])  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="'inner'"):
        BufWriter(object())  # type: ignore[type-var]
    with pytest.raises(ValueError, match="'capacity'"):
        BufWriter(Script(), 0)
    with pytest.raises(TypeError, match="'inner'"):
        BufStream(object())  # type: ignore[type-var]


@every_flavor
async def test_a_second_writer_is_refused() -> None:
    ours, theirs = duplex(2)
    writer = BufWriter(ours, capacity=4)
    first = freerun.spawn(writer.write_all, b"abcdefgh")
    await until(lambda: is_parked(first))
    for second in (lambda: writer.write(b"x"), lambda: writer.write_all(b"x"), writer.flush, writer.shutdown):
        with pytest.raises(RuntimeError, match="already writing"):
            await second()  # type: ignore[no-untyped-call]
    assert await theirs.read_exact(8) == b"abcdefgh"
    await first


@every_flavor
async def test_aborted_writes_lose_and_repeat_nothing() -> None:
    """`write`, short `write_all` and `flush`, aborted at random: what was taken arrives, once."""
    random = seeded()
    data = random.randbytes(6000)
    ours, theirs = duplex(random.randrange(1, 60))
    writer = BufWriter(ours, capacity=random.randrange(20, 100))
    reading = freerun.spawn(theirs.read_to_end)
    taken = 0
    aborts = Aborts(random)

    async def write() -> None:
        nonlocal taken
        while taken < len(data):
            if taken > len(data) // 2:
                await until(lambda: aborts.count >= 5)
            how = random.randrange(3)
            if how == 0:
                taken += await writer.write(data[taken : taken + random.randrange(1, 150)])
            elif how == 1:
                piece = data[taken : taken + random.randrange(1, 20)]
                await writer.write_all(piece)
                taken += len(piece)
            else:
                await writer.flush()
        await writer.shutdown()

    await aborts.until_done(write)
    assert await reading == data


@every_flavor
async def test_buf_stream() -> None:
    ours, theirs = duplex(64)
    assert isinstance(BufStream(theirs), AsyncStream)
    async with BufStream(ours, 10, 20) as client, BufStream(theirs) as server:
        assert client.capacity == 10
        await client.write_all(b"hello\n")
        assert client.write_buffer == b"hello\n"
        await client.flush()
        assert await server.read_line() == "hello\n"
        assert await server.write(b"bye\n") == 4
        await server.shutdown()
        assert [line async for line in client.lines()] == ["bye"]
    assert ours.closed
    assert theirs.closed


@freerun.test
async def test_buf_stream_reads_while_it_writes() -> None:
    ours, theirs = duplex(4)
    stream: BufStream[Any] = BufStream(ours, 4, 4)
    writing = freerun.spawn(stream.write_all, bytes(100))
    reading = freerun.spawn(stream.read_exact, 10)
    await until(lambda: is_parked(writing) and is_parked(reading))
    await theirs.write_all(b"0123456789")
    assert await reading == b"0123456789"
    assert await theirs.read_exact(100) == bytes(100)
    await writing
    await stream.write_all(b"x")
    with pytest.warns(ResourceWarning, match="1 bytes"):
        stream.close()
