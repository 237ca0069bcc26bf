"""Runtimes for isolated work: interpreters take a while to start, so most tests share one of each kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from isolated_support import KINDS
from support import CURRENT, MULTI, Flavor

import freerun

_WAYS = [(kind, flavor) for kind in KINDS for flavor in (CURRENT, MULTI[1])]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """What isolated work runs on."""
    return request.param


@pytest.fixture(scope="session", params=_WAYS, ids=[f"{kind}-{flavor}" for kind, flavor in _WAYS])
def shared(request: pytest.FixtureRequest) -> Iterator[freerun.Runtime]:
    """A runtime with two workers for isolated work, for as long as the tests run."""
    kind, flavor = request.param
    runtime = build(kind, flavor)
    yield runtime
    runtime.shutdown()


def build(kind: str, flavor: Flavor) -> freerun.Runtime:
    """With two workers for isolated work."""
    return flavor.builder().worker_threads(2).workers(kind).build()


@pytest.fixture
def interpreters(kind_is: str = "interpreters") -> Iterator[freerun.Runtime]:
    """A fresh runtime with two interpreters."""
    runtime = build("interpreters", CURRENT)
    yield runtime
    runtime.shutdown()
