"""Requests of files to io_uring. Each is a `JoinHandle`, or None where the runtime has none: then the pool does it.

Reads and writes name the position, and the file's own moves when they are done; so they are for files that nobody else
moves or appends to. A request goes on when its task is aborted, as a call on the pool does; a read is asked to stop.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

from freerun._core._native import JoinHandle, file_request

from ._descriptor import Descriptor

__all__ = ["open_path", "read", "stat_fd", "stat_path", "sync", "write"]

READ, WRITE, SYNC, OPEN, STAT = range(5)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000


def read(descriptor: Descriptor, n: int) -> JoinHandle[bytes] | None:
    """Read once, up to `n` bytes, at the file's position."""
    return _held(False, READ, descriptor, n, position_of)


def write(descriptor: Descriptor, data: bytes) -> JoinHandle[None] | None:
    """Write all of it, at the file's position."""
    return _held(True, WRITE, descriptor, data, position_of)


def sync(descriptor: Descriptor, data_only: bool) -> JoinHandle[None] | None:
    """fsync(2) or fdatasync(2)."""
    return _held(True, SYNC, descriptor, None, nowhere, int(data_only))


def stat_fd(descriptor: Descriptor) -> JoinHandle[os.stat_result] | None:
    """fstat(2)."""
    return _held(False, STAT, descriptor, b"", nowhere, AT_EMPTY_PATH, stat_result)


def stat_path(path: str, follow: bool) -> JoinHandle[os.stat_result] | None:
    """stat(2) or lstat(2)."""
    flags = 0 if follow else AT_SYMLINK_NOFOLLOW
    return file_request(False, STAT, AT_FDCWD, os.fsencode(path), -1, flags, 0, path, stat_result, None)


def open_path[T](path: str, flags: int, mode: int, wrap: Callable[[int], T]) -> JoinHandle[T] | None:
    """open(2); `wrap` takes the descriptor over."""
    return file_request(False, OPEN, AT_FDCWD, os.fsencode(path), -1, flags, mode, path, wrap, None)


def position_of(number: int) -> int:
    """Where the file is; -1 of a pipe and the like."""
    try:
        return os.lseek(number, 0, os.SEEK_CUR)
    except OSError:
        return -1


def nowhere(_: int) -> int:
    """Where it is does not matter."""
    return -1


def _held(
    must: bool,
    kind: int,
    descriptor: Descriptor,
    data: bytes | int | None,
    where: Callable[[int], int],
    flags: int = 0,
    wrap: Any = None,
) -> JoinHandle[Any] | None:
    number = descriptor.hold()
    handle = None
    try:
        handle = file_request(must, kind, number, data, where(number), flags, 0, None, wrap, descriptor.release)
    finally:
        if handle is None:
            descriptor.release()
    return handle


# The fields of struct statx up to stx_rdev and stx_dev, see statx(2).
_STATX = struct.Struct("=IIQIIIHxxQQQQ" + "qIxxxx" * 4 + "IIII")


def stat_result(raw: bytes) -> os.stat_result:
    """What `os.stat` would have said."""
    _, blksize, _, nlink, uid, gid, mode, ino, size, blocks, _, *rest = _STATX.unpack_from(raw)
    atime, atime_ns, _, _, ctime, ctime_ns, mtime, mtime_ns = rest[:8]
    rdev, dev = os.makedev(*rest[8:10]), os.makedev(*rest[10:12])
    more: dict[str, Any] = {"st_blksize": blksize, "st_blocks": blocks, "st_rdev": rdev}
    for name, whole, ns in (("atime", atime, atime_ns), ("mtime", mtime, mtime_ns), ("ctime", ctime, ctime_ns)):
        more[f"st_{name}"] = whole + ns * 1e-9
        more[f"st_{name}_ns"] = whole * 1_000_000_000 + ns
    return os.stat_result((mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime), more)
