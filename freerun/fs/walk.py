"""`walk`: a directory and all that are below it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from freerun._arguments import flag

from ._calls import StrPath, as_path, call

__all__ = ["walk"]

type Visit = tuple[Path, list[str], list[str]]


def walk(
    path: StrPath,
    /,
    *,
    top_down: bool = True,
    follow_symlinks: bool = False,
    on_error: Callable[[OSError], object] | None = None,
) -> AsyncIterator[Visit]:
    """A directory and all below it: `async for folder, dirs, files in fs.walk(path)`, as `pathlib.Path.walk`.

    One call on the pool for each directory, whose names are all in memory; `read_dir` is for huge ones. With
    `top_down`, take names out of `dirs` to leave them out. A directory that cannot be read is left out; `on_error`,
    which is called on a pool thread, hears of it.

    Errors: `TypeError` for a bad argument, what `on_error` raises. Cancel safety: a directory may be lost.
    Thread safety: one task at a time. Tokio has none; as the crate `walkdir`.

    Example::

        import freerun
        from freerun import fs

        async def main() -> list[str]:
            async with fs.temp_dir() as top:
                await fs.create_dir_all(top / "a" / "b")
                return [str(folder.relative_to(top)) async for folder, dirs, files in fs.walk(top)]

        assert freerun.run(main) == [".", "a", "a/b"]
    """
    flag(top_down, "top_down")
    flag(follow_symlinks, "follow_symlinks")
    return _walk(Path(as_path(path)).walk(top_down, on_error, follow_symlinks))


async def _walk(visits: Iterator[Visit]) -> AsyncIterator[Visit]:
    while (visit := await call(next, visits, None)) is not None:
        yield visit
