"""`File`: an open file.

A file has one position, so one task at a time uses it. At most one call is under way for it, on a thread of the pool; a
task that is aborted leaves the call to itself, and whoever comes next waits for it first. What it has read stands then
in the buffer, and what it writes is written to the end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import AsyncIterator, Buffer, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from freerun._arguments import integer
from freerun._core._native import JoinHandle, consume_budget, spawn_file_call
from freerun._errors import Cancelled, JoinError
from freerun.io._buffer import Buffer as Bytes
from freerun.io._buffered import Buffered
from freerun.io._checks import CAPACITY, check_n, contiguous
from freerun.io._claim import Claim

from . import _pool_calls, _ring
from ._calls import Handover, StrPath, result_of
from ._descriptor import Descriptor
from ._opening import Opening
from .metadata import Metadata, Permissions, as_mode
from .open_options import OpenOptions

if TYPE_CHECKING:
    from types import TracebackType

    from .text_file import TextFile

__all__ = ["MAX_BUF_SIZE", "File", "open_file"]

MAX_BUF_SIZE = 2 * 1024 * 1024
"""How much a `write` takes at once, and a `read` gives. Tokio's number."""

REST_UNKNOWN = 65536
"""How much to ask for where nothing says how much there is."""

_FILE = "this file, which has one position; try_clone() it"


