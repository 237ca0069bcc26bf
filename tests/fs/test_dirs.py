"""Listing directories: `read_dir` and `walk`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fs_support import Gate, aborted_inside
from support import CURRENT, Flavor, every_flavor, only, open_fds, until

import freerun
from freerun import fs, io

MANY = 100_000


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with 100,000 names, hard links of one file."""
    folder = tmp_path_factory.mktemp("huge")
    (folder / "0").touch()
    source, folder_fd = str(folder / "0"), os.open(folder, os.O_RDONLY)
    made, links = 1, 1
    while made < MANY:
        if links >= 30_000:  # file systems limit the links of one file
            source, links = str(folder / str(made)), 1
            Path(source).touch()
        else:
            os.link(source, str(made), dst_dir_fd=folder_fd)
            links += 1
        made += 1
    os.close(folder_fd)
    return folder


@every_flavor
async def test_entries(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    os.mkfifo(tmp_path / "fifo")
    entries = {entry.name: entry async for entry in fs.read_dir(tmp_path)}
    assert set(entries) == {"file", "folder", "link", "fifo"}
    assert entries["file"].is_file()
    assert entries["folder"].is_dir()
    assert entries["link"].is_symlink()
    assert not entries["link"].is_dir()
    assert entries["fifo"].file_type().is_fifo()
    assert entries["file"].path == tmp_path / "file"
    assert os.fspath(entries["file"]) == str(tmp_path / "file")
    assert entries["file"].inode == (tmp_path / "file").stat().st_ino
    assert (await entries["file"].metadata()).len() == 3
    assert (await entries["link"].metadata()).is_symlink()
    assert await fs.read(entries["file"]) == b"abc"


@every_flavor
async def test_awaited_and_entered(tmp_path: Path) -> None:
    entries = await fs.read_dir(tmp_path)
    with pytest.raises(io.EndOfStream):
        await entries.next_entry()
    with pytest.raises(FileNotFoundError):
        await fs.read_dir(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        async for _ in fs.read_dir(tmp_path / "missing"):
            pass
    with pytest.raises(NotADirectoryError):
        await fs.read_dir("/dev/null")
    for i in range(1000):
        (tmp_path / str(i)).touch()
    async with fs.read_dir(tmp_path) as entries:
        assert (await entries.next_entry()).name.isdigit()
    assert str(tmp_path) not in open_fds().values()
    assert [entry async for entry in entries] == []
    with pytest.raises(TypeError, match="argument 'path'"):
        fs.read_dir(5)  # type: ignore[arg-type]


@only(CURRENT, Flavor(2))
@every_flavor
async def test_a_hundred_thousand(huge: Path) -> None:
    """Few of them are in memory at a time."""
    seen, most = set(), 0
    listing = await fs.read_dir(huge)
    async for entry in listing:
        seen.add(entry.name)
        most = max(most, len(listing._found))
    assert len(seen) == MANY
    assert most <= 256


@every_flavor
async def test_cancelled_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(600):
        (tmp_path / str(i)).touch()
    listing = fs.read_dir(tmp_path)
    gate = Gate(monkeypatch, "scandir")
    await aborted_inside(gate, listing.next_entry)
    gate.open()
    seen = []
    while True:
        task = freerun.spawn(listing.next_entry)
        if len(seen) % 50 == 7:
            task.abort()
        try:
            seen.append((await task).name)
        except freerun.JoinError:
            await freerun.yield_now()
            seen.append((await listing.next_entry()).name)
        except io.EndOfStream:
            break
    assert sorted(seen, key=int) == [str(i) for i in range(600)]
    assert gate.calls == 1


@every_flavor
async def test_one_task_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = fs.read_dir(tmp_path)
    gate = Gate(monkeypatch, "scandir")
    first = freerun.spawn(listing.next_entry)
    await until(gate.entered.is_set)
    with pytest.raises(RuntimeError, match="already reading this directory"):
        await listing.next_entry()
    gate.open()
    with pytest.raises(io.EndOfStream):
        await first


@every_flavor
async def test_walk(tmp_path: Path) -> None:
    for name in ("a/b", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "d/back").symlink_to(tmp_path)
    visits = [(folder, sorted(dirs), files) async for folder, dirs, files in fs.walk(tmp_path)]
    assert visits[0] == (tmp_path, ["a", "d"], [])
    assert sorted(visits) == sorted((a, sorted(b), c) for a, b, c in tmp_path.walk())
    up = [folder async for folder, _, _ in fs.walk(tmp_path, top_down=False)]
    assert up[-1] == tmp_path
    seen = []
    async for folder, dirs, _ in fs.walk(tmp_path):
        seen.append(folder)
        dirs[:] = [name for name in dirs if name != "a"]
    assert seen == [tmp_path, tmp_path / "d"]
    errors: list[OSError] = []
    assert [visit async for visit in fs.walk(tmp_path / "missing", on_error=errors.append)] == []
    assert isinstance(errors[0], FileNotFoundError)
    with pytest.raises(TypeError, match="argument 'top_down'"):
        fs.walk(tmp_path, top_down=1)  # type: ignore[arg-type]
