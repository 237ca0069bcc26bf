"""`TcpListener`: binding, accepting, and running out of descriptors."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from net_support import LOCAL, has_ipv6
from support import DRIVERS, check_script, every_flavor, is_parked, seeded, until

import freerun
from freerun.net import TcpListener, TcpStream


@every_flavor
async def test_address_in_use() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        with pytest.raises(OSError, match=str(listener.local_addr[1])) as caught:
            await TcpListener.bind(listener.local_addr)
        assert caught.value.errno == errno.EADDRINUSE
    async with TcpListener.bind(listener.local_addr) as again:
        assert again.local_addr == listener.local_addr


@every_flavor
async def test_reuse_port() -> None:
    async with TcpListener.bind(LOCAL, reuse_port=True) as one:
        async with TcpListener.bind(one.local_addr, reuse_port=True) as two:
            assert one.local_addr == two.local_addr


@every_flavor
async def test_an_address_of_another_machine() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1") as caught:
        await TcpListener.bind("192.0.2.1:0")
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"backlog": "5"}, TypeError, "backlog"),
        ({"backlog": -1}, ValueError, "backlog"),
        ({"backlog": True}, TypeError, "backlog"),
        ({"reuse_port": 1}, TypeError, "reuse_port"),
        ({"reuse_port": None}, TypeError, "reuse_port"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"'{name}'"):
        TcpListener.bind(LOCAL, **arguments)


@pytest.mark.parametrize("backlog", [0, 1, 1 << 40])
@every_flavor
async def test_backlogs(backlog: int) -> None:
    async with TcpListener.bind(LOCAL, backlog=backlog) as listener:
        async with TcpStream.connect(listener.local_addr) as stream:
            accepted, addr = await listener.accept()
            accepted.close()
            assert addr == stream.local_addr


@every_flavor
async def test_local_addr() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        host, port = listener.local_addr
        assert host == "127.0.0.1"
        assert port > 0
        assert str(port) in repr(listener)
        with socket.create_connection(listener.local_addr):
            accepted, _ = await listener.accept()
            accepted.close()
        assert listener.fileno() >= 0
    assert listener.local_addr == (host, port)  # also once closed


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@every_flavor
async def test_ipv6_address() -> None:
    async with TcpListener.bind(("::1", 0)) as listener:
        assert listener.local_addr[:1] == ("::1",)
        assert len(listener.local_addr) == 4


@every_flavor
async def test_async_iteration() -> None:
    """Each connection once; it ends when the listener is closed."""
    seen = []

    async def serve(listener: TcpListener) -> str:
        async for stream, addr in listener:
            seen.append(addr)
            stream.close()
        return "ended"

    async with TcpListener.bind(LOCAL) as listener:
        server = freerun.spawn(serve, listener)
        clients = [await TcpStream.connect(listener.local_addr) for _ in range(10)]
        await until(lambda: len(seen) == 10)
        assert sorted(seen) == sorted(client.local_addr for client in clients)
        listener.close()
        assert await server == "ended"
        assert await serve(listener) == "ended"  # a closed one is over at once
        for client in clients:
            client.close()


@every_flavor
async def test_a_second_acceptor_is_refused_and_the_first_goes_on() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        first = freerun.spawn(listener.accept)
        await until(lambda: is_parked(first))
        with pytest.raises(RuntimeError, match="another task is already accepting"):
            await listener.accept()
        async with TcpStream.connect(listener.local_addr) as client:
            stream, addr = await first
            async with stream:
                assert addr == client.local_addr


@every_flavor
async def test_aborted_accepts_lose_no_connection() -> None:
    random = seeded()
    count = 60
    async with TcpListener.bind(LOCAL) as listener:
        accepted: dict[Any, TcpStream] = {}

        async def accept() -> None:
            stream, addr = await listener.accept()
            accepted[addr] = stream

        async def connect() -> list[TcpStream]:
            streams = []
            for _ in range(count):
                streams.append(await TcpStream.connect(listener.local_addr))
                for _ in range(random.randrange(3)):
                    await freerun.yield_now()
            return streams

        connecting = freerun.spawn(connect)
        while len(accepted) < count:
            acceptor = freerun.spawn(accept)
            for _ in range(random.randrange(4)):
                await freerun.yield_now()
            acceptor.abort()
            try:
                await acceptor
            except freerun.JoinError as error:
                if not error.is_cancelled():
                    raise
        clients = await connecting
        assert set(accepted) == {client.local_addr for client in clients}
        for stream in [*clients, *accepted.values()]:
            stream.close()


@every_flavor
async def test_a_connection_that_is_gone_before_it_is_taken() -> None:
    """It does not stop the listener: the next one is taken."""
    async with TcpListener.bind(LOCAL) as listener:
        for _ in range(3):
            with socket.create_connection(listener.local_addr) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        async with TcpStream.connect(listener.local_addr) as client:
            while True:
                stream, addr = await listener.accept()
                stream.close()
                if addr == client.local_addr:
                    break


# The working directory may be that of the sources, which have no compiled core.
INSTALLED = {"PYTHONSAFEPATH": "1"}

OUT_OF_DESCRIPTORS = """
import errno, logging, os, resource, socket, sys, time
import freerun
from freerun.net import TcpListener, TcpStream

