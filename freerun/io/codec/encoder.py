"""`Encoder`: frames to bytes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Encoder"]


class Encoder[T](Protocol):
    """Puts frames into bytes: what `FramedWrite` needs. Define `encode`; a base class is not needed.

    Tokio: `tokio_util::codec::Encoder`.

    Example::

        import freerun
        from freerun import io
        from freerun.io.codec import FramedWrite

        class Numbers:
            def encode(self, item: int, dst: bytearray) -> None:
                dst += item.to_bytes(2)

        async def main() -> bytes:
            ours, theirs = io.duplex(64)
            await FramedWrite(ours, Numbers()).send(258)
            return await theirs.read()

        assert freerun.run(main) == b"\\x01\\x02"
    """

    def encode(self, item: T, dst: bytearray, /) -> None:
        """Append `item` to `dst`. If it raises, what it appended is removed again."""
        ...
