"""What streams have besides `read` and `write`: buffers of one's own, vectors, tries, peeking, options."""

from __future__ import annotations

import array
import gc
import os
import socket
from typing import Any

import pytest
from net_support import LOCAL, fill, has_ipv6, pair, read_to_end, shrink_buffers, until_readable
from support import every_flavor, is_parked, seeded, until

import freerun
from freerun._core._native import IoStream
from freerun.io import UnexpectedEof
from freerun.net import TcpListener, TcpSocket, TcpStream, UnixStream


@every_flavor
async def test_read_into() -> None:
    async with pair() as (ours, theirs):
        await theirs.write_all(b"hello")
        buffer = bytearray(b"." * 8)
        assert await ours.read_into(buffer) == 5
        assert buffer == b"hello..."
        await theirs.write_all(b"abcdef")
        with memoryview(buffer) as view, view[2:4] as part:  # both let go here, whatever thread this has come to
            assert await ours.read_into(part) == 2
        assert buffer == b"heabo..."
        words = array.array("H", [0, 0])
        assert await ours.read_into(words) == 4
        assert words.tobytes() == b"cdef"
        await theirs.shutdown()
        assert await ours.read_into(buffer) == 0
        buffer.clear()  # released


@every_flavor
async def test_read_into_waits_and_holds_its_buffer() -> None:
    async with pair() as (ours, theirs):
        buffer = bytearray(1 << 20)
        reader = freerun.spawn(ours.read_into, buffer)
        await until(lambda: is_parked(reader))
        with pytest.raises(BufferError):
            buffer.clear()
        await theirs.write_all(b"x" * 100)
        n = await reader
        assert buffer[:n] == b"x" * n
        buffer.clear()


@every_flavor
async def test_a_cancelled_read_into_gives_its_buffer_back_at_once() -> None:
    """Not when the thread that made the operation gets round to freeing it."""
    async with pair() as (ours, theirs):
        buffer = bytearray(10)
        freed = []

        async def read() -> None:
            try:
                await ours.read_into(buffer)
            except freerun.Cancelled:
                buffer.extend(b"x")
                freed.append(True)
                raise

        for _ in range(20):
            reader = freerun.spawn(read)
            await until(lambda: is_parked(reader))
            reader.abort()
            with pytest.raises(freerun.JoinError):
                await reader
        assert len(freed) == 20
        await theirs.write_all(b"still")
        assert await ours.read_into(buffer) == 5


@pytest.mark.parametrize(
    ("buffer", "error", "why"),
    [
        (b"read-only", TypeError, "writable"),
        ("text", TypeError, "writable"),
        (None, TypeError, "writable"),
        (bytearray(), ValueError, "empty"),
        (memoryview(bytearray(8))[::2], TypeError, "writable"),
    ],
    ids=repr,
)
@freerun.test
async def test_bad_buffers(buffer: Any, error: type[Exception], why: str) -> None:
    async with pair() as (ours, theirs):
        for read in (ours.read_into, ours.try_read_into):
            with pytest.raises(error, match=f"'buf'.*{why}"):
                read(buffer)
        await theirs.write_all(b"still works")
        assert await ours.read() == b"still works"


@every_flavor
async def test_an_operation_that_is_over_cannot_be_awaited_again() -> None:
    async with pair() as (ours, theirs):
        operation = ours.write(b"once")
        assert await operation == 4
        with pytest.raises(RuntimeError, match="over"):
            await operation
        await ours.shutdown()
        assert await read_to_end(theirs) == b"once"


@every_flavor
async def test_peek() -> None:
    async with pair() as (ours, theirs):
        peeker = freerun.spawn(ours.peek)
        await until(lambda: is_parked(peeker))
        await theirs.write_all(b"hello")
        await peeker
        assert await ours.read_exact(5) == b"hello"
        await theirs.write_all(b"again")
        while await ours.peek(100) != b"again":  # it may come in pieces
            await freerun.yield_now()
        assert await ours.peek(2) == b"ag"
        assert await ours.read_exact(5) == b"again"
        await theirs.shutdown()
        assert await ours.peek() == b""


