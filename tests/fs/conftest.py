"""These tests run with every driver there is: with epoll files are the blocking pool's, with io_uring the ring's."""

from __future__ import annotations

import pytest
import support


@pytest.fixture(params=support.FLAVORS_AND_DRIVERS, ids=str)
def flavor(request: pytest.FixtureRequest) -> support.Flavor:
    """Flavours, each with each driver."""
    return request.param
