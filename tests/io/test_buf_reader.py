"""`BufReader`: Tokio's io_buf_reader, io_read_until, io_read_line, io_lines, io_read_exact; limits; aborts."""

from __future__ import annotations

from typing import Any

import pytest
from io_support import PENDING, Aborts, Script, chunks, feed, with_pauses
from net_support import pair
from support import every_driver, every_flavor, is_parked, seeded, until

import freerun
from freerun.io import AsyncBufRead, BufReader, EndOfStream, LimitExceeded, UnexpectedEof, duplex


class Exact(Script):
    """Gives out exactly what the script says, more than was asked for too."""

    async def read(self, n: int = 65536, /) -> bytes:
        return self.reads.pop(0) if self.reads else b""


@pytest.mark.parametrize("pending", [False, True])
@freerun.test
async def test_buffered_reader(pending: bool) -> None:
    data = bytes([5, 6, 7, 0, 1, 2, 3, 4])
    reads = [part for i in data for part in ([PENDING] if pending else []) + [bytes([i])]] if pending else [data]
    reader = BufReader(Script(*reads), capacity=2)
    if pending:
        assert await reader.read_exact(3) == bytes([5, 6, 7])
    else:
        assert await reader.read(3) == bytes([5, 6, 7])
    assert reader.buffer == b""
    assert await reader.read_exact(2) == bytes([0, 1])
    assert reader.buffer == b""
    assert await reader.read(1) == b"\x02"
    assert reader.buffer == (b"" if pending else b"\x03")
    assert await reader.read(3) == b"\x03"
    assert reader.buffer == b""
    assert await reader.read_exact(1) == b"\x04"
    assert await reader.read(1) == b""


@freerun.test
async def test_a_large_read_goes_past_an_empty_buffer() -> None:
    script = Script(b"abcdef", b"gh")
    reader = BufReader(script, capacity=4)
    assert (await reader.read(100), script.asked) == (b"abcdef", [100])
    assert (await reader.read(3), script.asked) == (b"gh", [100, 4])


@freerun.test
async def test_short_reads() -> None:
    """An empty read is passed on as an end, and what comes after it is read."""
    reader = BufReader(Exact(b"", b"a", b"bc", b"", b"d", b""))
    assert [await reader.read(2) for _ in range(7)] == [b"", b"a", b"bc", b"", b"d", b"", b""]