@every_flavor
async def test_tries() -> None:
    async with pair() as (ours, theirs):
        buffer = bytearray(10)
        for tried in (ours.try_read, lambda: ours.try_read(5), lambda: ours.try_read_into(buffer)):
            with pytest.raises(freerun.WouldBlock, match="reading"):
                tried()
        assert theirs.try_write(b"ping") == 4
        await until_readable(ours)  # readable() may be a false alarm
        assert ours.try_read(2) == b"pi"
        assert ours.try_read_into(buffer) == 2
        assert buffer[:2] == b"ng"
        await fill(ours)
        for data in (b"x", bytearray(1000)):
            with pytest.raises(freerun.WouldBlock, match="writing"):
                ours.try_write(data)
        with pytest.raises(freerun.WouldBlock, match="writing"):
            ours.try_write_vectored([b"a", b"b"])
        waiter = freerun.spawn(ours.writable)
        reader = freerun.spawn(read_to_end, theirs)
        await waiter
        while True:  # writable() is a hint
            try:
                ours.try_write_vectored([b"a", b"b"])
            except freerun.WouldBlock:
                await ours.writable()
            else:
                break
        await ours.shutdown()
        assert (await reader).endswith(b"ab")
        theirs.close()
        assert await ours.read() == b""  # the end may be a moment on its way
        assert ours.try_read() == b""


@every_flavor
async def test_a_try_beside_an_operation_is_refused() -> None:
    async with pair() as (ours, theirs):
        reader = freerun.spawn(ours.read)
        await until(lambda: is_parked(reader))
        with pytest.raises(RuntimeError, match="reading"):
            ours.try_read()
        await theirs.write_all(b"x")
        assert await reader == b"x"


@every_flavor
async def test_tries_from_plain_threads() -> None:
    async with pair() as (ours, theirs):
        assert await freerun.spawn_blocking(theirs.try_write, b"ping") == 4
        await until_readable(ours)
        assert await freerun.spawn_blocking(ours.try_read) == b"ping"


@every_flavor
async def test_write_vectored() -> None:
    async with pair() as (ours, theirs):
        parts = [b"one ", bytearray(b"two "), memoryview(b"three"), b""]
        assert await ours.write_vectored(parts) == 13
        assert await ours.write_vectored(tuple(parts)) == 13
        assert await ours.write_vectored(iter([b"!"])) == 1
        assert await ours.write_vectored([]) == 0
        assert await ours.write_vectored([b"", b""]) == 0
        await ours.shutdown()
        assert await read_to_end(theirs) == b"one two threeone two three!"
        for bad in (b"bytes", bytearray(), memoryview(b"x"), 5, None, [b"x", "y"], [b"x", None]):
            with pytest.raises(TypeError):
                ours.write_vectored(bad)


@every_flavor
async def test_write_vectored_of_many_and_of_much() -> None:
    """More buffers than one call takes (IOV_MAX), and more bytes than the socket: it says how many."""
    random = seeded()
    parts = [random.randbytes(random.randrange(200)) for _ in range(3000)] + [random.randbytes(3_000_000)]
    data = b"".join(parts)
    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        reader = freerun.spawn(read_to_end, theirs)
        done = 0
        while parts:
            n = await ours.write_vectored(parts)
            assert n > 0
            done += n
            while parts and n >= len(parts[0]):
                n -= len(parts.pop(0))
            if n:
                parts[0] = parts[0][n:]
        await ours.shutdown()
        assert done == len(data)
        assert await reader == data


@every_flavor
async def test_aborted_read_intos_lose_no_byte() -> None:
    random = seeded()
    data = random.randbytes(60_000)
    async with pair() as (ours, theirs):
        received = bytearray()

        async def read() -> None:
            buffer = bytearray(2000)
            while n := await ours.read_into(buffer):
                received.extend(buffer[:n])

        async def write() -> None:
            for at in range(0, len(data), 1500):
                await theirs.write_all(data[at : at + 1500])
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
async def test_options() -> None:
    async with pair() as (ours, _theirs):
        assert not ours.keepalive
        ours.set_keepalive(True, idle=30, interval=5, count=4)
        assert ours.keepalive
        with socket.socket(fileno=socket.dup(ours.fileno())) as sock:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30, 5, 4]
        ours.set_keepalive(False)
        assert not ours.keepalive
        assert ours.linger is None
        ours.set_linger(0)
        assert ours.linger == 0
        ours.set_linger(None)
        assert ours.linger is None
        ours.set_ttl(42)
        assert ours.ttl == 42
        before = ours.send_buffer_size
        ours.set_send_buffer_size(10_000)
        ours.set_recv_buffer_size(10_000)
        assert ours.send_buffer_size < before
        assert ours.recv_buffer_size >= 10_000


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda s: s.set_linger(1), ValueError, "linger"),
        (lambda s: s.set_linger(True), TypeError, "linger"),
        (lambda s: s.set_ttl(0), ValueError, "ttl"),
        (lambda s: s.set_ttl(256), ValueError, "ttl"),
        (lambda s: s.set_keepalive(1), TypeError, "keepalive"),
        (lambda s: s.set_keepalive(True, idle=0.5), ValueError, "idle"),
        (lambda s: s.set_keepalive(True, interval="1"), TypeError, "interval"),
        (lambda s: s.set_keepalive(True, count=0), ValueError, "count"),
        (lambda s: s.set_send_buffer_size(0), ValueError, "size"),
        (lambda s: s.set_recv_buffer_size(1 << 40), ValueError, "size"),
    ],
)
@freerun.test
async def test_bad_options(call: Any, error: type[Exception], name: str) -> None:
    async with pair() as (ours, _theirs):
        with pytest.raises(error, match=f"'{name}'"):
            call(ours)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@every_flavor
