"""Text of any encoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from fs_support import filled
from support import every_flavor

import freerun
from freerun import fs, io

TEXT = "plain\nümläute\n日本語\n🎈 last"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "shift_jis"])
@every_flavor
async def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = TEXT.encode(encoding, "ignore").decode(encoding)
    path = tmp_path / "x"
    async with (await fs.File.create(path)).text(encoding) as out:
        for part in text.splitlines(keepends=True):
            await out.write(part)
    assert path.read_bytes() == text.encode(encoding)  # with one byte order mark, where there is one
    async with (await fs.File.open(path)).text(encoding) as back:
        assert await back.read_to_end() == text
        await back.seek(0)
        assert [line async for line in back] == text.split("\n")
        await back.seek(0)
        assert await back.read(3) == text[:3]
        assert await back.read_line() == text.split("\n")[0][3:] + "\n"


@every_flavor
async def test_characters_across_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 3, 5):
        monkeypatch.setattr("freerun.fs.text_file.CHUNK", size)
        for newline, raw, lines in (
            (None, "日\r\n本\r語\n\r\n🎈\r", ["日", "本", "語", "", "🎈"]),
            ("\r\n", "日\r\n本\r語\n\r\n🎈\r", ["日", "本\r語\n", "🎈\r"]),
            ("\n", "a\r\nb\n", ["a\r", "b"]),
            ("\r", "a\rb\n", ["a", "b\n"]),
        ):
            async with (await filled(tmp_path / "x", raw.encode())).text(newline=newline) as text:
                assert [line async for line in text] == lines, (size, newline)


@every_flavor
async def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    async with (await filled(tmp_path / "x", b"good\nhalf \xff rest\n")).text() as text:
        assert await text.read_line() == "good\n"
        assert await text.read_line() == "half "  # what is before it
        for _ in range(2):
            with pytest.raises(UnicodeDecodeError):
                await text.read_line()
        with pytest.raises(UnicodeDecodeError):
            await text.read_to_end()
    async with (await filled(tmp_path / "x", "é".encode()[:1])).text() as text:
        with pytest.raises(UnicodeDecodeError):
            await text.read()
    async with (await filled(tmp_path / "x", b"\xff")).text(errors="replace") as text:
        assert await text.read() == "\N{REPLACEMENT CHARACTER}"


@every_flavor
async def test_writing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    async with (await fs.File.create(path)).text("ascii", newline="\r\n") as text:
        await text.write("one\ntwo\n")
        with pytest.raises(UnicodeEncodeError):
            await text.write("ü")
        with pytest.raises(TypeError, match="argument 'text' must be a str, not bytes"):
            await text.write(b"x")  # type: ignore[arg-type]
        await text.flush()
    assert path.read_bytes() == b"one\r\ntwo\r\n"


@every_flavor
async def test_arguments_and_limits(tmp_path: Path) -> None:
    file = await filled(tmp_path / "x", b"x" * 100 + b"\nrest")
    with pytest.raises(LookupError):
        file.text("no-such-encoding")
    with pytest.raises(LookupError):
        file.text(errors="no-such-handler")
    with pytest.raises(ValueError, match="argument 'newline'"):
        file.text(newline="x")
    text = file.text()
    with pytest.raises(io.LimitExceeded):
        await text.read_line(limit=50)
    assert await text.next_line() == "x" * 100
    assert await text.next_line() == "rest"
    with pytest.raises(io.EndOfStream):
        await text.next_line()
    assert await text.read() == ""
    assert text.file is file
    text.close()
    assert file.closed


@every_flavor
async def test_aborted_reads_lose_nothing(tmp_path: Path) -> None:
    lines = [f"line {i} ü" for i in range(5000)]
    text = (await filled(tmp_path / "x", "\n".join(lines).encode("utf-16"))).text("utf-16")
    seen: list[str] = []
    while True:
        task = freerun.spawn(text.next_line)
        if len(seen) % 7 == 0:
            await freerun.yield_now()
            task.abort()
        try:
            seen.append(await task)
        except freerun.JoinError:
            seen.append(await text.next_line())
        except io.EndOfStream:
            break
    assert seen == lines
    text.close()
