"""These tests run with every driver there is."""

from __future__ import annotations

import pytest
import support


@pytest.fixture(params=support.FLAVORS_AND_DRIVERS, ids=str)
def flavor(request: pytest.FixtureRequest) -> support.Flavor:
    """Flavours, each with each driver."""
    return request.param
