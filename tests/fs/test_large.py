"""Reads that are so large that they are made in pieces, a few at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

import pytest
from fs_support import on_the_pool
from support import every_flavor, seeded, until

import freerun
from freerun import fs
from freerun._core._native import read_in_pieces
from freerun.fs import _pool_calls
from freerun.io._buffer import Buffer

PIECE = _pool_calls.PIECE
SIZES = [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE - 1, 3 * PIECE, 3 * PIECE + 1]


@every_flavor
async def test_nothing_is_lost_at_the_borders(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for size in SIZES:
        data = os.urandom(size)
        path.write_bytes(data)
        assert await fs.read(path) == data
        async with fs.File.open(path) as file:
            assert await file.read_to_end() == data
            await file.rewind()
            assert await file.read(size) == data
            assert await file.read(size) == b""
            await file.seek(5)
            assert await file.read_to_end() == data[5:]
            assert await file.tell() == size


@every_flavor
async def test_more_than_may_be_read_at_once(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "x").write_bytes(data)
    paths = [tmp_path / "x"] * (3 * _pool_calls.AT_ONCE)
    handles = [freerun.spawn(fs.read, path) for path in paths]
    assert [await handle == data for handle in handles] == [True] * len(paths)


@every_flavor
async def test_a_pipe_gives_what_there_is(tmp_path: Path) -> None:
    """However much was asked for: the rest may never come."""
    receiving, sending = os.pipe()
    os.write(sending, b"abc")
    async with fs.File.from_fd(receiving) as reader:
        assert await reader.read(8 * PIECE) == b"abc"
        os.close(sending)
        assert await reader.read(8 * PIECE) == b""


@every_flavor
async def test_who_never_ends_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All turns are taken by reads that stand still: the next one goes ahead."""
    data = os.urandom(4 * PIECE)
    (tmp_path / "x").write_bytes(data)
    release, inside = threading.Event(), []

    def stuck(fd: int, size: int, piece: int) -> bytes:
        if len(inside) < _pool_calls.AT_ONCE:
            inside.append(fd)
            release.wait()
        return read_in_pieces(fd, size, piece)

    monkeypatch.setattr(_pool_calls, "_turns", _pool_calls.Turns())
    monkeypatch.setattr(_pool_calls, "read_in_pieces", stuck)
    hanging = [freerun.spawn(fs.read, tmp_path / "x") for _ in range(_pool_calls.AT_ONCE)]
    try:
        await until(lambda: len(inside) == _pool_calls.AT_ONCE)
        assert await fs.read(tmp_path / "x") == data
        assert not any(handle.is_finished() for handle in hanging)
    finally:
        release.set()
    assert [await handle == data for handle in hanging] == [True] * len(hanging)


def test_a_turn_is_given_back_after_an_error(tmp_path: Path) -> None:
    for _ in range(2 * _pool_calls.AT_ONCE):
        with pytest.raises(OSError) as caught:
            _pool_calls.read_large(-1, 4 * PIECE)
        assert caught.value.errno == errno.EBADF
    assert all(_pool_calls._turns.take() for _ in range(_pool_calls.AT_ONCE))
    for _ in range(_pool_calls.AT_ONCE):
        _pool_calls._turns.give_back()


def test_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    with (tmp_path / "x").open("rb", buffering=0) as file:
        assert read_in_pieces(file.fileno(), 7, 3) == b"0123456"
        assert read_in_pieces(file.fileno(), 0, 3) == b""
        assert read_in_pieces(file.fileno(), 100, 2) == b"789"
        assert read_in_pieces(file.fileno(), 100, 2) == b""
        for size, piece in [(-1, 1), (1, 0), (1, -1)]:
            with pytest.raises(ValueError, match="argument 'size' must not be below 0, and 'piece' must be above 0"):
                read_in_pieces(file.fileno(), size, piece)


def test_the_end_of_a_file_copies_nothing() -> None:
    """16 MiB copied twice, attached, on a worker: that was 20 ms for everybody else on it."""
    data = os.urandom(100)
    buffer = Buffer()
    buffer.append(data)
    buffer.append(b"")
    assert buffer.take(100) is data


@every_flavor
async def test_aborted_in_the_middle(tmp_path: Path) -> None:
    """Between two pieces, too: the next read goes on where the bytes that were given out end."""
    random = seeded()
    data = random.randbytes(24 * PIECE)
    (tmp_path / "x").write_bytes(data)
    for _ in range(10):
        async with fs.File.open(tmp_path / "x") as file:
            task = freerun.spawn(file.read_to_end)
            for _ in range(random.randrange(200)):
                await freerun.yield_now()
            task.abort()
            try:
                got = await task
            except freerun.JoinError:
                got = b""
            assert got + await file.read_to_end() == data


@pytest.fixture(scope="module")
def beyond_4_gib() -> bytes:
    """Made once: free-threaded Python 3.13 writes every byte of it."""
    return bytes((4 << 30) + 1)


@every_flavor
async def test_a_write_beyond_4_gib(beyond_4_gib: bytes) -> None:
    """More than one system call takes, and than one request to io_uring names. The bytes are never touched."""
    async with fs.File.options().write(True).open("/dev/null") as file:
        await file.write_all(beyond_4_gib)
    await fs.write("/dev/null", beyond_4_gib)


@every_flavor
async def test_a_large_write_that_is_cancelled(tmp_path: Path) -> None:
    """It is one system call that nobody can stop: all is written, and `tell()` says so."""
    data = os.urandom(1 << 20) * 32
    path = tmp_path / "x"
    async with fs.File.create(path) as file:
        task = freerun.spawn(file.write_all, data)
        await until(lambda: path.stat().st_size)
        task.abort()
        with contextlib.suppress(freerun.JoinError):  # or it was faster
            await task
        assert await file.tell() == len(data)
    assert path.read_bytes() == data
    task = freerun.spawn(fs.write, path, data[1:])
    await until(lambda: 0 < path.stat().st_size < len(data))
    task.abort()
    with contextlib.suppress(freerun.JoinError):
        await task
    await until(lambda: path.stat().st_size == len(data) - 1)
    assert path.read_bytes() == data[1:]


@on_the_pool
@every_flavor
async def test_no_call_only_to_see_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the size says what is left. It does not in /proc, which is not read byte by byte for that."""
    calls = []
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, n: (calls.append(n), real(fd, n))[1])
    path = tmp_path / "x"
    path.write_bytes(bytes(5000))
    async with fs.File.open(path) as file:
        assert await file.read_to_end() == bytes(5000)
        assert calls == [5001]
        with path.open("ab") as other:
            other.write(b"more")
        assert await file.read_to_end() == b"more"
        assert calls == [5001, 5]
        assert await file.read_to_end() == b""
    calls.clear()
    async with fs.File.open("/proc/self/maps") as file:
        assert (await file.read_to_end()).count(b"\n") > 10
    assert min(calls) >= 65536
