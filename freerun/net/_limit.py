"""The deadline of whatever here takes a `timeout`."""

from __future__ import annotations

from freerun.time._within import Within

__all__ = ["Within"]
