"""`FramedRead`, `FramedWrite`, `Framed`: Tokio's framed_read, framed_write, framed, framed_stream; aborts."""

from __future__ import annotations

from typing import Any

import pytest
from io_support import PENDING, Aborts, Script, chunks, feed, with_pauses
from net_support import pair
from support import every_driver, every_flavor, is_parked, seeded, until

import freerun
from freerun.io import EndOfStream, LinesCodecError, UnexpectedEof, WriteZero, duplex
from freerun.io.codec import (
    BytesCodec,
    Decoder,
    Framed,
    FramedRead,
    FramedWrite,
    Incomplete,
    LengthDelimitedCodec,
    LinesCodec,
)


class Numbers(Decoder[int]):
    """Numbers of a fixed size."""

    def __init__(self, size: int = 4) -> None:
        self.size = size

    def decode(self, src: bytearray) -> int:
        if len(src) < self.size:
            raise Incomplete
        number = int.from_bytes(src[: self.size])
        del src[: self.size]
        return number

    def encode(self, item: int, dst: bytearray) -> None:
        dst += item.to_bytes(self.size)


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4) for number in numbers)


@pytest.mark.parametrize(
    "reads",
    [
        [words(0, 1, 2)],
        [words(0), words(1), words(2)],
        [PENDING, words(0), words(1), PENDING, words(2)],
        [b"\0\0", PENDING, b"\0\0" + words(1), words(2)],
    ],
)
@freerun.test
async def test_reading(reads: list[Any]) -> None:
    framed = FramedRead(Script(*reads), Numbers())
    assert [await framed.next(), await framed.next(), await framed.next()] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(EndOfStream):
            await framed.next()
    assert [n async for n in FramedRead(Script(*reads), Numbers())] in ([0, 1, 2], [])


@freerun.test
async def test_the_decoder_may_change_between_frames() -> None:
    framed = FramedRead(Script(words(4, 0, 8)), Numbers())
    assert await framed.next() == 4
    framed.decoder = Numbers(8)
    assert (await framed.next(), framed.decoder.size) == (8, 8)
    with pytest.raises(EndOfStream):
        await framed.next()


@freerun.test
async def test_read_errors() -> None:
    """They come at once, and nothing that came before is lost."""
    framed = FramedRead(Script(b"\0\0", PENDING, ConnectionError("x"), b"\0\x05"), Numbers())
    with pytest.raises(ConnectionError, match="x"):
        await framed.next()
    assert framed.read_buffer == b"\0\0"
    assert await framed.next() == 5


@freerun.test
async def test_a_huge_frame() -> None:
    framed = FramedRead(Script(bytes(32 * 1024)), Numbers(32 * 1024), capacity=100)
    assert await framed.next() == 0
    with pytest.raises(EndOfStream):
        await framed.next()


@freerun.test
async def test_an_end_within_a_frame() -> None:
    framed = FramedRead(Script(bytes(5)), Numbers())
    assert await framed.next() == 0
    for _ in range(2):
        with pytest.raises(UnexpectedEof, match="in the middle of a frame") as caught:
            await framed.next()
        assert caught.value.partial == b"\0"


@freerun.test
async def test_several_frames_at_the_end() -> None:
    class Last(Decoder[int]):
        left = [0, 1, 2, 3]  # noqa: RUF012

        def decode(self, src: bytearray) -> int:
            raise AssertionError("there is nothing to decode")

        def decode_eof(self, src: bytearray) -> int:
            if not self.left:
                raise Incomplete
            return self.left.pop(0)

    assert [n async for n in FramedRead(Script(), Last())] == [0, 1, 2, 3]


@freerun.test
async def test_an_end_that_was_none() -> None:
    """A terminal can be read on after its end."""

    class Terminal(Script):
        async def read(self, n: int = 65536, /) -> bytes:
            return self.reads.pop(0) if self.reads else b""

    framed = FramedRead(Terminal(words(1), b"", words(2), b"", words(3)), Numbers())
    for n in (1, 2, 3):
        assert await framed.next() == n
        with pytest.raises(EndOfStream):
            await framed.next()
    with pytest.raises(EndOfStream):
        await framed.next()


@freerun.test
async def test_decoder_errors() -> None:
    """The iteration ends with them, and may go on, if the codec can."""
    framed = FramedRead(Script(b"much too long\nok\nalso too long", b"\nend"), LinesCodec(max_length=5))
    with pytest.raises(LinesCodecError):
        _ = [line async for line in framed]
    assert await framed.next() == "ok"
    with pytest.raises(LinesCodecError):
        await framed.next()
    assert [line async for line in framed] == ["end"]


