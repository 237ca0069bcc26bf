"""Files and directories, off the workers: every call runs on the blocking pool.

Tokio: `tokio::fs`. `File` is an open file; the functions do one thing with a path each.

Example::

    import freerun
    from freerun import fs

    async def main() -> str:
        async with fs.temp_dir() as folder:
            await fs.write(folder / "greeting", "hello")
            return await fs.read_to_string(folder / "greeting")

    assert freerun.run(main) == "hello"
"""

from __future__ import annotations

from .file import File
from .metadata import FileType, Metadata, Permissions
from .open_options import OpenOptions
from .paths import (
    canonicalize,
    create_dir,
    create_dir_all,
    hard_link,
    metadata,
    read_link,
    remove_dir,
    remove_dir_all,
    remove_file,
    rename,
    set_permissions,
    symlink,
    symlink_metadata,
    try_exists,
)
from .read_dir import DirEntry, ReadDir, read_dir
from .temp import NamedTempFile, TempDir, temp_dir, temp_file
from .text_file import TextFile
from .walk import walk
from .whole import copy, read, read_to_string, write

__all__ = [
    "DirEntry",
    "File",
    "FileType",
    "Metadata",
    "NamedTempFile",
    "OpenOptions",
    "Permissions",
    "ReadDir",
    "TempDir",
    "TextFile",
    "canonicalize",
    "copy",
    "create_dir",
    "create_dir_all",
    "hard_link",
    "metadata",
    "read",
    "read_dir",
    "read_link",
    "read_to_string",
    "remove_dir",
    "remove_dir_all",
    "remove_file",
    "rename",
    "set_permissions",
    "symlink",
    "symlink_metadata",
    "temp_dir",
    "temp_file",
    "try_exists",
    "walk",
    "write",
]
