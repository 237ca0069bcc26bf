"""Asynchronous generators: closed in a task when they are dropped, at shutdown at the latest."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from engine_support import drive, outcome
from support import MULTI, Flavor, every_flavor, only, until

import freerun


class Log(list[str]):
    """What generators did."""

    async def numbers(self, cleanup: str = "closed") -> AsyncGenerator[int]:
        """Counts; its cleanup awaits, and tells whether it did so in a task."""
        try:
            for i in range(1000):
                await freerun.yield_now()
                yield i
        finally:
            await freerun.time.sleep(0.001)
            freerun.lowlevel.current_task()
            self.append(cleanup)


@every_flavor
async def test_runs_to_its_end() -> None:
    log = Log()
    assert [i async for i in log.numbers()] == list(range(1000))
    assert log == ["closed"]


@every_flavor
async def test_dropped_by_break() -> None:
    """Nobody awaits its cleanup; a task does it."""
    log = Log()
    async for i in log.numbers():
        if i == 3:
            break
    gc.collect()
    await until(lambda: log == ["closed"])


@every_flavor
async def test_explicit_close() -> None:
    log = Log()
    generator = log.numbers()
    assert await anext(generator) == 0
    await generator.aclose()
    assert log == ["closed"]
    del generator
    gc.collect()
    await freerun.yield_now()
    assert log == ["closed"]


@every_flavor
async def test_dropped_with_its_task() -> None:
    log = Log()

    async def task() -> None:
        async for _ in log.numbers():
            await freerun.time.sleep(3600)

    handles = [freerun.spawn(task) for _ in range(20)]
    await until(lambda: all("waiting" in repr(handle) for handle in handles))
    for handle in handles:
        handle.abort()
    del handle
    handles.clear()

    def closed() -> bool:
        gc.collect()
        return len(log) == 20

    await until(closed)


@only(*MULTI)
@every_flavor
async def test_dropped_in_a_blocking_call() -> None:
    """On a thread that is no worker."""
    log = Log()
    box = [log.numbers()]
    await anext(box[0])

    def drop() -> None:
        box.clear()
        gc.collect()

    await freerun.spawn_blocking(drop)
    await until(lambda: log == ["closed"])


def test_open_at_shutdown(flavor: Flavor) -> None:
    log = Log()
    kept: list[Any] = []

    async def main() -> None:
        for i in range(10):
            generator = log.numbers(str(i))
            await anext(generator)
            kept.append(generator)

    with flavor.builder().build() as rt:
        rt.block_on(main)
        assert not log
    assert sorted(log) == [str(i) for i in range(10)]


def test_iterated_by_a_task_at_shutdown(flavor: Flavor) -> None:
    """The task is cancelled inside the generator, whose cleanup runs once, in that task."""
    log = Log()

    async def waits() -> AsyncGenerator[int]:
        try:
            yield 1
            await freerun.time.sleep(3600)
        finally:
            await freerun.time.sleep(0.001)
            log.append(str(freerun.lowlevel.current_task().id))

    async def task() -> None:
        async for _ in waits():
            pass

    with flavor.builder().build() as rt:
        handle = rt.spawn(task)
        drive(rt, lambda: "waiting" in repr(handle))
    assert outcome(handle) == "cancelled"
    assert log == [str(handle.id)]


def test_one_whose_cleanup_opens_another(flavor: Flavor) -> None:
    log = Log()
    kept: list[Any] = []

    async def outer() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            inner = log.numbers("inner")
            await anext(inner)
            kept.append(inner)
            log.append("outer")

    async def main() -> None:
        generator = outer()
        await anext(generator)
        kept.append(generator)

    with flavor.builder().build() as rt:
        rt.block_on(main)
    assert log == ["outer", "inner"]


def test_a_cleanup_that_fails_is_reported(flavor: Flavor, reports: Any) -> None:
    kept = []

    async def bad() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            raise LookupError("in cleanup")

    async def main() -> None:
        kept.append(bad())
        await anext(kept[0])

    with flavor.builder().build() as rt:
        rt.block_on(main)
    (report,) = [record for record in reports if record.levelno >= logging.ERROR]
    assert "bad" in report.getMessage()
    assert report.exc_info
    assert isinstance(report.exc_info[1], LookupError)


def test_a_cleanup_that_does_not_end(flavor: Flavor, reports: Any) -> None:
    """The deadline holds for it, too."""
    kept = []

    async def endless() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            await freerun.time.sleep(3600)

    async def main() -> None:
        kept.append(endless())
        await anext(kept[0])

    rt = flavor.builder().build()
    rt.block_on(main)
    rt.shutdown(timeout=0.1)
    assert "this did not end" in reports[0].getMessage()


def test_dropped_after_shutdown(flavor: Flavor) -> None:
    """There is no task to close it in, and nothing to warn about."""
    log: list[str] = []

    async def simple() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            log.append("closed")

    async def main() -> Any:
        generator = simple()
        await anext(generator)
        return generator

    with flavor.builder().build() as rt:
        generator = rt.block_on(main)
    assert log == ["closed"]
    with pytest.raises(StopAsyncIteration):
        generator.__anext__().send(None)
    del generator
    gc.collect()


def test_the_callers_hooks_are_kept(rt: freerun.Runtime) -> None:
    """block_on on a current-thread runtime borrows the thread, with its hooks."""
    seen: list[Any] = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=seen.append)
    try:
        first = sys.get_asyncgen_hooks()

        async def main() -> None:
            async for _ in Log().numbers():
                break

        rt.block_on(main)
        assert sys.get_asyncgen_hooks() == first
        assert seen == []
    finally:
        sys.set_asyncgen_hooks(*before)


@every_flavor
async def test_many_at_once(rt: freerun.Runtime) -> None:
    log = Log()

    async def task() -> None:
        for _ in range(10):
            async for _i in log.numbers():
                break

    for handle in [freerun.spawn(task) for _ in range(20)]:
        await handle

    def all_closed() -> bool:
        gc.collect()
        return len(log) == 200

    await until(all_closed)
