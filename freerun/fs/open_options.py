"""`OpenOptions`: how a file is opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self, final

from freerun._arguments import flag, integer

from ._calls import StrPath, as_path
from ._opening import Opening

if TYPE_CHECKING:
    from .file import File

__all__ = ["OpenOptions"]


@final
class OpenOptions:
    """How a file is opened, then `open(path)`. Every setter checks its argument and returns the options.

    Made by `File.options()` or `OpenOptions()`; nothing is set. Options may open several files.

    Errors: `TypeError` and `ValueError` that name the argument. Thread safety: for one thread at a time.
    Tokio: `tokio::fs::OpenOptions`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> bytes:
            async with fs.temp_dir() as folder:
                for part in (b"one ", b"two"):
                    async with fs.File.options().append(True).create(True).open(folder / "log") as file:
                        await file.write_all(part)
                return await fs.read(folder / "log")

        assert freerun.run(main) == b"one two"
    """

    __slots__ = ("_append", "_create", "_create_new", "_custom", "_mode", "_read", "_truncate", "_write")

    def __init__(self) -> None:
        self._read = self._write = self._append = self._truncate = self._create = self._create_new = False
        self._mode = 0o666
        self._custom = 0

    def read(self, read: bool = True, /) -> Self:
        """It can be read."""
        self._read = flag(read, "read")
        return self

    def write(self, write: bool = True, /) -> Self:
        """It can be written; what is there is overwritten, not removed."""
        self._write = flag(write, "write")
        return self

    def append(self, append: bool = True, /) -> Self:
        """Each write goes to the end of the file, wherever that is by then. Implies `write`."""
        self._append = flag(append, "append")
        return self

    def truncate(self, truncate: bool = True, /) -> Self:
        """It is emptied. Needs `write`."""
        self._truncate = flag(truncate, "truncate")
        return self

    def create(self, create: bool = True, /) -> Self:
        """It is made if there is none. Needs `write` or `append`."""
        self._create = flag(create, "create")
        return self

    def create_new(self, create_new: bool = True, /) -> Self:
        """It is made; `FileExistsError` if there is one, or a link of that name. Needs `write` or `append`."""
        self._create_new = flag(create_new, "create_new")
        return self

    def mode(self, mode: int, /) -> Self:
        """Permissions of a file that is made, less the process's umask; 0o666 unless given."""
        self._mode = integer(mode, "mode", least=0, most=0o7777)
        return self

    def custom_flags(self, flags: int, /) -> Self:
        """More flags for open(2), `os.O_NOFOLLOW` for one; those that say read or write are ignored."""
        self._custom = integer(flags, "flags", least=0, most=0x7FFFFFFF)
        return self

    def flags(self) -> int:
        """What open(2) is given. Errors: `ValueError` for what does not go together."""
        writes = self._write or self._append
        if not (self._read or writes):
            raise ValueError("the file would be opened for nothing; call read(True), write(True) or append(True)")
        if (self._create or self._create_new) and not writes:
            raise ValueError("create() and create_new() need write(True) or append(True)")
        if self._truncate and not self._write:
            raise ValueError("truncate() needs write(True)")
        if self._truncate and self._append:
            raise ValueError("truncate() and append() do not go together")
        access = os.O_RDWR if self._read and writes else os.O_WRONLY if writes else os.O_RDONLY
        chosen = access | os.O_CLOEXEC | (self._custom & ~os.O_ACCMODE)
        if self._append:
            chosen |= os.O_APPEND
        if self._create_new:
            return chosen | os.O_CREAT | os.O_EXCL
        return chosen | (os.O_CREAT if self._create else 0) | (os.O_TRUNC if self._truncate else 0)

    def open(self, path: StrPath, /) -> Opening[File]:
        """Open it. Await it, or enter it: `async with options.open(path) as file`.

        Errors: `OSError`; `ValueError` for options that do not go together. Cancel safety: a file that was opened
        nevertheless is closed. Thread safety: for tasks. Tokio: `OpenOptions::open`.
        """
        from .file import open_file

        return Opening(open_file(as_path(path), self.flags(), self._mode))

    def __repr__(self) -> str:
        chosen = [
            name
            for name in ("read", "write", "append", "truncate", "create", "create_new")
            if getattr(self, f"_{name}")
        ]
        return f"<OpenOptions {' '.join(chosen) or 'nothing'}>"
