"""Connecting to a host with several addresses: who wins, when the next one is tried, what is left behind."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from net_support import LOCAL, open_sockets, unanswering
from support import every_flavor, is_parked, until

import freerun
from freerun.net import TcpListener, TcpStream, _connect, tcp_stream
from freerun.net._connect import interleaved

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What names lead to; filled by the test."""
    table: dict[str, list[Any]] = {}

    async def resolve(address: Any) -> list[Any]:
        return table[address.host]

    monkeypatch.setattr(tcp_stream, "resolve", resolve)
    return table


@pytest.fixture(scope="module")
def silent() -> Iterator[tuple[str, int]]:
    """An address that neither answers nor refuses."""
    with unanswering() as addr:
        yield addr


def closed_port() -> tuple[socket.socket, tuple[str, int]]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()


def test_families_take_turns() -> None:
    six = [(V6, (f"::{i}", 1)) for i in range(3)]
    four = [(V4, (f"10.0.0.{i}", 1)) for i in range(2)]
    assert list(interleaved(six + four)) == [six[0], four[0], six[1], four[1], six[2]]
    assert list(interleaved(four + six)) == [four[0], six[0], four[1], six[1], six[2]]
    assert list(interleaved(four)) == four


@freerun.test(start_paused=True)
async def test_the_next_address_is_tried_after_250_ms(hosts: Any, silent: Any) -> None:
    before = open_sockets()
    async with TcpListener.bind(LOCAL) as listener:
        hosts["name"] = [(V4, silent), (V4, silent), (V4, listener.local_addr)]
        began = freerun.time.Instant.now()
        async with TcpStream.connect(("name", 1)) as stream:
            assert began.elapsed() == pytest.approx(0.5, abs=0.01)
            assert stream.peer_addr == listener.local_addr
            assert len(open_sockets() - before) == 2, "the losers are closed"
    assert open_sockets() <= before


@every_flavor
async def test_after_a_refusal_the_next_address_is_tried_at_once(hosts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "DELAY", 100_000.0)
    refusing, refused = closed_port()
    with refusing:
        async with TcpListener.bind(LOCAL) as listener:
            hosts["name"] = [(V4, refused), (V4, refused), (V4, listener.local_addr)]
            async with TcpStream.connect(("name", 1)) as stream:
                assert stream.peer_addr == listener.local_addr


@every_flavor
async def test_the_first_to_answer_wins(hosts: Any, silent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "DELAY", 0.01)
    before = open_sockets()
    async with TcpListener.bind(LOCAL) as listener:
        hosts["name"] = [(V4, silent), (V4, listener.local_addr), (V4, silent)]
        for _ in range(2):
            async with TcpStream.connect(("name", 1), timeout=60) as stream:
                theirs, _ = await listener.accept()
                async with theirs:
                    await theirs.write_all(b"welcome")
                    assert await stream.read_exact(7) == b"welcome"
    assert open_sockets() <= before


@every_flavor
async def test_every_failure_is_in_the_error(hosts: Any, silent: Any) -> None:
    before = open_sockets()
    sock, refused = closed_port()
    with sock:
        hosts["name"] = [(V4, refused), (V4, ("192.0.2.256", 5)), (12345, ("x", 1)), (V4, refused)]
        hosts["name"][1] = (V6, ("fe80::1", 5, 0, 0))  # a link-local address without its link
        with pytest.raises(OSError, match=f"name:77.*{refused[1]}") as caught:
            await TcpStream.connect(("name", 77))
        group = caught.value.__cause__
        assert isinstance(group, ExceptionGroup)
        assert len(group.exceptions) == 4
        assert [type(each) for each in group.exceptions].count(ConnectionRefusedError) == 2
        assert {each.errno for each in group.exceptions} >= {errno.ECONNREFUSED, errno.EAFNOSUPPORT}
    assert open_sockets() <= before


@every_flavor
async def test_a_timeout_gives_up_all_of_them(hosts: Any, silent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "DELAY", 0.005)
    before = open_sockets()
    hosts["name"] = [(V4, silent)] * 3
    with pytest.raises(TimeoutError, match="name:1"):
        await TcpStream.connect(("name", 1), timeout=0.03)  # several are under way by then
    assert open_sockets() <= before


@every_flavor
async def test_an_abort_gives_up_all_of_them(hosts: Any, silent: Any) -> None:
    before = open_sockets()
    hosts["name"] = [(V4, silent)] * 3

    async def connect() -> None:
        await TcpStream.connect(("name", 1))

    handle = freerun.spawn(connect)
    await until(lambda: is_parked(handle) and len(open_sockets() - before) >= 2)
    handle.abort()
    with pytest.raises(freerun.JoinError):
        await handle
    assert open_sockets() <= before


@freerun.test
async def test_a_race_with_a_spent_budget(hosts: Any, silent: Any) -> None:
    """Leaves that have to give way are polled again, whichever of them comes last."""
    async with TcpListener.bind(LOCAL) as listener:
        hosts["name"] = [(V4, silent), (V4, listener.local_addr)]
        ours, theirs = freerun.net.UnixStream.pair()
        async with ours, theirs:
            for _ in range(200):
                await ours.write(b"x")  # ready at once: spends the budget
            async with TcpStream.connect(("name", 1), timeout=60) as stream:
                assert stream.peer_addr == listener.local_addr