@freerun.test
async def test_what_has_been_read_already() -> None:
    framed = FramedRead(Script(words(9)[2:]), Numbers(), read_buffer=words(7, 8) + b"\0\0")
    assert framed.read_buffer == words(7, 8) + b"\0\0"
    assert [n async for n in framed] == [7, 8, 9]


@freerun.test
async def test_a_decoder_that_returns_none() -> None:
    class Bad(Decoder[Any]):
        def decode(self, src: bytearray) -> Any:
            return None

    with pytest.raises(TypeError, match=r"Bad.decode\(\) returned None.*raise Incomplete"):
        await FramedRead(Script(b"x"), Bad()).next()


def test_bad_arguments() -> None:
    for kind, codec in ((FramedRead, "decoder"), (FramedWrite, "encoder"), (Framed, "codec")):
        for value in (object(), LinesCodec):
            with pytest.raises(TypeError, match=f"'{codec}'"):
                kind(Script(), value)  # type: ignore[arg-type, call-overload]
        with pytest.raises(TypeError, match="'inner'"):
            kind(object(), LinesCodec())  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="'capacity'"):
        FramedRead(Script(), LinesCodec(), capacity=0)
    with pytest.raises(ValueError, match="'backpressure_boundary'"):
        FramedWrite(Script(), LinesCodec(), backpressure_boundary=0)


@freerun.test
async def test_writing() -> None:
    script = Script(takes=[PENDING, 2, PENDING, 2])
    framed: FramedWrite[Script, int] = FramedWrite(script, Numbers())
    await framed.flush()
    for n in range(3):
        await framed.feed(n)
    assert (framed.write_buffer, script.got) == (words(0, 1, 2), b"")
    await framed.send(3)
    assert (framed.write_buffer, script.got) == (b"", words(0, 1, 2, 3))
    framed.encoder = Numbers(1)
    await framed.send_all([1, 2])

    async def more() -> Any:
        for n in (3, 4):
            yield n

    await framed.send_all(more())
    assert script.got.endswith(b"\1\2\3\4")
    await framed.shutdown()
    assert script.shut_down
    framed.close()
    assert script.closed


@freerun.test
async def test_backpressure() -> None:
    script = Script()
    framed: FramedWrite[Script, int] = FramedWrite(script, Numbers(), backpressure_boundary=20)
    for n in range(5):
        await framed.feed(n)
    assert script.got == b""
    await framed.feed(5)
    assert (script.got, framed.write_buffer) == (words(0, 1, 2, 3, 4), words(5))
    await framed.flush()


@freerun.test
async def test_write_errors() -> None:
    framed: FramedWrite[Script, int] = FramedWrite(Script(takes=[2, 0]), Numbers())
    with pytest.raises(WriteZero):
        await framed.send(1)
    assert framed.write_buffer == words(1)[2:]
    await framed.flush()


@freerun.test
async def test_a_frame_that_the_encoder_refuses_leaves_nothing_behind() -> None:
    class Half:
        def encode(self, item: bytes, dst: bytearray) -> None:
            dst += item
            if item == b"bad":
                raise ValueError("bad frame")

    script = Script()
    framed = FramedWrite(script, Half())
    await framed.feed(b"good ")
    with pytest.raises(ValueError, match="bad frame"):
        await framed.send(b"bad")
    await framed.send(b"again")
    assert script.got == b"good again"


@freerun.test
async def test_close_without_flush_warns() -> None:
    framed = FramedWrite(Script(), LinesCodec())
    await framed.feed("lost")
    with pytest.warns(ResourceWarning, match="FramedWrite was closed with 5 bytes"):
        framed.close()
    both: Any = Framed(Script(), LinesCodec())
    await both.feed("lost")
    with pytest.warns(ResourceWarning, match="5 bytes"):
        del both
    script = Script()
    with pytest.raises(ZeroDivisionError):
        async with FramedWrite(script, LinesCodec()) as framed:
            await framed.feed("half")
            raise ZeroDivisionError
    assert (script.got, script.closed) == (b"", True)


