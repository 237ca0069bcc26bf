"""`select`: the first of several, polled in one task."""

from __future__ import annotations

from support import every_flavor

import freerun
from freerun.time import sleep


async def value(n: int) -> int:
    return n


@every_flavor
async def test_the_first_wins() -> None:
    assert await freerun.select(sleep(60), sleep(0.001)) == (1, None)
    assert await freerun.select(value(1)) == (0, 1)
    assert await freerun.select(a=value(5)) == ("a", 5)
    assert await freerun.join(value(1), value(2)) == (1, 2)
    assert await freerun.join() == ()
