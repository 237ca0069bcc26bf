"""TLS: who is trusted, how streams end, two tasks at once, what an abort leaves, clients that never finish."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from net_support import LOCAL, open_sockets, read_to_end
from support import PATIENCE, check_script, every_flavor, is_parked, seeded, until

import freerun
from freerun.io import UnexpectedEof
from freerun.net import TcpListener, TcpStream, TlsListener, TlsStream, UnixListener, UnixStream
from freerun.testing import localhost_tls

PEM = sys.modules[localhost_tls.__module__]


@pytest.fixture
def certificate_file(tmp_path: Path) -> Path:
    """The certificate and its key, for those who want a file."""
    path = tmp_path / "localhost.pem"
    path.write_text(PEM._KEY + PEM._CERTIFICATE)
    return path


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)


def contexts(version: ssl.TLSVersion | None = None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, client = localhost_tls()
    if version is not None:
        server.minimum_version = server.maximum_version = version
    return server, client


@asynccontextmanager
async def tls_pair(version: ssl.TLSVersion | None = None, **options: Any) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Both ends of a connection, closed at the end: client and server."""
    server, client = contexts(version)
    ours, theirs = UnixStream.pair()
    accepting = spawn_wrap(theirs, server, server_side=True, **options)
    async with TlsStream.wrap(ours, client, server_name="localhost", **options) as a, await accepting as b:
        yield a, b


def spawn_wrap(*arguments: Any, **options: Any) -> freerun.JoinHandle[TlsStream]:
    async def wrap() -> TlsStream:
        return await TlsStream.wrap(*arguments, **options)

    return freerun.spawn(wrap)


async def echo(stream: TlsStream) -> None:
    async with stream:
        with contextlib.suppress(OSError):
            while data := await stream.read():
                await stream.write_all(data)


async def serve_echo(listener: TlsListener) -> int:
    count = 0
    async for stream, _ in listener:
        count += 1
        freerun.spawn(echo, stream)
    return count


# ---- trust ----


@VERSIONS
@every_flavor
async def test_echo(version: ssl.TLSVersion) -> None:
    server, client = contexts(version)
    server.set_alpn_protocols(["h2", "freerun"])
    client.set_alpn_protocols(["freerun"])
    async with TlsListener.bind(LOCAL, server) as listener:
        serving = freerun.spawn(serve_echo, listener)
        port = listener.local_addr[1]

        async def talk(i: int) -> str:
            async with TlsStream.connect(("localhost", port), client, timeout=60) as stream:
                for j in range(10):
                    message = f"{i}:{j};".encode() * (j * 1000)
                    await stream.write_all(message)
                    assert await stream.read_exact(len(message)) == message
                assert stream.version() == version.name.replace("_", ".")
                assert stream.cipher()[2] >= 128
                assert stream.peer_certificate()["subject"] == ((("commonName", "localhost"),),)
                assert stream.peer_certificate(binary=True)[:1] == b"0"
                assert stream.peer_addr[1] == port
                assert stream.server_name == "localhost"
                assert not stream.session_reused
                assert "TLS" in repr(stream)
                await stream.shutdown()
                assert await stream.read() == b""
                return stream.selected_alpn_protocol()

        talks = [freerun.spawn(talk, i) for i in range(10)]
        assert [await each for each in talks] == ["freerun"] * 10
        listener.close()
        assert await serving == 10


@freerun.test
async def test_verified_by_default() -> None:
    """Neither a stranger's signature nor another name passes; nothing is left open."""
    server, client = contexts()
    before = open_sockets()
    async with TlsListener.bind(LOCAL, server) as listener:
        serving = freerun.spawn(serve_echo, listener)
        with pytest.raises(ssl.SSLCertVerificationError):
            await TlsStream.connect(("localhost", listener.local_addr[1]))
        for name, why in (("example.org", "Hostname mismatch"), ("127.0.0.2", "IP address mismatch")):
            with pytest.raises(ssl.SSLCertVerificationError, match=why):
                await TlsStream.connect(listener.local_addr, client, name)
        for name in ("localhost", "127.0.0.1", None):
            async with TlsStream.connect(listener.local_addr, client, name) as stream:
                await stream.write_all(b"x")
                assert await stream.read() == b"x"
        listener.close()
        assert await serving == 3
    await until(lambda: open_sockets() <= before)


