"""`testing.io_mock`: a stream that plays a script."""

from __future__ import annotations

import gc
import traceback
import weakref
from typing import Any

import pytest
from support import every_flavor, is_freed, seeded

import freerun
from freerun.io import AsyncRead, AsyncStream, AsyncWrite, BufReader, copy
from freerun.testing import PENDING, IoMock, IoMockBuilder, io_mock, task_spawn
from freerun.time import Instant, sleep


@every_flavor
async def test_reads() -> None:
    async with io_mock().read(b"hello ").read(b"world").build() as mock:
        assert isinstance(mock, AsyncRead) and isinstance(mock, AsyncWrite) and isinstance(mock, AsyncStream)
        assert await mock.read() == b"hello "
        assert await mock.read(2) == b"wo"
        assert await mock.read_exact(3) == b"rld"
        assert [await mock.read(), await mock.read()] == [b"", b""]


@every_flavor
async def test_writes() -> None:
    async with io_mock().write(b"hello ").write(b"world").build() as mock:
        assert await mock.write(b"hel") == 3
        assert await mock.write(b"lo world") == 3  # up to the end of that write: the next one is another
        assert await mock.write(b"") == 0
        await mock.write_all(bytearray(b"world"))
        await mock.flush()
        await mock.shutdown()


@every_flavor
async def test_a_read_waits_for_the_writes_before_it() -> None:
    async with io_mock().write(b"ping").read(b"pong").build() as mock:
        reading = task_spawn(mock.read)
        assert reading.poll() is PENDING
        await mock.write_all(b"pi")
        assert reading.poll() is PENDING
        await mock.write_all(b"ng")
        assert reading.is_woken() and reading.poll() == b"pong"


@every_flavor
async def test_a_write_may_come_before_the_reads_before_it() -> None:
    async with io_mock().read(b"a").write(b"b").read(b"c").build() as mock:
        await mock.write_all(b"b")
        assert await mock.read_exact(2) == b"ac"


@every_flavor
async def test_wrong_writes() -> None:
    async def plays(script: IoMockBuilder, *writes: Any) -> None:
        async with script.build() as mock:
            for each in writes:
                await mock.write_all(each)

    script = io_mock("the peer").read(b"r").write(b"abc").read(b"r")
    with pytest.raises(AssertionError, match=r"the peer: unexpected write of b'abx' instead of b'abc'"):
        await plays(script, b"abx")
    for too_much in (memoryview(b"d"), bytearray(b"d")):  # though something is still to be read
        with pytest.raises(AssertionError, match=r"unexpected write of b'd' after the last one of the script"):
            await plays(script, b"ab", b"c", too_much)
    with pytest.raises(AssertionError, match=r"unexpected write of b'd'"):
        await plays(io_mock(), b"d")


@every_flavor
async def test_a_wrong_write_is_not_forgotten() -> None:
    """Whoever swallowed the error, the other side does not wait for ever, and the test fails in the end."""
    mock = io_mock().write(b"ping").read(b"pong").build()
    reading, waiting = task_spawn(mock.read), freerun.spawn(io_mock().build().read)
    assert reading.poll() is PENDING
    with pytest.raises(AssertionError, match="unexpected write of b'bing'"):
        await mock.write(b"bing")
    assert reading.is_woken()
    for again in (reading.poll, lambda: task_spawn(mock.write(b"ping")).poll(), mock.close):
        with pytest.raises(AssertionError, match="unexpected write of b'bing'"):
            again()
    mock.close()
    assert await waiting == b""


@every_flavor
async def test_what_is_left_is_an_error() -> None:
    script = io_mock().read(b"r").write(b"w").wait(1.5).read_error(OSError(1)).write_error(OSError(2))
    mock = script.build()
    left = r"left of the script: read\(b'r'\), write\(b'w'\), wait\(1.5\), read_error\(.*1.*\), write_error\(.*2.*\)"
    with pytest.raises(AssertionError, match=left):
        mock.close()
    assert mock.closed
    mock.close()  # it has been said
    with pytest.raises(AssertionError, match="left of the script"):
        async with script.build():
            pass
    with pytest.raises(KeyError):  # what went wrong first is what is raised
        async with script.build():
            raise KeyError
    with pytest.raises(AssertionError, match="left of the script"):  # but not where that is dealt with
        async with script.build() as outer:
            with pytest.raises(KeyError):
                async with outer:
                    raise KeyError
    io_mock().wait(1).build().close()  # there is nothing to miss in that
    for operation in (mock.read, lambda: mock.write(b"w")):
        with pytest.raises(OSError, match="closed"):
            await operation()


