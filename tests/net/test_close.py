"""The ways a connection ends: half close, reset, vanishing peers, closing under somebody's hands."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from net_support import LOCAL, connected, fill, pair, read_to_end, reset, shrink_buffers, until_readable, until_writable
from support import (
    PATIENCE,
    Flavor,
    every_flavor,
    in_threads,
    is_parked,
    open_fds,
    seeded,
    stress_seconds,
    until,
    wait_until,
)

import freerun
from freerun.net import TcpListener, TcpStream


@every_flavor
async def test_half_close() -> None:
    """The peer sees the end, and may still answer."""
    async with pair() as (ours, theirs):
        await ours.write_all(b"question")
        await ours.shutdown()
        assert await read_to_end(theirs) == b"question"
        assert await theirs.read() == b""  # as often as one likes
        await theirs.write_all(b"answer")
        theirs.close()
        assert await read_to_end(ours) == b"answer"
        with pytest.raises(BrokenPipeError):
            await ours.write_all(b"more")


@every_flavor
async def test_half_close_wakes_a_waiting_reader() -> None:
    async with pair() as (ours, theirs):
        reader = freerun.spawn(theirs.read)
        await until(lambda: is_parked(reader))
        await ours.shutdown()
        assert await reader == b""


@every_flavor
async def test_shutdown_twice_and_after_the_peer_went() -> None:
    async with pair() as (ours, theirs):
        await ours.shutdown()
        await ours.shutdown()
        reset(theirs)
        await until_reset(ours)
        await ours.shutdown()


async def until_reset(stream: TcpStream) -> None:
    try:
        while await stream.read():
            pass
    except ConnectionResetError:
        pass


@every_flavor
async def test_reset_by_peer() -> None:
    async with pair() as (ours, theirs):
        reader = freerun.spawn(ours.read)
        await until(lambda: is_parked(reader))
        reset(theirs)
        with pytest.raises(ConnectionResetError):
            await reader
        with pytest.raises(OSError):
            await ours.write_all(b"x")


@every_flavor
async def test_reset_wakes_reader_and_writer() -> None:
    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        reader = freerun.spawn(ours.read)
        writer = freerun.spawn(ours.write_all, bytes(10_000_000))
        await until(lambda: is_parked(reader) and is_parked(writer))
        reset(theirs)
        # The kernel tells of a reset once: one of the two gets it, the other one sees a dead connection.
        ends = []
        for handle in (reader, writer):
            try:
                ends.append(await handle)
            except (ConnectionResetError, BrokenPipeError) as error:
                ends.append(type(error))
        assert ends[0] in (b"", ConnectionResetError)
        assert ends[1] in (BrokenPipeError, ConnectionResetError)
        assert ConnectionResetError in ends


@every_flavor
async def test_peer_vanishes_in_the_middle_of_a_write() -> None:
    async with pair() as (ours, theirs):
        writer = freerun.spawn(ours.write_all, bytes(50_000_000))
        await theirs.read_exact(100_000)
        theirs.close()  # with unread bytes: a reset
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await writer


@every_flavor
async def test_close_wakes_a_reader() -> None:
    async with pair() as (ours, _theirs):
        reader = freerun.spawn(ours.read)
        await until(lambda: is_parked(reader))
        ours.close()
        await raises_closed(reader)


@every_flavor
async def test_close_wakes_a_writer() -> None:
    async with pair() as (ours, _theirs):
        await fill(ours)
        writer = freerun.spawn(ours.write_all, b"x" * 100_000)
        await until(lambda: is_parked(writer))
        ours.close()
        await raises_closed(writer)


@every_flavor
async def test_close_wakes_who_waits_for_readiness() -> None:
    async with pair() as (ours, _theirs):
        await fill(ours)
        waiters = [freerun.spawn(until_readable, ours), freerun.spawn(until_writable, ours)]
        await until(lambda: all(map(is_parked, waiters)))
        ours.close()
        for waiter in waiters:
            await raises_closed(waiter)


@every_flavor
async def test_close_wakes_who_accepts() -> None:
    listener = await TcpListener.bind(LOCAL)
    acceptor = freerun.spawn(listener.accept)
    await until(lambda: is_parked(acceptor))
    listener.close()
    await raises_closed(acceptor)


@every_flavor
async def test_close_from_a_thread() -> None:
    async with pair() as (ours, _theirs):
        reader = freerun.spawn(ours.read)
        await until(lambda: is_parked(reader))
        await freerun.spawn_blocking(ours.close)
        await raises_closed(reader)


async def raises_closed(awaitable: Any) -> None:
    with pytest.raises(OSError, match="closed") as caught:
        await awaitable
    assert caught.value.errno == errno.EBADF


@every_flavor
async def test_everything_after_close() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        stream = await TcpStream.connect(listener.local_addr)
        stream.close()
        stream.close()
        assert stream.closed
        assert stream.fileno() == -1
        assert repr(stream) == "<TcpStream closed>"
        uses: list[Callable[[], Any]] = [
            stream.read,
            lambda: stream.write(b"x"),
            lambda: stream.write_all(b"x"),
            lambda: stream.write_all(b""),
            lambda: stream.read_exact(1),
            stream.readable,
            stream.writable,
            stream.shutdown,
        ]
        for use in uses:
            await raises_closed(use())
        for name in ("peer_addr", "local_addr", "nodelay"):
            with pytest.raises(OSError, match="closed"):
                getattr(stream, name)
        with pytest.raises(OSError, match="closed"):
            stream.detach()
        with pytest.raises(OSError, match="closed"):
            stream.set_nodelay(True)
        listener.close()
        listener.close()
        assert listener.closed
        assert listener.fileno() == -1
        assert "closed" in repr(listener)
        await raises_closed(listener.accept())


@every_flavor
async def test_an_operation_made_before_close() -> None:
    """It was not begun: awaiting it afterwards is an error, not a read of somebody's descriptor."""
    async with pair() as (ours, _theirs):
        operations = [ours.read(), ours.write_all(b"x"), ours.readable()]
        ours.close()
        for operation in operations:
            await raises_closed(operation)


