"""The codecs by themselves: Tokio's codecs.rs and length_delimited.rs; any pieces give the same frames."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from freerun.io import AnyDelimiterCodecError, FrameTooLong, LimitExceeded, LinesCodecError, UnexpectedEof
from freerun.io.codec import AnyDelimiterCodec, BytesCodec, Decoder, Incomplete, LengthDelimitedCodec, LinesCodec

NONE = "no whole frame"
TOO_LONG = "too long"


class Feed:
    """A codec and its buffer: `feed(b"more")` adds bytes, `feed()` decodes."""

    def __init__(self, codec: Decoder[Any]) -> None:
        self.codec = codec
        self.buffer = bytearray()

    def put(self, data: bytes) -> Any:
        self.buffer += data
        return self.decode()

    def decode(self, decode: Any = None) -> Any:
        try:
            return (decode or self.codec.decode)(self.buffer)
        except Incomplete:
            return NONE
        except FrameTooLong:
            return TOO_LONG

    def end(self) -> Any:
        return self.decode(self.codec.decode_eof)


def test_bytes() -> None:
    feed = Feed(BytesCodec())
    assert [feed.put(b"abc"), feed.decode(), feed.decode(), feed.put(b"a"), feed.end()] == [
        b"abc",
        NONE,
        NONE,
        b"a",
        NONE,
    ]
    out = bytearray(b">")
    for item in (b"ab", bytearray(b"c"), memoryview(b"def")):
        BytesCodec().encode(item, out)
    assert out == b">abcdef"
    with pytest.raises(TypeError, match="'data'"):
        BytesCodec().encode("text", out)  # type: ignore[arg-type]


def test_lines() -> None:
    feed = Feed(LinesCodec())
    assert feed.put(b"line 1\nline 2\r\nline 3\n\r\n\r") == "line 1"
    assert [feed.decode() for _ in range(4)] == ["line 2", "line 3", "", NONE]
    assert feed.end() == NONE
    assert feed.put(b"k") == NONE
    assert [feed.end(), feed.decode(), feed.end()] == ["\rk", NONE, NONE]


def test_lines_that_are_not_utf8() -> None:
    feed = Feed(LinesCodec())
    assert feed.put(b"line 1\xc3\x28") == NONE
    with pytest.raises(UnicodeDecodeError) as caught:
        feed.end()
    assert caught.value.object == b"line 1\xc3\x28"
    assert feed.end() == NONE
    assert feed.put(b"line 2\n") == "line 2"


@pytest.mark.parametrize("make", [LinesCodec, AnyDelimiterCodec])
def test_max_length(make: Any) -> None:
    """Tokio's cases of `lines_decoder_max_length*`, which are those of any_delimiter too."""

    def texts(*frames: str) -> list[Any]:
        return [frame if frame in {NONE, TOO_LONG} or make is LinesCodec else frame.encode() for frame in frames]

    def check(max_length: int, *steps: tuple[bytes, str]) -> None:
        feed = Feed(make(max_length=max_length))
        assert feed.codec.max_length == max_length  # type: ignore[attr-defined]
        assert [feed.put(data) for data, _ in steps] == texts(*[frame for _, frame in steps])

    check(
        6,
        (b"line 1 is too long\nline 2\nline 3 is too long\nline 4\n\n", TOO_LONG),
        (b"", "line 2"),
        (b"", TOO_LONG),
        (b"", "line 4"),
        (b"", ""),
        (b"", NONE),
        (b"aaabbbc", TOO_LONG),
    )
    check(6, (b"line ", NONE), (b"too l", TOO_LONG), (b"ong\n", NONE), (b"line 2", NONE), (b"\n", "line 2"))
    check(10, (b"line ", NONE), (b"too l", NONE), (b"ong\n", TOO_LONG))
    check(10, (b"line ", NONE), (b"too long!\n", TOO_LONG))
    check(5, (b"hello", NONE), (b"\nworld", "hello"))
    check(1, (b"aa", TOO_LONG), (b"a", NONE), (b"a", NONE), (b"\nb\n", "b"))
    check(11, (b"line ", NONE), (b"too very l", TOO_LONG), (b"a" * 23, NONE), (b"ong\nshort\n", "short"), (b"", NONE))
    check(0, (b"\n\nx", ""), (b"", ""), (b"", TOO_LONG), (b"\n\n", ""))


def test_a_carriage_return_counts() -> None:
    feed = Feed(LinesCodec(max_length=6))
    assert [feed.put(b"line 3\r\nline 4\n\r\n\r"), feed.decode(), feed.decode()] == [TOO_LONG, "line 4", ""]
    assert [feed.decode(), feed.end(), feed.put(b"k"), feed.end()] == [NONE, NONE, NONE, "\rk"]


