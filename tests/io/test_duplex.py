"""`duplex` and `simplex`: Tokio's io_mem_stream; ends that go; threads, runtimes and aborts."""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import threading
from typing import Any

import pytest
from io_support import Aborts, feed
from support import PATIENCE, every_flavor, is_parked, occupy, seeded, until

import freerun
from freerun.io import AsyncRead, AsyncStream, AsyncWrite, duplex, simplex


@every_flavor
async def test_ping_pong() -> None:
    a, b = duplex(32)
    await a.write_all(b"ping")
    assert await b.read_exact(4) == b"ping"
    await b.write_all(b"pong")
    assert await a.read_exact(4) == b"pong"


@every_flavor
async def test_across_tasks() -> None:
    a, b = duplex(32)

    async def first() -> None:
        await a.write_all(b"ping")
        assert await a.read_exact(4) == b"pong"

    async def second() -> None:
        assert await b.read_exact(4) == b"ping"
        await b.write_all(b"pong")

    for task in (freerun.spawn(first), freerun.spawn(second)):
        await task


@pytest.mark.parametrize("how", ["close", "drop", "with", "shutdown"])
@every_flavor
async def test_disconnect(how: str) -> None:
    """What was written is read, then comes the end, again and again."""
    a, b = duplex(32)
    reader = freerun.spawn(b.read_to_end)
    await a.write_all(b"ping")
    await until(lambda: is_parked(reader))
    if how == "close":
        a.close()
        a.close()
    elif how == "with":
        async with a as same:
            assert same is a
    elif how == "shutdown":
        await a.shutdown()
    else:
        a = None  # type: ignore[assignment]
        gc.collect()
    assert await reader == b"ping"
    assert await b.read() == b""


@pytest.mark.parametrize("how", ["close", "drop"])
@every_flavor
async def test_disconnect_reader(how: str) -> None:
    """A writer that waits is told, and so is everyone after it."""
    a, b = duplex(2)
    writer = freerun.spawn(b.write_all, b"ping")
    await until(lambda: is_parked(writer))
    if how == "close":
        a.close()
    else:
        a = None  # type: ignore[assignment]
        gc.collect()
    with pytest.raises(BrokenPipeError, match="other end is closed"):
        await writer
    for data in (b"x", b""):
        with pytest.raises(BrokenPipeError):
            await b.write(data)
        with pytest.raises(BrokenPipeError):
            await b.write_all(data)


@every_flavor
async def test_max_write_size() -> None:
    a, b = duplex(32)
    assert await a.write(bytes(64)) == 32
    second = freerun.spawn(a.write, bytes(64))
    await until(lambda: is_parked(second))
    assert await b.read_exact(4) == bytes(4)
    assert await second == 4
    assert len(await b.read()) == 32


@freerun.test
async def test_zero_length_writes() -> None:
    a, _b = duplex(1)
    await a.write_all(b"x")
    assert await a.write(b"") == 0
    await a.write_all(b"")
    a.close()
    with pytest.raises(OSError, match="closed"):
        await a.write(b"")


@freerun.test
async def test_both_directions_are_independent() -> None:
    a, b = duplex(4)
    await a.shutdown()
    await a.shutdown()
    with pytest.raises(BrokenPipeError, match="shut down"):
        await a.write(b"x")
    assert await b.read() == b""
    await b.write_all(b"back")
    assert await a.read() == b"back"


@freerun.test
async def test_use_after_close() -> None:
    a, b = duplex(4)
    reader, writer = freerun.spawn(a.read), freerun.spawn(a.write_all, bytes(10))
    await until(lambda: is_parked(reader) and is_parked(writer))
    assert (a.closed, repr(a)) == (False, "<DuplexStream>")
    a.close()
    assert (a.closed, repr(a)) == (True, "<DuplexStream closed>")
    for use in (lambda: reader, lambda: writer, a.read, lambda: a.write(b"x"), a.shutdown):
        with pytest.raises(OSError, match="the stream is closed") as caught:
            await use()
        assert caught.value.errno == errno.EBADF
    assert await b.read_to_end() == bytes(4)


@pytest.mark.parametrize("make", [duplex, simplex])
def test_bad_sizes(make: Any) -> None:
    for size, error in ((0, ValueError), (-1, ValueError), ("1", TypeError), (1.5, TypeError), (None, TypeError)):
        with pytest.raises(error, match="'max_buf_size'"):
            make(size)


