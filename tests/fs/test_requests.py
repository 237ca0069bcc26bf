"""Requests to io_uring one by one: beyond how many there may be, and at a shutdown to which no worker comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_support import occupy_all, outcome
from support import DRIVERS, FLAVORS_AND_DRIVERS, STRICT, Flavor, every_flavor, only, open_fds, until, wait_until

import freerun
from freerun import fs
from freerun._core._native import file_request
from freerun.fs._ring import READ, WRITE

on_the_ring = only(*[each for each in FLAVORS_AND_DRIVERS if each.driver == "io_uring"])
AT_MOST = 2048
CAPACITY = 65536  # of a pipe


@pytest.fixture
def stuck() -> Iterator[int]:
    """A descriptor to read from that gives nothing until the test is over."""
    receiving, sending = os.pipe()
    yield receiving
    os.close(sending)
    os.close(receiving)


def read_stuck(fd: int) -> freerun.JoinHandle[bytes] | None:
    return file_request(False, READ, fd, 1, -1, 0, 0, None, None, None)


@on_the_ring
@every_flavor
async def test_the_rest_of_a_write_is_not_refused(stuck: int) -> None:
    """The place of a request that is done in part goes to whoever asks first. It goes on all the same."""
    reads = []
    while (handle := read_stuck(stuck)) is not None:
        reads.append(handle)
    assert len(reads) <= AT_MOST
    hungry, over = threading.Event(), threading.Event()
    taken: list[freerun.JoinHandle[bytes]] = []

    async def take_places() -> None:
        while not over.is_set():
            if hungry.is_set() and (handle := read_stuck(stuck)) is not None:
                taken.append(handle)
            await freerun.yield_now()

    async def write_in_part() -> None:
        receiving, sending = os.pipe()
        try:
            os.write(sending, bytes(CAPACITY - 4096))
            data = os.urandom(20_000)
            reads.pop().abort()  # room for one
            write = None
            while write is None:
                write = file_request(True, WRITE, sending, data, -1, 0, 0, None, None, None)
                await freerun.yield_now()
            hungry.set()
            await freerun.time.sleep(0.005)  # the first part is done, and who comes first has the place
            hungry.clear()
            got = b""
            while len(got) < CAPACITY - 4096 + len(data):
                got += os.read(receiving, CAPACITY)
                await freerun.yield_now()
                if write.is_finished():
                    await write  # an error would keep us here for ever
            await write
            assert got[CAPACITY - 4096 :] == data
        finally:
            os.close(receiving)
            os.close(sending)

    takers = [freerun.spawn(take_places) for _ in range(3)]
    try:
        for _ in range(5):
            await write_in_part()
    finally:
        over.set()
        for taker in takers:
            await taker
        for handle in [*reads, *taken]:
            handle.abort()
    for handle in [*reads, *taken]:
        with pytest.raises(freerun.JoinError):
            await handle


@only(*[Flavor(each.workers, "io_uring", stand_in=False) for each in STRICT if "io_uring" in DRIVERS])
def test_what_is_done_when_no_worker_comes_to_it(flavor: Flavor, tmp_path: Path) -> None:
    """All workers are stuck. A file that was opened is closed, a write that was done is not cancelled."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    receiving, sending = os.pipe()
    os.write(sending, bytes(CAPACITY))
    rt = flavor.builder().build()
    begun: list[freerun.JoinHandle[None]] = []

    async def begin() -> None:
        begun.append(freerun.spawn(opens))
        handle = file_request(True, WRITE, sending, b"x" * 4096, -1, 0, 0, None, None, None)
        assert handle is not None
        begun.append(handle)
        await until(lambda: "waiting" in repr(begun[0]))

    async def opens() -> None:
        await fs.File.open(fifo)

    rt.block_on(begin)
    release = occupy_all(rt, flavor)
    writer = os.open(fifo, os.O_RDWR)  # the open is done, and nobody looks

    def opened() -> int:
        return sum(what == str(fifo) for what in open_fds().values())

    wait_until(lambda: opened() == 2)
    got = 0
    while got < CAPACITY + 4096:
        got += len(os.read(receiving, CAPACITY))
    stopping = threading.Thread(target=rt.shutdown, args=(0.1,))
    stopping.start()
    try:
        opening, writing = begun
        assert outcome(writing) is None
        assert outcome(opening) == "cancelled"
        wait_until(lambda: opened() == 1)
    finally:
        release()
        stopping.join()
        for each in (writer, receiving, sending):
            os.close(each)
