"""Counts the words of every text below a directory, files in parallel, and writes the result in one step.

    python examples/files.py [directory]

Without a directory it makes one with a few texts, and removes it afterwards.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import freerun
from freerun import fs


async def words_of(path: Path) -> Counter[str]:
    """Read one file line by line: however large it is, one line is in memory."""
    words: Counter[str] = Counter()
    async with (await fs.File.open(path)).text(errors="replace") as text:
        async for line in text:
            words.update(line.lower().split())
    return words


async def count(directory: Path) -> Counter[str]:
    """One task for each file. At most 512 calls are in the blocking pool at a time; the workers never wait."""
    tasks: list[freerun.JoinHandle[Counter[str]]] = []
    async for folder, _, files in fs.walk(directory):
        tasks += [freerun.spawn(words_of, folder / name) for name in files if name.endswith(".txt")]
    total: Counter[str] = Counter()
    for task in tasks:
        total += await task
    return total


async def save(path: Path, words: Counter[str]) -> None:
    """The old file or the whole new one, whatever happens meanwhile."""
    async with fs.temp_file(dir=path.parent) as file:
        for word, times in words.most_common():
            await file.write(f"{times:6} {word}\n".encode())
        await file.sync_all()
        await file.persist(path)


async def demo() -> None:
    """Make some texts, count them."""
    async with fs.temp_dir() as folder:
        for i in range(100):
            await fs.write(folder / f"{i}.txt", "the quick brown fox\njumps over the lazy dog\n" * (i + 1))
        await report(folder)


async def report(folder: Path) -> None:
    """Count, save, and show the most frequent words."""
    words = await count(folder)
    await save(folder / "words.count", words)
    async with fs.File.open(folder / "words.count") as file:
        for _ in range(min(5, len(words))):
            print((await file.read_line()).rstrip())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        freerun.run(report, Path(sys.argv[1]))
    else:
        freerun.run(demo)
