"""Timeouts within timeouts, in both forms: each ends its own body, and the outermost wins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support import every_flavor, is_parked, seeded, until

import freerun
from freerun import Cancelled
from freerun.lowlevel import park
from freerun.time import Instant, sleep, timeout

type Body = Callable[[], Awaitable[Any]]


async def never() -> None:
    while True:
        await park()


async def as_await(seconds: float, body: Body) -> Any:
    return await timeout(seconds, body())


async def as_block(seconds: float, body: Body) -> Any:
    async with timeout(seconds):
        return await body()


FORMS = [as_await, as_block]
PAIRS = [(a, b) for a in FORMS for b in FORMS]
IDS = [f"{a.__name__}-{b.__name__}" for a, b in PAIRS]
nested = pytest.mark.parametrize(("outer", "inner"), PAIRS, ids=IDS)


@nested
@freerun.test(start_paused=True)
async def test_inner_fires(outer: Any, inner: Any) -> None:
    """Its TimeoutError is an ordinary exception to the outer one, whose limit stays."""
    log: list[str] = []

    async def body() -> str:
        try:
            await inner(0.002, never)
        except TimeoutError:
            log.append("inner")
        await freerun.yield_now()
        return "done"

    assert await outer(60, body) == "done"

    async def and_then_waits() -> None:
        await body()
        await never()

    with pytest.raises(TimeoutError):
        await outer(0.02, and_then_waits)
    assert log == ["inner", "inner"]


@nested
@every_flavor
async def test_outer_fires(outer: Any, inner: Any) -> None:
    """It unwinds through the inner one untouched."""
    log: list[str] = []

    async def waits() -> None:
        try:
            await never()
        except Cancelled:
            log.append("cancelled")
            raise

    async def body() -> None:
        try:
            await inner(60, waits)
        except TimeoutError:
            log.append("inner TimeoutError")
            raise
        except Cancelled:
            log.append("passes")
            raise

    with pytest.raises(TimeoutError):
        await outer(0.002, body)
    assert log == ["cancelled", "passes"]
    await sleep(0.001)


@nested
@freerun.test(start_paused=True)
async def test_outer_fires_while_the_inner_one_cleans_up(outer: Any, inner: Any) -> None:
    log: list[str] = []

    async def waits() -> None:
        try:
            await never()
        finally:
            log.append("inner fired")
            try:
                await never()
            finally:
                log.append("outer fired")

    async def body() -> None:
        try:
            await inner(0.002, waits)
        except TimeoutError:
            log.append("inner TimeoutError")
            await never()  # the outer one has said it already

    start = Instant.now()
    with pytest.raises(TimeoutError):
        await outer(0.02, body)
    assert start.elapsed() >= 0.02
    assert log == ["inner fired", "outer fired"]


@nested
@every_flavor
async def test_both_at_once(outer: Any, inner: Any) -> None:
    """One TimeoutError comes out, and the task is none the worse."""
    for _ in range(10):
        log: list[str] = []

        async def waits(log: list[str] = log) -> None:
            try:
                await never()
            finally:
                log.append("cancelled")

        with pytest.raises(TimeoutError):
            await outer(0.002, lambda waits=waits: inner(0.002, waits))
        assert log == ["cancelled"]
        await sleep(0.001)
        async with timeout(60):
            await sleep(0.001)


@nested
@every_flavor
async def test_the_outer_limit_survives_a_handler(outer: Any, inner: Any) -> None:
    """Whatever the body does with the inner TimeoutError, it cannot outlive the outer limit, even when both are due
    in one poll."""

    async def body() -> None:
        while True:
            try:
                await inner(0.001, never)
            except TimeoutError:
                pass

    for limit in (0.001, 0.003, 0.01):
        with pytest.raises(TimeoutError):
            await outer(limit, body)


@nested
@every_flavor
async def test_abort_passes_both(outer: Any, inner: Any) -> None:
    log: list[str] = []

    async def waits() -> None:
        try:
            await never()
        finally:
            log.append("cancelled")

    async def main() -> None:
        try:
            await outer(60, lambda: inner(60, waits))
        except TimeoutError:
            log.append("TimeoutError")

    task = freerun.spawn(main)
    await until(lambda: is_parked(task))
    task.abort()
    with pytest.raises(freerun.JoinError):
        await task
    assert log == ["cancelled"]


@nested
@freerun.test(start_paused=True)
async def test_a_swallowed_inner_timeout(outer: Any, inner: Any) -> None:
    """It swallows its own timeout, not the outer one, which comes later. (On a clock that runs they might come at
    once, and one Cancelled is all there is then.)"""

    async def swallows() -> None:
        try:
            await never()
        except Cancelled:
            pass
        await never()

    with pytest.raises(TimeoutError):
        await outer(0.01, lambda: inner(0.002, swallows))


@every_flavor
async def test_cleanup_of_an_outer_one_may_have_a_limit() -> None:
    """A scope entered after the outer one fired is a scope like any other."""
    for form in FORMS:
        for outer in FORMS:
            log: list[str] = []

            async def body(log: list[str] = log, form: Any = form) -> None:
                try:
                    await never()
                finally:
                    try:
                        await form(0.002, never)
                    except TimeoutError:
                        log.append("gave up")

            with pytest.raises(TimeoutError):
                await outer(0.002, body)
            assert log == ["gave up"]


@every_flavor
async def test_cancel_of_an_outer_scope() -> None:
    """A block, an await within it, a block within that: each cancelled from outside ends its own body."""
    for level in (0, 1):
        scopes: list[Any] = []
        log: list[int] = []

        async def innermost(scopes: list[Any] = scopes, log: list[int] = log) -> None:
            try:
                async with timeout(60) as scope:
                    scopes.append(scope)
                    await never()
            except TimeoutError:
                log.append(1)

        async def main(scopes: list[Any] = scopes, log: list[int] = log, innermost: Any = innermost) -> None:
            try:
                async with timeout(60) as scope:
                    scopes.append(scope)
                    await timeout(60, innermost())
            except TimeoutError:
                log.append(0)

        task = freerun.spawn(main)
        await until(lambda task=task, scopes=scopes: len(scopes) == 2 and is_parked(task))
        scopes[level].cancel()
        await task
        assert log == [level]
        assert [scope.expired() for scope in scopes] == [level == 0, level == 1]


@every_flavor
async def test_a_scope_inside_an_await_keeps_the_awaits_limit() -> None:
    """The inner scope is cancelled by its line, so the await around it is not taken for aborted."""

    async def body() -> str:
        for _ in range(3):
            try:
                async with timeout(0.002):
                    await never()
            except TimeoutError:
                pass
        await never()
        return "never"

    start = Instant.now()
    with pytest.raises(TimeoutError):
        await timeout(0.03, body())
    assert start.elapsed() >= 0.03


@every_flavor
async def test_random_trees() -> None:
    """Random nests of both forms. A TimeoutError means that a deadline had passed, and the innermost body is cancelled
    once, by whichever comes first."""
    random = seeded()

    async def level(depth: int, deadlines: list[Instant], cancels: list[int]) -> None:
        if depth == 0:
            try:
                await never()
            finally:
                cancels.append(1)
        seconds = random.choice([0.001, 0.002, 0.003, 0.005])
        deadlines.append(Instant.now() + seconds)
        try:
            await random.choice(FORMS)(seconds, lambda: level(depth - 1, deadlines, cancels))
        except TimeoutError:
            assert Instant.now() >= min(deadlines)
            if random.random() < 0.5:
                raise
            await freerun.yield_now()

    async def tree() -> None:
        cancels: list[int] = []
        try:
            await level(random.randrange(1, 6), [], cancels)
        except TimeoutError:
            pass
        assert cancels == [1]

    tasks = [freerun.spawn(tree) for _ in range(150)]
    for task in tasks:
        await task
