"""What threads of the blocking pool do with a file's descriptor."""

from __future__ import annotations

import os
import stat
import threading

from freerun._core._native import read_in_pieces
from freerun.io.errors import WriteZero

from ._descriptor import Descriptor

__all__ = ["MOST", "PIECE", "is_large", "open_descriptor", "read_large", "rest_of", "write_fully"]

MOST = 1 << 26
"""How much a single read asks for at most: a huge `n` is not a wish for as much memory."""

PIECE = 1 << 18
"""A read of more than this, of a regular file, is made in pieces: see `freerun/_core/py/file_read.c`."""

AT_ONCE = 2 * (os.process_cpu_count() or 1)
"""How many such reads are made at the same time: they wait for the CPU and for memory, so more are slower, and the
worker that a timer wakes waits behind all of them.
"""

PATIENCE = 0.2
"""How long one waits for its turn while no other ends, in seconds. Then it goes ahead: the others may stand before a
file server that does not answer.
"""


class Turns:
    """Who reads much. Pool threads."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(AT_ONCE)
        self._ended = 0  # by any thread, without a lock: it only has to change when one ends

    def take(self) -> bool:
        """Wait for a turn. `False`: go ahead without one."""
        while True:
            before = self._ended
            if self._free.acquire(timeout=PATIENCE):
                return True
            if self._ended == before:
                return False

    def give_back(self) -> None:
        """The turn is over."""
        self._ended += 1
        self._free.release()


_turns = Turns()


def _after_fork() -> None:
    """In the child: whoever had a turn is not there."""
    global _turns
    _turns = Turns()


os.register_at_fork(after_in_child=_after_fork)


def is_large(fd: int, size: int) -> bool:
    """Whether a read of so many bytes is for `read_large`. Does not wait: the file is open."""
    return size > PIECE and stat.S_ISREG(os.fstat(fd).st_mode)


def read_large(fd: int, size: int) -> bytes:
    """Up to `size` bytes of a regular file; fewer only at its end, before an error, or if the system gives fewer."""
    turns = _turns
    mine = turns.take()
    try:
        return read_in_pieces(fd, size, PIECE)
    finally:
        if mine:
            turns.give_back()


def open_descriptor(path: str, flags: int, mode: int) -> Descriptor:
    """Open a file; never a directory to write in, which the system refuses by itself."""
    return Descriptor(os.open(path, flags, mode))


def rest_of(fd: int) -> int:
    """How many bytes are left of a file, if it has a size: a pipe has none, nor what /proc makes up. Else 0.

    Does not wait: the file is open.
    """
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or not about.st_size:
        return 0
    return max(about.st_size - os.lseek(fd, 0, os.SEEK_CUR), 0)


def write_fully(descriptor: Descriptor, fd: int, data: bytes | memoryview) -> None:
    """Write all of it, then give the `hold()` on the descriptor back."""
    rest, done = memoryview(data), 0
    try:
        while done < len(rest):
            n = os.write(fd, rest[done:])
            if n == 0:
                raise WriteZero(descriptor)
            done += n
    except OSError as error:
        error.add_note(f"{done} of {len(rest)} bytes were written")
        raise
    finally:
        descriptor.release()
