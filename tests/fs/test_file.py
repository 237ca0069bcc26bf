"""`File`: reading, writing, positions, and what its handle does."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from fs_support import Gate, aborted_inside, filled, on_one_worker, on_the_pool
from support import (
    FLAVORS_AND_DRIVERS,
    PATIENCE,
    Flavor,
    all_at_once,
    every_flavor,
    is_parked,
    only,
    open_fds,
    seeded,
    until,
    wait_until,
)

import freerun
from freerun import fs, io


@every_flavor
async def test_write_then_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    async with await fs.File.create(path) as file:
        assert file.path == path
        await file.write_all(b"hello ")
        assert path.read_bytes() == b"hello "  # write_all has written when it returns
        await file.write_all(bytearray(b"world"))
        await file.write_all(memoryview(b"!"))
        await file.write_all(b"")
    assert file.closed
    assert path.read_bytes() == b"hello world!"
    async with fs.File.open(str(path)) as file:
        assert await file.read(5) == b"hello"
        assert await file.read(100) == b" world!"
        assert await file.read(100) == b""
        assert await file.read() == b""


@every_flavor
async def test_every_way_to_read(tmp_path: Path) -> None:
    file = await filled(tmp_path / "x", b"0123456789" * 20_000)
    assert await file.read_exact(70_000) == (b"0123456789" * 20_000)[:70_000]
    buffer = bytearray(7)
    assert await file.read_into(buffer) == 7
    assert buffer == b"0123456"
    assert await file.read_into(bytearray()) == 0
    with pytest.raises(TypeError, match="argument 'buf' must be writable"):
        await file.read_into(b"fixed")
    assert await file.seek(-3, os.SEEK_END) == 199_997
    with pytest.raises(io.UnexpectedEof) as caught:
        await file.read_exact(5)
    assert caught.value.partial == b"789"
    await file.rewind()
    assert len(await file.read_to_end()) == 200_000
    assert await file.read_to_end() == b""
    await file.rewind()
    with pytest.raises(io.LimitExceeded):
        await file.read_to_end(limit=1000)
    await file.rewind()
    assert await file.read_to_string() == "0123456789" * 20_000
    with pytest.raises(ValueError, match="argument 'n'"):
        await file.read(0)
    file.close()


@every_flavor
async def test_read_to_string_checks_the_encoding(tmp_path: Path) -> None:
    async with await filled(tmp_path / "x", "grün".encode("latin-1")) as file:
        with pytest.raises(UnicodeDecodeError):
            await file.read_to_string()
        await file.rewind()
        assert await file.read_to_string("latin-1") == "grün"


@every_flavor
async def test_lines(tmp_path: Path) -> None:
    text = "first\r\n\nümläut " + "x" * 200_000 + "\nlast"
    async with await filled(tmp_path / "x", text.encode()) as file:
        assert [line async for line in file] == ["first", "", "ümläut " + "x" * 200_000, "last"]
        await file.rewind()
        assert await file.read_line() == "first\r\n"
        assert await file.read(1) == b"\n"  # lines and bytes by turns
        assert await file.read_until(b"l") == "üml".encode()
        assert await file.tell() == len("first\r\n\nüml".encode())


@every_flavor
async def test_positions(tmp_path: Path) -> None:
    async with await filled(tmp_path / "x", b"abcdefghij") as file:
        assert await file.read_line() == "abcdefghij"  # more was read than is given below
        await file.rewind()
        assert await file.read_exact(2) == b"ab"
        assert len(file.buffer) == 8
        assert await file.tell() == 2
        assert await file.seek(1, os.SEEK_CUR) == 3
        assert await file.read(1) == b"d"
        await file.write_all(b"XY")  # where the next byte would have been read
        assert await file.tell() == 6
        assert await file.read(2) == b"gh"
        await file.rewind()
        assert await file.read_to_end() == b"abcdXYghij"
        with pytest.raises(OSError, match="Invalid argument"):
            await file.seek(-1)
        assert await file.tell() == 10


@every_flavor
async def test_write_takes_a_piece_and_reports_later(tmp_path: Path) -> None:
    """Tokio's write: `max_buf_size` at most, errors at the next operation."""
    async with fs.File.create(tmp_path / "x") as file:
        assert file.max_buf_size == 2 * 1024 * 1024
        file.set_max_buf_size(1000)
        assert await file.write(bytes(5000)) == 1000
        assert await file.write(b"abc") == 3
        assert await file.write(b"") == 0
        await file.flush()
        assert (tmp_path / "x").stat().st_size == 1003
        await file.rewind()
        with pytest.raises(ValueError, match="argument 'size'"):
            file.set_max_buf_size(0)
    async with fs.File.options().write(True).open("/dev/full") as full:
        assert await full.write(b"x") == 1
        with pytest.raises(OSError) as caught:
            await full.flush()
        assert caught.value.errno == errno.ENOSPC
        await full.flush()  # said once


