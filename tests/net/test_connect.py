"""`TcpStream.connect`: who answers, who does not, and what is left behind."""

from __future__ import annotations

import datetime as dt
import errno
import functools
import socket
from typing import Any

import pytest
from net_support import LOCAL, connected, open_sockets, pair, unanswering
from support import every_flavor, is_parked, open_fds, until

import freerun
from freerun.net import TcpListener, TcpStream, lookup_host


def closed_port() -> int:
    """A port where nobody listens. It stays bound until the test ends, so that nobody else gets it meanwhile."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    _kept.append(sock)
    port: int = sock.getsockname()[1]
    return port


_kept: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _release_ports() -> Any:
    yield
    while _kept:
        _kept.pop().close()


@every_flavor
async def test_forms_of_an_address() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        port = listener.local_addr[1]
        for addr in [("127.0.0.1", port), f"127.0.0.1:{port}", ("localhost", port), f"localhost:{port}"]:
            async with TcpStream.connect(addr) as stream:
                accepted, peer = await listener.accept()
                async with accepted:
                    assert stream.peer_addr == listener.local_addr == accepted.local_addr
                    assert stream.local_addr == accepted.peer_addr == peer
                    assert stream.nodelay
                    assert accepted.nodelay
                    assert str(stream.peer_addr) in repr(stream)


@every_flavor
async def test_refused() -> None:
    port = closed_port()
    for timeout in (None, 60):
        with pytest.raises(ConnectionRefusedError, match=str(port)) as caught:
            await TcpStream.connect(("127.0.0.1", port), timeout=timeout)
        assert caught.value.errno == errno.ECONNREFUSED


@every_flavor
async def test_every_address_that_failed_is_named() -> None:
    """`localhost` may be one or two addresses; each is tried."""
    port = closed_port()
    with pytest.raises(OSError) as caught:
        await TcpStream.connect(("localhost", port))
    for address in await lookup_host(("localhost", port)):
        assert address[0] in str(caught.value)


@every_flavor
async def test_unknown_host() -> None:
    with pytest.raises(OSError, match=r"no\.such\.host\.invalid"):
        await TcpStream.connect("no.such.host.invalid:80")


@pytest.mark.parametrize("timeout", [0.02, dt.timedelta(milliseconds=20), 0], ids=str)
@every_flavor
async def test_timeout(timeout: Any) -> None:
    with unanswering() as addr:
        before = open_sockets()
        with pytest.raises(TimeoutError, match=str(addr[1])) as caught:
            await TcpStream.connect(addr, timeout=timeout)
        assert caught.value.errno == errno.ETIMEDOUT
        assert open_sockets() <= before


@every_flavor
async def test_a_timeout_that_is_not_reached() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        async with TcpStream.connect(listener.local_addr, timeout=60) as stream:
            accepted, _ = await listener.accept()
            await accepted.write_all(b"in time")
            accepted.close()
            assert await stream.read_exact(7) == b"in time"


@every_flavor
async def test_an_aborted_connect_leaves_nothing() -> None:
    with unanswering() as addr:
        before = open_sockets()
        for timeout in (None, 60):
            handle = freerun.spawn(connect, addr, timeout)
            await until(functools.partial(is_parked, handle), "connecting")
            handle.abort()
            with pytest.raises(freerun.JoinError) as caught:
                await handle
            assert caught.value.is_cancelled()
        assert open_sockets() <= before


async def connect(addr: Any, timeout: float | None) -> None:
    await TcpStream.connect(addr, timeout=timeout)


BAD_ADDRESSES: list[tuple[Any, type[Exception], str]] = [
    ("127.0.0.1", ValueError, "no port"),
    ("", ValueError, "no port"),
    (":80", ValueError, "no host"),
    ("127.0.0.1:", ValueError, "number"),
    ("127.0.0.1:http", ValueError, "number"),
    ("127.0.0.1:-1", ValueError, "number"),
    ("127.0.0.1:65536", ValueError, "65535"),
    ("127.0.0.1:99999999999999999999", ValueError, "65535"),
    ("::1:80", ValueError, "brackets"),
    ("[::1]", ValueError, "no port"),
    (("127.0.0.1",), ValueError, "host, port"),
    (("127.0.0.1", 80, 0), ValueError, "host, port"),
    (("127.0.0.1", "80"), TypeError, "int"),
    (("127.0.0.1", True), TypeError, "int"),
    (("127.0.0.1", 1.5), TypeError, "int"),
    (("127.0.0.1", -1), ValueError, "at least"),
    (("127.0.0.1", 65536), ValueError, "65535"),
    (("", 80), ValueError, "no host"),
    ((None, 80), TypeError, "str"),
    (80, TypeError, "int"),
    (None, TypeError, "NoneType"),
    (b"127.0.0.1:80", TypeError, "bytes"),
    (["127.0.0.1", 80], TypeError, "list"),
]


@pytest.mark.parametrize(("addr", "error", "why"), BAD_ADDRESSES, ids=[repr(each[0]) for each in BAD_ADDRESSES])
@freerun.test
async def test_bad_addresses(addr: Any, error: type[Exception], why: str) -> None:
    """Each is refused at the call, by name."""
    for opening in (TcpStream.connect, TcpListener.bind):
        with pytest.raises(error, match=rf"'addr(\[1\])?'.*{why}"):
            opening(addr)  # type: ignore[operator]
    with pytest.raises(error, match=rf"'host(\[1\])?'.*{why}"):
        await lookup_host(addr)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (float("nan"), ValueError), (10**400, ValueError), ("1", TypeError), (True, TypeError)],
    ids=repr,
)
@freerun.test
async def test_bad_timeouts(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="'timeout'"):
        TcpStream.connect("127.0.0.1:1", timeout=timeout)


def test_outside_a_runtime() -> None:
    """A coroutine may be made anywhere, and wants a task to run in."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for opening in (TcpStream.connect(server.getsockname()), TcpListener.bind(LOCAL)):
            with pytest.raises(RuntimeError, match="no freerun runtime"):
                opening.send(None)


