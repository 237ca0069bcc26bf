"""`Metadata`, `FileType` and `Permissions`: what is known about a file."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Any, final

from freerun._arguments import integer

__all__ = ["FileType", "Metadata", "Permissions", "as_mode"]


@final
@dataclass(frozen=True, slots=True)
class FileType:
    """What kind of file it is; `mode` holds the bits of `stat`. Tokio: `std::fs::FileType`.

    Thread safety: immutable.

    Example::

        import stat
        from freerun.fs import FileType

        assert FileType(stat.S_IFDIR).is_dir()
    """

    mode: int

    def is_file(self) -> bool:
        """A regular file."""
        return stat.S_ISREG(self.mode)

    def is_dir(self) -> bool:
        """A directory."""
        return stat.S_ISDIR(self.mode)

    def is_symlink(self) -> bool:
        """A symbolic link."""
        return stat.S_ISLNK(self.mode)

    def is_fifo(self) -> bool:
        """A named pipe."""
        return stat.S_ISFIFO(self.mode)

    def is_socket(self) -> bool:
        """A Unix socket."""
        return stat.S_ISSOCK(self.mode)

    def is_block_device(self) -> bool:
        """A block device."""
        return stat.S_ISBLK(self.mode)

    def is_char_device(self) -> bool:
        """A character device, `/dev/null` for one."""
        return stat.S_ISCHR(self.mode)


@final
@dataclass(frozen=True, slots=True)
class Permissions:
    """Who may do what with a file: `mode`, such as `0o644`. Tokio: `std::fs::Permissions`.

    Thread safety: immutable.

    Example::

        from freerun.fs import Permissions

        assert Permissions(0o444).readonly()
        assert not Permissions(0o644).readonly()
    """

    mode: int

    def readonly(self) -> bool:
        """Whether nobody may write."""
        return not self.mode & 0o222


@final
class Metadata:
    """What `metadata()` returns. `stat` is the `os.stat_result`, whose fields (`st_mtime_ns` ...) are here, too.

    Thread safety: immutable. Tokio: `std::fs::Metadata`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> bool:
            about = await fs.metadata("/")
            return about.is_dir() and about.st_nlink > 0

        assert freerun.run(main)
    """

    __slots__ = ("stat",)

    def __init__(self, stat: os.stat_result) -> None:
        self.stat = stat

    def len(self) -> int:
        """How many bytes it has."""
        return self.stat.st_size

    def file_type(self) -> FileType:
        """What kind of file it is."""
        return FileType(stat.S_IFMT(self.stat.st_mode))

    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.file_type().is_file()

    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.file_type().is_dir()

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link: only `symlink_metadata` and `DirEntry.metadata` can say so."""
        return self.file_type().is_symlink()

    def permissions(self) -> Permissions:
        """Who may do what with it."""
        return Permissions(stat.S_IMODE(self.stat.st_mode))

    def modified(self) -> float:
        """When its content changed last, in seconds since 1970; `st_mtime_ns` is exact."""
        return self.stat.st_mtime

    def accessed(self) -> float:
        """When it was read last, in seconds since 1970; many systems note that rarely."""
        return self.stat.st_atime

    def __getattr__(self, name: str) -> Any:
        if name.startswith("st_"):
            return getattr(self.stat, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<Metadata {stat.filemode(self.stat.st_mode)} {self.stat.st_size} bytes>"


def as_mode(permissions: Permissions | int) -> int:
    """Check permissions, or a mode."""
    if isinstance(permissions, Permissions):
        return permissions.mode
    return integer(permissions, "permissions", least=0, most=0o7777)