@every_flavor
async def test_disk_full(tmp_path: Path) -> None:
    async with fs.File.options().write(True).open("/dev/full") as file:
        with pytest.raises(OSError) as caught:
            await file.write_all(b"x" * 10)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.__notes__ == ["0 of 10 bytes were written"]
    with pytest.raises(OSError):
        async with fs.File.options().write(True).open("/dev/full") as file:
            await file.write(b"x")  # the block's end says it
    with pytest.raises(OSError):
        await fs.write("/dev/full", b"x")


@every_flavor
async def test_a_write_that_stops_half_way_says_so(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that fills up in the middle."""
    path = tmp_path / "x"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = await fs.File.create(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            await file.write_all(bytes(25_000))
        assert await file.tell() == 10_000
        with pytest.raises(OSError) as whole:
            await fs.write(tmp_path / "y", bytes(25_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.__notes__ == ["10000 of 25000 bytes were written"]
    assert whole.value.errno == errno.EFBIG
    assert whole.value.__notes__ == ["10000 of 25000 bytes were written"]
    await file.write_all(b"")
    file.close()


@every_flavor
async def test_beyond_4_gib(tmp_path: Path) -> None:
    far = 5 * 1024**3
    async with await filled(tmp_path / "sparse", b"begin") as file:
        await file.set_len(far)
        assert (await file.metadata()).len() == far
        assert await file.seek(far - 3) == far - 3
        await file.write_all(b"theend")
        assert await file.tell() == far + 3
        await file.seek(far - 5)
        assert await file.read_to_end() == b"\0\0theend"
        assert (tmp_path / "sparse").stat().st_blocks < 1000


@every_flavor
async def test_changed_underneath(tmp_path: Path) -> None:
    path = tmp_path / "x"
    async with await filled(path, b"a" * 300_000) as file:
        assert len(await file.read_exact(100_000)) == 100_000
        os.truncate(path, 50_000)
        rest = await file.read_to_end()  # what had been read ahead at the most, never an error or a hang
        assert set(rest) <= {ord("a")}
        assert len(rest) < 100_000
        os.truncate(path, 0)
        with path.open("ab") as other:
            other.write(b"b" * 400_000)
        rest = await file.read_to_end()
        assert rest.endswith(b"b")
        await file.rewind()
        path.unlink()
        assert await file.read_to_end() == b"b" * 400_000


@every_flavor
async def test_append(tmp_path: Path) -> None:
    path = tmp_path / "log"
    options = fs.File.options().append(True).create(True).read(True)
    async with options.open(path) as one, options.open(path) as two:
        await one.write_all(b"1")
        await two.write_all(b"22")
        await one.write_all(b"1")
        await one.rewind()
        await one.write_all(b"3")
        await one.rewind()
        assert await one.read_to_end() == b"12213"


@every_flavor
async def test_options(tmp_path: Path) -> None:
    path = tmp_path / "x"
    options = fs.OpenOptions()
    assert repr(options) == "<OpenOptions nothing>"
    with pytest.raises(ValueError, match="opened for nothing"):
        options.open(path)
    with pytest.raises(ValueError, match="need write"):
        fs.OpenOptions().read(True).create(True).open(path)
    with pytest.raises(ValueError, match="truncate"):
        fs.OpenOptions().append(True).truncate(True).open(path)
    with pytest.raises(ValueError, match="truncate"):
        fs.OpenOptions().write(True).append(True).truncate(True).open(path)
    with pytest.raises(TypeError, match="argument 'read'"):
        options.read(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="argument 'mode'"):
        options.mode(0o77777)
    with pytest.raises(TypeError, match="argument 'path' must be a str or a path, not int"):
        fs.File.open(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fsdecode"):
        fs.File.open(b"x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="null character"):
        fs.File.open("a\0b")
    with pytest.raises(FileNotFoundError):
        await fs.File.open(path)
    async with fs.OpenOptions().write(True).create_new(True).mode(0o600).open(path):
        assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        await fs.File.create_new(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        await fs.OpenOptions().read(True).custom_flags(os.O_NOFOLLOW).open(tmp_path / "link")
    async with fs.File.create_new(tmp_path / "new") as file:
        await file.write_all(b"x")
        await file.rewind()
        assert await file.read() == b"x"
    with pytest.raises(IsADirectoryError):
        await fs.File.create(tmp_path)
    async with fs.File.open(path) as file:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await file.write_all(b"x")


@every_flavor
async def test_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "x"
    async with await filled(path, b"0123456789") as file:
        await file.set_len(4)
        assert await file.read_to_end() == b"0123"
        await file.set_len(6)
        assert await file.read_to_end() == b"\0\0"
        with pytest.raises(ValueError, match="argument 'size'"):
            await file.set_len(-1)
        await file.write(b"more")
        about = await file.metadata()  # waits for what is being written
        assert about.len() == about.st_size == 10
        assert about.is_file()
        await file.set_permissions(0o640)
        assert (await file.metadata()).permissions() == fs.Permissions(0o640)
        await file.set_permissions(fs.Permissions(0o600))
        await file.sync_all()
        await file.sync_data()
        assert path.stat().st_mode & 0o777 == 0o600


@every_flavor
async def test_clones_share_the_position(tmp_path: Path) -> None:
    async with await filled(tmp_path / "x", b"one\ntwo\nthree") as file:
        assert await file.read_line() == "one\n"
        async with await file.try_clone() as clone:
            assert clone.fileno() != file.fileno()
            assert await clone.read(3) == b"two"
            assert await file.read(100) == b"\nthree"
        assert not file.closed


@every_flavor
async def test_descriptors_come_and_go(tmp_path: Path) -> None:
    file = await filled(tmp_path / "x", b"abc")
    number = await file.into_fd()
    assert file.closed
    again = fs.File.from_fd(number)
    assert again.path is None
    assert await again.read() == b"abc"
    again.close()
    with pytest.raises(OSError):
        os.fstat(number)
    with pytest.raises(OSError):
        fs.File.from_fd(number)


@every_flavor
async def test_a_closed_file(tmp_path: Path) -> None:
    file = await filled(tmp_path / "x", b"abc")
    file.close()
    file.close()
    assert file.fileno() == -1
    for operation in (
        file.read,
        lambda: file.write(b"x"),
        lambda: file.write_all(b"x"),
        file.flush,
        file.tell,
        file.rewind,
        file.sync_all,
        file.metadata,
        file.try_clone,
        file.into_fd,
        file.read_to_end,
        file.read_line,
        lambda: file.set_len(0),
        lambda: file.set_permissions(0o600),
    ):
        with pytest.raises(OSError, match="the file is closed") as caught:
            await operation()
        assert caught.value.errno == errno.EBADF
    async with file:
        pass


@on_the_pool
@every_flavor
async def test_a_second_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await filled(tmp_path / "x", b"abc")
    gate = Gate(monkeypatch, "read")
    reading = freerun.spawn(file.read)
    await until(gate.entered.is_set)
    for operation in (file.read, file.tell, lambda: file.write_all(b"x")):
        with pytest.raises(RuntimeError, match="already using this file"):
            await operation()
    gate.open()
    assert await reading == b"abc"
    assert await file.tell() == 3
    file.close()


@on_the_pool
@every_flavor
async def test_a_cancelled_read_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await filled(tmp_path / "x", b"abcdef")
    gate = Gate(monkeypatch, "read")
    await aborted_inside(gate, file.read, 4)
    gate.open()
    assert await file.read(10) == b"abcd"
    assert await file.tell() == 4
    assert await file.read(10) == b"ef"
    file.close()


@on_the_pool
@every_flavor
async def test_a_cancelled_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    file = await filled(path, b"")
    gate = Gate(monkeypatch, "write")
    data = bytearray(b"first ")
    await aborted_inside(gate, file.write_all, data)
    data[:] = b"XXXXXX"  # nobody sees this
    assert file.fileno() >= 0
    second = freerun.spawn(file.write_all, b"second")
    await freerun.time.sleep(0.001)
    assert gate.calls == 1  # never two at once
    gate.open()
    await second
    assert path.read_bytes() == b"first second"
    assert await file.tell() == 12
    file.close()


@on_the_pool
@every_flavor
async def test_a_cancelled_write_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fs.File.options().write(True).open("/dev/full") as file:
        gate = Gate(monkeypatch, "write")
        await aborted_inside(gate, file.write_all, b"x")
        gate.open()
        with pytest.raises(OSError, match="No space left"):
            await file.tell()


@on_the_pool
@every_flavor
async def test_closed_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number stays the file's until the write is over: nobody else's file is written."""
    path = tmp_path / "x"
    file = await filled(path, b"")
    number = file.fileno()
    gate = Gate(monkeypatch, "write")
    await file.write(b"late")
    await until(gate.entered.is_set)
    file.close()
    assert number in open_fds()
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    assert other != number
    gate.open()
    await until(lambda: path.read_bytes() == b"late")
    await until(lambda: open_fds().get(number) != str(path))
    os.close(other)


@every_flavor
async def test_a_failure_after_close_is_logged(
    rt: freerun.Runtime, monkeypatch: pytest.MonkeyPatch, reports: object
) -> None:
    file = await fs.File.options().write(True).open("/dev/full")
    await file.write(b"x")
    file.close()
    await until(lambda: "No space left" in str(reports.messages) or len(reports) > 0)  # type: ignore[attr-defined,arg-type]
    assert any("blocking call" in message for message in reports.messages)  # type: ignore[attr-defined]


@every_flavor
async def test_random_aborts(tmp_path: Path) -> None:
    """Whatever is aborted whenever: a write is there whole or not at all, and reads give every byte once."""
    random = seeded()
    path = tmp_path / "x"
    file = await filled(path, b"")
    expected = b""
    for i in range(60):
        piece = bytes([65 + i % 26]) * random.choice((1, 10, 5000, 100_000))
        task = freerun.spawn(file.write_all, piece)
        for _ in range(random.randrange(4)):
            await freerun.yield_now()
        if random.random() < 0.3:
            await freerun.time.sleep(random.random() * 0.001)
        aborted = task.abort() if random.random() < 0.7 else False
        try:
            await task
            aborted = False
        except freerun.JoinError:
            assert aborted
        position = await file.tell()
        assert position in (len(expected), len(expected) + len(piece)), (position, len(expected), len(piece))
        if not aborted:
            assert position == len(expected) + len(piece)
        if position > len(expected):
            expected += piece
        assert path.stat().st_size == position
    assert path.read_bytes() == expected
    await file.rewind()
    seen = b""
    while len(seen) < len(expected):
        task = freerun.spawn(file.read, random.randrange(1, 100_000))
        for _ in range(random.randrange(4)):
            await freerun.yield_now()
        if random.random() < 0.5:
            task.abort()
        try:
            seen += await task
        except freerun.JoinError:
            continue
    assert seen == expected
    file.close()


@every_flavor
async def test_a_fifo(tmp_path: Path) -> None:
    """Opening one waits for the other side, on the pool; it has no position."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opening = freerun.spawn(lambda: fs.File.open(path))
    writer = await fs.File.options().write(True).open(path)
    reader = await opening
    await writer.write_all(b"through the pipe\nrest")
    assert await reader.read_line() == "through the pipe\n"
    with pytest.raises(OSError, match="Illegal seek"):
        await reader.tell()
    with pytest.raises(OSError, match="Illegal seek"):
        await reader.seek(0)
    assert await reader.read() == b"rest"  # and nothing was lost by that
    waiting = freerun.spawn(reader.read)
    await freerun.time.sleep(0.001)
    assert not waiting.is_finished()
    writer.close()
    assert await waiting == b""
    reader.close()


@every_flavor
async def test_an_open_that_was_aborted_leaves_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opening = freerun.spawn(lambda: fs.File.open(path))
    await freerun.time.sleep(0.002)
    opening.abort()
    with pytest.raises(freerun.JoinError):
        await opening

    def gone() -> bool:
        """Let a call go on that still waits for the other side; then look."""
        with contextlib.suppress(OSError):  # ENXIO: none does
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return str(path) not in open_fds().values()

    await until(gone)
    await freerun.time.sleep(0.002)
    assert gone()


@on_one_worker
@every_flavor
async def test_never_closed(tmp_path: Path) -> None:
    file = await filled(tmp_path / "x", b"")
    number = file.fileno()
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del file
        await until(lambda: number not in open_fds())


@every_flavor
async def test_with_freerun_io(tmp_path: Path) -> None:
    """A `File` is what `io` takes: readers, writers, copies."""
    source, target = tmp_path / "a", tmp_path / "b"
    text = "".join(f"line {i}\n" for i in range(20_000))
    async with fs.File.create(source) as file:
        assert isinstance(file, io.AsyncRead)
        assert isinstance(file, io.AsyncWrite)
        assert isinstance(file, io.AsyncBufRead)
        writer = io.BufWriter(file)
        for i in range(20_000):
            await writer.write_all(f"line {i}\n".encode())
        await writer.flush()
        await file.flush()
        assert source.read_text() == text
    async with fs.File.open(source) as reading, fs.File.create(target) as writing:
        assert await io.copy(reading, writing) == len(text)
    assert target.read_text() == text
    async with fs.File.open(source) as file:
        assert [line async for line in io.BufReader(file).lines()] == text.splitlines()


@every_flavor
async def test_many_files_at_once(tmp_path: Path) -> None:
    async def one(i: int) -> bytes:
        path = tmp_path / str(i)
        async with fs.File.create(path) as file:
            await file.write_all(b"%d" % i)
        async with fs.File.open(path) as file:
            return await file.read_to_end()

    handles = [freerun.spawn(one, i) for i in range(200)]
    assert [await handle for handle in handles] == [b"%d" % i for i in range(200)]


def test_interrupted_system_calls(rt: freerun.Runtime) -> None:
    """Signals in the middle of reads and writes of a pipe: nothing is lost."""
    data = os.urandom(1 << 20)

    async def main() -> bytes:
        receiving, sending = os.pipe()
        async with fs.File.from_fd(receiving) as reader, fs.File.from_fd(sending) as writer:
            task = freerun.spawn(writer.write_all, data)
            got = bytearray()
            while len(got) < len(data):
                got += await reader.read(65_536)
                os.kill(os.getpid(), signal.SIGUSR1)
            await task
            return bytes(got)

    seen: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        assert rt.block_on(main) == data
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen


def test_used_by_a_second_runtime(tmp_path: Path) -> None:
    async def opens() -> fs.File:
        return await filled(tmp_path / "x", b"abc")

    file = freerun.run(opens)
    assert freerun.run(file.read) == b"abc"
    file.close()


def test_outside_a_runtime() -> None:
    opening = fs.read("/dev/null")
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        opening.send(None)


async def open_fifo(path: Path) -> tuple[fs.File, fs.File]:
    """Both ends of a pipe with a name, each opened by a task of its own."""
    os.mkfifo(path)
    opening = freerun.spawn(lambda: fs.File.open(path))
    writer = await fs.File.options().write(True).open(path)
    return await opening, writer


@every_flavor
async def test_a_cancelled_read_of_a_pipe_loses_nothing(tmp_path: Path) -> None:
    reader, writer = await open_fifo(tmp_path / "fifo")
    for i in range(20):
        task = freerun.spawn(reader.read, 100)
        for _ in range(i % 5):
            await freerun.yield_now()
        task.abort()
        if i % 2:
            await writer.write_all(b"x%d" % i)
        got = b""
        try:
            got = await task
        except freerun.JoinError:
            pass
        if i % 2 and not got:
            got = await reader.read(100)
        assert got == (b"x%d" % i if i % 2 else b"")
    reader.close()
    writer.close()


@every_flavor
async def test_a_cancelled_write_into_a_full_pipe_is_finished(tmp_path: Path) -> None:
    """Whatever is closed or dropped meanwhile, the bytes stay where they are until the last is written."""
    reader, writer = await open_fifo(tmp_path / "fifo")
    data = os.urandom(1 << 20)
    task = freerun.spawn(writer.write_all, bytearray(data))
    first = await reader.read(10)
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    writer.close()
    gc.collect()
    got = bytearray(first)
    while piece := await reader.read(100_000):
        got += piece
    assert got == data
    reader.close()


def test_a_read_that_waits_does_not_hold_up_a_shutdown(flavor: Flavor, tmp_path: Path, reports: Any) -> None:
    """io_uring's is cancelled. A call on the pool waits for bytes, or for the other side to close, as happens here."""
    runtime = flavor.builder().build()

    async def main() -> freerun.JoinHandle[bytes]:
        reader, writer = await open_fifo(tmp_path / "fifo")
        task = freerun.spawn(reader.read)
        await until(lambda: is_parked(task))
        kept.extend([reader, writer])
        return task

    kept: list[fs.File] = []
    task = runtime.block_on(main)
    closing = threading.Thread(target=runtime.shutdown)
    closing.start()
    if flavor.driver == "epoll":
        wait_until(task.is_finished)
        kept[1].close()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    with pytest.raises(freerun.JoinError):
        task.blocking_result()
    for file in kept:
        file.close()
    assert len(reports) == 0


@all_at_once(*FLAVORS_AND_DRIVERS)
def test_a_write_that_never_ends_is_named_by_the_shutdown(flavor: Flavor, tmp_path: Path, reports: Any) -> None:
    """Its bytes stay where they are for as long as somebody may take them; when somebody does, they are all there."""
    runtime = flavor.builder().build()
    data = os.urandom(300_000)
    kept: list[fs.File] = []

    async def main() -> None:
        kept.extend(await open_fifo(tmp_path / str(flavor)))
        freerun.spawn(kept[1].write_all, bytearray(data))
        assert await kept[0].read(1) == data[:1]

    runtime.block_on(main)
    runtime.shutdown(0.05)
    gc.collect()
    (report,) = [record for record in reports if record.thread == threading.get_ident()]
    assert "did not end" in report.getMessage()
    assert "blocking call" in report.getMessage()
    got = bytearray(data[:1])
    if flavor.driver == "epoll":  # a thread of the pool was left behind, and goes on
        while len(got) < len(data):
            got += os.read(kept[0].fileno(), 100_000)
        assert got == data
    for file in kept:
        file.close()


@only(*[each for each in FLAVORS_AND_DRIVERS if each.driver == "io_uring"])
@every_flavor
async def test_io_uring_does_it(rt: freerun.Runtime, tmp_path: Path) -> None:
    """With that driver no thread of the pool is needed for an open file."""
    async with fs.File.create(tmp_path / "x") as file:
        await file.write_all(b"abc" * 100_000)
        await file.sync_all()
        await file.sync_data()
        assert (await file.metadata()).len() == 300_000
    async with fs.File.open(tmp_path / "x") as file:
        assert await file.read_to_end() == b"abc" * 100_000
    ours, theirs = (await fs.metadata(tmp_path / "x")).stat, (tmp_path / "x").stat()
    for name in dir(theirs):
        if name.startswith("st_") and name != "st_birthtime":
            assert getattr(ours, name) == getattr(theirs, name), name
    assert tuple(ours) == tuple(theirs)
    assert (await fs.symlink_metadata("/proc/self")).is_symlink()
    with pytest.raises(FileNotFoundError) as caught:
        await fs.metadata(tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")
    assert rt.metrics().num_blocking_threads == 0


@every_flavor
async def test_more_at_once_than_a_ring_takes(tmp_path: Path) -> None:
    """Beyond its limit the pool takes over."""
    await fs.write(tmp_path / "x", b"abc")
    handles = [freerun.spawn(fs.metadata, tmp_path / "x") for _ in range(5000)]
    assert {(await handle).len() for handle in handles} == {3}
