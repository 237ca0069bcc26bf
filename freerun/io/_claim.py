"""`Claim`: one task at a time reads a stream, and one writes it; a second one gets an error, not a part of the data."""

from __future__ import annotations

import threading

__all__ = ["Claim"]

STREAM = "this stream; one reader and one writer at a time: split() it"


class Claim:
    """`with claim:` around an operation, its awaits included. Never waits: who comes second is refused."""

    __slots__ = ("_doing", "_lock", "_what")

    def __init__(self, doing: str, what: str = STREAM) -> None:
        self._lock = threading.Lock()  # only ever tried, so it may be held across an await
        self._doing = doing
        self._what = what

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(f"another task is already {self._doing} {self._what}, or put a lock around it")

    def __exit__(self, *error: object) -> None:
        self._lock.release()