def test_what_is_left_when_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: said.append(unraisable.exc_value))
    mock = io_mock().read(b"never").build()
    del mock
    gc.collect()
    assert [str(error) for error in said] == ["io_mock: left of the script: read(b'never')"]


@every_flavor
async def test_errors() -> None:
    reset, pipe = ConnectionResetError("reset"), BrokenPipeError("pipe")
    async with io_mock().read(b"x").read_error(reset).write(b"y").write_error(pipe).build() as mock:
        assert await mock.read() == b"x"
        with pytest.raises(ConnectionResetError) as got:
            await mock.read()
        assert got.value is reset
        await mock.write_all(b"y")
        with pytest.raises(BrokenPipeError) as got_pipe:
            await mock.write(b"z")
        assert got_pipe.value is pipe
        assert await mock.read() == b""


@freerun.test(start_paused=True)
async def test_wait() -> None:
    async with io_mock().wait(3600).read(b"late").wait(60).write(b"later").build() as mock:
        start = Instant.now()
        assert await mock.read() == b"late"
        assert 3600 <= start.elapsed() < 3601
        await sleep(30)
        start = Instant.now()
        await mock.write_all(b"later")  # it is waited from when the script got there, by whoever looked first
        assert 59 <= start.elapsed() <= 61


@freerun.test(start_paused=True)
async def test_wait_holds_up_both() -> None:
    async with io_mock().wait(10).read(b"r").write(b"w").build() as mock:
        start = Instant.now()
        reading, writing = freerun.spawn(mock.read), freerun.spawn(mock.write, b"w")
        assert (await reading, await writing) == (b"r", 1)
        assert 10 <= start.elapsed() < 11


@every_flavor
async def test_handle() -> None:
    mock, handle = io_mock().build_with_handle()
    async with mock:
        reading, writing = task_spawn(mock.read), task_spawn(mock.write(b"out"))
        assert reading.poll() is PENDING and writing.poll() is PENDING  # the script is not over
        handle.read(b"in").write(b"out")
        assert reading.poll() == b"in" and writing.poll() == 3
        handle.read_error(OSError(5)).write_error(OSError(6))
        with pytest.raises(OSError, match="5"):
            await mock.read()
        with pytest.raises(OSError, match="6"):
            await mock.write(b"x")
        at_the_end = task_spawn(mock.read)
        assert at_the_end.poll() is PENDING
        handle.close()
        handle.close()
        assert at_the_end.is_woken() and at_the_end.poll() == b""
        with pytest.raises(RuntimeError, match="handle is closed"):
            handle.read(b"more")
    mock, handle = io_mock().build_with_handle()
    mock.close()
    with pytest.raises(RuntimeError, match="stream is closed"):
        handle.write(b"never")


@every_flavor
async def test_a_dropped_handle_is_closed() -> None:
    mock, handle = io_mock().build_with_handle()
    reading = task_spawn(mock.read)
    assert reading.poll() is PENDING
    del handle
    gc.collect()
    assert reading.poll() == b""
    with io_mock().build_with_handle()[1] as left:
        left.close()
    mock.close()


@every_flavor
async def test_cancelled_it_has_taken_nothing() -> None:
    mock, handle = io_mock().build_with_handle()
    async with mock:
        reading, writing = task_spawn(mock.read), task_spawn(mock.write(b"w"))
        assert reading.poll() is PENDING and writing.poll() is PENDING
        handle.read(b"r").write(b"w")
        assert reading.is_woken() and writing.is_woken()
        reading.close()
        writing.close()
        assert await mock.read() == b"r"
        assert await mock.write(b"w") == 1


@every_flavor
async def test_a_second_reader_or_writer() -> None:
    mock, handle = io_mock().build_with_handle()
    with handle, task_spawn(mock.read) as reading, task_spawn(mock.write(b"x")) as writing:
        assert reading.poll() is PENDING and writing.poll() is PENDING
        with pytest.raises(RuntimeError, match="already reading"):
            await mock.read()
        with pytest.raises(RuntimeError, match="already writing"):
            await mock.write(b"x")
    mock.close()


@every_flavor
async def test_close_wakes_who_waits_for_the_time() -> None:
    mock = io_mock().wait(3600).write(b"x").build()
    reading, writing = freerun.spawn(mock.read), task_spawn(mock.write(b"x"))
    assert writing.poll() is PENDING
    await freerun.yield_now()
    with pytest.raises(AssertionError, match="left of the script"):
        mock.close()
    for waiting in (reading, polled_again(writing)):
        with pytest.raises(OSError, match="closed"):
            await waiting


