"""`temp_file` and `temp_dir`: files and directories that are removed when they have been used."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

from ._calls import StrPath, as_path, call_made, must
from ._descriptor import Descriptor
from ._opening import Opening
from .file import File
from .paths import remove_tree

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["NamedTempFile", "TempDir", "temp_dir", "temp_file"]

PREFIX = "freerun-"

LATECOMERS = 100
"""How often something may be made in a directory while it is being removed."""


def temp_file(*, prefix: str = PREFIX, suffix: str = "", dir: StrPath | None = None) -> Opening[NamedTempFile]:
    """A new file to write and read, readable for this user only; `async with fs.temp_file() as file` removes it.

    `dir`: where, else where `tempfile.gettempdir()` says. Await it, or enter it.
    Errors: `OSError`. Cancel safety: a file that was made nevertheless is removed. Thread safety: for tasks.
    As the crate `tempfile`.

    Example::

        import freerun
        from freerun import fs

        async def save(path: str, text: str) -> None:
            async with fs.temp_file(dir=".") as file:  # on the same file system as the target
                await file.write_all(text.encode())
                await file.sync_all()
                await file.persist(path)               # all of it, or the old one

        async def main() -> str:
            async with fs.temp_file() as file:
                await file.write_all(b"scratch")
                await file.rewind()
                return await file.read_to_string()

        assert freerun.run(main) == "scratch"
    """
    return Opening(_temp_file(prefix, suffix, None if dir is None else as_path(dir, "dir")))


def temp_dir(*, prefix: str = PREFIX, suffix: str = "", dir: StrPath | None = None) -> TempDir:
    """A new directory: `async with fs.temp_dir() as path`, a `pathlib.Path`, removes it and all in it at the end.

    `await fs.temp_dir()` gives the `TempDir`, which has `path`, `close()` and `keep()`.
    Errors: `OSError`. Cancel safety: a directory that was made nevertheless is removed. Thread safety: for tasks.

    Example::

        import freerun
        from freerun import fs

        async def main() -> bool:
            async with fs.temp_dir() as path:
                await fs.write(path / "x", b"")
            return await fs.try_exists(path)

        assert not freerun.run(main)
    """
    return TempDir(prefix, suffix, None if dir is None else as_path(dir, "dir"))


class _Trash:
    """Something that is removed unless it is kept."""

    __slots__ = ("_lock", "_pid", "_remove", "path")

    def __init__(self, path: str, remove: Callable[[str], None]) -> None:
        self.path = path
        self._remove: Callable[[str], None] | None = remove
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @property
    def kept(self) -> bool:
        """Whether it is no trash, or has been removed."""
        return self._remove is None or os.getpid() != self._pid  # after a fork it is the parent's

    def keep(self) -> None:
        """It stays."""
        with self._lock:
            self._remove = None

    def empty(self) -> None:
        """Remove it now. Idempotent; it may be gone already."""
        with self._lock:
            remove = None if self.kept else self._remove
            self._remove = None
        if remove is not None:
            with contextlib.suppress(FileNotFoundError):
                remove(self.path)

    def drop(self) -> None:
        """The same, and no matter if it fails."""
        with contextlib.suppress(OSError):
            self.empty()


def _make_file(prefix: str, suffix: str, dir: str | None) -> tuple[Descriptor, _Trash]:
    number, path = tempfile.mkstemp(suffix, prefix, dir)
    return Descriptor(number), _Trash(path, os.unlink)


def _unmake_file(made: tuple[Descriptor, _Trash]) -> None:
    descriptor, trash = made
    descriptor.close()
    trash.empty()


async def _temp_file(prefix: str, suffix: str, dir: str | None) -> NamedTempFile:
    return NamedTempFile(*await call_made(_unmake_file, _make_file, prefix, suffix, dir))


@final
class NamedTempFile(File):
    """A `File` that is removed when it is closed. Made by `temp_file()`.

    Leaving `async with` removes it, so does `close()`, and garbage collection with a `ResourceWarning`.
    """

    __slots__ = ("_trash",)

    def __init__(self, descriptor: Descriptor, trash: _Trash) -> None:
        super().__init__(descriptor, trash.path)
        self._trash = trash

    async def persist(self, target: StrPath, /) -> None:
        """Give it this name for good, in one step; what had that name is replaced. It stays open.

        What was written is flushed before, not synced: `sync_all()` if it shall survive a crash. `target` must be on
        the same file system, else `OSError` (`EXDEV`). Cancel safety: begun, it is done.
        """
        path = as_path(target, "target")
        await self.flush()
        await must(self._rename, path)

    def _rename(self, path: str) -> None:
        os.replace(self._trash.path, path)
        self._trash.keep()
        self._path = path

    def keep(self) -> Path:
        """It is not removed; where it is."""
        self._trash.keep()
        return Path(self._trash.path)

    def close(self) -> None:
        """Close and remove it."""
        super().close()
        self._trash.empty()

    def __del__(self) -> None:
        super().__del__()
        self._trash.drop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.closed:
                await self.flush()
        finally:
            super().close()
            await must(self._trash.empty)


def _make_dir(prefix: str, suffix: str, dir: str | None) -> _Trash:
    return _Trash(tempfile.mkdtemp(suffix, prefix, dir), _remove_dir)


def _remove_dir(path: str) -> None:
    """What a cancelled task had begun goes on, on other threads, and may make a file in it at any moment."""
    for left in reversed(range(LATECOMERS)):
        try:
            remove_tree(path)
            break
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:  # not empty: something was made since it was listed
                raise


@final
class TempDir:
    """A directory that is removed with all in it. Made by `temp_dir()`.

    Entered, it gives its path. Never closed and not kept, it is removed by garbage collection, with a
    `ResourceWarning`. Cancel safety: as `temp_dir()`.
    """

    __slots__ = ("_closing", "_how", "_trash")

    def __init__(self, prefix: str, suffix: str, dir: str | None) -> None:
        self._how = (prefix, suffix, dir)
        self._trash: _Trash | None = None
        self._closing = False  # a call of the pool removes it, or has

    async def _make(self) -> Self:
        if self._trash is None:
            self._trash = await call_made(_Trash.empty, _make_dir, *self._how)
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._make().__await__()

    @property
    def path(self) -> Path:
        """Where it is. Errors: `RuntimeError` before it was awaited or entered."""
        if self._trash is None:
            raise RuntimeError("this directory has not been made yet; await it, or enter it")
        return Path(self._trash.path)

    def keep(self) -> Path:
        """It is not removed; where it is."""
        path = self.path
        if self._trash is not None:
            self._trash.keep()
        return path

    async def close(self) -> None:
        """Remove it and all in it. Idempotent. Errors: `OSError`. Cancel safety: begun, it goes on to the end."""
        if self._trash is not None:
            self._closing = True
            await must(self._trash.empty)

    async def __aenter__(self) -> Path:
        await self._make()
        return self.path

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._trash is not None and not self._closing and not self._trash.kept:
            warnings.warn(f"temporary directory never closed: {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._trash.drop()

    def __repr__(self) -> str:
        return f"<TempDir {self._trash.path!r}>" if self._trash else "<TempDir not made yet>"
