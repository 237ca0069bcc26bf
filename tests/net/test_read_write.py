"""Arguments of reads and writes; one reader and one writer at a time; what an abort leaves."""

from __future__ import annotations

import array
import contextlib
import sys
import time
from typing import Any

import pytest
from net_support import fill, pair, read_to_end, shrink_buffers, until_readable, until_writable
from support import PATIENCE, every_flavor, is_parked, seeded, until

import freerun
from freerun.io import UnexpectedEof
from freerun.net import TcpStream


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (-(10**30), ValueError),
        ("1", TypeError),
        (1.0, TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
    ids=repr,
)
@freerun.test
async def test_bad_read_sizes(n: Any, error: Any) -> None:
    """They are refused at the call, and the stream goes on."""
    async with pair() as (ours, theirs):
        with pytest.raises(error, match="'n'"):
            ours.read(n)
        await theirs.write_all(b"still works")
        assert await ours.read() == b"still works"


@freerun.test
async def test_read_takes_one_argument() -> None:
    async with pair() as (ours, _theirs):
        with pytest.raises(TypeError):
            ours.read(1, 2)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            ours.read(n=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("n", [1 << 45, sys.maxsize, 10**30], ids=hex)
@every_flavor
async def test_a_huge_read(n: int) -> None:
    """It does not reserve what it asks for: `n` is a limit."""
    async with pair() as (ours, theirs):
        await theirs.write_all(b"few bytes")
        assert await ours.read(n) == b"few bytes"


@every_flavor
async def test_a_large_read() -> None:
    async with pair() as (ours, theirs):
        await theirs.write_all(b"x" * 100_000)
        got = b""
        while len(got) < 100_000:
            got += await ours.read(10_000_000)
        assert got == b"x" * 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"memoryview"),
        memoryview(b"sliced memoryview")[3:9],
        array.array("i", [1, 2, 3]),
    ],
    ids=lambda data: type(data).__name__,
)
@every_flavor
async def test_what_can_be_written(data: Any) -> None:
    async with pair() as (ours, theirs):
        assert await ours.write(data) == memoryview(data).nbytes
        await ours.write_all(data)
        await ours.shutdown()
        assert await read_to_end(theirs) == bytes(data) * 2


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2], memoryview(b"strided")[::2]], ids=repr)
@freerun.test
async def test_what_cannot_be_written(data: Any) -> None:
    async with pair() as (ours, theirs):
        for write in (ours.write, ours.write_all):
            with pytest.raises((TypeError, BufferError), match="argument 'data' must be bytes-like|contiguous"):
                write(data)
        await ours.write_all(b"still works")
        assert await theirs.read() == b"still works"


@every_flavor
async def test_empty_writes() -> None:
    """They end at once, even while the peer takes nothing."""
    async with pair() as (ours, _theirs):
        for empty in (b"", bytearray(), memoryview(b"")):
            assert await ours.write(empty) == 0
            await ours.write_all(empty)
        await fill(ours)
        assert await ours.write(b"") == 0
        await ours.write_all(b"")


@every_flavor
async def test_a_buffer_is_held_while_it_is_written() -> None:
    """A bytearray cannot be resized under a write, and can be afterwards."""
    async with pair() as (ours, theirs):
        await fill(ours)
        data = bytearray(1 << 20)
        writer = freerun.spawn(ours.write_all, data)
        await until(lambda: is_parked(writer))
        with pytest.raises(BufferError):
            data.clear()
        reader = freerun.spawn(read_to_end, theirs)
        await writer
        data.clear()
        await ours.shutdown()
        await reader


@every_flavor
async def test_the_buffer_of_an_aborted_write_is_released() -> None:
    async with pair() as (ours, _theirs):
        await fill(ours)
        data = bytearray(1 << 20)
        writer = freerun.spawn(ours.write_all, data)
        await until(lambda: is_parked(writer))
        writer.abort()
        with pytest.raises(freerun.JoinError):
            await writer

        def is_released() -> bool:  # on free-threaded builds once the worker that began the write gets round to it
            try:
                data.clear()
            except BufferError:
                return False
            return True

        await until(is_released)


