"""The whole product of what can become of a task. Tokio: tests/task_combinations.rs, tokio/src/runtime/tests.

flavour x outcome x what happens to the handle x when it is aborted x how it was created.
"""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest
from support import CURRENT, PATIENCE, STRICT, Flavor, in_threads, is_freed, is_parked, occupy, only, until

import freerun
from freerun.sync import oneshot

OUTCOMES = ["returns", "raises", "propagates", "swallows", "raises_in_cleanup", "never"]
HANDLES = ["kept", "dropped_at_once", "dropped_after"]
ABORTS = ["never", "before_first_poll", "by_itself", "by_another_thread", "parked", "after_completion", "twice"]
CREATIONS = ["coroutine", "async_fn"]

THROWN = {"by_itself", "by_another_thread", "parked", "twice"}  # Cancelled arrives at the task's suspension


class Boom(Exception):
    pass


class Local:
    """An object that lives in the task's frame."""


@dataclass
class Control:
    outcome: str
    abort: str
    gate: Any
    log: list[str] = field(default_factory=list)
    in_poll: threading.Event = field(default_factory=threading.Event)
    aborted: threading.Event = field(default_factory=threading.Event)
    local: weakref.ref[Local] | None = None


async def body(control: Control) -> str:
    local = Local()
    control.local = weakref.ref(local)
    control.log.append("started")
    if control.abort == "by_itself":
        assert freerun.task.current().abort()
    elif control.abort == "by_another_thread":
        control.in_poll.set()
        assert control.aborted.wait(PATIENCE)
    try:
        await control.gate
        while control.outcome == "never":
            await freerun.time.sleep(3600)
        control.log.append("passed")
    except freerun.Cancelled:
        control.log.append("cancelled")
        if control.outcome == "swallows":
            return "swallowed"
        raise
    finally:
        control.log.append("cleanup")
        if control.outcome == "raises_in_cleanup":
            raise Boom("in cleanup")
    if control.outcome == "raises":
        raise Boom("plain")
    return "value"


def expected(control: Control) -> tuple[object, list[str]]:
    """The result (a value, or the type of an exception) and what the task did."""
    if control.abort == "before_first_poll":
        return freerun.JoinError, []
    thrown = control.abort in THROWN or control.outcome == "never"
    steps = ["started", "cancelled" if thrown else "passed", "cleanup"]
    if control.outcome == "raises_in_cleanup":
        return Boom, steps
    if thrown:
        return "swallowed" if control.outcome == "swallows" else freerun.JoinError, steps
    return Boom if control.outcome == "raises" else "value", steps


async def abort_it(control: Control, aborter: freerun.AbortHandle, waiting: Any, gate: oneshot.Sender[None]) -> None:
    """Do to the task what the case says, and let it go on afterwards."""
    match control.abort:
        case "never" | "after_completion":
            gate.send(None)
            if control.outcome == "never":
                await waiting()
                assert aborter.abort()
        case "before_first_poll":
            assert aborter.abort()
        case "by_itself":
            pass
        case "by_another_thread":
            await until(control.aborted.is_set)
        case "parked":
            await waiting()
            assert aborter.abort()
        case "twice":
            await waiting()
            assert aborter.abort()
            assert not aborter.abort()


async def scenario(flavor: Flavor, control: Control, handle_case: str, creation: str, reports: list[Any]) -> None:
    gate, control.gate = oneshot.channel()
    release = await occupy(flavor.workers - 1) if control.abort == "before_first_poll" and flavor.workers > 1 else None
    handle: Any = freerun.spawn(body(control)) if creation == "coroutine" else freerun.spawn(body, control)
    aborter = handle.abort_handle()
    look = repr(handle)
    assert f"id={aborter.id}" in look

    if handle_case == "dropped_at_once":
        del handle

        async def waiting() -> None:  # the handle would tell; so it is looked for in the dump
            def parked() -> bool:
                dump = freerun.Handle.current().dump_tasks()
                return any(line.startswith(f"task {aborter.id},") and "(waiting" in line for line in dump.splitlines())

            await until(parked)
    else:

        async def waiting() -> None:
            await until(lambda: is_parked(handle))

    def abort_in_poll(_: int) -> None:
        if control.abort == "by_another_thread":
            assert control.in_poll.wait(PATIENCE)
            assert aborter.abort()
            control.aborted.set()

    with in_threads(1, abort_in_poll):
        if control.abort == "by_another_thread":
            while not control.aborted.is_set():
                await freerun.yield_now()
        await abort_it(control, aborter, waiting, gate)
        await until(aborter.is_finished)
    if release:
        release()

    result, steps = expected(control)
    assert control.log == steps
    if result is not Boom and control.local:  # the traceback of an exception keeps the frame
        await until(lambda: is_freed(control.local), "the task's locals are freed")
    assert not aborter.abort(), "the task was over"
    if handle_case == "kept":
        await check_result(handle, result)
        await check_result(handle, result)  # a second await gives the same
        assert handle.is_finished()
    if handle_case != "dropped_at_once":
        del handle
    if result is Boom and handle_case != "kept":
        await until(lambda: reports)
        assert [type(each) for each in reports] == [Boom]
    else:
        for _ in range(3):
            await freerun.yield_now()
        assert reports == []


async def check_result(handle: Any, result: object) -> None:
    if isinstance(result, str):
        assert await handle == result
        return
    with pytest.raises(result) as caught:  # type: ignore[call-overload]
        await handle
    if result is freerun.JoinError:
        assert caught.value.is_cancelled()
        assert not caught.value.is_panic()
        assert caught.value.id == handle.id


@only(CURRENT, *STRICT)  # nobody may begin what shall be aborted before its first poll
@pytest.mark.parametrize("creation", CREATIONS)
@pytest.mark.parametrize("handle_case", HANDLES)
@pytest.mark.parametrize("abort", ABORTS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_combination(flavor: Flavor, outcome: str, handle_case: str, abort: str, creation: str) -> None:
    reports: list[BaseException] = []
    control = Control(outcome, abort, None)
    with flavor.builder().unhandled_exception(lambda error, task: reports.append(error)).build() as rt:
        rt.block_on(scenario, flavor, control, handle_case, creation, reports)
        assert rt.metrics().alive_tasks == 0 or flavor.workers > 1  # the hogs may still be on their way out
    reports.clear()


def test_the_product_is_whole() -> None:
    gc.collect()
    assert len(OUTCOMES) * len(HANDLES) * len(ABORTS) * len(CREATIONS) == 252