async def test_ipv6_options() -> None:
    async with TcpListener.bind("[::1]:0") as listener, TcpStream.connect(listener.local_addr) as ours:
        ours.set_ttl(17)
        assert ours.ttl == 17
        assert ours.nodelay


@every_flavor
async def test_halves_have_the_same() -> None:
    async with pair() as (ours, theirs):
        read, write = ours.split()
        assert await write.write_vectored([b"a", b"b"]) == 2
        assert write.try_write(b"c") == 1
        assert await theirs.read_exact(3) == b"abc"
        await theirs.write_all(b"xyz")
        assert (await read.peek())[:1] == b"x"
        buffer = bytearray(1)
        assert await read.read_into(buffer) == 1
        await read.readable()
        assert await read.read_exact(2) == b"yz"
        with pytest.raises(freerun.WouldBlock):
            read.try_read()
        await theirs.shutdown()
        with pytest.raises(UnexpectedEof):
            await read.read_exact(1)


@every_flavor
async def test_a_call_holds_the_descriptor_against_a_close() -> None:
    """Whoever closes during it, the number is nobody else's until it is over."""
    ours, theirs = UnixStream.pair()
    async with theirs:

        def use(fd: int) -> int:
            ours.close()
            with socket.socket(fileno=socket.dup(fd)) as sock:
                return sock.send(b"the last word")

        assert ours.with_fd(use) == 13
        assert ours.closed
        assert await read_to_end(theirs) == b"the last word"
        with pytest.raises(OSError, match="closed"):
            ours.with_fd(use)


@every_flavor
async def test_tcp_socket() -> None:
    with TcpSocket.new_v4() as before:
        before.set_reuse_addr(True)
        before.set_reuse_port(True)
        before.set_recv_buffer_size(100_000)
        before.set_send_buffer_size(100_000)
        before.set_keepalive(True)
        before.bind(LOCAL)
        addr = before.local_addr
        async with before.listen(5) as listener:
            assert listener.local_addr == addr
            assert before.fileno() == -1
            with TcpSocket.new_v4() as ours:
                ours.bind("127.0.0.3:0")
                ours.set_nodelay(False)
                async with ours.connect(addr, timeout=60) as stream:
                    assert stream.local_addr[0] == "127.0.0.3"
                    assert not stream.nodelay
                    accepted, peer = await listener.accept()
                    accepted.close()
                    assert peer == stream.local_addr


@freerun.test
async def test_bad_tcp_sockets() -> None:
    with TcpSocket.new_v4() as sock:
        with pytest.raises(ValueError, match=r"'addr'.*IPv4"):
            sock.bind("[::1]:0")
        with pytest.raises(ValueError, match=r"'addr'.*IP address"):
            sock.connect("localhost:80")
        with pytest.raises(TypeError, match="'reuse'"):
            sock.set_reuse_addr(1)  # type: ignore[arg-type]
        with pytest.raises(OSError):
            sock.bind("192.0.2.1:0")
    assert sock.fileno() == -1
    gc.collect()


@every_flavor
async def test_a_terminal_gives_a_line_at_a_time() -> None:
    """A short read of it does not mean that there is no more."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    source = IoStream(theirs)
    try:
        os.write(ours, b"one\ntwo\nthree\n")
        assert [await source.read() for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
    finally:
        source.close()
        os.close(ours)
