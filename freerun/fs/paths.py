"""What is done with names: making, moving, removing, linking, asking."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from freerun._arguments import integer
from freerun._core._native import spawn_file_call

from . import _ring
from ._calls import StrPath, as_path, call, must, result_of
from .metadata import Metadata, Permissions, as_mode

__all__ = [
    "canonicalize",
    "create_dir",
    "create_dir_all",
    "hard_link",
    "metadata",
    "read_link",
    "remove_dir",
    "remove_dir_all",
    "remove_file",
    "rename",
    "set_permissions",
    "symlink",
    "symlink_metadata",
    "try_exists",
]

MODE = 0o777


async def metadata(path: StrPath, /) -> Metadata:
    """What is known about a file; about what a link leads to. `OSError`. Cancel safe. Tokio: `tokio::fs::metadata`."""
    text = as_path(path)
    return Metadata(await result_of(_ring.stat_path(text, True) or spawn_file_call(False, os.stat, text)))


async def symlink_metadata(path: StrPath, /) -> Metadata:
    """The same about a link itself. `OSError`. Cancel safe. Tokio: `tokio::fs::symlink_metadata`."""
    text = as_path(path)
    return Metadata(await result_of(_ring.stat_path(text, False) or spawn_file_call(False, os.lstat, text)))


async def try_exists(path: StrPath, /) -> bool:
    """Whether it is there; `False` for a link that leads nowhere.

    Errors: `OSError` if it cannot be known, `PermissionError` for one. Cancel safe. Tokio: `tokio::fs::try_exists`.
    """
    try:
        await call(os.stat, as_path(path))
    except FileNotFoundError:
        return False
    return True


async def canonicalize(path: StrPath, /) -> Path:
    """The absolute path without links, `.` and `..`.

    Errors: `OSError` if there is no such file. Cancel safe. Tokio: `tokio::fs::canonicalize`.
    """
    return Path(await call(_real_path, as_path(path)))


async def read_link(path: StrPath, /) -> Path:
    """Where a symbolic link leads. `OSError`. Cancel safe. Tokio: `tokio::fs::read_link`."""
    return Path(await call(os.readlink, as_path(path)))


async def create_dir(path: StrPath, /, mode: int = MODE) -> None:
    """Make a directory. `mode` are its permissions, less the process's umask.

    Errors: `FileExistsError`, `FileNotFoundError` if its parent is missing, `OSError`.
    Cancel safety: begun, it is made.
    Tokio: `tokio::fs::create_dir`.
    """
    await must(os.mkdir, as_path(path), integer(mode, "mode", least=0, most=0o7777))


async def create_dir_all(path: StrPath, /) -> None:
    """Make a directory and those above it, where they are missing; no error if it is there.

    Errors: `OSError`, `FileExistsError` if it is a file. Cancel safety: begun, it is made.
    Tokio: `tokio::fs::create_dir_all`.
    """
    await must(_make_dirs, as_path(path))


async def remove_file(path: StrPath, /) -> None:
    """Remove a file, or a link. `OSError`. Cancel safety: begun, it is done. Tokio: `tokio::fs::remove_file`."""
    await must(os.unlink, as_path(path))


async def remove_dir(path: StrPath, /) -> None:
    """Remove an empty directory. `OSError`. Cancel safety: begun, it is done. Tokio: `tokio::fs::remove_dir`."""
    await must(os.rmdir, as_path(path))


async def remove_dir_all(path: StrPath, /) -> None:
    """Remove a directory and all in it. Links are removed, never followed; `path` may be one.

    Errors: `OSError`; a part may be gone by then. Cancel safety: begun, it goes on to the end.
    Tokio: `tokio::fs::remove_dir_all`.
    """
    await must(remove_tree, as_path(path))


async def rename(source: StrPath, target: StrPath, /) -> None:
    """Give a file or directory another name, in one step; a file `target` is replaced.

    Errors: `OSError`, with `EXDEV` if they are on two file systems. Cancel safety: begun, it is done.
    Tokio: `tokio::fs::rename`.
    """
    await must(os.replace, as_path(source, "source"), as_path(target, "target"))


async def hard_link(original: StrPath, link: StrPath, /) -> None:
    """Give a file a second name. `OSError`. Cancel safety: begun, it is done. Tokio: `tokio::fs::hard_link`."""
    await must(os.link, as_path(original, "original"), as_path(link, "link"))


async def symlink(original: StrPath, link: StrPath, /) -> None:
    """Make `link` a symbolic link to `original`, as it is given, there or not.

    Errors: `OSError`. Cancel safety: begun, it is done. Tokio: `tokio::fs::symlink`.
    """
    await must(os.symlink, as_path(original, "original"), as_path(link, "link"))


async def set_permissions(path: StrPath, permissions: Permissions | int, /) -> None:
    """Who may do what with it: `Permissions`, or a mode such as `0o644`.

    Errors: `OSError`. Cancel safety: begun, it is done. Tokio: `tokio::fs::set_permissions`.
    """
    await must(os.chmod, as_path(path), as_mode(permissions))


def _real_path(path: str) -> str:
    return os.path.realpath(path, strict=True)


def _make_dirs(path: str) -> None:
    os.makedirs(path, exist_ok=True)


def remove_tree(path: str) -> None:
    """On a pool thread."""
    if os.path.islink(path):
        os.unlink(path)
    else:
        shutil.rmtree(path)
