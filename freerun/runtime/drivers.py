"""Which drivers there are, which one `"auto"` takes, and why."""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING

from freerun._core._native import io_uring_errno

from .log import logger

if TYPE_CHECKING:
    from freerun._core._native import Core

__all__ = ["AUTO", "AUTO_WHY", "FILES", "FILES_WHY", "available", "refusal", "say_if_refused", "wants_io_uring"]

AUTO = "epoll"
AUTO_WHY = "the default: as fast as io_uring with sockets, or faster; see docs/design/driver.md"

FILES = {"epoll": "pool", "io_uring": "io_uring"}
"""What open files are read and written with, by the driver."""
FILES_WHY = 'goes with the driver: the blocking pool with epoll, the ring with driver("io_uring"); see docs/fs.md'


@functools.cache
def refusal() -> str | None:
    """Why this system has no io_uring for us, or None."""
    number = io_uring_errno()
    match number:
        case 0:
            return None
        case errno.ENOSYS:
            why = "this kernel has no io_uring, or freerun was built without its headers"
        case errno.EPERM | errno.EACCES:
            why = "it is forbidden here (seccomp, or the sysctl kernel.io_uring_disabled)"
        case errno.EOPNOTSUPP:
            why = "this kernel's io_uring is too old; freerun needs Linux 5.13"
        case errno.ENOMEM:
            why = "not enough memory may be locked (ulimit -l)"
        case _:
            why = os.strerror(number)
    return f"{why} [{errno.errorcode.get(number, number)}]"


def available() -> tuple[str, ...]:
    """The names that `Builder.driver` honours here."""
    return ("epoll",) if refusal() else ("epoll", "io_uring")


def wants_io_uring(name: str) -> bool:
    """What `Builder.driver(name)` comes to; says so when it is not what was asked for."""
    if name != "io_uring":
        return name == "auto" and AUTO == "io_uring" and refusal() is None
    if why := refusal():
        logger().warning('driver("io_uring"): using epoll: %s', why)
    return not refusal()


def say_if_refused(wanted: bool, core: Core) -> None:
    """A kernel that has io_uring may still have no room for another one at this moment."""
    if wanted and core.metrics()["driver"] != "io_uring":
        logger().warning('driver("io_uring"): using epoll: this one was refused, for want of memory or descriptors')
