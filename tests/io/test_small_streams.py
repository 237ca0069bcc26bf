"""`chain`, `take`, `empty`, `sink`, `repeat`, `split`, the mix-ins: Tokio's io_chain, io_take, io_split and so on."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from io_support import PENDING, Aborts, Script, chunks, with_pauses
from net_support import pair
from support import every_driver, every_flavor, seeded

import freerun
from freerun import io
from freerun.io import AsyncReadExt, AsyncWriteExt, BufReader, LimitExceeded, UnexpectedEof, duplex


@freerun.test
async def test_chain() -> None:
    first, second = Script(b"hello ", PENDING, b"wor"), Script(PENDING, b"ld")
    chained = io.chain(first, second)
    assert chained.streams == (first, second)
    assert await chained.read_to_end() == b"hello world"
    assert await chained.read() == b""
    assert await Script(b"a").chain(Script(b"b")).chain(Script(b"c")).read_to_end() == b"abc"


@freerun.test
async def test_chain_does_not_skip_the_first_for_a_read_of_nothing() -> None:
    chained = io.chain(Script(b"ab"), Script(b"c"))
    with pytest.raises(ValueError, match="'n'"):
        await chained.read(0)
    assert await chained.read_to_end() == b"abc"


@freerun.test
async def test_chain_with_errors() -> None:
    chained = io.chain(Script(b"a", ConnectionError(), b"b"), Script(b"c"))
    assert await chained.read() == b"a"
    with pytest.raises(ConnectionError):
        await chained.read()
    assert await chained.read_to_end() == b"bc"
    for arguments, name in (((object(), Script()), "'first'"), ((Script(), object()), "'second'")):
        with pytest.raises(TypeError, match=name):
            io.chain(*arguments)  # type: ignore[arg-type]


@freerun.test
async def test_take() -> None:
    script = Script(b"hello ", b"world")
    taken = io.take(script, 8)
    assert (taken.inner, taken.limit) == (script, 8)
    assert await taken.read(4) == b"hell"
    assert taken.limit == 4
    assert [await taken.read(), await taken.read(), await taken.read()] == [b"o ", b"wo", b""]
    assert script.asked == [4, 4, 2]  # never more than allowed, and nothing at the limit
    taken.set_limit(2)
    assert await taken.read_to_end() == b"rl"
    assert await script.take(10).read_to_end() == b"d"
    assert await io.take(script, 0).read() == b""


@freerun.test
async def test_take_from_a_stream_that_gives_too_much() -> None:
    class Bad:
        async def read(self, n: int = 1, /) -> bytes:
            return bytes(n + 1)

    with pytest.raises(RuntimeError, match=r"read\(3\) of .* gave 4 bytes"):
        await io.take(Bad(), 3).read()
    for limit, error in ((-1, ValueError), ("1", TypeError), (None, TypeError)):
        with pytest.raises(error, match="'limit'"):
            io.take(Script(), limit)  # type: ignore[arg-type]
        with pytest.raises(error, match="'limit'"):
            io.take(Script(), 1).set_limit(limit)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'reader'"):
        io.take(object(), 1)  # type: ignore[arg-type]


@every_flavor
async def test_aborted_reads_through_chain_and_take_lose_no_byte() -> None:
    random = seeded()
    data = random.randbytes(3000)
    first = Script(*with_pauses(random, chunks(random, data[:1000])))
    second = Script(*with_pauses(random, chunks(random, data[1000:])))
    stream = io.take(io.chain(first, second), 2500)
    out = bytearray()

    async def read() -> None:
        while piece := await stream.read(random.randrange(1, 100)):
            out.extend(piece)

    await Aborts(random).until_done(read)
    assert out == data[:2500]


@freerun.test
async def test_empty_sink_repeat() -> None:
    empty = io.empty()
    assert (await empty.read(), await empty.fill_buf(), await empty.write(b"abc")) == (b"", b"", 3)
    empty.consume(0)
    await empty.write_all(b"abc")
    await empty.shutdown()
    sink = io.sink()
    assert await sink.write(memoryview(b"abc")) == 3
    await sink.write_all(bytes(100_000))
    await sink.flush()
    with pytest.raises(TypeError, match="'data'"):
        await sink.write("text")  # type: ignore[arg-type]
    repeat = io.repeat(b"a")
    assert await repeat.read(5) == b"aaaaa"
    assert len(await repeat.read(1 << 40)) == 65536
    for byte, error in ((b"", ValueError), (b"ab", ValueError), ("a", TypeError), (1, TypeError)):
        with pytest.raises(error, match="'byte'"):
            io.repeat(byte)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["empty", "sink", "repeat"])
@freerun.test(flavor="current_thread")
async def test_they_are_cooperative(what: str) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while turns < 3:
            turns += 1
            await freerun.yield_now()

    freerun.spawn(other)
    uses: dict[str, Any] = {
        "empty": io.empty().read,
        "sink": lambda: io.sink().write(b"x"),
        "repeat": io.repeat(b"x").read,
    }
    rounds = 0
    while turns < 3:
        rounds += 1
        assert rounds < 100_000
        await uses[what]()


@every_driver
@every_flavor
async def test_split() -> None:
    async with pair() as (ours, theirs):
        read, write = io.split(ours)
        await write.write_all(b"ab")
        assert await write.write(b"c") == 1
        await write.flush()
        await write.shutdown()
        await theirs.write_all(await theirs.read_exact(3))
        assert await read.read_exact(2) == b"ab"
        assert await read.read() == b"c"
        assert read.is_pair_of(write)
        assert write.is_pair_of(read)
        assert read.unsplit(write) is ours


@freerun.test
async def test_halves_of_different_streams() -> None:
    (a, _a), (b, _b) = duplex(1), duplex(1)
    read, write = io.split(a)[0], io.split(b)[1]
    assert not read.is_pair_of(write)
    assert not write.is_pair_of(read)
    with pytest.raises(ValueError, match="another stream"):
        read.unsplit(write)
    with pytest.raises(TypeError, match="'other'"):
        read.unsplit(a)  # type: ignore[arg-type]
    for bad in (object(), io.sink(), io.repeat(b"x")):
        with pytest.raises(TypeError, match="'stream'"):
            io.split(bad)  # type: ignore[type-var]


@freerun.test
async def test_what_follows_from_read() -> None:
    script = Script(b"ab", PENDING, b"cdef")
    assert await script.read_exact(0) == b""
    assert await script.read_exact(3) == b"abc"
    with pytest.raises(UnexpectedEof) as caught:
        await script.read_exact(4)
    assert (caught.value.partial, caught.value.expected) == (b"def", 4)
    with pytest.raises(LimitExceeded):
        await Script(bytes(100)).read_to_end(limit=99)
    assert await Script(bytes(100)).read_to_end(limit=100) == bytes(100)
    for bare in (AsyncReadExt().read, lambda: AsyncWriteExt().write(b"")):
        with pytest.raises(NotImplementedError, match="must define"):
            await bare()  # type: ignore[no-untyped-call]


@freerun.test
async def test_what_follows_from_write() -> None:
    script = Script(takes=[1, PENDING, 2])
    await script.write_all(bytearray(b"abcdef"))
    assert script.written == [b"a", b"bc", b"def"]

    class Plain(AsyncWriteExt):
        pass

    await Plain().shutdown()


def test_errors_survive_pickling() -> None:
    for error in (
        UnexpectedEof(b"ab", 4),
        UnexpectedEof(b"ab"),
        LimitExceeded(5, "it"),
        io.LinesCodecError(6),
        io.FrameTooLong(7, "a frame of 8 bytes"),
    ):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


@freerun.test
async def test_buffered_streams_of_any_kind() -> None:
    assert [line async for line in BufReader(io.chain(Script(b"a\nb"), Script(b"c\n"))).lines()] == ["a", "bc"]
