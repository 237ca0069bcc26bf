"""`Instant`."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import every_flavor

from freerun.time import Instant, sleep

seconds = st.floats(min_value=0, max_value=1e9)
instants = st.integers(min_value=-(1 << 62), max_value=1 << 62).map(Instant)


@every_flavor
async def test_now_moves_on() -> None:
    first = Instant.now()
    await sleep(0.002)
    assert Instant.now() > first
    assert first.elapsed() >= 0.002
    assert Instant.now() - first >= 0.002
    assert first - Instant.now() < 0
    assert first.duration_since(Instant.now()) == 0.0
    assert Instant.now().duration_since(first) > 0


def test_outside_a_runtime() -> None:
    before = time.monotonic_ns()
    assert before <= Instant.now().ns <= time.monotonic_ns()


@given(instants, seconds)
def test_arithmetic(instant: Instant, s: float) -> None:
    later = instant + s
    assert later >= instant
    assert later == s + instant
    assert later - s == instant
    assert later - instant == pytest.approx(s, abs=1e-6)
    assert instant - later == -(later - instant)
    assert instant + dt.timedelta(seconds=1) == instant + 1
    assert hash(instant + 0) == hash(instant)


@given(instants, instants)
def test_order(a: Instant, b: Instant) -> None:
    assert (a < b) == (a.ns < b.ns)
    assert (a == b) == (a.ns == b.ns)
    assert a.duration_since(b) >= 0


@pytest.mark.parametrize("bounds", [float("inf"), 1e300, 1e18, dt.timedelta.max], ids=repr)
def test_beyond_all_bounds(bounds: Any) -> None:
    now = Instant.now()
    assert now + bounds > now + 1e9
    assert now - bounds < now - 1e9
    assert (now + bounds).elapsed() < -1e9


def test_bad_arithmetic() -> None:
    now = Instant.now()
    for bad, error in ((-1, ValueError), (float("nan"), ValueError), (10**400, ValueError), ("x", TypeError)):
        with pytest.raises(error):
            now + bad
        with pytest.raises(error):
            now - bad
    with pytest.raises(TypeError):
        now < 5
    with pytest.raises(AttributeError):
        now.ns = 5  # type: ignore[misc]
