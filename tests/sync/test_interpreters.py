"""`sync` in several interpreters at the same time, each with its own GIL: they share nothing, nor do the C parts."""

from __future__ import annotations

from typing import Any

import pytest
import sync_everywhere

import freerun


@pytest.mark.parametrize("kind", ["interpreters", "threads"])
def test_everything_at_once(kind: str) -> None:
    async def main() -> list[Any]:
        tasks = [freerun.spawn_isolated(sync_everywhere.everything, 20) for _ in range(6)]
        tasks.append(freerun.spawn(sync_everywhere.everything, 20))
        return [await task for task in tasks]

    with freerun.Builder().worker_threads(2).workers(kind).build() as runtime:
        results = runtime.block_on(main)
    assert results == [((570, 63, "once", "to all", "latest"), (2, 1, 7, 8))] * 7