@every_flavor
async def test_a_dropped_stream_closes() -> None:
    ours, theirs = await connected()
    async with theirs:
        del ours
        gc.collect()
        assert await theirs.read() == b""


@every_flavor
async def test_detach() -> None:
    async with pair() as (ours, theirs):
        fd = ours.detach()
        assert ours.closed
        await raises_closed(ours.read())
        os.write(fd, b"by hand")
        os.close(fd)
        assert await read_to_end(theirs) == b"by hand"


@every_flavor
async def test_detach_under_a_reader_is_refused() -> None:
    async with pair() as (ours, theirs):
        reader = freerun.spawn(ours.read)
        await until(lambda: is_parked(reader))
        with pytest.raises(RuntimeError, match="in progress"):
            ours.detach()
        await theirs.write_all(b"x")
        assert await reader == b"x"
        os.close(ours.detach())


@every_flavor
async def test_close_while_readers_race_with_it() -> None:
    """close() from a thread meets a read at any point of its life: every read ends, none reads another's bytes.

    Descriptors are reused at once, so a read that outlived its close would see a foreign connection's tag.
    """
    random = seeded()
    rounds = 150

    async def read_all(stream: TcpStream, tag: bytes, ready: threading.Event) -> None:
        ready.set()
        try:
            while data := await stream.read(random.choice([1, 16, 4096])):
                assert set(data) == set(tag), "bytes of another connection"
        except OSError as error:
            if error.errno not in {errno.EBADF, errno.ECONNRESET}:
                raise

    async def write_all(stream: TcpStream, tag: bytes) -> None:
        try:
            while True:
                await stream.write_all(tag * 500)
        except OSError as error:
            if error.errno not in {errno.EBADF, errno.ECONNRESET, errno.EPIPE}:
                raise

    async def one_round(i: int, listener: TcpListener) -> None:
        tag = bytes([i % 256])
        ours = await TcpStream.connect(listener.local_addr)
        theirs, _ = await listener.accept()
        ready = threading.Event()
        tasks = [freerun.spawn(read_all, ours, tag, ready), freerun.spawn(write_all, theirs, tag)]
        await until(ready.is_set)
        for _ in range(random.randrange(5)):
            await freerun.yield_now()
        closers = [ours.close, theirs.close]
        random.shuffle(closers)
        if random.random() < 0.5:
            closers[0]()
        else:
            await freerun.spawn_blocking(closers[0])
        closers[1]()
        for task in tasks:
            await task

    async def lane(lane: int) -> None:
        async with TcpListener.bind(LOCAL) as listener:
            for i in range(rounds // 4):
                await one_round(lane * 64 + i % 64, listener)

    lanes = [freerun.spawn(lane, i) for i in range(4)]
    for handle in lanes:
        await handle


@pytest.mark.stress
@every_flavor
async def test_open_close_storm() -> None:
    """Connections come and go on several tasks, and plain threads open and close descriptors besides: nobody's
    descriptor is closed or written to by somebody else."""
    stop = threading.Event()
    surprises: list[str] = []

    def churn() -> None:
        """Descriptors that the engine never sees. If it touched one, its pipe would be broken or hold foreign bytes."""
        while not stop.is_set():
            r, w = os.pipe()
            try:
                os.write(w, b"mine")
                if os.read(r, 100) != b"mine":
                    surprises.append("foreign bytes in a pipe")
                os.close(r)
                os.close(w)
            except OSError as error:
                surprises.append(repr(error))

    async def visit(addr: Any, i: int) -> None:
        random_tag = bytes([i % 256])
        async with TcpStream.connect(addr) as stream:
            reader = freerun.spawn(stream.read, 10)
            await stream.write_all(random_tag * 10)
            if i % 3 == 0:
                stream.close()
            try:
                got = await reader
            except OSError as error:
                if error.errno not in {errno.EBADF, errno.ECONNRESET}:
                    raise
            else:
                assert set(got) <= set(random_tag), "bytes of another connection"

    async def answer(stream: TcpStream) -> None:
        async with stream:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                await stream.write_all(await stream.read())

    async def serve(listener: TcpListener) -> None:
        async for stream, _ in listener:
            freerun.spawn(answer, stream)

    async def client(addr: Any, lane: int, ends: float) -> int:
        i = 0
        while i == 0 or freerun.time.Instant.now() < ends:
            await visit(addr, lane + 4 * i)
            i += 1
        return i

    churners = [threading.Thread(target=churn) for _ in range(2)]
    for thread in churners:
        thread.start()
    try:
        async with TcpListener.bind(LOCAL) as listener:
            server = freerun.spawn(serve, listener)
            ends = freerun.time.Instant.now() + stress_seconds(0.25)
            clients = [freerun.spawn(client, listener.local_addr, lane, ends) for lane in range(4)]
            assert min([await handle for handle in clients]) > 0
            listener.close()
            await server
    finally:
        stop.set()
        for thread in churners:
            await freerun.spawn_blocking(thread.join, PATIENCE)
    assert not surprises, surprises[:3]


def scenario(rt: freerun.Runtime) -> None:
    async def main() -> None:
        async with TcpListener.bind(LOCAL) as listener:
            refused = listener.local_addr
            streams = [await TcpStream.connect(listener.local_addr) for _ in range(5)]
            accepted = [(await listener.accept())[0] for _ in range(3)]  # two stay in the queue
            reader = freerun.spawn(accepted[0].read)
            await until(lambda: is_parked(reader))
            reader.abort()
            with pytest.raises(freerun.JoinError):
                await reader
            acceptor = freerun.spawn(forever_accepting, listener)
            await until(lambda: is_parked(acceptor))
        with pytest.raises(ConnectionRefusedError):
            await TcpStream.connect(refused)
        await acceptor
        streams[0].close()
        reset(streams[1])  # the others are dropped
        freerun.spawn(streams[2].read).detach()  # dies with the runtime

    rt.block_on(main)


async def forever_accepting(listener: TcpListener) -> None:
    async for stream, _ in listener:
        stream.close()


def test_no_descriptor_is_left(flavor: Flavor) -> None:
    before = open_fds()
    for _ in range(5):
        with flavor.builder().build() as rt:
            scenario(rt)
    gc.collect()
    after = open_fds()
    assert set(after) == set(before), {fd: (before.get(fd), after.get(fd)) for fd in set(after) ^ set(before)}


def test_a_stream_outlives_its_runtime(flavor: Flavor) -> None:
    """Closing works; anything that would wait raises, in whatever runtime."""
    before = set(open_fds())
    with flavor.builder().build() as rt:
        ours, theirs = rt.block_on(connected)
        listener = rt.block_on(_bind)

    async def use() -> None:
        for awaitable in (ours.read(), ours.write_all(b"x"), ours.readable(), listener.accept(), ours.read_exact(1)):
            with pytest.raises(freerun.RuntimeShutdown, match="stream"):
                await awaitable

    with flavor.builder().build() as other:
        other.block_on(use)
        assert not ours.closed
        assert ours.peer_addr == theirs.local_addr  # what does not wait still works
        ours.close()
        ours.close()
        assert ours.closed
    listener.close()
    theirs.close()
    assert set(open_fds()) == before


async def _bind() -> TcpListener:
    return await TcpListener.bind(LOCAL)


def test_a_task_of_another_runtime_is_told_when_the_streams_own_dies(flavor: Flavor) -> None:
    """It waits on a driver that stops: it must not wait for ever."""
    with flavor.builder().build() as other:
        with flavor.builder().build() as rt:
            ours, theirs = rt.block_on(connected)

            async def read() -> bytes:
                return await ours.read()

            async def outcome() -> None:
                with pytest.raises(freerun.RuntimeShutdown, match="stream"):
                    await reader

            reader = other.spawn(read)
            with in_threads(1, lambda _: other.block_on(outcome)):
                wait_until(lambda: is_parked(reader))
                rt.shutdown()
        ours.close()
        theirs.close()
