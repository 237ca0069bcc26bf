"""Python stacks of running threads, without racing them.

Another thread's frames may not be walked while it runs on a free-threaded build. `faulthandler` stops the world for it,
so its dump is what this takes apart.
"""

from __future__ import annotations

import re

__all__ = ["Frame", "format_frames", "thread_stacks"]

type Frame = tuple[str, int, str]
"""File, line and function."""

_THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')


def thread_stacks() -> dict[int, list[Frame]]:
    """Each thread's frames, outermost first, by `threading.get_ident()`."""
    import faulthandler
    import tempfile

    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return _parse(file.read().decode(errors="replace"))


def _parse(text: str) -> dict[int, list[Frame]]:
    stacks: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        if thread := _THREAD.match(line):
            frames = stacks.setdefault(int(thread[1], 16), [])
        elif frame := _FRAME.match(line):
            frames.insert(0, (frame[1], int(frame[2]), frame[3]))
    return stacks


def format_frames(frames: list[Frame], indent: str = "") -> str:
    """Frames as a traceback shows them."""
    import linecache

    lines: list[str] = []
    for file, number, function in frames:
        lines.append(f'{indent}  File "{file}", line {number}, in {function}\n')
        if source := linecache.getline(file, number).strip():
            lines.append(f"{indent}    {source}\n")
    return "".join(lines)
