"""How a file function gets to a thread that may block, and checks of the arguments they share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from freerun._core._native import JoinHandle, spawn_file_call
from freerun._errors import Cancelled

__all__ = ["Handover", "StrPath", "as_path", "call", "call_made", "must", "result_of"]

type StrPath = str | os.PathLike[str]
"""Where something is in the file system: a string or a `pathlib.Path`."""


async def call[*Ts, T](fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call it on the blocking pool. Cancelled before it has started, it does not start."""
    return await result_of(spawn_file_call(False, fn, *args))


async def call_made[*Ts, T](undo: Callable[[T], object], make: Callable[[*Ts], T], *args: *Ts) -> T:
    """The same for a call that makes something: if nobody takes it any more, it is undone."""
    handover = Handover(undo)
    return await handover.take(spawn_file_call(False, handover.make, make, args))


async def result_of[T](handle: JoinHandle[T]) -> T:
    """Wait for it. Cancelled before it has started, it does not start."""
    try:
        return await handle
    except Cancelled:
        handle.abort()
        raise


class Handover[T]:
    """From a pool thread to a task that may have been aborted. Who comes second undoes; both, on any thread."""

    __slots__ = ("_given_up", "_lock", "_made", "_undo")

    def __init__(self, undo: Callable[[T], object]) -> None:
        self._undo = undo
        self._lock = threading.Lock()
        self._made: list[T] = []
        self._given_up = False

    def make(self, make: Callable[..., T], args: tuple[object, ...]) -> T:
        """Make it, on a pool thread."""
        return self.made(make(*args))

    def made(self, made: T) -> T:
        """It is made, on any thread."""
        with self._lock:
            given_up = self._given_up
            self._made.append(made)
        if given_up:
            self._undo(made)
        return made

    async def take(self, handle: JoinHandle[T]) -> T:
        """Wait for it, or give it up."""
        try:
            return await handle
        except BaseException:
            handle.abort()
            self.give_up()
            raise

    def give_up(self) -> None:
        """Nobody takes it."""
        with self._lock:
            self._given_up = True
            made = list(self._made)
        for each in made:
            self._undo(each)


async def must[*Ts, T](fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call what changes something: it runs to its end, whoever is cancelled and whatever is shut down."""
    return await spawn_file_call(True, fn, *args)


def as_path(path: StrPath, argument: str = "path") -> str:
    """Check a path; a descriptor is not one."""
    try:
        text = os.fspath(path)
    except TypeError:
        kind = type(path).__name__
        raise TypeError(f"argument '{argument}' must be a str or a path, not {kind}: {path!r}") from None
    if not isinstance(text, str):
        raise TypeError(f"argument '{argument}' must be a str or a path, not bytes; use os.fsdecode(): {path!r}")
    if "\0" in text:
        raise ValueError(f"argument '{argument}' must not contain a null character: {text!r}")
    return text
