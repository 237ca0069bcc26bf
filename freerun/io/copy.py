"""`copy`: everything that a stream has, into another one."""

from __future__ import annotations

from freerun._core._native import consume_budget

from ._checks import CAPACITY, check_reader, check_writer, flush_inner
from .protocols import AsyncRead, AsyncWrite

__all__ = ["copy"]


async def copy(reader: AsyncRead, writer: AsyncWrite, /) -> int:
    """Copy until `reader` ends; how many bytes that were. `writer` is flushed as the bytes come, and not shut down.

    Errors: those of either stream. Cancel safety: what was read and not yet written, up to 64 KiB, is lost, and it is
    not known how much was copied; `copy_buf` loses nothing. Thread safety: for tasks. Tokio: `tokio::io::copy`.

    Example::

        import freerun
        from freerun import io

        async def main() -> tuple[int, bytes]:
            ours, theirs = io.duplex(64)
            count = await io.copy(io.repeat(b"x").take(5), ours)
            ours.close()
            return count, await theirs.read_to_end()

        assert freerun.run(main) == (5, b"xxxxx")
    """
    check_reader(reader, "reader")
    check_writer(writer, "writer")
    total = 0
    while data := await reader.read(CAPACITY):
        await writer.write_all(data)
        await flush_inner(writer)
        total += len(data)
        await consume_budget()
    await flush_inner(writer)
    return total
