"""Reading and writing streams of bytes. Tokio: `tokio::io`."""

from __future__ import annotations

from .errors import UnexpectedEof

__all__ = ["UnexpectedEof"]
