"""`PENDING`: what a look gives while there is nothing yet. (`None`, and everything else, is a value like any other.)"""

from __future__ import annotations

import enum
from typing import Final, Literal

__all__ = ["PENDING", "Pending"]


class _Pending(enum.Enum):
    PENDING = enum.auto()

    def __repr__(self) -> str:
        return self.name


type Pending = Literal[_Pending.PENDING]

PENDING: Final = _Pending.PENDING