def test_a_runtime_without_io() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            for opening in (TcpListener.bind(LOCAL), TcpStream.connect(server.getsockname())):
                with pytest.raises(RuntimeError, match="enable_io"):
                    await opening

    before = set(open_fds())
    with freerun.Builder.new_current_thread().enable_time().build() as rt:
        rt.block_on(main)
        with pytest.raises(RuntimeError, match="enable_io"):
            TcpStream.from_socket(socket.socket())
    assert set(open_fds()) == before


@every_flavor
async def test_from_socket() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with TcpStream.from_socket(ours) as stream:
            assert ours.fileno() == -1
            theirs.sendall(b"hello")
            assert await stream.read() == b"hello"
    for bad, error in ((5, TypeError), (None, TypeError)):
        with pytest.raises(error, match="'sock'"):
            TcpStream.from_socket(bad)  # type: ignore[arg-type]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for take in (TcpStream.from_socket, TcpListener.from_socket):
            with pytest.raises(ValueError, match="'sock'"):
                take(udp)
        assert udp.fileno() >= 0


@every_flavor
async def test_nodelay() -> None:
    async with pair() as (ours, _theirs):
        ours.set_nodelay(False)
        assert not ours.nodelay
        ours.set_nodelay(True)
        assert ours.nodelay
        with pytest.raises(TypeError, match="'nodelay'"):
            ours.set_nodelay(1)  # type: ignore[arg-type]


@every_flavor
async def test_split() -> None:
    async with pair() as (ours, theirs):
        read, write = ours.split()
        assert read.peer_addr == write.peer_addr == theirs.local_addr
        assert read.local_addr == write.local_addr == ours.local_addr
        reader = freerun.spawn(read.read)
        await until(lambda: is_parked(reader))
        await write.write_all(b"ping")
        assert await theirs.read() == b"ping"
        await theirs.write_all(b"pong")
        assert await reader == b"pong"
        await write.writable()
        assert await write.write(b"12") == 2
        await write.shutdown()
        assert await theirs.read_exact(2) == b"12"
        assert await theirs.read() == b""
        await theirs.write_all(b"abc")
        await read.readable()
        assert await read.read_exact(3) == b"abc"


@every_flavor
async def test_into_split() -> None:
    ours, theirs = await connected()
    async with theirs:
        read, write = ours.into_split()
        async with write:
            await write.write_all(b"all")
        assert write.closed
        assert await theirs.read_exact(3) == b"all"
        assert await theirs.read() == b""
        assert not ours.closed
        await theirs.write_all(b"answer")
        assert await read.read() == b"answer"
        read.close()
        read.close()
        assert ours.closed
        assert await theirs.read() == b""


@every_flavor
async def test_into_split_dropped_halves() -> None:
    ours, theirs = await connected()
    async with theirs:
        read, write = ours.into_split()
        del write
        assert await theirs.read() == b""
        del read
        await until(lambda: ours.closed)


@every_flavor
async def test_into_split_forget_and_reunite() -> None:
    ours, theirs = await connected()
    async with theirs:
        read, write = ours.into_split()
        with pytest.raises(TypeError, match="'other'"):
            read.reunite(read)  # type: ignore[arg-type]
        other_read, other_write = read.reunite(write).into_split()
        with pytest.raises(ValueError, match=r"closed|another"):
            read.reunite(other_write)
        other_write.forget()
        with pytest.raises(ValueError, match="closed"):
            other_read.reunite(other_write)
        await theirs.write_all(b"x")
        assert await other_read.read() == b"x"
        other_read.close()
        assert ours.closed
