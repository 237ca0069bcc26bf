"""The functions that take a path."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest
from fs_support import Gate, on_the_pool
from support import every_flavor, until

import freerun
from freerun import fs


@every_flavor
async def test_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "x"
    await fs.write(path, b"bytes")
    assert await fs.read(path) == b"bytes"
    await fs.write(str(path), "text: ü")
    assert await fs.read_to_string(path) == "text: ü"
    assert await fs.read(path) == "text: ü".encode()
    await fs.write(path, bytearray(b"\xff"))
    with pytest.raises(UnicodeDecodeError):
        await fs.read_to_string(path)
    assert await fs.read_to_string(path, "latin-1") == "ÿ"
    assert await fs.read_to_string(path, errors="replace") == "\N{REPLACEMENT CHARACTER}"
    await fs.write(path, memoryview(b"x" * 3_000_000))
    assert await fs.read(path) == b"x" * 3_000_000
    await fs.write(path, b"")
    assert await fs.read(path) == b""
    assert len(await fs.read("/proc/self/status")) > 100  # whose size is 0
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        await fs.read(tmp_path / "nothing-here")
    with pytest.raises(TypeError, match="argument 'data' must be bytes-like, not int"):
        await fs.write(path, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 'path' must be a str or a path, not NoneType"):
        await fs.read(None)  # type: ignore[arg-type]


@every_flavor
async def test_copy_and_rename(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    await fs.write(one, b"12345")
    one.chmod(0o640)
    assert await fs.copy(one, two) == 5
    assert two.read_bytes() == b"12345"
    assert two.stat().st_mode & 0o777 == 0o640
    with pytest.raises(shutil.SameFileError):
        await fs.copy(one, one)
    await fs.write(one, b"new")
    await fs.rename(one, two)
    assert two.read_bytes() == b"new"
    assert not one.exists()
    with pytest.raises(FileNotFoundError):
        await fs.rename(one, two)
    with pytest.raises(TypeError, match="argument 'target'"):
        await fs.rename(two, 5)  # type: ignore[arg-type]


@every_flavor
async def test_directories(tmp_path: Path) -> None:
    await fs.create_dir(tmp_path / "a", mode=0o700)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        await fs.create_dir(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        await fs.create_dir(tmp_path / "b" / "c")
    await fs.create_dir_all(tmp_path / "b" / "c" / "d")
    await fs.create_dir_all(tmp_path / "b" / "c" / "d")
    await fs.write(tmp_path / "b" / "file", b"")
    with pytest.raises(FileExistsError):
        await fs.create_dir_all(tmp_path / "b" / "file")
    with pytest.raises(OSError, match="not empty"):
        await fs.remove_dir(tmp_path / "b")
    await fs.symlink(tmp_path / "b", tmp_path / "link")
    await fs.remove_dir_all(tmp_path / "link")
    assert (tmp_path / "b" / "file").exists()  # the link went, not what it led to
    await fs.remove_dir_all(tmp_path / "b")
    await fs.remove_dir(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        await fs.remove_dir_all(tmp_path / "b")


@every_flavor
async def test_links_and_facts(tmp_path: Path) -> None:
    path, link, second = tmp_path / "x", tmp_path / "link", tmp_path / "second"
    await fs.write(path, b"abc")
    await fs.symlink("x", link)
    await fs.hard_link(path, second)
    assert await fs.read_link(link) == Path("x")
    assert await fs.canonicalize(tmp_path / "." / "link") == path.resolve()
    about, about_link = await fs.metadata(link), await fs.symlink_metadata(link)
    assert about.is_file()
    assert not about.is_symlink()
    assert about_link.is_symlink()
    assert about_link.file_type().is_symlink()
    assert not about_link.is_dir()
    assert (about.len(), about.st_nlink, about.st_ino) == (3, 2, path.stat().st_ino)
    assert about.modified() == path.stat().st_mtime
    assert about.accessed() > 0
    assert repr(about).startswith("<Metadata -rw")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        about.nothing  # type: ignore[attr-defined]
    await fs.set_permissions(path, 0o444)
    assert (await fs.metadata(path)).permissions().readonly()
    await fs.set_permissions(path, fs.Permissions(0o600))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="argument 'permissions'"):
        await fs.set_permissions(path, -1)
    await fs.remove_file(path)
    assert not await fs.try_exists(path)
    assert not await fs.try_exists(link)  # it leads nowhere
    assert await fs.try_exists(second)
    with pytest.raises(NotADirectoryError):
        await fs.try_exists(second / "below")
    with pytest.raises(FileNotFoundError):
        await fs.canonicalize(path)
    with pytest.raises(FileNotFoundError):
        await fs.remove_file(path)
    assert (await fs.metadata("/dev/null")).file_type().is_char_device()
    os.mkfifo(path)
    assert (await fs.metadata(path)).file_type().is_fifo()


@every_flavor
async def test_a_cancelled_write_of_a_whole_file_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, entered, release = tmp_path / "x", threading.Event(), threading.Event()

    monkeypatch.setattr("freerun.fs.whole._write", _held(entered, release))
    task = freerun.spawn(fs.write, path, b"whole")
    await until(entered.is_set)
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    release.set()
    await until(lambda: path.exists() and path.read_bytes() == b"whole")


def _held(entered: threading.Event, release: threading.Event) -> object:
    def write(path: str, data: bytes) -> None:
        entered.set()
        release.wait(60)
        Path(path).write_bytes(data)

    return write


@on_the_pool
@every_flavor
async def test_a_queued_read_that_is_cancelled_never_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with freerun.Builder().worker_threads(1).max_blocking_threads(1).build() as small:
        gate = Gate(monkeypatch, "stat")
        blocker = small.spawn(fs.metadata, tmp_path)
        await until(gate.entered.is_set)
        second = small.spawn(fs.metadata, tmp_path)
        await until(lambda: small.metrics().blocking_queue_depth == 1)
        second.abort()
        with pytest.raises(freerun.JoinError):
            await second
        gate.open()
        assert (await blocker).is_dir()
        assert gate.calls == 1
