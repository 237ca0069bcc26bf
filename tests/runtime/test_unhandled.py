"""A task that failed and whose result nobody takes is reported, once, with its spawn site."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from support import Flavor, every_flavor, in_threads, is_parked, run_script, until

import freerun


class Planned(Exception):
    pass


async def fails() -> None:
    await freerun.yield_now()
    raise Planned("on purpose")


@every_flavor
async def test_reported_once(reports: Any) -> None:
    freerun.spawn(fails, name="the failing one")
    await until(lambda: len(reports))
    for _ in range(10):
        await freerun.yield_now()
    (record,) = reports
    assert record.levelno == logging.ERROR
    assert record.name == "freerun"
    message = record.getMessage()
    assert "'the failing one'" in message
    assert "test_unhandled.py" in message
    assert "in test_reported_once" in message
    assert record.exc_info[0] is Planned
    assert "fails" in str(record.exc_info[2].tb_next or record.exc_info[2].tb_frame)


@every_flavor
async def test_handle_kept_until_after_the_failure(reports: Any) -> None:
    handle = freerun.spawn(fails)
    await until(handle.is_finished)
    assert len(reports) == 0, "somebody may still take it"
    del handle
    await until(lambda: len(reports))
    assert len(reports) == 1


@every_flavor
async def test_not_reported_when_awaited(reports: Any) -> None:
    handle = freerun.spawn(fails)
    with pytest.raises(Planned):
        await handle
    del handle
    with pytest.raises(Planned):
        await freerun.spawn(fails)
    for _ in range(20):
        await freerun.yield_now()
    assert reports.messages == []


@every_flavor
async def test_not_reported_when_cancelled(reports: Any) -> None:
    for _ in range(5):
        handle = freerun.spawn(freerun.time.sleep(3600))
        await freerun.yield_now()
        handle.abort()
        await until(handle.is_finished)
        del handle
    assert reports.messages == []


@every_flavor
async def test_failure_in_the_cleanup_of_an_abort_is_reported(reports: Any) -> None:
    async def cleans_up_badly() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            raise Planned

    handle = freerun.spawn(cleans_up_badly)
    await until(lambda: "waiting" in repr(handle))
    handle.abort()
    del handle
    await until(lambda: len(reports))
    assert reports[0].exc_info[0] is Planned


def test_not_reported_when_raised_by_block_on(rt: freerun.Runtime, reports: Any) -> None:
    with pytest.raises(Planned):
        rt.block_on(fails)
    assert reports.messages == []


def test_not_reported_when_taken_by_a_thread(rt: freerun.Runtime, reports: Any) -> None:
    handle = rt.spawn(fails)

    def take(_: int) -> None:
        with pytest.raises(Planned):
            handle.blocking_result()

    with in_threads(2, take):
        rt.block_on(until, handle.is_finished, "the task has failed")
    del handle
    assert reports.messages == []


def test_reported_at_shutdown(flavor: Flavor, reports: Any) -> None:
    """A failure in the cleanup that the shutdown causes is told as well."""
    inside = threading.Event()

    async def cleans_up_badly() -> None:
        inside.set()
        try:
            await freerun.time.sleep(3600)
        finally:
            raise Planned

    async def main() -> None:
        freerun.spawn(cleans_up_badly)
        await until(inside.is_set)
        await freerun.time.sleep(0.001)

    with flavor.builder().build() as rt:
        rt.block_on(main)
    assert [record.exc_info[0] for record in reports] == [Planned]


def test_own_function(flavor: Flavor, reports: Any) -> None:
    seen: list[Any] = []

    async def main() -> None:
        freerun.spawn(fails)
        await until(lambda: seen)

    with flavor.builder().unhandled_exception(lambda error, task: seen.append((error, task))).build() as rt:
        rt.block_on(main)
    ((error, task),) = seen
    assert isinstance(error, Planned)
    assert error.__traceback__ is not None
    assert "test_unhandled.py" in task.spawned_at
    assert reports.messages == []


def test_own_function_that_fails(flavor: Flavor, reports: Any) -> None:
    def bad(error: BaseException, task: Any) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        freerun.spawn(fails)
        await until(lambda: len(reports))

    with flavor.builder().unhandled_exception(bad).build() as rt:
        rt.block_on(main)
        assert rt.block_on(freerun.lowlevel.checkpoint) is None
    assert reports[0].exc_info[0] is ZeroDivisionError


def test_shutdown_policy(flavor: Flavor, reports: Any) -> None:
    log: list[str] = []

    async def main() -> None:
        freerun.spawn(fails)
        try:
            await freerun.time.sleep(3600)
        finally:
            log.append("cleanup")

    rt = flavor.builder().unhandled_exception("shutdown").build()
    with pytest.raises(freerun.RuntimeShutdown, match="unhandled_exception") as caught:
        rt.block_on(main)
    assert isinstance(caught.value.__cause__, Planned)
    assert log == ["cleanup"]
    with pytest.raises(freerun.RuntimeShutdown):
        rt.spawn(fails)
    rt.shutdown()
    assert len(reports) >= 1


@pytest.mark.parametrize("during_shutdown", [True, False])
def test_waited_for_one_that_the_shutdown_cancelled(flavor: Flavor, reports: Any, during_shutdown: bool) -> None:
    """Both are cancelled, and either may come first: then that is no failure of the other."""
    ended = []

    async def waits(child: freerun.JoinHandle[None]) -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            ended.append(True)
            await child  # raises JoinError, since it was cancelled

    async def main() -> None:
        child = freerun.spawn(freerun.time.sleep, 3600)
        parent = freerun.spawn(waits, child)
        await until(lambda: is_parked(parent))
        if not during_shutdown:
            child.abort()
            parent.abort()
            await until(parent.is_finished)

    with flavor.builder().build() as rt:
        rt.block_on(main)
    assert ended
    assert len(reports) == (0 if during_shutdown else 1), reports.messages


@every_flavor
async def test_a_thousand_failures(reports: Any) -> None:
    for _ in range(1000):
        freerun.spawn(fails)
    await until(lambda: len(reports) == 1000)


@pytest.mark.parametrize("flavor_name", ["current_thread", "multi_thread"])
def test_a_handle_that_lives_until_the_interpreter_ends(flavor_name: str) -> None:
    """Its failure is told even then, when the modules that tell it are gone."""
    done = run_script(
        """
        import sys
        import freerun

        async def fails():
            raise ZeroDivisionError("on purpose")

        make = freerun.Builder.new_multi_thread if sys.argv[1] == "multi_thread" else freerun.Builder.new_current_thread
        with make().build() as rt:
            handle = rt.spawn(fails)
            async def wait():
                while not handle.is_finished():
                    await freerun.yield_now()
            rt.block_on(wait)
        """,
        flavor_name,
    )
    assert done.returncode == 0
    assert "ZeroDivisionError: on purpose" in done.stderr
    assert "NoneType" not in done.stderr
