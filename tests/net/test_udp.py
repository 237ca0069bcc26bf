"""`UdpSocket`: datagrams stay whole, wait, and are refused to a second receiver."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from net_support import LOCAL, has_ipv6, open_sockets
from support import every_flavor, in_threads, is_parked, seeded, until

import freerun
from freerun.net import UdpSocket


@every_flavor
async def test_send_to_and_recv_from() -> None:
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs:
        host, port = theirs.local_addr
        for addr in (theirs.local_addr, f"{host}:{port}", ("localhost", port), (host, port)):
            assert await ours.send_to(b"hello", addr) == 5
            assert await theirs.recv_from() == (b"hello", ours.local_addr)
        assert str(port) in repr(theirs)


@every_flavor
async def test_datagrams_stay_whole() -> None:
    """Short reads mean nothing: several that wait are received one by one, an empty one too."""
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs:
        sent = [b"one", b"", b"three" * 1000, b"x" * 65507, b"", b"six"]
        for data in sent:
            assert await ours.send_to(data, theirs.local_addr) == len(data)
        assert [(await theirs.recv_from())[0] for _ in sent] == sent
        await ours.send_to(b"truncated", theirs.local_addr)
        await ours.send_to(b"whole", theirs.local_addr)
        assert await theirs.recv(5) == b"trunc"
        assert await theirs.recv(100_000) == b"whole"


@every_flavor
async def test_waiting() -> None:
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs:
        for i in range(20):
            receiver = freerun.spawn(theirs.recv_from)
            if i % 2:
                await until(lambda: is_parked(receiver))
            await ours.send_to(str(i).encode(), theirs.local_addr)
            assert await receiver == (str(i).encode(), ours.local_addr)


@every_flavor
async def test_connect() -> None:
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs, UdpSocket.bind(LOCAL) as stranger:
        with pytest.raises(OSError) as caught:
            await ours.send(b"to whom?")
        assert caught.value.errno == errno.EDESTADDRREQ
        with pytest.raises(OSError):
            assert ours.peer_addr
        await ours.connect(theirs.local_addr)
        assert ours.peer_addr == theirs.local_addr
        await theirs.connect(("localhost", ours.local_addr[1]))
        await stranger.send_to(b"spam", ours.local_addr)
        assert await theirs.send(b"hello") == 5
        assert await ours.recv() == b"hello"
        buffer = bytearray(10)
        assert await ours.send(b"") == 0  # an empty datagram is one
        assert await theirs.recv_into(buffer) == 0
        await ours.send(b"ping")
        assert await theirs.recv_from_into(buffer) == (4, ours.local_addr)
        assert buffer[:4] == b"ping"


@every_flavor
async def test_peek() -> None:
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs:
        await ours.send_to(b"first", theirs.local_addr)
        await ours.send_to(b"second", theirs.local_addr)
        for _ in range(2):
            assert await theirs.peek_from() == (b"first", ours.local_addr)
            assert await theirs.peek(2) == b"fi"
        assert await theirs.recv() == b"first"
        assert await theirs.recv() == b"second"


@every_flavor
async def test_tries() -> None:
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs:
        for tried in (theirs.try_recv, theirs.try_recv_from):
            with pytest.raises(freerun.WouldBlock):
                tried()
        assert ours.try_send_to(b"x", theirs.local_addr) == 1
        assert ours.try_send_to(b"y", f"127.0.0.1:{theirs.local_addr[1]}") == 1
        assert await theirs.peek() == b"x"
        assert theirs.try_recv_from() == (b"x", ours.local_addr)
        assert theirs.try_recv() == b"y"
        await ours.connect(theirs.local_addr)
        assert ours.try_send(b"z") == 1
        assert await theirs.recv() == b"z"
        with pytest.raises(ValueError, match="IP address"):
            ours.try_send_to(b"x", "localhost:80")


@every_flavor
async def test_a_second_receiver_is_refused() -> None:
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs:
        first = freerun.spawn(theirs.recv_from)
        await until(lambda: is_parked(first))
        for second in (theirs.recv, theirs.recv_from, theirs.peek, theirs.readable):
            with pytest.raises(RuntimeError, match="another task is already (receiving|reading) from"):
                await second()  # type: ignore[operator]
        await ours.send_to(b"for the first", theirs.local_addr)
        assert await first == (b"for the first", ours.local_addr)


@every_flavor
async def test_aborted_receivers_lose_no_datagram() -> None:
    random = seeded()
    count = 300
    async with UdpSocket.bind(LOCAL) as ours, UdpSocket.bind(LOCAL) as theirs:
        received: list[int] = []

        async def receive() -> None:
            while len(received) < count:
                received.append(int(await theirs.recv()))

        async def send() -> None:
            for i in range(count):
                await ours.send_to(str(i).encode(), theirs.local_addr)
                if i % 10 == 0:  # the system drops what does not fit
                    await until(lambda: len(received) >= i - 50)

        sender = freerun.spawn(send)
        while len(received) < count:
            receiver = freerun.spawn(receive)
            for _ in range(random.randrange(5)):
                await freerun.yield_now()
            receiver.abort()
            try:
                await receiver
            except freerun.JoinError as error:
                if not error.is_cancelled():
                    raise
        await sender
        assert received == list(range(count))


@every_flavor
async def test_a_closed_peer() -> None:
    async with UdpSocket.bind(LOCAL) as ours:
        async with UdpSocket.bind(LOCAL) as theirs:
            await ours.connect(theirs.local_addr)
        with pytest.raises(ConnectionRefusedError):
            for _ in range(100):
                await ours.send(b"anybody there?")
                await freerun.yield_now()
        await ours.connect(ours.local_addr)
        await ours.send(b"to myself")
        assert await ours.recv() == b"to myself"


@every_flavor
async def test_close_wakes_a_receiver() -> None:
    socket_ = await UdpSocket.bind(LOCAL)
    receiver = freerun.spawn(socket_.recv_from)
    await until(lambda: is_parked(receiver))
    socket_.close()
    with pytest.raises(OSError, match="closed"):
        await receiver
    assert repr(socket_) == "<UdpSocket closed>"
    with pytest.raises(OSError, match="closed"):
        await socket_.send_to(b"x", ("127.0.0.1", 1))
    for name in ("local_addr", "peer_addr", "broadcast", "ttl"):
        with pytest.raises(OSError, match="closed"):
            getattr(socket_, name)


BAD: list[tuple[Any, type[Exception]]] = [
    ("127.0.0.1", ValueError),
    (("127.0.0.1",), ValueError),
    (("127.0.0.1", 70000), ValueError),
    (("127.0.0.1", -1), ValueError),
    (("127.0.0.1", "80"), TypeError),
    ((b"127.0.0.1", 80), TypeError),
    (("", 80), ValueError),
    (("\0", 80), OSError),
    (5, TypeError),
    (None, TypeError),
    ("no.such.host.invalid:1", OSError),
]


@pytest.mark.parametrize(("addr", "error"), BAD, ids=repr)
@freerun.test
async def test_bad_addresses(addr: Any, error: type[Exception]) -> None:
    async with UdpSocket.bind(LOCAL) as ours:
        for send in (ours.send_to(b"x", addr), ours.connect(addr)):
            with pytest.raises(error):
                await send
        with pytest.raises((ValueError, TypeError)):
            ours.try_send_to(b"x", addr)
        await ours.send_to(b"still works", ours.local_addr)
        assert await ours.recv() == b"still works"


@freerun.test
async def test_bad_data() -> None:
    async with UdpSocket.bind(LOCAL) as ours:
        for bad in ("text", None, 5, memoryview(b"abcd")[::2]):
            with pytest.raises((TypeError, BufferError)):
                await ours.send_to(bad, ours.local_addr)
        with pytest.raises(OSError) as caught:
            await ours.send_to(bytes(70_000), ours.local_addr)
        assert caught.value.errno == errno.EMSGSIZE
        for bad_n, error in ((0, ValueError), (-1, ValueError), ("1", TypeError)):
            for receive in (ours.recv, ours.recv_from, ours.peek, ours.peek_from, ours.try_recv):
                with pytest.raises(error, match="'n'"):
                    receive(bad_n)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'buf'"):
            ours.recv_from_into(b"read-only")


@every_flavor
async def test_options() -> None:
    async with UdpSocket.bind(LOCAL) as ours:
        assert not ours.broadcast
        ours.set_broadcast(True)
        assert ours.broadcast
        ours.set_ttl(12)
        ours.set_multicast_ttl(3)
        ours.set_multicast_loop(False)
        assert (ours.ttl, ours.multicast_ttl, ours.multicast_loop) == (12, 3, False)
        with pytest.raises(ValueError, match="'group'"):
            ours.join_multicast_v4("not an address")
        with pytest.raises(TypeError, match="'group'"):
            ours.join_multicast_v4(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'interface'"):
            ours.join_multicast_v4("239.1.2.3", "::1")
        with pytest.raises(OSError):
            ours.leave_multicast_v4("239.1.2.3")


@every_flavor
async def test_multicast() -> None:
    async with UdpSocket.bind("0.0.0.0:0") as member, UdpSocket.bind(LOCAL) as sender:
        member.join_multicast_v4("239.7.7.7", "127.0.0.1")
        await sender.send_to(b"to all", ("239.7.7.7", member.local_addr[1]))
        assert await member.recv() == b"to all"
        member.leave_multicast_v4("239.7.7.7", "127.0.0.1")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@every_flavor
async def test_ipv6() -> None:
    async with UdpSocket.bind("[::1]:0") as ours, UdpSocket.bind("[::]:0") as theirs:
        port = theirs.local_addr[1]
        await ours.send_to(b"six", ("::1", port))
        data, addr = await theirs.recv_from()
        assert (data, addr) == (b"six", ours.local_addr)
        assert len(addr) == 4
        await theirs.send_to(b"back", addr)
        assert await ours.recv() == b"back"
        ours.set_ttl(9)
        assert ours.ttl == 9
        async with UdpSocket.bind(LOCAL) as four:  # IPv4 in IPv6's clothes
            await theirs.send_to(b"mapped", f"localhost:{four.local_addr[1]}")
            await theirs.send_to(b"mapped", ("127.0.0.1", four.local_addr[1], 0, 0))
            assert await four.recv() == b"mapped"


@every_flavor
async def test_reuse_port_and_from_socket() -> None:
    async with UdpSocket.bind(LOCAL, reuse_port=True) as one:
        async with UdpSocket.bind(one.local_addr, reuse_port=True) as two:
            assert one.local_addr == two.local_addr
        with pytest.raises(OSError, match=str(one.local_addr[1])):
            await UdpSocket.bind(one.local_addr)
    with pytest.raises(TypeError, match="'sock'"):
        UdpSocket.from_socket(5)  # type: ignore[arg-type]
    with socket.socket() as tcp, pytest.raises(ValueError, match="'sock'"):
        UdpSocket.from_socket(tcp)


def test_a_socket_shared_by_many_threads(rt: freerun.Runtime) -> None:
    """Sending is refused at worst; what was sent arrives once."""

    async def bind() -> UdpSocket:
        return await UdpSocket.bind(LOCAL)

    before = open_sockets()
    ours, theirs = rt.block_on(bind), rt.block_on(bind)
    sent = [0] * 4

    def send(i: int) -> None:
        for _ in range(50):
            try:
                ours.try_send_to(b"x", theirs.local_addr)
                sent[i] += 1
            except (RuntimeError, freerun.WouldBlock):
                pass

    with in_threads(4, send):
        pass

    received = 0
    while True:
        try:
            assert theirs.try_recv() == b"x"
            received += 1
        except freerun.WouldBlock:
            break
    assert 0 < received == sum(sent)
    ours.close()
    theirs.close()
    assert open_sockets() <= before