def test_what_is_too_long_is_not_kept() -> None:
    feed = Feed(LinesCodec(max_length=10))
    assert feed.put(b"x" * 11) == TOO_LONG
    for _ in range(100):
        assert feed.put(b"x" * 1000) == NONE
        assert len(feed.buffer) == 0
    assert feed.put(b"end\nnext\n") == "next"


def test_errors_say_the_limit() -> None:
    with pytest.raises(LinesCodecError, match="the line is longer than the limit of 3 bytes") as line:
        LinesCodec(max_length=3).decode(bytearray(b"abcd"))
    with pytest.raises(AnyDelimiterCodecError, match="the chunk is longer than the limit of 3 bytes") as chunk:
        AnyDelimiterCodec(max_length=3).decode(bytearray(b"abcd"))
    with pytest.raises(FrameTooLong, match="a frame of 9 bytes is longer than the limit of 3 bytes") as frame:
        LengthDelimitedCodec(max_frame_length=3).decode(bytearray(b"\0\0\0\x09"))
    for caught in (line, chunk, frame):
        assert isinstance(caught.value, LimitExceeded)
        assert caught.value.limit == 3


def test_lines_encoder() -> None:
    out = bytearray()
    LinesCodec().encode("line 1", out)
    LinesCodec().encode("grüße", out)
    assert out == "line 1\ngrüße\n".encode()
    with pytest.raises(ValueError, match="one line"):
        LinesCodec().encode("a\nb", out)
    with pytest.raises(TypeError, match="must be a str"):
        LinesCodec().encode(b"a", out)  # type: ignore[arg-type]


def test_any_delimiter() -> None:
    feed = Feed(AnyDelimiterCodec(b",;\n\r", b","))
    assert feed.put(b"chunk 1,chunk 2;chunk 3\n\r") == b"chunk 1"
    assert [feed.decode() for _ in range(4)] == [b"chunk 2", b"chunk 3", b"", NONE]
    assert [feed.end(), feed.put(b"k"), feed.end(), feed.decode(), feed.end()] == [NONE, NONE, b"k", NONE, NONE]


@pytest.mark.parametrize("delimiters", [b"^", b"]", b"-", b"a-c", b"\\", b"[]", b"^]", b"\x00\xff", b"."])
def test_any_byte_may_delimit(delimiters: bytes) -> None:
    for each in range(256):
        byte = bytes([each])
        found = Feed(AnyDelimiterCodec(delimiters)).put(byte)
        assert found == (b"" if byte in [delimiters[i : i + 1] for i in range(len(delimiters))] else NONE)


def test_any_delimiter_encoder() -> None:
    out = bytearray()
    codec = AnyDelimiterCodec(b",", b";--;")
    codec.encode("chunk 1", out)
    codec.encode(b"chunk 2", out)
    assert out == b"chunk 1;--;chunk 2;--;"


