"""What threads of the blocking pool do with a file's descriptor."""

from __future__ import annotations

import os
import stat

from freerun.io.errors import WriteZero

from ._descriptor import Descriptor

__all__ = ["MOST", "open_descriptor", "rest_of", "write_fully"]

MOST = 1 << 26
"""How much a single read asks for at most: a huge `n` is not a wish for as much memory."""


def open_descriptor(path: str, flags: int, mode: int) -> Descriptor:
    """Open a file; never a directory to write in, which the system refuses by itself."""
    return Descriptor(os.open(path, flags, mode))


def rest_of(fd: int) -> int:
    """How many bytes to ask for, to get what is left of a file: one more, which then shows that it was all.

    Does not wait: the file is open.
    """
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        return 65536
    return min(max(about.st_size - os.lseek(fd, 0, os.SEEK_CUR), 0) + 1, MOST)


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
