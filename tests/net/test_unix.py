"""Unix sockets: streams, listeners, datagrams; paths and abstract names; who is at the other end."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from net_support import open_sockets, read_to_end
from support import every_flavor, is_parked, until

import freerun
from freerun.net import UnixDatagram, UnixListener, UnixStream

_names = iter(range(1 << 30))


def abstract() -> str:
    """A name that nobody else has."""
    return f"\0freerun-tests-{os.getpid()}-{next(_names)}"


@every_flavor
async def test_pair() -> None:
    ours, theirs = UnixStream.pair()
    async with ours, theirs:
        await ours.write_all(b"hello")
        assert await theirs.read() == b"hello"
        assert ours.peer_addr == ours.local_addr == ""
        assert ours.peer_cred() == (os.getpid(), os.getuid(), os.getgid())
        await ours.shutdown()
        assert await theirs.read() == b""
        await theirs.write_all(b"answer")
        theirs.close()
        assert await read_to_end(ours) == b"answer"
    assert repr(ours) == "<UnixStream closed>"


@every_flavor
async def test_a_path(tmp_path: Path) -> None:
    os.chdir(tmp_path)  # the full path may be too long for a socket
    for path in ("socket-a", b"socket-b", Path("socket-c")):
        name = os.fsdecode(path)
        async with UnixListener.bind(path) as listener:
            assert listener.local_addr == name
            assert name in repr(listener)
            async with UnixStream.connect(path, timeout=60) as ours:
                theirs, addr = await listener.accept()
                async with theirs:
                    assert addr == ""
                    assert ours.peer_addr == theirs.local_addr == name
                    assert name in repr(ours)
                    assert theirs.peer_cred().pid == os.getpid()
                    read, write = ours.into_split()
                    write.close()
                    assert await theirs.read() == b""
                    read.close()
        with pytest.raises(ConnectionRefusedError, match=name):
            await UnixStream.connect(path)
        with pytest.raises(OSError, match=name) as caught:
            await UnixListener.bind(path)  # it stays
        assert caught.value.errno == errno.EADDRINUSE


@every_flavor
async def test_an_abstract_name() -> None:
    name = abstract()
    async with UnixListener.bind(name) as listener:
        assert listener.local_addr == name.encode()
        async with UnixStream.connect(name) as ours:
            theirs, _ = await listener.accept()
            async with theirs:
                assert ours.peer_addr == name.encode()
    async with UnixListener.bind(name):  # it went away with its socket
        pass


@every_flavor
async def test_iteration_ends_with_the_listener() -> None:
    name = abstract()

    async def serve(listener: UnixListener) -> int:
        count = 0
        async for stream, _ in listener:
            stream.close()
            count += 1
        return count

    async with UnixListener.bind(name) as listener:
        server = freerun.spawn(serve, listener)
        for _ in range(5):
            async with UnixStream.connect(name) as stream:
                assert await stream.read() == b""
        listener.close()
        assert await server == 5


@every_flavor
async def test_a_full_queue_is_waited_for() -> None:
    name = abstract()
    before = open_sockets()
    async with UnixListener.bind(name, backlog=0) as listener:
        first = await UnixStream.connect(name)
        with pytest.raises(TimeoutError, match="freerun-tests"):
            await UnixStream.connect(name, timeout=0.01)
        second = freerun.spawn(connect, name)
        await until(lambda: is_parked(second))
        stream, _ = await listener.accept()
        stream.close()
        (await second).close()
        first.close()
    assert open_sockets() <= before


async def connect(name: str) -> UnixStream:
    return await UnixStream.connect(name)


BAD_PATHS: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "empty"),
    (b"", ValueError, "empty"),
    ("a\0b", ValueError, "zero"),
    ("x" * 108, ValueError, "too long"),
    ("\0" + "x" * 108, ValueError, "too long"),
    (5, TypeError, "int"),
    (None, TypeError, "NoneType"),
    (("127.0.0.1", 80), TypeError, "tuple"),
]


@pytest.mark.parametrize(("path", "error", "why"), BAD_PATHS, ids=[repr(each[0])[:20] for each in BAD_PATHS])
@freerun.test
async def test_bad_paths(path: Any, error: type[Exception], why: str) -> None:
    for use in (UnixStream.connect, UnixListener.bind, UnixDatagram.bind):
        with pytest.raises(error, match=f"'path'.*{why}"):
            use(path)
    async with UnixDatagram.unbound() as ours:
        with pytest.raises(error, match=f"'path'.*{why}"):
            await ours.send_to(b"x", path)
        with pytest.raises(error, match=f"'path'.*{why}"):
            ours.connect(path)


@every_flavor
async def test_longest_names() -> None:
    for name in ("\0" + "x" * 100 + f"{next(_names):07}",):
        assert len(name) == 108
        async with UnixListener.bind(name) as listener, UnixStream.connect(name) as stream:
            assert listener.local_addr == stream.peer_addr == name.encode()


@freerun.test
async def test_nobody_there() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await UnixStream.connect("nowhere/at/all")
    with pytest.raises(OSError, match="nowhere"):
        await UnixListener.bind("nowhere/at/all")
    with pytest.raises(ConnectionRefusedError, match="freerun-tests"):
        await UnixStream.connect(abstract())


@every_flavor
async def test_from_socket() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with UnixStream.from_socket(ours) as stream:
            theirs.sendall(b"hi")
            assert await stream.read() == b"hi"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(abstract())
    sock.listen()
    async with UnixListener.from_socket(sock) as listener:
        assert listener.local_addr
    with socket.socket() as tcp:
        for take in (UnixListener.from_socket, UnixDatagram.from_socket):
            with pytest.raises(ValueError, match="'sock'"):
                take(tcp)
            with pytest.raises(TypeError, match="'sock'"):
                take(5)  # type: ignore[arg-type]


# ---- datagrams ----


@every_flavor
async def test_datagram_pair() -> None:
    ours, theirs = UnixDatagram.pair()
    async with ours, theirs:
        sent = [b"one", b"", b"x" * 100_000]
        for data in sent:
            assert await ours.send(data) == len(data)
        assert [await theirs.recv(200_000) for _ in sent] == sent
        with pytest.raises(freerun.WouldBlock):
            theirs.try_recv()
        assert ours.try_send(b"y") == 1
        assert await theirs.peek() == b"y"
        buffer = bytearray(4)
        assert await theirs.recv_into(buffer) == 1
    assert repr(ours) == "<UnixDatagram closed>"


@every_flavor
async def test_datagram_addresses() -> None:
    names = [abstract(), abstract()]
    async with UnixDatagram.bind(names[0]) as ours, UnixDatagram.bind(names[1]) as theirs:
        assert ours.local_addr == names[0].encode()
        await ours.send_to(b"hello", names[1])
        data, addr = await theirs.recv_from()
        assert (data, addr) == (b"hello", names[0].encode())
        await theirs.send_to(b"back", addr)
        assert await ours.recv() == b"back"
        with pytest.raises(OSError):
            assert ours.peer_addr
        async with UnixDatagram.unbound() as nobody:
            await nobody.send_to(b"anonymous", names[0])
            assert await ours.recv_from() == (b"anonymous", "")
            with pytest.raises(ConnectionRefusedError, match="freerun-tests"):
                nobody.connect(abstract())
            with pytest.raises(ConnectionRefusedError):
                await nobody.send_to(b"x", abstract())
        ours.connect(names[1])
        assert ours.peer_addr == names[1].encode()
        assert ours.try_send_to(b"again", names[1]) == 5
        assert await theirs.peek_from() == (b"again", names[0].encode())


@every_flavor
async def test_a_datagram_waits_for_a_full_receiver() -> None:
    """Also one whose queue is full of other senders' datagrams, of which the system tells this one nothing."""
    name = abstract()
    async with UnixDatagram.bind(name) as theirs, UnixDatagram.unbound() as other, UnixDatagram.unbound() as ours:
        queued = 0
        while True:
            try:
                other.try_send_to(b"other", name)
            except freerun.WouldBlock:
                break
            queued += 1
        with pytest.raises(freerun.WouldBlock):
            ours.try_send_to(b"ours", name)
        sender = freerun.spawn(ours.send_to, b"ours", name)
        await until(lambda: is_parked(sender))
        for _ in range(queued):
            assert await theirs.recv() == b"other"
        assert await sender == 4
        assert await theirs.recv() == b"ours"


@every_flavor
async def test_a_connected_datagram_waits_for_a_full_receiver() -> None:
    ours, theirs = UnixDatagram.pair()
    async with ours, theirs:
        sent = 0
        while True:
            try:
                ours.try_send(b"x")
            except freerun.WouldBlock:
                break
            sent += 1
        sender = freerun.spawn(ours.send, b"last")
        await until(lambda: is_parked(sender))
        for _ in range(sent):
            assert await theirs.recv() == b"x"
        assert await sender == 4
        assert await theirs.recv() == b"last"
