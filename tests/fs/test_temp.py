"""Temporary files and directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from fs_support import on_one_worker
from support import every_flavor, until

import freerun
from freerun import fs


@every_flavor
async def test_file(tmp_path: Path) -> None:
    async with fs.temp_file(dir=tmp_path, prefix="p-", suffix=".s") as file:
        path = file.path
        assert path is not None
        assert path.parent == tmp_path
        assert path.name.startswith("p-")
        assert path.name.endswith(".s")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await file.write_all(b"scratch")
        await file.rewind()
        assert await file.read() == b"scratch"
    assert not path.exists()
    file = await fs.temp_file(dir=tmp_path)
    file.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError):
        async with fs.temp_file(dir=tmp_path):
            1 // 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        await fs.temp_file(dir=tmp_path / "missing")


@every_flavor
async def test_file_that_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    async with fs.temp_file(dir=tmp_path) as file:
        await file.write(b"new")
        await file.persist(target)
        assert target.read_bytes() == b"new"
        await file.write_all(b"er")
        assert file.path == target
    assert target.read_bytes() == b"newer"
    async with fs.temp_file(dir=tmp_path) as file:
        kept = file.keep()
    assert sorted(tmp_path.iterdir()) == sorted([target, kept])


@on_one_worker
@every_flavor
async def test_file_never_closed(tmp_path: Path) -> None:
    file = await fs.temp_file(dir=tmp_path)
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del file
        await until(lambda: list(tmp_path.iterdir()) == [])


@every_flavor
async def test_directory(tmp_path: Path) -> None:
    async with fs.temp_dir(dir=tmp_path) as path:
        await fs.create_dir_all(path / "a" / "b")
        await fs.write(path / "a" / "x", b"")
    assert list(tmp_path.iterdir()) == []
    folder = fs.temp_dir(dir=tmp_path)
    with pytest.raises(RuntimeError, match="not been made"):
        _ = folder.path
    assert await folder is folder
    assert folder.path.is_dir()
    await folder.close()
    await folder.close()
    assert list(tmp_path.iterdir()) == []
    folder = await fs.temp_dir(dir=tmp_path)
    kept = folder.keep()
    await folder.close()
    assert kept.is_dir()
    kept.rmdir()


@on_one_worker
@every_flavor
async def test_directory_never_closed(tmp_path: Path) -> None:
    folder = await fs.temp_dir(dir=tmp_path)
    with pytest.warns(ResourceWarning, match="never closed"):
        del folder
        await until(lambda: list(tmp_path.iterdir()) == [])


@every_flavor
async def test_directory_in_which_others_make_files_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As calls do that went on when their task was cancelled: between the listing and the removal."""
    folder = await fs.temp_dir(dir=tmp_path)
    rmdir, late = os.rmdir, iter(range(5))

    def rmdir_late(path: Any, **options: Any) -> None:
        if (i := next(late, None)) is not None:
            (folder.path / str(i)).touch()
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir_late)
    await folder.close()
    assert next(late, None) is None
    assert list(tmp_path.iterdir()) == []


@every_flavor
async def test_aborted_anywhere_leaves_nothing(tmp_path: Path) -> None:
    async def use() -> None:
        async with fs.temp_dir(dir=tmp_path) as path, fs.temp_file(dir=path) as file:
            await file.write_all(b"x")

    for i in range(40):
        task = freerun.spawn(use)
        for _ in range(i):
            await freerun.yield_now()
        task.abort()
        try:
            await task
        except freerun.JoinError:
            pass
    await until(lambda: list(tmp_path.iterdir()) == [])