@every_flavor
async def test_read_exact() -> None:
    async with pair() as (ours, theirs):
        assert await ours.read_exact(0) == b""
        writer = freerun.spawn(theirs.write_all, b"ab" * 500_000)
        assert await ours.read_exact(3) == b"aba"
        assert await ours.read_exact(999_997) == (b"ba" * 500_000)[:999_997]
        await writer
        await theirs.write_all(b"part")
        await theirs.shutdown()
        with pytest.raises(UnexpectedEof) as caught:
            await ours.read_exact(10)
        assert (caught.value.partial, caught.value.expected) == (b"part", 10)
        with pytest.raises(UnexpectedEof) as caught:
            await ours.read_exact(1)
        assert caught.value.partial == b""
        for bad, error in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
            with pytest.raises(error, match="'n'"):
                await ours.read_exact(bad)  # type: ignore[arg-type]


@every_flavor
async def test_a_second_reader_is_refused_and_the_first_goes_on() -> None:
    async with pair() as (ours, theirs):
        first = freerun.spawn(ours.read)
        await until(lambda: is_parked(first))
        for second in (ours.read, ours.readable, lambda: ours.read_exact(1)):
            with pytest.raises(RuntimeError, match="reading"):
                await second()  # type: ignore[operator]
        await theirs.write_all(b"for the first")
        assert await first == b"for the first"
        await theirs.write_all(b"and so on")
        assert await ours.read() == b"and so on"


@every_flavor
async def test_a_second_writer_is_refused_and_the_first_goes_on() -> None:
    async with pair() as (ours, theirs):
        before = await fill(ours)
        first = freerun.spawn(ours.write_all, b"x" * 3_000_000)
        await until(lambda: is_parked(first))
        for second in (lambda: ours.write(b"y"), lambda: ours.write_all(b"y"), ours.writable):
            with pytest.raises(RuntimeError, match="writing"):
                await second()  # type: ignore[operator]
        reader = freerun.spawn(read_to_end, theirs)
        await first
        await ours.write_all(b"z")
        await ours.shutdown()
        got = await reader
        assert (len(got), got[before:]) == (before + 3_000_001, b"x" * 3_000_000 + b"z")


@every_flavor
async def test_racing_readers_share_every_byte() -> None:
    """Several tasks read one stream at random: each byte goes to one of them, or to none that was refused."""
    data = seeded().randbytes(200_000)
    async with pair() as (ours, theirs):
        pieces: list[bytes] = []
        refused = 0

        async def read() -> None:
            nonlocal refused
            while True:
                try:
                    piece = await ours.read(1000)
                except RuntimeError:
                    refused += 1
                    await freerun.yield_now()
                    continue
                if not piece:
                    return
                pieces.append(piece)

        readers = [freerun.spawn(read) for _ in range(4)]
        await theirs.write_all(data)
        await theirs.shutdown()
        for reader in readers:
            await reader
        assert sum(map(len, pieces)) == len(data)
        assert sorted(b"".join(pieces)) == sorted(data)


@every_flavor
async def test_a_reader_beside_a_writer() -> None:
    """Both directions of one stream are full and in use at once."""
    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        data = seeded().randbytes(500_000)
        writers = [freerun.spawn(ours.write_all, data), freerun.spawn(theirs.write_all, data)]
        await until(lambda: all(map(is_parked, writers)))
        readers = [freerun.spawn(ours.read_exact, len(data)), freerun.spawn(theirs.read_exact, len(data))]
        for writer in writers:
            await writer
        assert [await reader for reader in readers] == [data, data]


@every_flavor
async def test_aborted_reads_lose_no_byte() -> None:
    """A reader is aborted at random moments while bytes come; whoever reads next goes on where it stopped."""
    random = seeded()
    data = random.randbytes(100_000)
    async with pair() as (ours, theirs):
        received = bytearray()

        async def read() -> None:
            while piece := await ours.read(random.randrange(1, 2000)):
                received.extend(piece)

        async def write() -> None:
            at = 0
            while at < len(data):
                at += await theirs.write(data[at : at + random.randrange(1, 3000)])
                await freerun.yield_now()
            await theirs.shutdown()

        writer = freerun.spawn(write)
        while True:
            reader = freerun.spawn(read)
            for _ in range(random.randrange(4)):
                await freerun.yield_now()
            reader.abort()
            try:
                await reader
            except freerun.JoinError as error:
                if not error.is_cancelled():
                    raise
            else:
                break
        await writer
        assert received == data


