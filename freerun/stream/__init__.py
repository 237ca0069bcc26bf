"""Streams: what can be made of async iterators, inside the task that iterates. Tokio: `tokio_stream`.

They take any async iterable: async generators, receivers of channels, intervals, listeners, one another.
"""

from __future__ import annotations

from ._stream import Stream
from .buffered import buffer_unordered, buffered
from .chunks_timeout import chunks_timeout
from .iter import iter  # noqa: A004
from .merge import merge
from .stream_map import StreamMap
from .throttle import throttle
from .timeout import timeout

__all__ = [
    "Stream",
    "StreamMap",
    "buffer_unordered",
    "buffered",
    "chunks_timeout",
    "iter",
    "merge",
    "throttle",
    "timeout",
]