@pytest.mark.parametrize(
    ("make", "name", "error"),
    [
        (lambda: LinesCodec(max_length=-1), "max_length", ValueError),
        (lambda: LinesCodec(max_length="1"), "max_length", TypeError),  # type: ignore[arg-type]
        (lambda: AnyDelimiterCodec(b""), "seek_delimiters", ValueError),
        (lambda: AnyDelimiterCodec(","), "seek_delimiters", TypeError),  # type: ignore[arg-type]
        (lambda: AnyDelimiterCodec(b",", ","), "sequence_writer", TypeError),  # type: ignore[arg-type]
        (lambda: AnyDelimiterCodec(max_length=-1), "max_length", ValueError),
        (lambda: LengthDelimitedCodec(length_field_length=0), "length_field_length", ValueError),
        (lambda: LengthDelimitedCodec(length_field_length=9), "length_field_length", ValueError),
        (lambda: LengthDelimitedCodec(length_field_offset=-1), "length_field_offset", ValueError),
        (lambda: LengthDelimitedCodec(length_adjustment=1.5), "length_adjustment", TypeError),  # type: ignore[arg-type]
        (lambda: LengthDelimitedCodec(num_skip=-1), "num_skip", ValueError),
        (lambda: LengthDelimitedCodec(max_frame_length=-1), "max_frame_length", ValueError),
        (lambda: LengthDelimitedCodec(endianness="middle"), "endianness", ValueError),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments(make: Any, name: str, error: Any) -> None:
    with pytest.raises(error, match=f"'{name}'"):
        make()


# ---- LengthDelimitedCodec: how it decodes, case by case as in length_delimited.rs


@pytest.mark.parametrize(
    ("options", "data", "frames"),
    [
        pytest.param({}, b"", [], id="read_empty_io_yields_nothing"),
        pytest.param({}, b"\0\0\0\x09abcdefghi", [b"abcdefghi"], id="read_single_frame"),
        pytest.param({"endianness": "little"}, b"\x09\0\0\0abcdefghi", [b"abcdefghi"], id="little_endian"),
        pytest.param(
            {"endianness": "native"}, (9).to_bytes(4, sys.byteorder) + b"abcdefghi", [b"abcdefghi"], id="native_endian"
        ),
        pytest.param(
            {},
            b"\0\0\0\x09abcdefghi\0\0\0\x03123\0\0\0\x0bhello world",
            [b"abcdefghi", b"123", b"hello world"],
            id="read_multi_frame",
        ),
        pytest.param({"length_field_length": 1}, b"\x09abcdefghi", [b"abcdefghi"], id="one_byte_length_field"),
        pytest.param(
            {"length_field_length": 2, "length_field_offset": 4},
            b"zzzz\0\x09abcdefghi",
            [b"abcdefghi"],
            id="read_header_offset",
        ),
        pytest.param(
            {"length_field_length": 2, "length_field_offset": 2, "num_skip": 0, "length_adjustment": 4},
            b"xx\0\x09abcdefghiyy\0\x03123zz\0\x0bhello world",
            [b"xx\0\x09abcdefghi", b"yy\0\x03123", b"zz\0\x0bhello world"],
            id="skip_none_adjusted",
        ),
        pytest.param(
            {"length_field_length": 3, "num_skip": 4},
            b"\0\0\x0b\x0cHello world",
            [b"Hello world"],
            id="length_adjusted",
        ),
        pytest.param(
            {"length_field_length": 2, "length_adjustment": -2},
            b"\0\x0babcdefghi\0\x05123\0\x0dhello world",
            [b"abcdefghi", b"123", b"hello world"],
            id="length_includes_head",
        ),
        pytest.param({"length_field_length": 8}, bytes(7) + b"\x01x", [b"x"], id="max_allowed_length_field"),
        pytest.param({}, bytes(8), [b"", b""], id="empty_frames"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_decoding(options: dict[str, Any], data: bytes, frames: list[bytes], size: int) -> None:
    feed = Feed(LengthDelimitedCodec(**options))
    assert decoded(feed, [data[i : i + size] for i in range(0, len(data), size)]) == frames


def decoded(feed: Feed, pieces: list[bytes]) -> list[Any]:
    got = []
    for piece in pieces:
        frame = feed.put(piece)
        while frame != NONE:
            got.append(frame)
            frame = feed.decode()
    while (frame := feed.end()) != NONE:
        got.append(frame)
    return got


@pytest.mark.parametrize(
    ("data", "partial", "expected"),
    [(b"\0\0", b"\0\0", None), (b"\0\0\0\x09ab", b"ab", 9), (b"\0\0\0\x01xy", b"y", None), (b"\0\0\0\x09", b"", 9)],
)
def test_an_end_within_a_frame(data: bytes, partial: bytes, expected: int | None) -> None:
    feed = Feed(LengthDelimitedCodec())
    with pytest.raises(UnexpectedEof) as caught:
        decoded(feed, [data])
    assert (caught.value.partial, caught.value.expected) == (partial, expected)


def test_max_frame_length() -> None:
    feed = Feed(LengthDelimitedCodec(max_frame_length=5))
    assert feed.put(b"\0\0\0\x05abcde") == b"abcde"
    assert [feed.put(b"\0\0\0\x06abcdef"), feed.decode(), feed.end()] == [TOO_LONG] * 3
    with pytest.raises(FrameTooLong):
        LengthDelimitedCodec(max_frame_length=5).encode(b"abcdef", bytearray())


def test_a_length_that_would_fill_the_memory() -> None:
    for length in (b"\xff" * 8, b"\x00" * 3 + b"\xff" * 5):
        assert Feed(LengthDelimitedCodec(length_field_length=8)).put(length) == TOO_LONG


def test_updating_max_frame_length() -> None:
    codec = LengthDelimitedCodec()
    assert codec.max_frame_length == 8 << 20
    feed = Feed(codec)
    assert feed.put(b"\0\0\0\x09abcdefghi") == b"abcdefghi"
    assert feed.put(b"\0\0\0\x09abcd") == NONE
    codec.set_max_frame_length(5)  # a frame that has begun is let through
    assert feed.put(b"efghi") == b"abcdefghi"
    assert feed.put(b"\0\0\0\x09abcdefghi") == TOO_LONG


def test_max_frame_length_respects_the_length_field() -> None:
    codec = LengthDelimitedCodec(length_field_length=1, max_frame_length=1 << 20)
    assert codec.max_frame_length == 255
    codec.set_max_frame_length(256)
    assert codec.max_frame_length == 255
    with pytest.raises(FrameTooLong):
        codec.encode(bytes(256), bytearray())
    codec.encode(bytes(255), out := bytearray())
    assert (out[0], len(out)) == (255, 256)
    assert LengthDelimitedCodec(length_field_length=1, length_adjustment=-2).max_frame_length == 253
    assert LengthDelimitedCodec(length_field_length=1, length_adjustment=2).max_frame_length == 257
    assert LengthDelimitedCodec(length_field_length=8, max_frame_length=1 << 70).max_frame_length == (1 << 64) - 1
    assert LengthDelimitedCodec(length_field_length=2, max_frame_length=3, length_adjustment=-2).max_frame_length == 3


def test_an_adjustment_below_zero() -> None:
    with pytest.raises(ValueError, match="-1 after the adjustment"):
        Feed(LengthDelimitedCodec(length_adjustment=-2)).put(b"\0\0\0\x01x")
    with pytest.raises(ValueError, match="-2 after the adjustment"):
        LengthDelimitedCodec(length_adjustment=5).encode(b"abc", bytearray())


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, b"\0\0\0\x09abcdefghi"),
        ({"length_adjustment": -2}, b"\0\0\0\x0babcdefghi"),
        ({"endianness": "little"}, b"\x09\0\0\0abcdefghi"),
        ({"length_field_length": 1}, b"\x09abcdefghi"),
        ({"length_field_length": 8}, bytes(7) + b"\x09abcdefghi"),
    ],
)
def test_encoding(options: dict[str, Any], written: bytes) -> None:
    out = bytearray()
    LengthDelimitedCodec(**options).encode(memoryview(b"abcdefghi"), out)
    assert out == written
    assert Feed(LengthDelimitedCodec(**options)).put(bytes(out)) == b"abcdefghi"


# ---- any data, in any pieces


@st.composite
def pieces_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


OPTIONS = st.fixed_dictionaries(
    {
        "length_field_length": st.integers(2, 8),
        "length_adjustment": st.integers(-10, 0),
        "endianness": st.sampled_from(["big", "little", "native"]),
    }
)


@settings(deadline=None)
@given(st.data(), st.lists(st.binary(max_size=30), max_size=10), OPTIONS)
def test_length_delimited_frames_come_back(data: st.DataObject, frames: list[bytes], options: dict[str, Any]) -> None:
    out = bytearray()
    for frame in frames:
        LengthDelimitedCodec(**options).encode(frame, out)
    got = decoded(Feed(LengthDelimitedCodec(**options)), data.draw(pieces_of(bytes(out))))
    assert got == frames


LINE = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(st.data(), st.lists(LINE, max_size=10), st.booleans())
def test_lines_come_back(data: st.DataObject, lines: list[str], carriage: bool) -> None:
    out = bytearray()
    for line in lines:
        LinesCodec().encode(line + "\r" * carriage, out)
    assert decoded(Feed(LinesCodec()), data.draw(pieces_of(bytes(out)))) == lines


@settings(deadline=None)
@given(st.data(), st.binary(max_size=60), st.integers(0, 12), st.sampled_from([LinesCodec, AnyDelimiterCodec]))
@example(data=None, stream=b"aa\na", most=1, make=LinesCodec)
def test_any_bytes_give_the_same_frames_in_any_pieces(data: Any, stream: bytes, most: int, make: Any) -> None:
    """Errors included, and the frames are those that one finds by hand."""
    stream = stream.translate(bytes((b"ab\n\r"[i % 4]) for i in range(256)))
    pieces = data.draw(pieces_of(stream)) if data else [stream[i : i + 1] for i in range(len(stream))]
    got = decoded(Feed(make(max_length=most)), pieces)
    assert got == by_hand(stream, most, make is LinesCodec)


def by_hand(stream: bytes, most: int, lines: bool) -> list[Any]:
    whole = stream.replace(b"\r", b"\r" if lines else b"\n").split(b"\n")
    last = whole.pop()
    frames: list[Any] = [TOO_LONG if len(chunk) > most else chunk for chunk in whole]
    if last and not (lines and last == b"\r" and most > 0):
        frames.append(TOO_LONG if len(last) > most else last)
    if lines:
        return [frame if frame is TOO_LONG else frame.removesuffix(b"\r").decode() for frame in frames]
    return frames
