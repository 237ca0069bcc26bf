"""Bytes go through unchanged: many connections, large payloads, every flavour."""

from __future__ import annotations

import pytest
from net_support import LOCAL, echo, has_ipv6, pair, read_to_end, serve_echo, shrink_buffers
from support import Flavor, every_flavor, only, seeded

import freerun
from freerun.net import TcpListener, TcpStream


async def talk(addr: tuple[str, int], i: int, messages: int) -> int:
    async with TcpStream.connect(addr) as stream:
        for m in range(messages):
            message = f"{i}:{m};".encode()
            await stream.write_all(message)
            assert await stream.read_exact(len(message)) == message
        await stream.shutdown()
        assert await stream.read() == b""
        return messages


@every_flavor
async def test_many_connections() -> None:
    async with TcpListener.bind(LOCAL) as listener:
        server = freerun.spawn(serve_echo, listener)
        clients = [freerun.spawn(talk, listener.local_addr, i, 20) for i in range(50)]
        assert [await client for client in clients] == [20] * 50
        listener.close()
        await server


@every_flavor
async def test_200_connections_at_once() -> None:
    """All are open together: every one is told to go on by the last one."""
    count = 200
    async with TcpListener.bind(LOCAL) as listener:
        server = freerun.spawn(serve_echo, listener)
        streams = []
        for i in range(count):
            stream = await TcpStream.connect(listener.local_addr)
            await stream.write_all(i.to_bytes(4))
            streams.append(stream)

        async def answer(i: int) -> int:
            async with streams[i]:
                return int.from_bytes(await streams[i].read_exact(4))

        answers = [freerun.spawn(answer, i) for i in reversed(range(count))]
        assert sorted([await handle for handle in answers]) == list(range(count))
        listener.close()
        await server


@every_flavor
async def test_a_megabyte_both_ways_with_tiny_reads() -> None:
    data = seeded().randbytes(1 << 20)

    async def receive(stream: TcpStream, n: int) -> bytes:
        parts = bytearray()
        while len(parts) < len(data):
            part = await stream.read(n)
            assert 0 < len(part) <= n
            parts += part
        return bytes(parts)

    async with pair() as (ours, theirs):
        writers = [freerun.spawn(ours.write_all, data), freerun.spawn(theirs.write_all, data[::-1])]
        readers = [freerun.spawn(receive, theirs, 61), freerun.spawn(receive, ours, 127)]
        assert await readers[0] == data
        assert await readers[1] == data[::-1]
        for writer in writers:
            await writer


@every_flavor
async def test_random_sizes_of_reads_and_writes() -> None:
    """With small buffers in the kernel, so that both sides wait often."""
    random = seeded()
    data = random.randbytes(300_000)

    async def send(stream: TcpStream, sizes: list[int]) -> None:
        at = 0
        for size in sizes:
            piece = memoryview(data)[at : at + size]
            at += len(piece)
            while piece:
                piece = piece[await stream.write(piece) :]
        await stream.write_all(data[at:])
        await stream.shutdown()

    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        freerun.spawn(send, ours, [random.randrange(1, 20_000) for _ in range(20)])
        received = bytearray()
        while part := await theirs.read(random.choice([1, 7, 1000, 4096, 65536, 65537, 1 << 20])):
            received += part
        assert received == data


@every_flavor
async def test_a_writer_waits_for_a_slow_reader() -> None:
    """Nothing is buffered without limit: the writer is not through before the reader has read most of it."""
    data = bytes(8 << 20)
    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        writer = freerun.spawn(ours.write_all, data)
        read = 0
        while read < len(data) // 2:
            read += len(await theirs.read(32768))
            assert not writer.is_finished()
        ours_done = freerun.spawn(read_to_end, theirs)
        await writer
        await ours.shutdown()
        assert read + len(await ours_done) == len(data)


@every_flavor
async def test_many_writers_to_a_slow_reader() -> None:
    """Each has a connection of its own, to one reader that takes a little of each in turn."""
    count, size = 20, 200_000
    async with TcpListener.bind(LOCAL) as listener:
        streams = []
        writers = []

        async def write(i: int) -> None:
            async with TcpStream.connect(listener.local_addr) as stream:
                shrink_buffers(stream)
                await stream.write_all(bytes([i]) * size)

        for i in range(count):
            writers.append(freerun.spawn(write, i))
            streams.append((await listener.accept())[0])
        counts = dict.fromkeys(range(count), 0)
        while streams:
            for stream in list(streams):
                data = await stream.read(5000)
                if not data:
                    stream.close()
                    streams.remove(stream)
                    continue
                assert len(set(data)) == 1, "bytes of another connection"
                counts[data[0]] += len(data)
        for writer in writers:
            await writer
        assert counts == dict.fromkeys(range(count), size)


@every_flavor
async def test_a_writer_may_be_shared_in_turn() -> None:
    """Many tasks write to one stream, one after the other, as a lock would have them do."""
    async with pair() as (ours, theirs):
        shrink_buffers(ours, theirs)
        reader = freerun.spawn(read_to_end, theirs, 1000)
        for i in range(20):
            await freerun.spawn(ours.write_all, bytes([i]) * 10_000)
        await ours.shutdown()
        assert await reader == b"".join(bytes([i]) * 10_000 for i in range(20))


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@every_flavor
async def test_ipv6() -> None:
    async with TcpListener.bind("[::1]:0") as listener:
        assert listener.local_addr[0] == "::1"
        server = freerun.spawn(serve_echo, listener)
        for addr in [listener.local_addr, listener.local_addr[:2], f"[::1]:{listener.local_addr[1]}"]:
            async with TcpStream.connect(addr) as stream:
                await stream.write_all(b"six")
                assert await stream.read_exact(3) == b"six"
                assert stream.peer_addr[:2] == listener.local_addr[:2]
                assert len(stream.local_addr) == 4
        listener.close()
        await server


@only(Flavor(2))
def test_echo_between_two_runtimes(flavor: Flavor) -> None:
    """A stream belongs to the runtime it was made in; tasks of another may use it while that one lives."""
    with flavor.builder().build() as here, flavor.builder().build() as there:

        async def server(listener: TcpListener) -> None:
            stream, _ = await listener.accept()
            await there.spawn(echo, stream)

        async def main() -> bytes:
            async with TcpListener.bind(LOCAL) as listener:
                served = here.spawn(server, listener)
                async with TcpStream.connect(listener.local_addr) as stream:
                    await freerun.yield_now()
                    await stream.write_all(b"over there")
                    answer = await stream.read_exact(10)
                await served
                return answer

        assert here.block_on(main) == b"over there"
