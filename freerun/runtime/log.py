"""The logger `freerun`. The logging module is imported when there is something to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["logger"]


def logger() -> Logger:
    """The logger that every report of freerun goes to."""
    import logging

    return logging.getLogger("freerun")
