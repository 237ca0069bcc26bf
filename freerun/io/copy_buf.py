"""`copy_buf`: as `copy`, from a stream with a buffer, without losing a byte when it is cancelled."""

from __future__ import annotations

from freerun._core._native import consume_budget

from ._checks import check_reader, check_writer, flush_inner
from .errors import WriteZero
from .protocols import AsyncBufRead, AsyncWrite

__all__ = ["copy_buf"]


async def copy_buf(reader: AsyncBufRead, writer: AsyncWrite, /) -> int:
    """Copy until `reader`, a `BufReader` for one, ends; how many bytes that were. `writer` is flushed, not shut down.

    Errors: those of either stream. Cancel safety: no byte is lost or repeated, call it again; only the count of the
    cancelled call is not known. Thread safety: for tasks. Tokio: `tokio::io::copy_buf`.

    Example::

        import freerun
        from freerun import io

        async def main() -> tuple[int, bytes]:
            ours, theirs = io.duplex(64)
            reader = io.BufReader(io.repeat(b"x").take(5))
            count = await io.copy_buf(reader, ours)
            return count, await theirs.read()

        assert freerun.run(main) == (5, b"xxxxx")
    """
    check_reader(reader, "reader")
    if not callable(getattr(reader, "fill_buf", None)):
        raise TypeError(f"argument 'reader' must have fill_buf() and consume(n): BufReader(stream), not {reader!r}")
    check_writer(writer, "writer")
    total = 0
    while data := await reader.fill_buf():
        n = await writer.write(data)
        if n == 0:
            raise WriteZero(writer)
        reader.consume(n)  # at once: a cancellation between the two would repeat these bytes
        total += n
        await flush_inner(writer)
        await consume_budget()
    await flush_inner(writer)
    return total