@every_driver
@every_flavor
async def test_framed() -> None:
    async with pair() as (ours, theirs):
        async with Framed(ours, LinesCodec()) as client, Framed(theirs, LinesCodec()) as server:
            await client.feed("one")
            assert client.write_buffer == b"one\n"
            await client.send_all(["two", "three"])
            assert [await server.next() for _ in range(3)] == ["one", "two", "three"]
            read, write = server.split()
            await write.send("split")
            await write.shutdown()
            assert [line async for line in client] == ["split"]
            await client.flush()
            await client.shutdown()
            with pytest.raises(EndOfStream):
                await read.next()
            assert isinstance(client.encoder, LinesCodec)
            client.encoder = LinesCodec()
        assert ours.closed
        assert theirs.closed


@every_flavor
async def test_a_second_reader_or_writer_is_refused() -> None:
    ours, _theirs = duplex(2)
    framed: Any = Framed(ours, BytesCodec())
    reading, writing = freerun.spawn(framed.next), freerun.spawn(framed.send, b"abcdef")
    await until(lambda: is_parked(reading) and is_parked(writing))
    with pytest.raises(RuntimeError, match="already reading"):
        await framed.next()
    for use in (framed.flush, framed.shutdown, lambda: framed.send(b"x"), lambda: framed.feed(b"x")):
        with pytest.raises(RuntimeError, match="already writing"):
            await use()
    for task in (reading, writing):
        task.abort()
        with pytest.raises(freerun.JoinError):
            await task
    framed._writer._out.data.clear()


@pytest.mark.parametrize("kind", ["lines", "length"])
@every_driver
@every_flavor
async def test_aborted_receives_lose_no_frame(kind: str) -> None:
    random = seeded()
    codec: Any = LinesCodec() if kind == "lines" else LengthDelimitedCodec(length_field_length=2)
    frames: list[Any] = ["x" * random.randrange(40) for _ in range(200)]
    if kind != "lines":
        frames = [frame.encode() for frame in frames]
    data = bytearray()
    for frame in frames:
        codec.encode(frame, data)
    async with pair() as (ours, theirs):
        framed = FramedRead(ours, codec, capacity=random.randrange(1, 100))
        aborts = Aborts(random)
        got: list[Any] = []

        async def receive() -> None:
            async for frame in framed:
                got.append(frame)

        writing = freerun.spawn(feed, random, theirs, bytes(data), 50, aborts)
        await aborts.until_done(receive)
        await writing
        assert got == frames


@every_flavor
async def test_aborted_sends_never_send_a_part_of_a_frame() -> None:
    """What arrives are whole frames, in order; each that was sent without an abort is there."""
    random = seeded()
    ours, theirs = duplex(random.randrange(1, 50))
    framed: FramedWrite[Any, bytes] = FramedWrite(ours, LengthDelimitedCodec(length_field_length=1))
    receiving = freerun.spawn(collect, FramedRead(theirs, LengthDelimitedCodec(length_field_length=1)))
    sent: list[bytes] = []
    number = 0
    aborts = Aborts(random)

    async def send() -> None:
        nonlocal number
        while number < 200:
            if number > 100:
                await until(lambda: aborts.count >= 5)
            number += 1
            frame = number.to_bytes(2) + bytes(random.randrange(30))
            await (framed.feed(frame) if random.random() < 0.2 else framed.send(frame))
            sent.append(frame)
        await framed.shutdown()

    await aborts.until_done(send)
    got = await receiving
    assert [frame[:2] for frame in got] == sorted({frame[:2] for frame in got})
    assert [frame for frame in got if frame in sent] == sent
    assert len(got) - len(sent) <= aborts.count


async def collect(frames: Any) -> list[Any]:
    return [frame async for frame in frames]


@freerun.test
async def test_frames_that_are_all_there_starve_nobody() -> None:
    ended = False

    async def other() -> None:
        nonlocal ended
        await freerun.yield_now()
        ended = True

    task = freerun.spawn(other)
    count = 0
    async for _ in FramedRead(Script(b"\n" * 20_000), LinesCodec()):
        count += 1
        if ended:
            break
    assert count < 20_000
    await task


@every_flavor
async def test_random_pieces_give_the_same_frames() -> None:
    random = seeded()
    lines = ["ü" * random.randrange(30) for _ in range(100)]
    script = Script(*with_pauses(random, chunks(random, "\n".join([*lines, ""]).encode())))
    assert await collect(FramedRead(script, LinesCodec(), capacity=random.randrange(1, 60))) == lines