@freerun.test
async def test_fill_buf() -> None:
    ours, theirs = duplex(16)
    reader = BufReader(ours)
    assert isinstance(reader, AsyncBufRead)
    await theirs.write_all(b"hello world")
    assert await reader.fill_buf() == b"hello world"
    reader.consume(len(b"hello "))
    assert [await reader.fill_buf(), await reader.fill_buf()] == [b"world"] * 2
    reader.consume(len(b"world"))
    filling = freerun.spawn(reader.fill_buf)
    await until(lambda: is_parked(filling))
    await theirs.write_all(b"foo bar")
    assert await filling == b"foo bar"
    theirs.close()
    assert await reader.fill_buf() == b"foo bar"
    reader.consume(7)
    assert await reader.fill_buf() == b""
    for n, error in ((1, ValueError), (-1, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="'n'"):
            reader.consume(n)  # type: ignore[arg-type]


@freerun.test
async def test_read_until() -> None:
    reader = BufReader(
        Script(PENDING, bytes([0, 1]), PENDING, bytes([2, 3]), bytes([1]), PENDING, bytes([0])), capacity=2
    )
    assert await reader.read_until(b"\x03") == bytes([0, 1, 2, 3])
    assert await reader.read_until(b"\x01") == b"\x01"
    assert await reader.read_until(b"\x08") == b"\x00"
    assert await reader.read_until(b"\x09") == b""


@freerun.test
async def test_read_until_not_all_ready() -> None:
    reader = BufReader(Script(b"Hello Wor", b"ld#Fizz\xffBuz", b"z#1#2"))
    assert [await reader.read_until(b"#") for _ in range(5)] == [b"Hello World#", b"Fizz\xffBuzz#", b"1#", b"2", b""]


@freerun.test
async def test_read_until_fails_and_goes_on() -> None:
    """The error of the stream comes, the bytes before it stay."""
    reader = BufReader(Script(b"Hello \xffWor", ConnectionError("the world has no end"), b"ld#"))
    with pytest.raises(ConnectionError, match="no end"):
        await reader.read_until(b"#")
    assert reader.buffer == b"Hello \xffWor"
    assert await reader.read_until(b"#") == b"Hello \xffWorld#"


@pytest.mark.parametrize("at", range(1, 12))
@freerun.test
async def test_a_separator_of_several_bytes_across_pieces(at: int) -> None:
    data = b"a\r\r\nb\r\n\r\nc"
    reader = BufReader(Script(data[:at], data[at:]))
    assert [await reader.read_until(b"\r\n\r\n") for _ in range(3)] == [b"a\r\r\nb\r\n\r\n", b"c", b""]


@pytest.mark.parametrize(("sep", "error"), [(b"", ValueError), ("x", TypeError), (10, TypeError), (None, TypeError)])
@freerun.test
async def test_bad_separators(sep: Any, error: Any) -> None:
    with pytest.raises(error, match="'sep'"):
        await BufReader(Script()).read_until(sep)
    with pytest.raises(error, match="'sep'"):
        BufReader(Script()).split(sep)


@freerun.test
async def test_read_line() -> None:
    reader = BufReader(Script(b"Hello Wor", b"ld\nFizzBuz", b"z\n1\n2"))
    assert [await reader.read_line() for _ in range(5)] == ["Hello World\n", "FizzBuzz\n", "1\n", "2", ""]


@freerun.test
async def test_read_line_that_is_not_utf8() -> None:
    """The line is in the error; the next one comes."""
    reader = BufReader(Script(b"Hello Wor\xffld.\nnext\n"))
    with pytest.raises(UnicodeDecodeError) as caught:
        await reader.read_line()
    assert caught.value.object == b"Hello Wor\xffld.\n"
    assert await reader.read_line() == "next\n"


@freerun.test
async def test_a_character_across_pieces() -> None:
    data = "grüße, 🦀\n".encode()
    reader = BufReader(Script(*[data[i : i + 1] for i in range(len(data))]))
    assert await reader.read_line() == "grüße, 🦀\n"


@freerun.test
async def test_lines() -> None:
    lines = BufReader(Script(b"hello\r\n\nworld\r\r\n", b"end\r")).lines()
    assert [line async for line in lines] == ["hello", "", "world\r", "end\r"]
    with pytest.raises(EndOfStream):
        await lines.next_line()
    reader = BufReader(Script(b"1\n2\n"))
    assert (await reader.lines().next_line(), await reader.lines().next_line()) == ("1", "2")


@freerun.test
async def test_lines_go_on_after_an_error() -> None:
    lines = BufReader(Script(b"a\n\xff\nb\n")).lines()
    assert await lines.next_line() == "a"
    with pytest.raises(UnicodeDecodeError):
        await lines.next_line()
    assert [line async for line in lines] == ["b"]


@freerun.test
async def test_split() -> None:
    pieces = BufReader(Script(b"a--b-", b"-", b"--c")).split(b"--")
    assert [piece async for piece in pieces] == [b"a", b"b", b"", b"c"]
    with pytest.raises(EndOfStream):
        await pieces.next_segment()


@freerun.test
async def test_read_exact() -> None:
    reader = BufReader(Script(b"ab", PENDING, b"cdef", b"g"))
    assert await reader.read_exact(0) == b""
    assert await reader.read_exact(5) == b"abcde"
    with pytest.raises(UnexpectedEof) as caught:
        await reader.read_exact(3)
    assert (caught.value.partial, caught.value.expected) == (b"fg", 3)
    assert reader.buffer == b""
    for n, error in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="'n'"):
            await reader.read_exact(n)  # type: ignore[arg-type]