flavor, workers, driver, how = sys.argv[1:]
CLIENTS = 6
served = 0
errors = []
logged = []
held = []

class Log(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())

logging.getLogger("freerun").addHandler(Log())

async def accept_by_hand(listener):
    while not listener.closed:
        try:
            yield await listener.accept()
        except OSError as error:  # no pause: the listener makes it
            if not listener.closed:
                errors.append(error.errno)

async def serve(listener):
    global served
    async for stream, _ in listener if how == "iterate" else accept_by_hand(listener):
        served += 1
        held.append(stream)

async def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, (served, errors, logged)
        await freerun.time.sleep(0.005)

def complaints():
    return errors if how == "by hand" else logged

async def main():
    async with TcpListener.bind("127.0.0.1:0") as listener:
        server = freerun.spawn(serve, listener)
        clients = [socket.socket() for _ in range(CLIENTS)]
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, highest + 1000))
        for client in clients:
            client.connect(listener.local_addr)
        await until(complaints)
        assert 0 < served < CLIENTS, served
        # Out of descriptors, with somebody waiting for one: nothing spins.
        cpu, began = time.process_time(), time.monotonic()
        await freerun.time.sleep(0.5)
        wall = time.monotonic() - began
        assert time.process_time() - cpu < wall / 2, (time.process_time() - cpu, wall)
        # Descriptors come free: the connections that waited are taken.
        while served < CLIENTS:
            now = served
            held.pop().close()
            await until(lambda: served > now)
        if how == "by hand":
            assert set(errors) <= {errno.EMFILE}, errors
            assert len(errors) < 40, errors  # 10 ms, 20 ms, 40 ms, ...
            assert not logged
        else:
            # One warning per episode: it began anew at most after each connection that was taken.
            assert 1 <= len(logged) <= CLIENTS, logged
            assert "Too many open files" in logged[0] and str(listener.local_addr[1]) in logged[0], logged
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1000, highest + 1000))
        async with TcpStream.connect(listener.local_addr):
            await until(lambda: served == CLIENTS + 1)
        listener.close()
        await server
        for each in (*clients, *held):
            each.close()

builder = freerun.Builder.new_current_thread() if flavor == "current_thread" else freerun.Builder()
with (builder if flavor == "current_thread" else builder.worker_threads(int(workers))).driver(driver).build() as rt:
    assert rt.metrics().driver == driver
    rt.block_on(main)
print("recovered")
"""


@pytest.mark.parametrize("how", ["iterate", "by hand"])
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("arguments", [("current_thread", "1"), ("multi_thread", "2")], ids="-".join)
def test_out_of_descriptors(arguments: tuple[str, str], driver: str, how: str) -> None:
    """While the process has no descriptor to spare `accept` fails and an `async for` waits; both recover, and nothing
    spins meanwhile."""
    assert check_script(OUT_OF_DESCRIPTORS, *arguments, driver, how, env=INSTALLED) == "recovered\n"


@every_flavor
async def test_a_close_ends_a_pause() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        listener._pause = 100_000.0  # as after many failures
        listener._unsure = True
        acceptor = freerun.spawn(listener.accept)
        await until(lambda: is_parked(acceptor))
        with pytest.raises(RuntimeError, match="another task"):
            await listener.accept()
        listener.close()
        with pytest.raises(OSError, match="closed"):
            await acceptor


CONNECT_OUT_OF_DESCRIPTORS = """
import errno, os, resource
import freerun
from freerun.net import TcpListener, TcpStream

async def main():
    async with TcpListener.bind("127.0.0.1:0") as listener:
        fds = sorted(map(int, os.listdir("/proc/self/fd")))
        for spare in range(1, 4):  # not one for the socket, nor its duplicate during the handshake
            resource.setrlimit(resource.RLIMIT_NOFILE, (fds[-1] + spare, 4096))
            before = len(os.listdir("/proc/self/fd")) if spare > 1 else None
            try:
                stream = await TcpStream.connect(listener.local_addr)
            except OSError as error:
                assert error.errno == errno.EMFILE, error
            else:
                stream.close()
            if before is not None:
                assert len(os.listdir("/proc/self/fd")) == before
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))

freerun.run(main, flavor="current_thread")
"""


def test_connecting_out_of_descriptors() -> None:
    check_script(CONNECT_OUT_OF_DESCRIPTORS, env=INSTALLED)