@every_flavor
async def test_the_name_that_is_asked_for() -> None:
    """SNI: by it a server chooses its context, or refuses; an IP address is none."""
    server, client = contexts()
    other, _ = contexts()
    other.set_alpn_protocols(["other"])
    client.set_alpn_protocols(["other"])
    client.check_hostname = False
    asked: list[str | None] = []

    def choose(stream: Any, name: str | None, _context: ssl.SSLContext) -> int | None:
        asked.append(name)
        if name == "other.example":
            stream.context = other
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if name == "nobody.example" else None

    server.sni_callback = choose
    async with TlsListener.bind(LOCAL, server) as listener:
        serving = freerun.spawn(serve_echo, listener)
        for name, protocol in (("localhost", ""), ("other.example", "other"), (None, "")):
            async with TlsStream.connect(listener.local_addr, client, name) as stream:
                await stream.write_all(b"x")
                assert await stream.read() == b"x"
                assert stream.selected_alpn_protocol() == protocol
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await TlsStream.connect(listener.local_addr, client, "nobody.example")
        listener.close()
        assert await serving == 3
    assert asked == ["localhost", "other.example", None, "nobody.example"]


@freerun.test
async def test_a_client_that_must_show_a_certificate(certificate_file: Path) -> None:
    server, client = contexts()
    server.verify_mode = ssl.CERT_REQUIRED
    async with TlsListener.bind(LOCAL, server) as listener:
        accepting = freerun.spawn(listener.accept)
        with pytest.raises(ssl.SSLError):
            async with TlsStream.connect(listener.local_addr, client) as stream:
                await stream.read()  # TLS 1.3 tells the client after its handshake
        server.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(client.get_ca_certs(binary_form=True)[0]))
        client.load_cert_chain(certificate_file)
        async with TlsStream.connect(listener.local_addr, client) as stream:
            theirs, _ = await accepting
            assert theirs.peer_certificate()["subject"] == ((("commonName", "localhost"),),)
            await theirs.write_all(b"welcome")
            assert await stream.read() == b"welcome"
            theirs.close()


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"context": 5}, TypeError, "'context'"),
        ({"server_name": b"localhost"}, TypeError, "'server_name'"),
        ({"alpn": "h2"}, TypeError, "'alpn'"),
        ({"alpn": [b"h2"]}, TypeError, "'alpn'"),
        ({"alpn": ["h2"], "context": ssl.create_default_context()}, ValueError, "'alpn'.*set_alpn_protocols"),
        ({"timeout": -1}, ValueError, "'timeout'"),
        ({"suppress_ragged_eofs": 1}, TypeError, "'suppress_ragged_eofs'"),
    ],
    ids=str,
)
def test_bad_arguments_of_connect(options: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        TlsStream.connect("localhost:443", **options)


@freerun.test
async def test_bad_arguments() -> None:
    server, client = contexts()
    ours, theirs = UnixStream.pair()
    bad: list[tuple[Any, type[Exception], str]] = [
        (lambda: TlsStream.wrap(5, server), TypeError, "'stream'.*read"),  # type: ignore[arg-type]
        (lambda: TlsStream.wrap(ours, None), TypeError, "'context'"),  # type: ignore[arg-type]
        (lambda: TlsStream.wrap(ours, server, server_side=1), TypeError, "'server_side'"),  # type: ignore[arg-type]
        (lambda: TlsListener.bind(LOCAL, None), TypeError, "'context'"),  # type: ignore[arg-type]
        (lambda: TlsListener.bind(LOCAL, server, handshake_timeout=-1), ValueError, "'handshake_timeout'"),
        (lambda: TlsListener.bind(LOCAL, server, max_handshakes=0), ValueError, "'max_handshakes'"),
        (lambda: TlsListener(5, server), TypeError, "'listener'"),  # type: ignore[arg-type]
    ]
    for call, error, why in bad:
        with pytest.raises(error, match=why):
            call()
    for name in (None, ""):  # it would be checked against nothing
        with pytest.raises(ValueError, match="'server_name'"):
            TlsStream.wrap(ours, client, server_name=name)
    with pytest.raises(ValueError, match="idna"):
        await TlsStream.wrap(ours, client, server_name=".")
    assert ours.closed
    theirs.close()


@freerun.test
async def test_alpn_without_a_context() -> None:
    """The default context is made once for each set of protocols."""
    server, _ = contexts()
    async with TlsListener.bind(LOCAL, server) as listener:
        freerun.spawn(serve_echo, listener)
        for _ in range(2):
            with pytest.raises(ssl.SSLCertVerificationError):
                await TlsStream.connect(listener.local_addr, alpn=["h2", "http/1.1"])


# ---- reading and writing ----


@VERSIONS
@every_flavor
async def test_bytes_of_every_size(version: ssl.TLSVersion) -> None:
    random = seeded()
    async with tls_pair(version) as (ours, theirs):
        for size in (1, 16383, 16384, 16385, 65536, 131072, 131073, 700_001):
            data = random.randbytes(size)
            for source, sink in ((ours, theirs), (theirs, ours)):
                writer = freerun.spawn(source.write_all, data)
                assert await sink.read_exact(size) == data
                await writer


@every_flavor
async def test_what_can_be_written() -> None:
    async with tls_pair() as (ours, theirs):
        for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), memoryview(b"sliced")[2:4]):
            assert await ours.write(data) == len(data)
            await ours.write_all(data)
            assert await theirs.read_exact(2 * len(data)) == bytes(data) * 2
        assert await ours.write_vectored([b"a", bytearray(b"b"), memoryview(b"c")]) == 3
        assert await theirs.read_exact(3) == b"abc"
        assert 0 < await ours.write_vectored([b"x" * 100_000] * 100) <= 200_000
        for empty in (b"", bytearray(), memoryview(b"")):
            assert await ours.write(empty) == 0
            await ours.write_all(empty)
        assert await ours.write_vectored([]) == 0
        for bad in ("text", 5, None):
            for write in (ours.write, ours.write_all):
                with pytest.raises(TypeError):
                    await write(bad)
        for bad in (b"bytes", ["text"], [None]):
            with pytest.raises(TypeError):
                await ours.write_vectored(bad)


