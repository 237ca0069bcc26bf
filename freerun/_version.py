"""The version of this installation; its one place is meson.build."""

from __future__ import annotations

from ._core._native import __version__

__all__ = ["__version__"]