@freerun.test
async def test_bad_arguments() -> None:
    a, _ = duplex(4)
    for n, error in ((0, ValueError), (-1, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="'n'"):
            await a.read(n)  # type: ignore[arg-type]
    for write in (a.write, a.write_all):
        with pytest.raises(TypeError, match="'data'.*encode"):
            await write("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'data'"):
            await write(5)  # type: ignore[arg-type]
        with pytest.raises(BufferError, match="'data'"):
            await write(memoryview(b"strided")[::2])


@freerun.test
async def test_kinds_of_data() -> None:
    for data in (bytearray(b"xy"), memoryview(b"abcd")[1:3], array.array("i", [1, 2])):
        a, b = duplex(3)
        writer = freerun.spawn(a.write_all, data)
        assert await b.read_exact(memoryview(data).nbytes) == bytes(data)
        await writer


@every_flavor
async def test_a_second_reader_or_writer_is_refused() -> None:
    a, b = duplex(4)
    reader, writer = freerun.spawn(a.read), freerun.spawn(a.write_all, bytes(10))
    await until(lambda: is_parked(reader) and is_parked(writer))
    with pytest.raises(RuntimeError, match="already reading"):
        await a.read()
    with pytest.raises(RuntimeError, match="already writing"):
        await a.write(b"x")
    await b.write_all(b"ok")
    assert await reader == b"ok"
    assert await b.read_exact(10) == bytes(10)
    await writer


@freerun.test
async def test_is_cooperative() -> None:
    a, b = duplex(8192)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while turns < 3:
            turns += 1
            await freerun.yield_now()

    freerun.spawn(other)
    rounds = 0
    while turns < 3:
        rounds += 1
        assert rounds < 100_000
        await a.write_all(bytes(4096))
        await b.read(4096)


@every_flavor
async def test_a_stream_of_bytes_through_a_small_pipe() -> None:
    random = seeded()
    data = random.randbytes(30_000)
    a, b = duplex(random.randrange(1, 300))
    writers = [freerun.spawn(feed, random, a, data, 500), freerun.spawn(feed, random, b, data, 500)]
    readers = [freerun.spawn(a.read_to_end), freerun.spawn(b.read_to_end)]
    for writer in writers:
        await writer
    assert [await reader for reader in readers] == [data, data]


@every_flavor
async def test_aborted_reads_and_writes_lose_no_byte() -> None:
    """Both sides are aborted at random: what `write` did not report was not written."""
    random = seeded()
    data = random.randbytes(5000)
    reader, writer = simplex(random.randrange(1, 100))
    sent, received = 0, bytearray()
    writes, reads = Aborts(random), Aborts(random)

    async def write() -> None:
        nonlocal sent
        while sent < len(data):
            if sent > 2000:
                await until(lambda: writes.count >= 5 and reads.count >= 5)
            sent += await writer.write(data[sent : sent + random.randrange(1, 200)])

    async def read() -> None:
        while piece := await reader.read(random.randrange(1, 200)):
            received.extend(piece)

    reading = freerun.spawn(reads.until_done, read)
    await writes.until_done(write)
    writer.close()
    await reading
    assert received == data


@every_flavor
async def test_an_abort_and_a_byte_race() -> None:
    """The byte is in the aborted task's result or still in the pipe."""
    for _ in range(200):
        reader, writer = simplex(1)
        task = freerun.spawn(reader.read)
        await freerun.yield_now()
        sender = freerun.spawn(writer.write, b"x")
        task.abort()
        await sender
        try:
            got = await task
        except freerun.JoinError:
            got = await reader.read()
        assert got == b"x"


@every_flavor
async def test_closing_races_with_waiting() -> None:
    """From threads, at any moment: nobody sleeps on."""
    for i in range(100):
        a, b = duplex(1)
        reader, writer = freerun.spawn(a.read), freerun.spawn(a.write_all, b"xy")
        if i % 3:
            await freerun.yield_now()
        thread = threading.Thread(target=b.close)
        thread.start()
        assert await reader == b""
        with pytest.raises(BrokenPipeError):
            await writer
        thread.join()


@every_flavor
async def test_between_runtimes() -> None:
    a, b = duplex(3)

    async def echo() -> None:
        while data := await b.read():
            await b.write_all(data.upper())
        b.close()

    other = freerun.Builder().worker_threads(1).build()
    try:
        other.spawn(echo)
        writer = freerun.spawn(a.write_all, b"across runtimes")
        assert await a.read_exact(15) == b"ACROSS RUNTIMES"
        await writer
        await a.shutdown()
        assert await a.read() == b""
    finally:
        other.shutdown(PATIENCE)


@every_flavor
async def test_ends_die_with_their_tasks() -> None:
    """An end that a task took with it is closed, however the task ended."""

    async def owns(end: Any, how: int) -> None:
        await freerun.yield_now()
        if how == 1:
            raise ValueError
        if how == 2:
            await end.read()

    for how in range(3):
        a, b = duplex(1)
        task = freerun.spawn(owns, a, how)
        del a
        if how == 2:
            await until(lambda task=task: is_parked(task))
            task.abort()
        with contextlib.suppress(ValueError, freerun.JoinError):
            await task
        del task
        await until(lambda b=b: _has_ended(b))


def _has_ended(stream: Any) -> bool:
    gc.collect()
    return bool(stream._input._writer_gone)


@every_flavor
async def test_ends_that_are_finalized_while_others_wait() -> None:
    """Ends in cycles, closed by the collector in the middle of whatever runs then: pipes are reentrant."""
    for _ in range(30):
        kept = []
        for _ in range(20):
            a, b = duplex(1)
            cycle: dict[str, Any] = {"end": a}
            cycle["self"] = cycle
            kept.append(freerun.spawn(b.read))
            del a, cycle
        gc.collect()
        for task in kept:
            assert await task == b""


@freerun.test(flavor="multi_thread", worker_threads=2)
async def test_a_finalizer_inside_the_pipe_s_own_lock() -> None:
    """The same thread closes one end while it holds the lock for the other."""
    a, b = duplex(4)
    pipe = b._input
    with pipe._lock:
        a.close()
    assert await b.read() == b""


@freerun.test(flavor="multi_thread", worker_threads=2)
async def test_while_every_worker_is_busy() -> None:
    a, b = duplex(4)
    reader = freerun.spawn(b.read)
    await until(lambda: is_parked(reader))
    release = await occupy(1)
    await a.write_all(b"x")
    release()
    assert await reader == b"x"


@every_flavor
async def test_shutdown_with_waiting_ends(rt: freerun.Runtime) -> None:
    other = freerun.Builder().worker_threads(1).build()
    a, b = duplex(1)
    other.spawn(a.read)
    task = other.spawn(a.write_all, b"xyz")
    await until(lambda: is_parked(task))
    await freerun.spawn_blocking(other.shutdown, PATIENCE)
    assert await b.read() == b"x"
    await b.write_all(b"!")
    assert await a.read() == b"!"


@every_flavor
async def test_simplex() -> None:
    reader, writer = simplex(4)
    assert isinstance(reader, AsyncRead)
    assert isinstance(writer, AsyncWrite)
    assert isinstance(duplex(1)[0], AsyncStream)
    task = freerun.spawn(writer.write_all, b"hello world")
    assert await reader.read_exact(6) == b"hello "
    assert await reader.read_exact(5) == b"world"
    await task
    await writer.flush()
    await writer.shutdown()
    assert await reader.read() == b""
    with pytest.raises(BrokenPipeError, match="shut down"):
        await writer.write(b"x")
    reader.close()
    with pytest.raises(OSError, match="closed"):
        await reader.read()
    async with writer:
        assert not writer.closed
    assert (writer.closed, repr(writer), repr(reader)) == (True, "<SimplexWriter closed>", "<SimplexReader closed>")
    with pytest.raises(OSError, match="closed"):
        await writer.write(b"x")


@every_flavor
async def test_a_simplex_whose_reader_goes() -> None:
    reader, writer = simplex(1)
    task = freerun.spawn(writer.write_all, b"xy")
    await until(lambda: is_parked(task))
    del reader
    gc.collect()
    with pytest.raises(BrokenPipeError):
        await task


def test_outside_a_task() -> None:
    a, _ = duplex(1)
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        a.read().send(None)
