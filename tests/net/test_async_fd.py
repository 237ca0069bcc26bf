"""`AsyncFd`: readiness of descriptors that the test reads and writes itself."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import every_flavor, is_parked, open_fds, seeded, until

import freerun
from freerun.net import AsyncFd


def pipes() -> set[str]:
    """This process's pipes. Runtimes have descriptors of other kinds, which come and go by themselves."""
    return {what for what in open_fds().values() if what.startswith("pipe:")}


@every_flavor
async def test_nothing_is_ready_by_assumption() -> None:
    """A pidfd is never read: its readiness is the news itself."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    assert child.stdin
    pidfd = os.pidfd_open(child.pid)
    try:
        with AsyncFd(pidfd) as fd:
            waiter = freerun.spawn(fd.readable)
            await until(lambda: is_parked(waiter))
            child.stdin.close()
            await waiter
            assert child.poll() is not None or child.wait(60) is not None
            await fd.readable()  # still
    finally:
        child.kill()
        child.wait()
        os.close(pidfd)


@every_flavor
async def test_eventfd() -> None:
    number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    with AsyncFd(number) as fd:
        assert fd.inner == fd.fileno() == number
        for i in range(1, 20):
            waiter = freerun.spawn(fd.async_io, os.eventfd_read, number)
            if i % 2:
                await until(lambda: is_parked(waiter))
            os.eventfd_write(number, i)
            assert await waiter == i
    assert repr(fd) == "<AsyncFd closed>"
    os.close(number)


@every_flavor
async def test_guards() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs, AsyncFd(ours) as fd:
        guard = await fd.writable()
        assert guard.try_io(ours.send, b"x") == 1
        assert theirs.recv(10) == b"x"
        with pytest.raises(freerun.WouldBlock):
            fd.try_io(ours.recv, 10)  # not ready: not even called
        theirs.send(b"1")
        guard = await fd.readable()
        assert guard.try_io(ours.recv, 10) == b"1"
        theirs.send(b"2")
        assert guard.try_io(ours.recv, 10) == b"2"
        with pytest.raises(freerun.WouldBlock):
            guard.try_io(ours.recv, 10)
        # Is news of "2" still on its way? Then the readiness stands once more, and a call says that there is nothing.
        waiter = freerun.spawn(fd.async_io, ours.recv, 10)
        await until(lambda: is_parked(waiter))
        theirs.send(b"3")
        assert await waiter == b"3"
        guard.clear_ready()  # of an earlier readiness: no news is forgotten
        with pytest.raises(ZeroDivisionError):
            fd.try_io(lambda: 1 // 0, write=True)
        with pytest.raises(ZeroDivisionError):
            await fd.async_io(lambda: 1 // 0, write=True)


@every_flavor
async def test_a_clear_does_not_undo_news() -> None:
    """What comes between the look and the clearing stays known."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs, AsyncFd(ours) as fd:
        for _ in range(200):
            theirs.send(b"x")
            guard = await fd.readable()
            assert guard.try_io(ours.recv, 10) == b"x"
            try:
                ours.recv(10)
            except BlockingIOError:
                theirs.send(b"y")
                guard.clear_ready()
            assert await fd.async_io(ours.recv, 10) == b"y"


@every_flavor
async def test_a_second_waiter_is_refused() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with AsyncFd(reading) as fd:
        first = freerun.spawn(fd.readable)
        await until(lambda: is_parked(first))
        with pytest.raises(RuntimeError, match="another task"):
            await fd.readable()
        with pytest.raises(RuntimeError, match="another task"):
            fd.try_io(os.read, reading, 1)
        os.write(writing, b"x")
        await first
        with pytest.raises(RuntimeError, match="another task"):
            fd.try_io(lambda: fd.try_io(os.read, reading, 1))  # from inside itself
    os.close(reading)
    os.close(writing)