class File(Buffered):
    """An open file. Made by `open()`, `create()`, `create_new()`, or `options()` with `open(path)`.

    Bytes: `read`, `read_into`, `read_exact`, `read_to_end`, `write`, `write_all`; UTF-8: `read_to_string`, `read_line`,
    `lines()`, `async for line in file`. `text(encoding)` is the file as text of any encoding.

    Every call runs on the blocking pool, or with io_uring: see `docs/fs.md`.

    `write_all` returns when the system has the bytes. `write`, as Tokio's, takes up to `max_buf_size` of them and
    returns while they are on their way: an error of it is raised by the next operation, `flush()` for one.

    Leaving `async with` flushes and closes; leaving it with an exception closes only. `close()` cannot wait: a write
    that is under way is finished, and the descriptor is closed after that. A file that is never closed gives a
    `ResourceWarning`.

    Errors: `OSError`, `EBADF` for a closed file; `RuntimeError` for a second task while one is using it: each needs its
    own, see `try_clone()`.
    Cancel safety: a read takes nothing: what it was about to read, the next one gives. Of `write` nothing is taken. A
    `write_all` that is cancelled writes all of its bytes, or none if it still waited for an earlier operation; `tell()`
    says which. Thread safety: any thread; what is awaited, inside a task. Tokio: `tokio::fs::File`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> list[str]:
            async with fs.temp_dir() as folder:
                async with fs.File.create(folder / "hello.txt") as file:
                    await file.write_all(b"hello\\nworld\\n")
                async with fs.File.open(folder / "hello.txt") as file:
                    return [line async for line in file]

        assert freerun.run(main) == ["hello", "world"]
    """

    __slots__ = ("__weakref__", "_alone", "_descriptor", "_max", "_op", "_path", "_reads")

    def __init__(self, descriptor: Descriptor, path: str | None = None, alone: bool = False) -> None:
        self._descriptor = descriptor
        self._path = path
        self._buffer = Bytes()
        self._claim = Claim("using", _FILE)
        self._max = MAX_BUF_SIZE
        self._op: JoinHandle[Any] | None = None  # the call under way, or ended and not looked at
        self._reads = False  # it reads
        self._alone = alone  # nobody else moves the position or appends

    # ---- opening ----

    @classmethod
    def open(cls, path: StrPath, /) -> Opening[File]:
        """Open a file to read it. Await it, or enter it: `async with File.open(path) as file`.

        Errors: `OSError`. Cancel safety: a file that was opened nevertheless is closed. Thread safety: for tasks.
        Tokio: `File::open`.
        """
        return OpenOptions().read().open(path)

    @classmethod
    def create(cls, path: StrPath, /) -> Opening[File]:
        """Open a file to write it: it is made, or emptied. Tokio: `File::create`."""
        return OpenOptions().write().create().truncate().open(path)

    @classmethod
    def create_new(cls, path: StrPath, /) -> Opening[File]:
        """Make a file, to read and write it; `FileExistsError` if there is one. Tokio: `File::create_new`."""
        return OpenOptions().read().write().create_new().open(path)

    @classmethod
    def options(cls) -> OpenOptions:
        """How else to open one. Tokio: `File::options`."""
        return OpenOptions()

    @classmethod
    def from_fd(cls, fd: int, /) -> File:
        """Take over an open descriptor, of a file that may be read and written blockingly. Tokio: `File::from_std`."""
        number = integer(fd, "fd", least=0)
        os.fstat(number)
        return File(Descriptor(number))

    # ---- calls ----

    def _read_some(self, n: int) -> None:
        """Begin to read. No call is under way."""
        size = min(n, _pool_calls.MOST)
        op = _ring.read(self._descriptor, size) if self._alone else None
        if op is None:
            read = _pool_calls.read_large if self._descriptor.use(_pool_calls.is_large, size) else os.read
            op = spawn_file_call(False, self._descriptor.use, read, size)
        self._op = op
        self._reads = True

    def _change(self, fn: Callable[..., object], *args: Any) -> None:
        """Begin `fn(descriptor, fd, *args)`, which will run, and must release the descriptor. No call is under way."""
        number = self._descriptor.hold()
        try:
            self._op = spawn_file_call(True, fn, self._descriptor, number, *args)
        except BaseException:
            self._descriptor.release()
            raise

    @property
    def _writes(self) -> bool:
        """Whether a call is under way that changes something."""
        return self._op is not None and not self._reads

    async def _settle(self) -> Any:
        """Wait for the call under way, if there is one: its result. What it read comes into the buffer."""
        op = self._op
        if op is None:
            return None
        try:
            result = await op
        except (Cancelled, GeneratorExit):  # this task's: what the call brings is for whoever comes next
            raise
        except BaseException:
            self._op, self._reads = None, False
            raise
        if self._reads:
            self._buffer.append(result)
        self._op, self._reads = None, False
        return result

    async def _ready(self) -> None:
        """Wait for an earlier operation that was cancelled, or did not wait. Raises its failure."""
        if self._descriptor.closed:
            raise OSError(errno.EBADF, "the file is closed")
        await consume_budget()
        reads = self._reads
        try:
            await self._settle()
        except JoinError:  # a read that a shutdown took out of the queue has taken nothing
            if not reads:
                raise

    async def _do[T](self, fn: Callable[..., T], *args: Any) -> T:
        """Change something, to the end. The file is ready."""
        self._change(_apply, fn, *args)
        result: T = await self._settle()
        return result

    def _give_back(self) -> None:
        """What was read and not given out is before us again, where that can be."""
        if self._buffer:
            with self._descriptor.held() as fd, contextlib.suppress(OSError):  # ESPIPE: it stays in the buffer
                os.lseek(fd, -len(self._buffer), os.SEEK_CUR)
                self._buffer = Bytes()

    # ---- reading ----

    async def _fill(self, want: int | None = 0) -> bool:
        """Read once more into the buffer, `CAPACITY` at least if one may choose; `False` at the end."""
        before = len(self._buffer)
        await self._ready()
        if len(self._buffer) > before:
            return True
        if want is None:
            return await self._fill_up()
        self._read_some(max(want, CAPACITY))
        return len(await self._settle()) > 0

    async def _fill_up(self) -> bool:
        """Read what is left, by its size; `False` if that was all. The file is ready."""
        rest = self._descriptor.use(_pool_calls.rest_of)
        self._read_some(rest + 1 if rest else REST_UNKNOWN)  # the one more would be there if it had grown
        got = len(await self._settle())
        return got > 0 and (got != rest or rest >= _pool_calls.MOST)

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes, and no more than `max_buf_size`; `b""` at the end of the file. Cancel safe.

        It may give fewer before the end. No more is read from the file than was asked for.
        """
        size = min(check_n(n), self._max)
        with self._claim:
            await self._ready()
            if not self._buffer:
                self._read_some(size)
                await self._settle()
            return self._buffer.take(size)

    async def read_into(self, buf: Buffer, /) -> int:
        """Read into a writable buffer, such as a `bytearray`; how many bytes, 0 at the end of the file. Cancel safe."""
        view = memoryview(buf)
        if view.readonly:
            raise TypeError(f"argument 'buf' must be writable, such as a bytearray, not {type(buf).__name__}")
        target = view.cast("B")
        if not target:
            return 0
        data = await self.read(len(target))
        target[: len(data)] = data
        return len(data)

    async def read_to_string(self, encoding: str = "utf-8", errors: str = "strict", *, limit: int | None = None) -> str:
        """Read to the end, as text; line ends stay as they are.

        Errors: `UnicodeDecodeError`, the bytes are in its `.object`; `LimitExceeded`, see `read_to_end`. Cancel safe.
        Tokio: `AsyncReadExt::read_to_string`.
        """
        return (await self.read_to_end(limit=limit)).decode(encoding, errors)

    def __aiter__(self) -> AsyncIterator[str]:
        return self.lines()

    def text(self, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None) -> TextFile:
        """This file as text; see `TextFile`. Do not use both at once."""
        from .text_file import TextFile

        return TextFile(self, encoding, errors, newline)

    # ---- writing ----

    def _begin_write(self, data: bytes) -> None:
        self._give_back()
        self._op = _ring.write(self._descriptor, data) if self._alone else None
        if self._op is None:
            self._change(_pool_calls.write_fully, data)

    async def write(self, data: Buffer, /) -> int:
        """Take up to `max_buf_size` bytes, begin to write them, and say how many; it waits for an earlier write only.

        Call `flush()`, or leave `async with`, to know that they were written. Cancel safe: then none was taken.
        """
        piece = contiguous(data)[: self._max]
        with self._claim:
            await self._ready()
            if piece:
                self._begin_write(_kept(piece))
            return len(piece)

    async def write_all(self, data: Buffer, /) -> None:
        """Write all of `data`, and wait for that.

        Errors: `OSError`, with a note of how many bytes were written. Cancelled while it writes, all is written
        nevertheless; cancelled before, nothing. Tokio: `AsyncWriteExt::write_all`, and a `flush`.
        """
        piece = contiguous(data)
        with self._claim:
            await self._ready()
            if piece:
                self._begin_write(_kept(piece))
                await self._settle()

    async def flush(self) -> None:
        """Wait until the system has what was written; raises the error if it has not. To disk: `sync_all()`.

        Cancel safe. Tokio: `AsyncWriteExt::flush`.
        """
        with self._claim:
            await self._ready()

    async def shutdown(self) -> None:
        """As `flush()`. Tokio does the same."""
        await self.flush()

    # ---- the file itself ----

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position, `offset` from `os.SEEK_SET`, `SEEK_CUR` or `SEEK_END`; the new one.

        Errors: `OSError` for one before the beginning, and for what has none, as a pipe. Cancel safe.
        Tokio: `AsyncSeekExt::seek`.
        """
        with self._claim:
            await self._ready()
            self._give_back()
            if whence in (os.SEEK_SET, os.SEEK_CUR):  # which asks nobody
                with self._descriptor.held() as fd:
                    return os.lseek(fd, offset, whence)
            return await self._do(os.lseek, offset, whence)

    async def rewind(self) -> None:
        """Go to the beginning. Tokio: `AsyncSeekExt::rewind`."""
        await self.seek(0)

    async def tell(self) -> int:
        """The position: where the next byte is read or written. Waits for a write that is under way; cancel safe.

        After a cancelled `write_all` it says how much was written. Tokio: `AsyncSeekExt::stream_position`.
        """
        with self._claim:
            await self._ready()
            with self._descriptor.held() as fd:
                return os.lseek(fd, 0, os.SEEK_CUR) - len(self._buffer)

    async def sync_all(self) -> None:
        """Wait until the disk has it, what is known about the file included. Tokio: `File::sync_all`."""
        with self._claim:
            await self._sync(False)

    async def sync_data(self) -> None:
        """Wait until the disk has the bytes. Tokio: `File::sync_data`."""
        with self._claim:
            await self._sync(True)

    async def _sync(self, data_only: bool) -> None:
        await self._ready()
        self._op = _ring.sync(self._descriptor, data_only)
        if self._op is None:
            self._change(_apply, os.fdatasync if data_only else os.fsync)
        await self._settle()

    async def set_len(self, size: int, /) -> None:
        """Cut the file to that many bytes, or fill it up with zeros; the position stays. Tokio: `File::set_len`."""
        integer(size, "size", least=0)
        with self._claim:
            await self._ready()
            self._give_back()
            await self._do(os.ftruncate, size)

    async def metadata(self) -> Metadata:
        """What is known about it, what was written included. Cancel safe. Tokio: `File::metadata`."""
        with self._claim:
            await self._ready()
            handle = _ring.stat_fd(self._descriptor)
            return Metadata(await result_of(handle or spawn_file_call(False, self._descriptor.use, os.fstat)))

    async def set_permissions(self, permissions: Permissions | int, /) -> None:
        """Who may do what with it: `Permissions`, or a mode such as `0o644`. Tokio: `File::set_permissions`."""
        mode = as_mode(permissions)
        with self._claim:
            await self._ready()
            await self._do(os.fchmod, mode)

    async def try_clone(self) -> File:
        """Another `File` of the same open file: both share its position. Cancel safe. Tokio: `File::try_clone`."""
        with self._claim:
            await self._ready()
            self._give_back()
            self._alone = False
            with self._descriptor.held() as fd:
                return File(Descriptor(os.dup(fd)), self._path)

    async def into_fd(self) -> int:
        """Give the descriptor away, once what was written has been; this file is closed. Tokio: `File::into_std`."""
        with self._claim:
            await self._ready()
            self._give_back()
            return self._descriptor.take()

    @property
    def max_buf_size(self) -> int:
        """How many bytes a `write` takes at once, and a `read` gives: 2 MiB. Tokio: `File::max_buf_size`."""
        return self._max

    def set_max_buf_size(self, size: int, /) -> None:
        """Set `max_buf_size`. Tokio: `File::set_max_buf_size`."""
        self._max = integer(size, "size")

    @property
    def path(self) -> Path | None:
        """What it was opened by; `None` if by a descriptor."""
        return None if self._path is None else Path(self._path)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._descriptor.closed

    def fileno(self) -> int:
        """The descriptor, -1 once closed. It is closed with the file."""
        return self._descriptor.fileno()

    def close(self) -> None:
        """Close it; what is being written is written first, without waiting. Idempotent. Any thread.

        A write that fails after that is reported in the log. What was read and not given out is gone.
        """
        self._descriptor.close()
        self._op = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.closed:
                await self.flush()
        finally:
            self.close()

    def __del__(self) -> None:
        if not self._descriptor.closed:
            warnings.warn(f"unclosed file: {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._descriptor.close()

    def __repr__(self) -> str:
        name = self._path if self._path is not None else f"descriptor {self._descriptor.fileno()}"
        return f"<{type(self).__name__} {name!r}{' closed' if self.closed else ''}>"


def _kept(piece: bytes | memoryview) -> bytes:
    """Bytes that nobody changes while they are written."""
    return piece if type(piece) is bytes else bytes(piece)


def _apply[T](descriptor: Descriptor, number: int, fn: Callable[..., T], *args: Any) -> T:
    try:
        return fn(number, *args)
    finally:
        descriptor.release()


async def open_file(path: str, flags: int, mode: int) -> File:
    """Open it, by io_uring or on the pool."""
    handover = Handover(Descriptor.close)
    handle = _ring.open_path(path, flags, mode, lambda number: handover.made(Descriptor(number)))
    if handle is None:
        handle = spawn_file_call(False, handover.make, _pool_calls.open_descriptor, (path, flags, mode))
    return File(await handover.take(handle), path, alone=not flags & os.O_APPEND)
