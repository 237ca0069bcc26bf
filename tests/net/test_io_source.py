"""`lowlevel.IoSource` and `IoStream`: types of one's own on the driver."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest
from support import every_flavor, is_parked, open_fds, seeded, until

import freerun
from freerun import lowlevel
from freerun.net import AsyncFd, TcpStream


class Counter(lowlevel.IoSource):
    """An eventfd, as the documentation has it."""

    def __init__(self) -> None:
        super().__init__(os.eventfd(0))

    def add(self, n: int) -> None:
        self.with_fd(os.eventfd_write, n)

    async def take(self) -> int:
        while True:
            try:
                return self.with_fd(os.eventfd_read)
            except BlockingIOError:
                self.clear_ready(0, await self.wait_ready(0))


def pipe_streams() -> tuple[lowlevel.IoStream, lowlevel.IoStream]:
    reading, writing = os.pipe()
    return lowlevel.IoStream(reading), lowlevel.IoStream(writing)


@every_flavor
async def test_a_type_of_ones_own() -> None:
    """Nothing that was added is lost or counted twice, whoever adds, and whatever is aborted."""
    random = seeded()
    counter = Counter()
    wanted = 0
    taken: list[int] = []

    async def take_some() -> None:
        while True:
            taken.append(await counter.take())

    for _ in range(20):
        taker = freerun.spawn(take_some)
        for _ in range(random.randrange(1, 5)):
            amount = random.randrange(1, 100)
            wanted += amount
            await freerun.spawn_blocking(counter.add, amount)
        taker.abort()
        with pytest.raises(freerun.JoinError):
            await taker
    taker = freerun.spawn(take_some)
    await until(lambda: sum(taken) == wanted and is_parked(taker))
    counter.close()
    with pytest.raises(OSError, match="closed"):
        await taker


@every_flavor
async def test_a_pipe() -> None:
    reader, writer = pipe_streams()
    data = seeded().randbytes(1_000_000)
    writing = freerun.spawn(writer.write_all, data)
    received = b""
    while len(received) < len(data):
        received += await reader.read(100_000)
    assert received == data
    await writing
    waiting = freerun.spawn(reader.read)
    await until(lambda: is_parked(waiting))
    with pytest.raises(RuntimeError, match="another task"):
        await reader.read()
    writer.close()
    assert await waiting == b""
    reader.close()


@every_flavor
async def test_a_readiness_that_was_not_cleared_stays() -> None:
    counter = Counter()
    counter.add(1)
    for _ in range(3):
        assert await counter.wait_ready(0)
    assert counter.try_io(0, counter.with_fd, os.eventfd_read) == 1
    with pytest.raises(freerun.WouldBlock):
        counter.try_io(0, counter.with_fd, os.eventfd_read)
    counter.close()


@every_flavor
async def test_a_refused_descriptor_is_still_ones_own() -> None:
    with tempfile.TemporaryFile() as file:
        with pytest.raises(OSError, match="cannot be waited for"):
            lowlevel.IoSource(file.fileno())
        file.write(b"still open")
    for bad in (-1, 1 << 20):
        with pytest.raises(OSError):
            lowlevel.IoSource(bad)
    for wrong in ("1", None, 1.5):
        with pytest.raises(TypeError):
            lowlevel.IoSource(wrong)  # type: ignore[arg-type]


@every_flavor
async def test_who_owns_it() -> None:
    before = set(open_fds().values())
    ours, theirs = socket.socketpair()
    source = lowlevel.IoStream(ours.detach())
    fd = source.detach()
    assert source.closed
    assert source.fileno() == -1
    with socket.socket(fileno=fd) as again:
        again.sendall(b"x")
        assert theirs.recv(1) == b"x"
    theirs.close()
    for _ in range(20):
        lowlevel.IoStream(os.eventfd(0))  # dropped: closed
    await until(lambda: {what for what in open_fds().values() if what.startswith("socket:")} <= before)


def test_what_the_python_layer_is_built_on() -> None:
    assert issubclass(TcpStream, lowlevel.IoStream)
    assert issubclass(lowlevel.IoStream, lowlevel.IoSource)
    assert not issubclass(AsyncFd, lowlevel.IoSource)  # that one owns nothing
    reading, writing = os.pipe()
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        lowlevel.IoSource(reading)
    os.close(reading)
    os.close(writing)