@every_flavor
async def test_close_wakes_and_leaves_the_descriptor() -> None:
    before = pipes()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    fd = AsyncFd(reading)
    waiter = freerun.spawn(fd.readable)
    await until(lambda: is_parked(waiter))
    fd.close()
    fd.close()
    assert fd.closed
    with pytest.raises(OSError, match="closed"):
        await waiter
    with pytest.raises(OSError, match="closed"):
        fd.try_io(os.read, reading, 1)
    os.write(writing, b"mine")
    assert os.read(reading, 10) == b"mine"
    with AsyncFd(reading) as again, AsyncFd(reading) as twice:  # as often as one likes
        os.write(writing, b"x")
        await again.readable()
        await twice.readable()
    os.close(reading)
    os.close(writing)
    assert pipes() <= before


@every_flavor
async def test_a_descriptor_closed_under_it() -> None:
    """That is the user's business, and harms no other descriptor."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    fd = AsyncFd(reading)
    os.close(reading)
    other = os.eventfd(0, os.EFD_NONBLOCK)  # gets the number
    with AsyncFd(other) as watched:
        waiter = freerun.spawn(watched.readable)
        await until(lambda: is_parked(waiter))
        fd.close()
        os.eventfd_write(other, 1)
        await waiter
    os.close(other)
    os.close(writing)


@freerun.test
async def test_what_cannot_be_watched(tmp_path: Path) -> None:
    before = set(open_fds())
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(PermissionError, match=r"regular file.*blocking pool"):
            AsyncFd(file)
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(PermissionError, match="directory"):
        AsyncFd(directory)
    os.close(directory)
    bad: list[tuple[Any, type[Exception]]] = [
        (-1, ValueError),
        (True, ValueError),
        ("5", TypeError),
        (None, TypeError),
        (1.5, TypeError),
    ]
    for value, error in bad:
        with pytest.raises(error, match="'fd'"):
            AsyncFd(value)
    with pytest.raises(OSError, match="Bad file"):
        AsyncFd(1_000_000)
    assert set(open_fds()) == before


def test_outside_a_runtime() -> None:
    before = set(open_fds())
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        AsyncFd(0)
    assert set(open_fds()) == before


@every_flavor
async def test_the_flags_stay_as_they_are() -> None:
    reading, writing = os.pipe()
    with AsyncFd(reading):
        assert os.get_blocking(reading)
    os.close(reading)
    os.close(writing)


@every_flavor
async def test_racing_pipes() -> None:
    """Readers are aborted while bytes come; none is lost."""
    random = seeded()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    received = bytearray()
    data = random.randbytes(20_000)
    with AsyncFd(reading) as source, AsyncFd(writing) as sink:

        async def read() -> None:
            while len(received) < len(data):
                received.extend(await source.async_io(os.read, reading, random.randrange(1, 500)))

        async def write() -> None:
            at = 0
            while at < len(data):
                at += await sink.async_io(os.write, writing, data[at : at + random.randrange(1, 700)], write=True)
                await freerun.yield_now()

        writer = freerun.spawn(write)
        while len(received) < len(data):
            reader = freerun.spawn(read)
            for _ in range(random.randrange(6)):
                await freerun.yield_now()
            reader.abort()
            try:
                await reader
            except freerun.JoinError as error:
                if not error.is_cancelled():
                    raise
        await writer
    assert received == data
    os.close(reading)
    os.close(writing)


@every_flavor
async def test_somebody_elses_epoll() -> None:
    """An event loop of a library can be waited for."""
    ours, theirs = socket.socketpair()
    with ours, theirs, select.epoll() as poll:
        poll.register(ours, select.EPOLLIN)
        with AsyncFd(poll) as fd:
            waiter = freerun.spawn(fd.readable)
            await until(lambda: is_parked(waiter))
            theirs.send(b"x")
            await waiter
            assert poll.poll(0) == [(ours.fileno(), select.EPOLLIN)]
