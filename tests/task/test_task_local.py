"""`task.task_local`: Tokio's task_local.rs, and what Python adds."""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import Any

import pytest
from support import every_flavor, is_parked, until
from waiting_support import abort

import freerun
from freerun.task import TaskLocal, task_local

number: TaskLocal[int] = task_local("number")
word = TaskLocal[str]("word")


async def read() -> int:
    await freerun.yield_now()
    return number.get()


@every_flavor
async def test_local() -> None:
    async def body() -> None:
        assert number.get() == 1
        assert word.try_get() == "a"
        assert await number.scope(2, read) == 2
        assert await number.scope(3, read()) == 3
        assert number.get() == 1

    await number.scope(1, word.scope("a", body()))
    with pytest.raises(LookupError, match=r"'number' has no value here.*scope\(\)"):
        number.get()


@every_flavor
async def test_many_tasks_with_values_of_their_own() -> None:
    async def body(n: int) -> bool:
        for _ in range(20):
            await freerun.yield_now()
            assert number.get() == n
        return True

    tasks = [freerun.spawn(number.scope, n, body, n) for n in range(50)]
    assert all([await task for task in tasks])


@every_flavor
async def test_outside() -> None:
    for get in (number.get, number.try_get, lambda: number.with_(str)):
        with pytest.raises(LookupError, match="number"):
            get()
    assert number.get(7) == 7
    assert number.get(None) is None
    assert number.name == "number" and "number" in repr(number)


def test_sync_scope() -> None:
    assert number.sync_scope(1, lambda: number.with_(lambda n: n + 1)) == 2
    with number.scope(3):
        with number.scope(4):
            assert number.get() == 4
        assert number.get() == 3
    with pytest.raises(KeyError), number.scope(5):
        raise KeyError
    with pytest.raises(KeyError):
        number.sync_scope(5, {}.__getitem__, 1)
    with pytest.raises(LookupError):
        number.get()


@every_flavor
async def test_a_spawned_task_inherits_it() -> None:
    """As every context variable; Tokio's do not."""

    async def body() -> int:
        return await freerun.spawn(read)

    assert await number.scope(9, body) == 9


@types.coroutine
def in_turns(*awaitables: Any) -> Generator[Any, Any]:
    """Poll them in one task, one after the other, as select and join do."""
    left = [each.__await__() for each in awaitables]
    while left:
        token = None
        for each in left.copy():
            try:
                token = next(each)
            except StopIteration:
                left.remove(each)
        if token is not None:
            yield token


@every_flavor
async def test_branches_of_one_task_do_not_see_each_others() -> None:
    seen: list[tuple[str, int]] = []

    async def body(name: str) -> None:
        for _ in range(5):
            seen.append((name, number.get(0)))
            await freerun.time.sleep(0.001)

    await in_turns(number.scope(1, body("one")), body("none"), number.scope(2, body("two")))
    assert set(seen) == {("one", 1), ("none", 0), ("two", 2)}
    assert number.get(0) == 0


@every_flavor
async def test_exceptions_and_aborts_pass_through() -> None:
    async def fails() -> None:
        await freerun.yield_now()
        raise KeyError(number.get())

    with pytest.raises(KeyError, match="4"):
        await number.scope(4, fails)

    seen: list[int] = []

    async def waits() -> None:
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.yield_now()
            seen.append(number.get())

    task = freerun.spawn(number.scope, 5, waits)
    await until(lambda: is_parked(task))
    await abort(task)
    assert seen == [5]
    with pytest.raises(TimeoutError):
        await number.scope(6, freerun.time.timeout(0.001, waits))
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.001, number.scope(7, waits))
    assert seen == [5, 6, 7]
    assert number.get(0) == 0


@every_flavor
async def test_leaves_and_foreign_awaitables() -> None:
    await number.scope(1, freerun.time.sleep(0.001))
    await number.scope(1, freerun.yield_now())
    tx, rx = freerun.sync.oneshot.channel()
    tx.send(3)
    assert await number.scope(1, rx) == 3

    class Foreign:
        def __await__(self) -> Any:
            yield "what"

    with pytest.raises(TypeError, match="cannot await str"):
        await number.scope(1, Foreign())


def test_refuses() -> None:
    with pytest.raises(TypeError, match="argument 'awaitable'"):
        number.scope(1, 2)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        task_local(1)  # type: ignore[arg-type]