@every_flavor
async def test_close_wakes_who_waits() -> None:
    mock, handle = io_mock().build_with_handle()
    reading = freerun.spawn(mock.read)
    polled = task_spawn(mock.write(b"x"))
    assert polled.poll() is PENDING
    mock.close()
    for waiting in (reading, polled_again(polled)):
        with pytest.raises(OSError, match="closed"):
            await waiting
    handle.close()


async def polled_again(task: Any) -> None:
    assert task.is_woken()
    task.poll()


@pytest.mark.parametrize(
    ("method", "argument", "error", "match"),
    [
        ("read", "text", TypeError, "argument 'data' must be bytes-like, not str"),
        ("read", b"", ValueError, "argument 'data' must not be empty"),
        ("write", 1, TypeError, "argument 'data'"),
        ("write", b"", ValueError, "argument 'data' must not be empty"),
        ("wait", -1, ValueError, "argument 'seconds'"),
        ("wait", "x", TypeError, "argument 'seconds'"),
        ("read_error", OSError, TypeError, "argument 'error' must be an exception"),
        ("write_error", "x", TypeError, "argument 'error' must be an exception"),
        ("read_error", StopIteration(1), ValueError, "argument 'error' must not be StopIteration"),
    ],
)
def test_bad_arguments(method: str, argument: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        getattr(io_mock(), method)(argument)
    if method != "wait":
        mock, handle = io_mock().build_with_handle()
        with pytest.raises(error, match=match), handle:
            getattr(handle, method)(argument)
        mock.close()


@every_flavor
async def test_errors_leave_no_cycle() -> None:
    """A stream that nobody has any more is gone at once, as is what it would complain of."""
    script = io_mock().read_error(error := OSError("one for all"))
    depths = []
    for _ in range(3):
        mock = script.build()
        with pytest.raises(OSError, match="one for all"):
            await mock.read()
        depths.append(len(traceback.extract_tb(error.__traceback__)))
        error.__traceback__ = None
        gone = weakref.ref(mock)
        mock.close()
        del mock
        assert gone() is None or is_freed(gone)
    assert len(set(depths)) == 1


def test_bad_name() -> None:
    with pytest.raises(TypeError, match="argument 'name'"):
        io_mock(1)  # type: ignore[arg-type]
    assert repr(io_mock("x").build()) == "<IoMock 'x'>"


@every_flavor
async def test_one_script_played_twice() -> None:
    data = bytearray(b"in")
    script = io_mock().read(data).write(b"out")
    data[:] = b"--"  # it is a copy
    for _ in range(2):
        async with script.build() as mock:
            assert await mock.read() == b"in"
            await mock.write_all(b"out")


@every_flavor
async def test_with_the_rest_of_io() -> None:
    async with io_mock().read(b"a\nb").read(b"b\nc").build() as mock:
        assert [line async for line in BufReader(mock).lines()] == ["a", "bb", "c"]
    source = io_mock().read(b"x" * 10).read(b"y" * 10).build()
    sink = io_mock().write(b"x" * 10 + b"y" * 10).build()
    assert await copy(source, sink) == 20
    source.close()
    sink.close()


@every_flavor
async def test_random_scripts() -> None:
    """A peer of two tasks that reads and writes in random pieces plays every script."""
    rng = seeded()
    for _ in range(20):
        script = io_mock()
        reads = writes = b""
        for number in range(rng.randrange(1, 20)):
            piece = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
            if rng.random() < 0.5:
                script.read(piece)
                reads += piece
            else:
                script.write(piece)
                writes += piece
            if number % 7 == 6:
                script.wait(0.0001)
        sizes = [rng.randrange(1, 12) for _ in range(50)]
        mock = script.build()
        reader, writer = freerun.spawn(read_all, mock, sizes), freerun.spawn(write_pieces, mock, writes, sizes)
        assert await reader == reads
        await writer
        mock.close()


async def read_all(mock: IoMock, sizes: list[int]) -> bytes:
    got = b""
    turn = 0
    while data := await mock.read(sizes[turn % len(sizes)]):
        got += data
        turn += 1
    return got


async def write_pieces(mock: IoMock, data: bytes, sizes: list[int]) -> None:
    turn = 0
    while data:
        n = sizes[turn % len(sizes)]
        await mock.write_all(data[:n])
        data = data[n:]
        turn += 1