@freerun.test
async def test_read_to_end() -> None:
    reader = BufReader(Script(b"ab", PENDING, b"cdef", b"g"))
    assert await reader.read(1) == b"a"
    assert await reader.read_to_end(limit=6) == b"bcdefg"
    assert await reader.read_to_end() == b""


LONG = b"x" * 10


@pytest.mark.parametrize("size", [1, 3, 10, 11, 50])
@freerun.test
async def test_limits(size: int) -> None:
    """They are exact, however the bytes come, and what is too long stays to be read."""
    data = LONG + b"\nrest"
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    for limit in (0, 1, 9, 10):
        reader = BufReader(Script(*pieces), capacity=size)
        for read in (reader.read_line, reader.lines(limit=limit).next_line):
            with pytest.raises(LimitExceeded, match=f"{limit} bytes") as caught:
                await read(limit=limit) if read == reader.read_line else await read()  # type: ignore[call-arg]
            assert caught.value.limit == limit
        assert len(reader.buffer) <= limit + size
        assert await reader.read_until(b"\n") == LONG + b"\n"
    assert await BufReader(Script(*pieces), capacity=size).read_line(limit=11) == "x" * 10 + "\n"
    assert await BufReader(Script(LONG)).read_line(limit=10) == "x" * 10
    reader = BufReader(Script(*pieces), capacity=size)
    with pytest.raises(LimitExceeded):
        await reader.read_to_end(limit=14)
    assert await reader.read_to_end(limit=15) == data


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), ("1", TypeError), (1.5, TypeError), (True, TypeError)])
@freerun.test
async def test_bad_limits(limit: Any, error: Any) -> None:
    reader = BufReader(Script())
    with pytest.raises(error, match="'limit'"):
        await reader.read_until(b"\n", limit=limit)
    with pytest.raises(error, match="'limit'"):
        await reader.read_line(limit=limit)
    with pytest.raises(error, match="'limit'"):
        reader.lines(limit=limit)
    with pytest.raises(error, match="'limit'"):
        await reader.read_to_end(limit=limit)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="'inner'"):
        BufReader(object())  # type: ignore[type-var]
    with pytest.raises(ValueError, match="'capacity'"):
        BufReader(Script(), 0)
    with pytest.raises(TypeError, match="'capacity'"):
        BufReader(Script(), "1")  # type: ignore[arg-type]


@freerun.test
async def test_bad_read_sizes() -> None:
    for n, error in ((0, ValueError), (-1, ValueError), ("1", TypeError), (None, TypeError)):
        with pytest.raises(error, match="'n'"):
            await BufReader(Script(b"x")).read(n)  # type: ignore[arg-type]


@freerun.test
async def test_a_second_reader_is_refused_and_the_first_goes_on() -> None:
    ours, theirs = duplex(64)
    reader = BufReader(ours)
    first = freerun.spawn(reader.read_line)
    await until(lambda: is_parked(first))
    for second in (reader.read, reader.fill_buf, reader.read_line, reader.read_to_end, lambda: reader.read_exact(1)):
        with pytest.raises(RuntimeError, match="already reading"):
            await second()
    with pytest.raises(RuntimeError, match="already reading"):
        reader.consume(0)
    await theirs.write_all(b"for the first\nand so on")
    assert await first == "for the first\n"
    assert await reader.read() == b"and so on"


@freerun.test
async def test_closing() -> None:
    script = Script(b"left\nto read")
    async with BufReader(script) as reader:
        assert await reader.read_line() == "left\n"
        assert reader.inner is script
        assert "7 of" in repr(reader)
    assert script.closed
    assert await reader.read(4) == b"to r"
    BufReader(bare := type("Bare", (), {"read": Script.read, "reads": [], "asked": []})()).close()
    assert bare


@freerun.test
async def test_many_small_pieces_of_one_line() -> None:
    """Linear, and it stays so: a line that comes byte by byte."""
    data = b"x" * 100_000 + b"\n"
    ours, theirs = duplex(1 << 20)
    await theirs.write_all(data)
    assert await BufReader(ours, capacity=1).read_line() == data.decode()


