"""`read_dir`: what is in a directory, some entries at a time."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

from freerun._core._native import JoinHandle, consume_budget, spawn_file_call
from freerun._errors import Cancelled
from freerun.io._claim import Claim
from freerun.io.errors import EndOfStream

from ._calls import StrPath, as_path, call
from .metadata import FileType, Metadata

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DirEntry", "ReadDir", "read_dir"]

BATCH = 256
"""How many entries one call on the pool brings, and so how many are in memory."""


def read_dir(path: StrPath, /) -> ReadDir:
    """What is in a directory, in no particular order, without `.` and `..`.

    `async for entry in fs.read_dir(path)`, or `entries = await fs.read_dir(path)` to have the error of a directory that
    cannot be read before the first entry. Some hundred entries are in memory at a time, however many there are.

    Errors: `OSError`. Cancel safety: no entry is lost. Thread safety: one task at a time, any thread.
    Tokio: `tokio::fs::read_dir`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> list[str]:
            async with fs.temp_dir() as folder:
                for name in ("a", "b"):
                    await fs.write(folder / name, name)
                return sorted([entry.name async for entry in fs.read_dir(folder)])

        assert freerun.run(main) == ["a", "b"]
    """
    return ReadDir(as_path(path))


@final
class DirEntry:
    """An entry of a directory: `name`, `path`, and what the directory says it is. Made by `read_dir()`.

    Thread safety: immutable. Tokio: `tokio::fs::DirEntry`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> bool:
            return any([entry.is_dir() async for entry in fs.read_dir("/")])

        assert freerun.run(main)
    """

    __slots__ = ("_path", "_type", "inode", "name")

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name = entry.name
        self.inode = entry.inode()
        self._path = entry.path
        self._type = type_of(entry)

    @property
    def path(self) -> Path:
        """Where it is: the directory's path, as it was given, and the name."""
        return Path(self._path)

    def __fspath__(self) -> str:
        return self._path

    def file_type(self) -> FileType:
        """What it is, not what a link leads to. Does not wait."""
        return FileType(self._type)

    def is_file(self) -> bool:
        """Whether it is a regular file; a link to one is not. Does not wait."""
        return stat.S_ISREG(self._type)

    def is_dir(self) -> bool:
        """Whether it is a directory; a link to one is not. Does not wait."""
        return stat.S_ISDIR(self._type)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link. Does not wait."""
        return stat.S_ISLNK(self._type)

    async def metadata(self) -> Metadata:
        """What is known about it; of a link, about the link. Cancel safe. Tokio: `DirEntry::metadata`."""
        return Metadata(await call(os.lstat, self._path))

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


def type_of(entry: os.DirEntry[str]) -> int:
    """Its kind as bits of `stat`; asks the file system only where the directory does not say. On a pool thread."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except OSError:  # it is gone by now
        return 0


class _Listing:
    """An open directory, on pool threads, one at a time."""

    def __init__(self, path: str) -> None:
        self._entries: Any = os.scandir(path)

    def some(self) -> list[DirEntry]:
        found: list[DirEntry] = []
        entries: Iterator[os.DirEntry[str]] = self._entries
        for entry in entries:
            found.append(DirEntry(entry))
            if len(found) == BATCH:
                break
        if len(found) < BATCH:
            self._entries.close()
        return found

    def close(self) -> None:
        self._entries.close()


def _opened(path: str) -> tuple[_Listing, list[DirEntry]]:
    listing = _Listing(path)
    return listing, listing.some()


@final
class ReadDir:
    """The entries of a directory. Made by `read_dir()`.

    The directory is open from the first entry to the last: leave the loop early only within `async with`, or call
    `close()`. Cancel safety: no entry is lost. Tokio: `tokio::fs::ReadDir`.
    """

    __slots__ = ("_claim", "_found", "_listing", "_op", "_opened", "_over", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._claim = Claim("reading", "this directory; each task needs its own read_dir()")
        self._listing: _Listing | None = None
        self._found: deque[DirEntry] = deque()
        self._op: JoinHandle[Any] | None = None
        self._opened = False
        self._over = False

    async def _fill(self) -> None:
        """One call; what a cancelled task has begun is waited for, not begun again."""
        if self._op is None:
            if self._listing is None:
                self._op = spawn_file_call(False, _opened, self._path)
            else:
                self._op = spawn_file_call(False, self._listing.some)
        op = self._op
        try:
            result = await op
        except (Cancelled, GeneratorExit):
            raise
        except BaseException:
            self._op = None
            raise
        self._op = None
        if self._listing is None:
            self._listing, result = result
            self._opened = True
        self._found.extend(result)
        self._over = self._over or len(result) < BATCH

    async def _open(self) -> Self:
        with self._claim:
            if not self._opened and not self._over:
                await self._fill()
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._open().__await__()

    async def next_entry(self) -> DirEntry:
        """The next entry; `EndOfStream` when there is none. Cancel safe. Tokio: `ReadDir::next_entry`."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise EndOfStream from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DirEntry:
        with self._claim:
            if not self._found and not self._over:
                await self._fill()
            else:
                await consume_budget()
            if not self._found:
                raise StopAsyncIteration
            return self._found.popleft()

    def close(self) -> None:
        """Close the directory; there are no more entries. Idempotent."""
        self._over = True
        self._found.clear()
        if self._listing is not None and self._op is None:
            self._listing.close()
        self._listing = None

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ReadDir {self._path!r}>"