@every_flavor
async def test_reading() -> None:
    async with tls_pair() as (ours, theirs):
        await ours.write_all(b"hello")
        buffer = bytearray(8)
        assert await theirs.read_into(buffer) == 5
        assert buffer[:5] == b"hello"
        await ours.write_all(b"0123456789")
        assert await theirs.read(1) == b"0"
        assert await theirs.read(2) == b"12"
        assert await theirs.read(100) == b"3456789"
        for bad, error in ((0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)):
            with pytest.raises(error, match="'n'"):
                await theirs.read(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'buf'"):
            await theirs.read_into(b"read-only")
        with pytest.raises(ValueError, match="'buf'"):
            await theirs.read_into(bytearray())
        assert await theirs.read_exact(0) == b""
        await ours.write_all(b"part")
        await ours.shutdown()
        with pytest.raises(UnexpectedEof) as caught:
            await theirs.read_exact(10)
        assert caught.value.partial == b"part"
        assert await theirs.read() == b""
        assert await theirs.read_into(buffer) == 0


@VERSIONS
@every_flavor
async def test_both_directions_at_once(version: ssl.TLSVersion) -> None:
    """Four tasks on two streams: each session is used by two threads at once."""
    random = seeded()
    data = [random.randbytes(1_500_000) for _ in range(2)]
    async with tls_pair(version) as (ours, theirs):

        async def send(stream: TlsStream, data: bytes) -> None:
            at = 0
            while at < len(data):
                at += await stream.write(data[at : at + random.randrange(1, 60_000)])

        senders = [freerun.spawn(send, ours, data[0]), freerun.spawn(send, theirs, data[1])]
        receivers = [freerun.spawn(theirs.read_exact, len(data[0])), freerun.spawn(ours.read_exact, len(data[1]))]
        assert [await each for each in receivers] == data
        for sender in senders:
            await sender


@every_flavor
async def test_one_reader_and_one_writer() -> None:
    async with tls_pair() as (ours, theirs):
        reader = freerun.spawn(ours.read)
        await until(lambda: is_parked(reader))
        for second in (ours.read, lambda: ours.read_exact(1), lambda: ours.read_into(bytearray(1))):
            with pytest.raises(RuntimeError, match="reading"):
                await second()  # type: ignore[operator]
        await theirs.write_all(b"for the first")
        assert await reader == b"for the first"
        writer = freerun.spawn(ours.write_all, bytes(5_000_000))
        await until(lambda: is_parked(writer))
        for use in (lambda: ours.write(b"x"), lambda: ours.write_all(b"x"), ours.shutdown):
            with pytest.raises(RuntimeError, match="writing"):
                await use()  # type: ignore[operator]
        assert await theirs.read_exact(5_000_000) == bytes(5_000_000)
        await writer
        await ours.write_all(b"and on")
        assert await theirs.read() == b"and on"


@VERSIONS
@every_flavor
async def test_aborted_reads_lose_no_byte(version: ssl.TLSVersion) -> None:
    random = seeded()
    data = random.randbytes(150_000)
    async with tls_pair(version) as (ours, theirs):
        received = bytearray()

        async def read() -> None:
            while piece := await ours.read(random.randrange(1, 20_000)):
                received.extend(piece)

        async def write() -> None:
            at = 0
            while at < len(data):
                at += await theirs.write(data[at : at + random.randrange(1, 5000)])
                await freerun.yield_now()
            await theirs.shutdown()

        writer = freerun.spawn(write)
        while True:
            reader = freerun.spawn(read)
            for _ in range(random.randrange(5)):
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
async def test_aborted_writes_tear_nothing() -> None:
    """Of an aborted write all of a piece arrives, or nothing; what is written later comes after it."""
    random = seeded()
    async with tls_pair() as (ours, theirs):
        received = freerun.spawn(read_to_end, theirs)
        count = 40
        for i in range(count):
            writer = freerun.spawn(ours.write, bytes([i]) * 20_000)
            for _ in range(random.randrange(3)):
                await freerun.yield_now()
            writer.abort()
            try:
                await writer
            except freerun.JoinError as error:
                if not error.is_cancelled():
                    raise
        await ours.write_all(b"end")
        await ours.shutdown()
        got = await received
        assert got.endswith(b"end")
        pieces = [got[at : at + 20_000] for at in range(0, len(got) - 3, 20_000)]
        order = [piece[0] for piece in pieces]
        assert pieces == [bytes([i]) * 20_000 for i in order]
        assert order == sorted(set(order))


@every_flavor
async def test_a_writer_that_nobody_reads_from_is_bounded() -> None:
    """It waits; an abort frees it, and the stream goes on."""
    async with tls_pair() as (ours, theirs):
        writer = freerun.spawn(ours.write_all, bytes(20_000_000))
        await until(lambda: is_parked(writer))
        session = ours._session
        assert len(session._unsent) + session._outgoing.pending < 200_000
        writer.abort()
        with pytest.raises(freerun.JoinError):
            await writer
        reader = freerun.spawn(read_to_end, theirs)
        await ours.write_all(b"after")
        await ours.shutdown()
        got = await reader
        assert got.strip(b"\0") == b"after"
        assert len(got) < 20_000_000


# ---- ends ----


@VERSIONS
@every_flavor
async def test_half_close(version: ssl.TLSVersion) -> None:
    async with tls_pair(version) as (ours, theirs):
        await theirs.write_all(b"x" * 50_000)  # on its way while we end our output
        assert await ours.read(1) == b"x"  # a record is open in OpenSSL
        await ours.shutdown()
        await ours.shutdown()
        assert await theirs.read() == b""
        await theirs.write_all(b"answer")
        await theirs.shutdown()
        assert await read_to_end(ours) == b"x" * 49_999 + b"answer"
        for write in (ours.write, ours.write_all):
            with pytest.raises(BrokenPipeError):
                await write(b"more")


@every_flavor
async def test_close_says_goodbye() -> None:
    async with tls_pair() as (ours, theirs):
        reader = freerun.spawn(theirs.read)
        await until(lambda: is_parked(reader))
        ours.close()
        assert await reader == b""
        assert ours.closed
        ours.close()
        for use in (ours.read, lambda: ours.write(b"x"), lambda: ours.write_all(b"x"), ours.shutdown):
            with pytest.raises(OSError, match="closed"):
                await use()  # type: ignore[operator]
        assert repr(ours) == "<TlsStream closed>"


@VERSIONS
@every_flavor
async def test_data_and_the_end_in_one_piece(version: ssl.TLSVersion) -> None:
    """The end that was seen behind the data is not forgotten."""
    for n in (1, 100, 65536):
        async with tls_pair(version) as (ours, theirs):
            await ours.write_all(b"last words")
            ours.close()
            assert await read_to_end(theirs, n) == b"last words"
            assert await theirs.read() == b""


@every_flavor
async def test_close_wakes_who_waits() -> None:
    async with tls_pair() as (ours, _theirs):
        reader = freerun.spawn(ours.read)
        writer = freerun.spawn(ours.write_all, bytes(10_000_000))
        await until(lambda: is_parked(reader) and is_parked(writer))
        await freerun.spawn_blocking(ours.close)
        for handle in (reader, writer):
            with pytest.raises(OSError, match="closed"):
                await handle


@VERSIONS
@every_flavor
async def test_an_end_without_a_goodbye(version: ssl.TLSVersion) -> None:
    """Somebody may have cut it: that is no end, unless one says that it is."""
    async with tls_pair(version) as (ours, theirs):
        await theirs.write_all(b"the beginning")
        theirs.inner.close()
        assert await ours.read() == b"the beginning"
        for _ in range(2):
            with pytest.raises(ssl.SSLEOFError, match=r"close_notify.*suppress_ragged_eofs"):
                await ours.read()
    async with tls_pair(version, suppress_ragged_eofs=True) as (ours, theirs):
        await theirs.write_all(b"the beginning")
        theirs.inner.close()
        assert await read_to_end(ours) == b"the beginning"
        assert await ours.read() == b""


@every_flavor
async def test_data_that_was_tampered_with() -> None:
    server, client = contexts()
    ours, theirs = UnixStream.pair()
    accepting = spawn_wrap(theirs, server, server_side=True)
    async with TlsStream.wrap(ours, client, server_name="localhost") as a, await accepting as b:
        await a.write_all(b"good")
        await ours.write_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await b.read(4) == b"good"
        for _ in range(2):
            with pytest.raises(ssl.SSLError):
                await b.read()
        with pytest.raises(ssl.SSLError):  # it was told why
            await a.read()


@every_flavor
async def test_into_split() -> None:
    async with tls_pair() as (ours, theirs):
        read, write = ours.into_split()
        await write.write_all(b"question")
        assert await theirs.read() == b"question"
        write.close()
        assert await theirs.read() == b""
        await theirs.write_all(b"answer")
        assert await read.read_exact(6) == b"answer"
        read.close()
        assert ours.closed
        a, b = theirs.split()
        assert await a.read() == b""
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await b.write_all(b"x")


@every_flavor
async def test_tls_in_tls() -> None:
    """It runs over whatever reads and writes."""
    server, client = contexts()
    async with tls_pair() as (ours, theirs):
        accepting = spawn_wrap(theirs, server, server_side=True)
        async with TlsStream.wrap(ours, client, server_name="localhost") as a, await accepting as b:
            data = seeded().randbytes(300_000)
            writer = freerun.spawn(a.write_all, data)
            assert await b.read_exact(len(data)) == data
            await writer
            await a.shutdown()
            assert await b.read() == b""


class Slow:
    """A stream of one's own, which takes and gives a few bytes at a time and cannot `try_write`."""

    def __init__(self, stream: UnixStream) -> None:
        self.stream = stream

    async def read(self, n: int = 65536, /) -> bytes:
        return await self.stream.read(7)

    async def write(self, data: Any, /) -> int:
        return await self.stream.write(data[:11])

    def close(self) -> None:
        self.stream.close()


@VERSIONS
@every_flavor
async def test_over_a_stream_of_ones_own(version: ssl.TLSVersion) -> None:
    server, client = contexts(version)
    ours, theirs = UnixStream.pair()
    accepting = spawn_wrap(Slow(theirs), server, server_side=True)
    async with TlsStream.wrap(Slow(ours), client, server_name="localhost") as a, await accepting as b:
        await a.write_all(b"x" * 3000)
        assert await b.read_exact(3000) == b"x" * 3000
        await a.shutdown()
        assert await b.read() == b""
        await b.write_all(b"bye")
        assert await a.read_exact(3) == b"bye"


# ---- handshakes ----


@every_flavor
async def test_a_handshake_with_somebody_who_leaves() -> None:
    server, client = contexts()
    for side, context in ((True, server), (False, client)):
        ours, theirs = UnixStream.pair()
        handle = spawn_wrap(ours, context, server_side=side, server_name=None if side else "localhost")
        await until(lambda: is_parked(handle))
        theirs.close()
        with pytest.raises(OSError):  # SSLEOFError, or a reset if what we said was not read
            await handle
        assert ours.closed


@every_flavor
async def test_a_handshake_with_somebody_who_speaks_no_tls() -> None:
    server, client = contexts()
    for side, context in ((True, server), (False, client)):
        ours, theirs = UnixStream.pair()
        await theirs.write_all(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ssl.SSLError):
            await TlsStream.wrap(ours, context, server_side=side, server_name=None if side else "localhost")
        assert ours.closed
        theirs.close()


@every_flavor
async def test_a_handshake_that_takes_too_long() -> None:
    _, client = contexts()
    before = open_sockets()
    async with TcpListener.bind(LOCAL) as listener:
        with pytest.raises(TimeoutError, match="TLS connection"):
            await TlsStream.connect(listener.local_addr, client, timeout=0.02)
        ours, theirs = UnixStream.pair()
        async with theirs:
            with pytest.raises(TimeoutError):
                await TlsStream.wrap(ours, client, server_name="localhost", timeout=0)
        handle = spawn_wrap(await TcpStream.connect(listener.local_addr), client, server_name="localhost")
        await until(lambda: is_parked(handle))
        handle.abort()
        with pytest.raises(freerun.JoinError):
            await handle
    assert open_sockets() <= before


@every_flavor
async def test_silent_clients_keep_nobody_waiting() -> None:
    server, client = contexts()
    before = open_sockets()
    async with TlsListener.bind(LOCAL, server) as listener:
        serving = freerun.spawn(serve_echo, listener)
        silent = [await TcpStream.connect(listener.local_addr) for _ in range(20)]
        await silent[0].write_all(b"\x16\x03\x01\x02\x00")  # the beginning of a handshake
        await silent[1].write_all(b"GET / HTTP/1.0\r\n\r\n")
        await silent[2].shutdown()
        silent.pop(3).close()
        for _ in range(3):
            async with TlsStream.connect(listener.local_addr, client, timeout=60) as stream:
                await stream.write_all(b"served")
                assert await stream.read() == b"served"
        listener.close()
        assert await serving == 3
        for each in silent:
            with contextlib.suppress(ConnectionResetError):
                assert len(await read_to_end(each)) < 100  # hung up on; an alert at most
            each.close()
    await until(lambda: open_sockets() <= before)


@every_flavor
async def test_silent_clients_are_hung_up_on(reports: Any) -> None:
    server, client = contexts()
    async with TlsListener.bind(LOCAL, server, handshake_timeout=0.02, max_handshakes=2) as listener:
        serving = freerun.spawn(serve_echo, listener)
        for _ in range(6):  # more than there is room for, so the others wait their turn
            async with TcpStream.connect(listener.local_addr) as silent:
                with contextlib.suppress(ConnectionResetError):
                    assert await silent.read() == b""
        for _ in range(20):  # a loaded machine may take longer than that timeout itself
            with contextlib.suppress(OSError):
                async with TlsStream.connect(listener.local_addr, client) as stream:
                    await stream.write_all(b"served")
                    assert await stream.read() == b"served"
                    break
        else:
            raise AssertionError("nobody is served")
        listener.close()
        assert await serving >= 1
    await until(lambda: sum("handshake" in text and "failed" in text for text in reports.messages) >= 6)
    assert all(record.levelno == logging.DEBUG for record in reports if "handshake" in record.getMessage())


@every_flavor
async def test_the_number_of_handshakes_is_limited() -> None:
    server, client = contexts()
    async with TlsListener.bind(LOCAL, server, max_handshakes=3) as listener:
        accepting = freerun.spawn(listener.accept)
        silent = [await TcpStream.connect(listener.local_addr) for _ in range(8)]
        await until(lambda: len(listener._shaking) == 3)
        connecting = freerun.spawn(connect, listener.local_addr, client)
        await until(lambda: is_parked(connecting) and is_parked(accepting))
        assert len(listener._shaking) == 3
        for each in silent:
            each.close()
        stream, _ = await accepting
        stream.close()
        (await connecting).close()
        await until(lambda: not listener._shaking)


async def connect(addr: Any, context: ssl.SSLContext) -> TlsStream:
    return await TlsStream.connect(addr, context, "localhost")


@every_flavor
async def test_aborted_accepts_lose_no_connection() -> None:
    random = seeded()
    server, client = contexts()
    count = 12
    async with TlsListener.bind(LOCAL, server) as listener:
        accepted: list[TlsStream] = []

        async def accept() -> None:
            while True:
                accepted.append((await listener.accept())[0])

        clients = [freerun.spawn(connect, listener.local_addr, client) for _ in range(count)]
        while len(accepted) < count:
            acceptor = freerun.spawn(accept)
            for _ in range(random.randrange(20)):
                await freerun.yield_now()
            acceptor.abort()
            with pytest.raises(freerun.JoinError):
                await acceptor
        for handle in clients:
            (await handle).close()
        for stream in accepted:
            assert await stream.read() == b""
            stream.close()


@every_flavor
async def test_listener_ends() -> None:
    server, client = contexts()
    before = open_sockets()
    listener = await TlsListener.bind(LOCAL, server)
    assert str(listener.local_addr[1]) in repr(listener)
    acceptor = freerun.spawn(listener.accept)
    await until(lambda: is_parked(acceptor))
    with pytest.raises(RuntimeError, match="another task"):
        await listener.accept()
    listener.close()
    listener.close()
    assert listener.closed
    assert listener.fileno() == -1
    with pytest.raises(OSError, match="closed"):
        await acceptor
    with pytest.raises(OSError, match="closed"):
        await listener.accept()
    assert [each async for each in listener] == []
    # With connections in every state.
    async with TlsListener.bind(LOCAL, server, handshake_timeout=3600) as listener:
        accepting = freerun.spawn(listener.accept)
        first = await connect(listener.local_addr, client)
        (await accepting)[0].close()
        accepting = freerun.spawn(listener.accept)
        silent = [await TcpStream.connect(listener.local_addr) for _ in range(3)]
        await until(lambda: len(listener._shaking) == 3)
        accepting.abort()
        with pytest.raises(freerun.JoinError):
            await accepting
    for each in silent:
        with contextlib.suppress(ConnectionResetError):
            await read_to_end(each)
        each.close()
    first.close()
    await until(lambda: open_sockets() <= before)


@every_flavor
async def test_over_a_unix_listener() -> None:
    server, client = contexts()
    name = f"\0freerun-tests-tls-{id(server)}"
    async with TlsListener(await UnixListener.bind(name), server) as listener:
        serving = freerun.spawn(serve_echo, listener)
        async with TlsStream.wrap(await UnixStream.connect(name), client, server_name="localhost") as stream:
            await stream.write_all(b"x")
            assert await stream.read() == b"x"
        listener.close()
        assert await serving == 1


# ---- others' TLS ----


@every_flavor
async def test_the_standard_librarys_client_and_server() -> None:
    server, client = contexts()

    def call(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            with client.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as secured:
                secured.sendall(b"x" * 100_000)
                got = b""
                while len(got) < 100_000:
                    got += secured.recv(65536)
                sock = secured.unwrap()  # a clean end, of both directions
        return got

    def answer(listening: socket.socket) -> None:
        sock, _ = listening.accept()
        with server.wrap_socket(sock, server_side=True) as secured:
            secured.sendall(secured.recv(100).upper())
            with contextlib.suppress(OSError):
                secured.unwrap()

    async with TlsListener.bind(LOCAL, server) as listener:
        serving = freerun.spawn(serve_echo, listener)
        assert await freerun.spawn_blocking(call, listener.local_addr[1]) == b"x" * 100_000
        listener.close()
        assert await serving == 1
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        async with TlsStream.connect(listening.getsockname(), client, "localhost") as stream:
            await stream.write_all(b"shout")
            assert await read_to_end(stream) == b"SHOUT"
        await freerun.spawn_blocking(thread.join, PATIENCE)


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command")
@pytest.mark.parametrize(("version", "command"), [("-tls1_3", "K"), ("-tls1_3", "k"), ("-tls1_2", "R")])
@every_flavor
async def test_new_keys_in_between(version: str, command: str, certificate_file: Path) -> None:
    """The peer changes its keys (TLS 1.3) or renegotiates (TLS 1.2) while one task reads and nobody writes: reading
    then writes, as far as that needs it."""
    _, client = contexts()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", version, "-cert", str(certificate_file)]
    process = subprocess.Popen(  # noqa: ASYNC220
        [*words, "-key", str(certificate_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    assert process.stdin
    assert process.stdout
    try:
        await freerun.spawn_blocking(wait_for, process.stdout, b"ACCEPT")
        async with TlsStream.connect(("127.0.0.1", port), client, "localhost") as stream:
            reader = freerun.spawn(stream.read_exact, 6)
            await freerun.spawn_blocking(wait_for, process.stdout, b"CIPHER is")
            await until(lambda: is_parked(reader))
            process.stdin.write(command.encode() + b"\n")
            await stream.write_all(b"one way\n")  # s_server looks at its commands first
            await freerun.spawn_blocking(wait_for, process.stdout, b"one way")
            process.stdin.write(b"hello\n")
            assert await reader == b"hello\n"
    finally:
        process.kill()
        process.communicate()


def wait_for(stream: Any, what: bytes) -> None:
    while what not in (line := stream.readline()):
        assert line, f"s_server ended before {what!r}"


def test_without_the_ssl_module() -> None:
    """Some Pythons have none: everything else works, and the names that need it say so."""
    check_script(
        """
        import sys
        sys.modules["ssl"] = None
        import freerun
        assert freerun.net.TcpStream
        try:
            freerun.net.TlsStream
        except ImportError:
            pass
        else:
            raise AssertionError
        try:
            freerun.net.nothing
        except AttributeError as error:
            assert "nothing" in str(error)
        """,
        env={"PYTHONSAFEPATH": "1"},
    )


def test_tls_is_not_imported_before_it_is_used() -> None:
    script = "import sys, freerun; assert 'ssl' not in sys.modules; freerun.net.TlsStream; assert 'ssl' in sys.modules"
    check_script(script, env={"PYTHONSAFEPATH": "1"})


@every_flavor
async def test_a_reset_in_the_middle() -> None:
    server, client = contexts()
    async with TlsListener.bind(LOCAL, server) as listener:
        accepting = freerun.spawn(listener.accept)
        ours = await connect(listener.local_addr, client)
        theirs, _ = await accepting
        reader = freerun.spawn(ours.read)
        await until(lambda: is_parked(reader))
        with socket.socket(fileno=socket.dup(theirs.inner.fileno())) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.inner.close()
        with pytest.raises(ConnectionResetError):
            await reader
        ours.close()
