"""Peers that misbehave, tasks that give up, connections by the thousand."""

from __future__ import annotations

import gc
import resource
import socket
from typing import Any

import pytest
from net_support import LOCAL, connected, fill, open_sockets, pair, read_to_end, reset, shrink_buffers
from support import every_flavor, in_threads, is_parked, seeded, until, wait_until

import freerun
from freerun.net import TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream


@freerun.test(start_paused=True)
async def test_a_byte_a_second() -> None:
    """A day's worth of patience: the reader gets the bytes as they come, and a timeout loses none."""
    async with pair() as (ours, theirs):

        async def drip() -> None:
            for i in range(100):
                await freerun.time.sleep(1)
                await theirs.write_all(bytes([i]))
            await theirs.shutdown()

        dripping = freerun.spawn(drip)
        began = freerun.time.Instant.now()
        assert await ours.read_exact(50) == bytes(range(50))
        assert began.elapsed() >= 49
        assert await read_to_end(ours) == bytes(range(50, 100))
        await dripping


@every_flavor
async def test_a_peer_that_never_reads() -> None:
    """The writer waits, what it holds is its argument; an abort frees it."""
    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        data = bytearray(30_000_000)
        writer = freerun.spawn(ours.write_all, data)
        await until(lambda: is_parked(writer))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(100):
            await freerun.yield_now()
        assert is_parked(writer)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kB
        writer.abort()
        with pytest.raises(freerun.JoinError):
            await writer

        def is_released() -> bool:
            try:
                data.clear()
            except BufferError:
                return False
            return True

        await until(is_released)


@every_flavor
async def test_a_reset_while_both_directions_wait_on_a_split_stream() -> None:
    ours, theirs = await connected()
    shrink_buffers(ours, theirs)
    read, write = ours.into_split()
    reader = freerun.spawn(read.read)
    writer = freerun.spawn(write.write_all, bytes(10_000_000))
    await until(lambda: is_parked(reader) and is_parked(writer))
    reset(theirs)
    failures = 0
    for handle in (reader, writer):
        try:
            assert await handle == b""
        except (ConnectionResetError, BrokenPipeError):
            failures += 1
    assert failures >= 1
    write.close()
    read.close()
    assert ours.closed


@every_flavor
async def test_a_half_closed_stream_is_written_to_the_end() -> None:
    async with pair() as (ours, theirs):
        data = seeded().randbytes(2_000_000)
        await ours.shutdown()
        writer = freerun.spawn(theirs.write_all, data)
        assert await ours.read_exact(len(data)) == data
        await writer
        assert await theirs.read() == b""


@every_flavor
async def test_every_kind_is_closed_under_waiting_tasks() -> None:
    """Each kind of operation, on each kind of socket: a close from a plain thread ends it with an error."""
    a, b = UnixStream.pair()
    c, d = UnixDatagram.pair()
    u = await UdpSocket.bind(LOCAL)
    t = await TcpListener.bind(LOCAL)
    x = await UnixListener.bind(f"\0freerun-tests-robustness-{id(a)}")
    await fill(b)
    while True:
        try:
            d.try_send(b"x")
        except freerun.WouldBlock:
            break
    waiting = [
        (b.close, freerun.spawn(b.write_vectored, [b"x" * 100_000])),
        (d.close, freerun.spawn(d.send, b"x")),
        (u.close, freerun.spawn(u.recv_from_into, bytearray(10))),
        (t.close, freerun.spawn(t.accept)),
        (x.close, freerun.spawn(x.accept)),
    ]
    await until(lambda: all(is_parked(handle) for _, handle in waiting))
    for close, handle in waiting:
        await freerun.spawn_blocking(close)
        with pytest.raises(OSError, match="closed"):
            await handle
    a.close()
    c.close()


@every_flavor
async def test_thousands_of_connections_leave_nothing() -> None:
    before = open_sockets()
    count, lanes = 2000, 8
    async with TcpListener.bind(LOCAL) as listener:

        async def serve() -> int:
            served = 0
            async for stream, _ in listener:
                freerun.spawn(answer, stream)
                served += 1
            return served

        async def answer(stream: TcpStream) -> None:
            async with stream:
                await stream.write_all(await stream.read())

        async def client() -> None:
            for i in range(count // lanes):
                async with TcpStream.connect(listener.local_addr) as stream:
                    message = i.to_bytes(4)
                    await stream.write_all(message)
                    assert await stream.read_exact(4) == message

        serving = freerun.spawn(serve)
        clients = [freerun.spawn(client) for _ in range(lanes)]
        for handle in clients:
            await handle
        listener.close()
        assert await serving == count
    await until(lambda: open_sockets() <= before)


@every_flavor
async def test_sockets_that_are_dropped_are_closed() -> None:
    before = open_sockets()
    for _ in range(50):
        made: list[Any] = [*UnixStream.pair(), *UnixDatagram.pair(), await UdpSocket.bind(LOCAL)]
        del made
    gc.collect()
    await until(lambda: open_sockets() <= before)


def test_one_stream_and_many_threads(rt: freerun.Runtime) -> None:
    """Tries from plain threads beside each other: refused or done, and every byte arrives once."""

    async def make() -> tuple[UnixStream, UnixStream]:
        return UnixStream.pair()

    ours, theirs = rt.block_on(make)
    sent = [0] * 3
    received = [0] * 3
    done = [False]

    def write(i: int) -> None:
        for _ in range(300):
            try:
                sent[i] += ours.try_write(b"x" * 100)
            except (RuntimeError, freerun.WouldBlock):
                pass

    def read(i: int) -> None:
        while not done[0]:
            try:
                received[i] += len(theirs.try_read(70))
            except (RuntimeError, freerun.WouldBlock):
                pass

    with in_threads(3, read):
        with in_threads(3, write):
            pass
        try:
            wait_until(lambda: sum(received) == sum(sent))
        finally:
            done[0] = True
    assert sum(sent) > 0
    ours.close()
    theirs.close()


def test_somebody_elses_descriptor_is_never_used() -> None:
    """`close()` from threads while others ask for options: each gets an answer about its own socket, or an error."""

    async def make() -> UdpSocket:
        return await UdpSocket.bind(LOCAL)

    with freerun.Runtime() as rt:
        for _ in range(100):
            ours = rt.block_on(make)
            addr = ours.local_addr

            def ask(_: int, ours: UdpSocket = ours, addr: Any = addr) -> None:
                try:
                    for _ in range(20):
                        assert ours.local_addr == addr
                except OSError as error:
                    assert "closed" in str(error)

            with in_threads(2, ask):
                ours.close()
                with socket.socket():  # takes the number
                    pass