@freerun.test
async def test_lines_that_are_all_there_starve_nobody() -> None:
    ended = False

    async def other() -> None:
        nonlocal ended
        for _ in range(3):
            await freerun.yield_now()
        ended = True

    task = freerun.spawn(other)
    count = 0
    async for _ in BufReader(Script(b"\n" * 20_000)).lines():
        count += 1
        if ended:
            break
    assert count < 20_000
    await task


KINDS = ["read", "read_exact", "read_until", "read_line", "lines", "split", "fill_buf", "read_to_end"]


def reads(reader: BufReader[Any], kind: str, random: Any, out: bytearray) -> Any:
    """Something to abort: it appends what it read to `out`, without an await in between."""
    lines, pieces = reader.lines(), reader.split(b"--")

    async def read() -> None:
        while True:
            if kind == "read":
                got = await reader.read(random.randrange(1, 100))
            elif kind == "read_exact":
                try:
                    got = await reader.read_exact(random.randrange(1, 100))
                except UnexpectedEof as error:
                    got = error.partial
            elif kind == "read_until":
                got = await reader.read_until(b"--")
            elif kind == "read_line":
                got = (await reader.read_line()).encode()
            elif kind == "lines":
                try:
                    got = (await lines.next_line()).encode() + b"\n"
                except EndOfStream:
                    got = b""
            elif kind == "split":
                try:
                    got = await pieces.next_segment() + b"--"
                except EndOfStream:
                    got = b""
            elif kind == "fill_buf":
                got = (await reader.fill_buf())[: random.randrange(1, 100)]
                reader.consume(len(got))
            else:
                got = await reader.read_to_end()
            if not got:
                return
            out.extend(got)

    return read


def text(random: Any, size: int) -> bytes:
    data = bytes(random.choice(b"abcdefgh--\n") for _ in range(size))
    return data.replace(b"-", b"--").replace(b"----", b"--")


def ends(data: bytes, kind: str) -> bytes:
    """Lines and segments do not tell whether the last one had its end."""
    data = data.rstrip(b"-\n") + b"-e"
    return data + {"lines": b"\n", "split": b"--"}.get(kind, b"")


@pytest.mark.parametrize("kind", KINDS)
@every_flavor
async def test_aborted_reads_lose_no_byte(kind: str) -> None:
    random = seeded()
    data = ends(text(random, 4000), kind)
    ours, theirs = duplex(64)
    out = bytearray()
    reader = BufReader(ours, capacity=random.randrange(1, 100))
    aborts = Aborts(random)
    writer = freerun.spawn(feed, random, theirs, data, 50, aborts)
    await aborts.until_done(reads(reader, kind, random, out))
    await writer
    assert out == data


@every_driver
@every_flavor
async def test_aborted_reads_of_every_kind_lose_no_byte_of_a_connection() -> None:
    """Whoever reads next goes on where the last one stopped, however it reads."""
    random = seeded()
    data = text(random, 10_000).replace(b"\n", b"=") + b"=="
    async with pair() as (ours, theirs):
        out = bytearray()
        reader = BufReader(ours)
        aborts = Aborts(random)
        writer = freerun.spawn(feed, random, theirs, data, 50, aborts)
        kinds = ["read", "read_exact", "read_until", "read_line", "fill_buf"]

        async def read() -> None:
            await reads(reader, random.choice(kinds), random, out)()

        await aborts.until_done(read, pauses=12)
        await writer
        assert out == data


@pytest.mark.parametrize("size", [1, 7, 1000])
@freerun.test
async def test_random_pieces_give_the_same_lines(size: int) -> None:
    random = seeded()
    data = "\n".join("ü" * random.randrange(20) for _ in range(200)).encode() + b"\n"
    script = Script(*with_pauses(random, chunks(random, data, size)))
    got = [line async for line in BufReader(script, capacity=random.randrange(1, 50)).lines()]
    assert got == data.decode().split("\n")[:-1]
