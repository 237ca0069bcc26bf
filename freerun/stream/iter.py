"""`iter`: an ordinary iterable as a stream. Tokio: `tokio_stream::iter`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from freerun._core._native import consume_budget

__all__ = ["iter"]


async def iter[T](iterable: Iterable[T], /) -> AsyncGenerator[T]:
    """An async generator over the items of an ordinary iterable.

    Errors: `TypeError`, at the first item, if it is none; what it raises. Cancel safety: it never waits, but gives way
    to other tasks; cancelled there, it ends, as every async generator. Thread safety: one task at a time. Tokio:
    `tokio_stream::iter`.

    Example::

        import freerun
        from freerun import stream

        async def main() -> list[str]:
            return [item async for item in stream.iter("abc")]

        assert freerun.run(main) == ["a", "b", "c"]
    """
    for item in iterable:
        await consume_budget()
        yield item
