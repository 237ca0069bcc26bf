"""Whole files in one call on the pool: `read`, `read_to_string`, `write`, `copy`."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Buffer

from freerun.io._checks import contiguous

from ._calls import StrPath, as_path, call, must
from ._pool_calls import PIECE, read_large

__all__ = ["copy", "read", "read_to_string", "write"]


async def read(path: StrPath, /) -> bytes:
    """All bytes of a file.

    Errors: `OSError`. Cancel safety: nothing changes. Thread safety: for tasks. Tokio: `tokio::fs::read`.

    Example::

        import freerun
        from freerun import fs

        assert freerun.run(fs.read, "/dev/null") == b""
    """
    return await call(_read, as_path(path))


async def read_to_string(path: StrPath, /, encoding: str = "utf-8", errors: str = "strict") -> str:
    """All of a file, as text; line ends stay as they are.

    Errors: `OSError`, `UnicodeDecodeError`. Cancel safety: nothing changes. Thread safety: for tasks.
    Tokio: `tokio::fs::read_to_string`.

    Example::

        import freerun
        from freerun import fs

        assert freerun.run(fs.read_to_string, "/proc/sys/kernel/ostype") == "Linux\\n"
    """
    return await call(_read_text, as_path(path), encoding, errors)


async def write(path: StrPath, data: Buffer | str, /) -> None:
    """Make a file of these bytes, or of this text in UTF-8; what it held before is gone.

    Not atomic: who reads meanwhile sees a part, and so does everybody after an error (a full disk) or a crash. To have
    all or nothing, write to `temp_file(dir=)`, `sync_all()` it, and `persist(path)` it.

    Errors: `OSError`. Cancel safety: begun, it is written to the end all the same, a shutdown of the runtime included.
    Thread safety: for tasks. Tokio: `tokio::fs::write`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> bytes:
            async with fs.temp_dir() as folder:
                await fs.write(folder / "x", "text, or bytes")
                return await fs.read(folder / "x")

        assert freerun.run(main) == b"text, or bytes"
    """
    text = as_path(path)
    piece = data.encode() if isinstance(data, str) else contiguous(data)
    await must(_write, text, piece if isinstance(piece, bytes) else bytes(piece))


async def copy(source: StrPath, target: StrPath, /) -> int:
    """Copy a file's bytes and permissions; how many bytes. `target` is replaced if it is there; links are followed.

    Errors: `OSError`; `shutil.SameFileError` for a file onto itself. Cancel safety: begun, it copies all the same.
    Thread safety: for tasks. Tokio: `tokio::fs::copy`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> int:
            async with fs.temp_dir() as folder:
                await fs.write(folder / "a", b"12345")
                return await fs.copy(folder / "a", folder / "b")

        assert freerun.run(main) == 5
    """
    return await must(_copy, as_path(source, "source"), as_path(target, "target"))


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        about = os.fstat(file.fileno())
        if about.st_size <= PIECE or not stat.S_ISREG(about.st_mode):
            return file.readall()
        data = read_large(file.fileno(), about.st_size + 1)
        rest = file.readall()  # if it has grown, or the system gave less than there is
        return data + rest if rest else data


def _read_text(path: str, encoding: str, errors: str) -> str:
    return _read(path).decode(encoding, errors)


def _write(path: str, data: bytes) -> None:
    rest, done = memoryview(data), 0
    with open(path, "wb", buffering=0) as file:
        try:
            while done < len(rest):
                done += file.write(rest[done:])
        except OSError as error:
            error.filename = path
            error.add_note(f"{done} of {len(rest)} bytes were written")
            raise


def _copy(source: str, target: str) -> int:
    shutil.copyfile(source, target)
    shutil.copymode(source, target)
    return os.stat(target).st_size