@every_flavor
async def test_an_aborted_write_wrote_nothing_or_said_so() -> None:
    """`write` is cancel safe: what it wrote it returns, and an aborted one wrote nothing."""
    random = seeded()
    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        total = await fill(ours)
        written = 0

        async def write() -> None:
            nonlocal written
            written += await ours.write(b"x" * random.randrange(1, 50_000))

        reader = freerun.spawn(count_to_end, theirs)
        for _ in range(300):
            writer = freerun.spawn(write)
            for _ in range(random.randrange(3)):
                await freerun.yield_now()
            writer.abort()
            try:
                await writer
            except freerun.JoinError as error:
                if not error.is_cancelled():
                    raise
        await ours.shutdown()
        assert await reader == total + written


async def count_to_end(stream: TcpStream) -> int:
    total = 0
    while piece := await stream.read():
        total += len(piece)
    return total


@every_flavor
async def test_readable_and_writable() -> None:
    async with pair() as (ours, theirs):
        await until_writable(theirs)
        waiter = freerun.spawn(until_readable, ours)
        await waiter
        await ours.readable()  # still
        assert await ours.read() == b"w"
        for i in range(20):
            waiter = freerun.spawn(until_readable, ours)
            if i % 2:
                await until(lambda waiter=waiter: is_parked(waiter))
            await theirs.write_all(b"x")
            await waiter
            assert await ours.read() == b"x"
        await fill(ours)
        waiter = freerun.spawn(until_writable, ours)
        await until(lambda: is_parked(waiter))
        reader = freerun.spawn(read_to_end, theirs)
        await waiter
        await ours.shutdown()
        await reader


@every_flavor
async def test_an_always_full_socket_starves_nobody() -> None:
    """Neither by count nor by time: the reader gives way to a timer, to the pool, and to a task that yields."""
    stop = False

    async def pump(stream: TcpStream) -> None:
        chunk = bytes(1 << 16)
        with contextlib.suppress(OSError):  # its reader leaves first
            while not stop:
                await stream.write_all(chunk)
        stream.close()

    async def drain(stream: TcpStream, n: int, work: float) -> None:
        while await stream.read(n) and not stop:
            spin_until = time.monotonic() + work
            while time.monotonic() < spin_until:
                pass
        stream.close()

    async with pair() as (a, b), pair() as (c, d):
        busy = [freerun.spawn(pump, a), freerun.spawn(drain, b, 100, 0.0)]
        busy += [freerun.spawn(pump, c), freerun.spawn(drain, d, 1000, 0.001)]
        other = freerun.spawn(freerun.lowlevel.checkpoint)
        start = time.monotonic()
        await freerun.time.sleep(0.001)
        assert await freerun.spawn_blocking(int) == 0
        for _ in range(20):
            await freerun.yield_now()
        await other
        assert time.monotonic() - start < PATIENCE / 2
        stop = True
        for handle in busy:
            await handle


@every_flavor
async def test_the_budget_counts_time() -> None:
    """A connection whose next request is always there, and takes a while, gives way after few of them, not after 128:
    what else is ready on the same worker runs in between."""
    requests, cost = 60, 0.004
    order: list[str] = []

    async def serve(stream: TcpStream) -> None:
        for _ in range(requests):
            assert await stream.read(1) == b"x"
            spin_until = time.monotonic() + cost
            while time.monotonic() < spin_until:
                pass
            order.append("served")

    async def other() -> None:
        order.append("other")

    async def main(stream: TcpStream) -> None:
        server = freerun.spawn(serve, stream)
        tick = freerun.spawn(other)
        await tick
        await server

    async with pair() as (ours, theirs):
        await theirs.write_all(b"x" * requests)
        await ours.readable()
        await main(ours)
    assert order.index("other") < 10, order
