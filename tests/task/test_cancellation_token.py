"""`task.CancellationToken`: Tokio's sync_cancellation_token.rs, and what Python adds."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from support import every_flavor, in_threads, is_freed, is_parked, seeded, until, wait_until
from waiting_support import abort, still_waits, waiting

import freerun
from freerun.task import CancellationToken, TokenCancelled

NO_RUNTIME = "no freerun runtime"


async def sleep_long() -> None:
    await freerun.time.sleep(3600)


@every_flavor
async def test_cancel_token() -> None:
    token = CancellationToken()
    assert not token.is_cancelled()
    task = await waiting(token.cancelled)
    await still_waits(task)
    token.cancel()
    assert token.is_cancelled()
    await task
    await token.cancelled()


@every_flavor
async def test_cancel_child_token_through_parent() -> None:
    token = CancellationToken()
    child = token.child_token()
    assert not child.is_cancelled()
    tasks = [await waiting(each.cancelled) for each in (child, token)]
    token.cancel()
    assert token.is_cancelled() and child.is_cancelled()
    for task in tasks:
        await task


@every_flavor
async def test_cancel_grandchild_token_through_parent_if_child_was_dropped() -> None:
    token = CancellationToken()
    grandchild = token.child_token().child_token()
    gc.collect()
    task = await waiting(grandchild.cancelled)
    token.cancel()
    assert grandchild.is_cancelled()
    await task


@every_flavor
async def test_cancel_child_token_without_parent() -> None:
    token = CancellationToken()
    for _ in range(2):
        child = token.child_token()
        of_child, of_parent = await waiting(child.cancelled), await waiting(token.cancelled)
        child.cancel()
        await of_child
        await still_waits(of_parent)
        assert child.is_cancelled() and not token.is_cancelled()
        await abort(of_parent)
    other = token.child_token()
    token.cancel()
    await other.cancelled()


def test_create_child_token_after_parent_was_cancelled() -> None:
    token = CancellationToken()
    token.cancel()
    assert token.child_token().is_cancelled()
    assert token.child_token().child_token().is_cancelled()


@pytest.mark.parametrize("drop_child_first", [True, False])
def test_drop_multiple_child_tokens(drop_child_first: bool) -> None:
    token: CancellationToken | None = CancellationToken()
    assert token is not None
    children: list[CancellationToken | None] = [token.child_token() for _ in range(3)]
    if not drop_child_first:
        token = None
    for i in range(3):
        assert not any(child.is_cancelled() for child in children if child)
        children[i] = None
    if token is not None:
        token.cancel()
        assert token.is_cancelled()


def test_cancel_only_all_descendants() -> None:
    """The family tree of Tokio's test: only the subtree of the cancelled one goes."""
    parent = CancellationToken()
    child = parent.child_token()
    sibling = child.child_token()
    grandchild = sibling.child_token()
    grandchildren = [grandchild.child_token() for _ in range(2)]
    outside = [parent, child, parent.child_token(), child.child_token()]
    sibling.cancel()
    assert all(each.is_cancelled() for each in (sibling, grandchild, *grandchildren))
    assert not any(each.is_cancelled() for each in outside)
    parent.cancel()
    assert all(each.is_cancelled() for each in outside)


def test_a_second_cancel_does_nothing() -> None:
    token = CancellationToken()
    token.cancel()
    token.cancel()
    assert "cancelled" in repr(token)


def test_children_that_go_leave_nothing() -> None:
    """Neither those that are dropped, nor those that are cancelled and kept."""
    token = CancellationToken()
    for _ in range(2000):
        token.child_token()
    kept = [token.child_token() for _ in range(1000)]
    wait_until(lambda: gc.collect() is not None and len(token._children or ()) == 1000)
    for child in kept:
        child.cancel()
    assert len(token._children or ()) == 0
    ref = weakref.ref(token)
    del token
    assert is_freed(ref)  # a cancelled child does not keep it
    assert all(child.is_cancelled() for child in kept)


def test_thousands_of_children() -> None:
    token = CancellationToken()
    children = [token.child_token() for _ in range(5000)]
    token.cancel()
    assert all(child.is_cancelled() for child in children)


def test_a_deep_tree() -> None:
    """Neither cancelling nor dropping it is a recursion."""
    root = CancellationToken()
    chain = [root]
    for _ in range(50_000):
        chain.append(chain[-1].child_token())
    last = chain[-1]
    del chain
    root.cancel()
    assert last.is_cancelled()
    uncancelled = CancellationToken()
    for _ in range(50_000):
        uncancelled = uncancelled.child_token()
    del uncancelled
    gc.collect()


@every_flavor
async def test_a_wait_is_cancel_safe() -> None:
    token = CancellationToken()
    first, second = await waiting(token.cancelled), await waiting(token.cancelled)
    await abort(first)
    token.cancel()
    await second


def test_from_plain_threads(rt: freerun.Runtime) -> None:
    """Children are made, and everything is cancelled, at the same time: no child is left out."""
    random = seeded()
    for _ in range(20):
        token = CancellationToken()
        made: list[list[CancellationToken]] = [[], [], []]
        after = random.randrange(200)

        def work(i: int, token: CancellationToken = token, made: Any = made, after: int = after) -> None:
            for n in range(200):
                made[i].append((token if n % 2 else made[i][-1] if made[i] else token).child_token())
                if i == 0 and n == after:
                    token.cancel()

        with in_threads(3, work):
            rt.block_on(token.cancelled)
        assert all(child.is_cancelled() for each in made for child in each)


def test_blocking_cancelled() -> None:
    token = CancellationToken()
    thread = threading.Thread(target=token.blocking_cancelled, daemon=True)
    thread.start()
    wait_until(lambda: token._waiting is not None and len(token._waiting) == 1)
    token.cancel()
    thread.join(60)
    assert not thread.is_alive()
    token.blocking_cancelled()


# ---- drop_guard ----


def test_drop_guard() -> None:
    token = CancellationToken()
    guard = token.drop_guard()
    assert not token.is_cancelled()
    del guard
    wait_until(token.is_cancelled)


def test_drop_guard_as_a_block() -> None:
    token = CancellationToken()
    with pytest.raises(KeyError), token.drop_guard():
        raise KeyError
    assert token.is_cancelled()


def test_drop_guard_disarmed() -> None:
    token = CancellationToken()
    with token.drop_guard() as guard:
        assert guard.disarm() is token
    assert not token.is_cancelled()
    with pytest.raises(RuntimeError, match="disarmed"):
        guard.disarm()


# ---- run_until_cancelled ----


@every_flavor
async def test_run_until_cancelled_result() -> None:
    async def add(a: int, b: int) -> int:
        await freerun.yield_now()
        return a + b

    token = CancellationToken()
    assert await token.run_until_cancelled(add, 1, 2) == 3
    assert await token.run_until_cancelled(add(3, 4)) == 7
    assert await token.run_until_cancelled(freerun.spawn(add, 5, 6)) == 11
    assert not token._running


@every_flavor
async def test_run_until_cancelled_ends_it() -> None:
    token = CancellationToken()
    log: list[str] = []

    async def body() -> None:
        try:
            await sleep_long()
        finally:
            await freerun.yield_now()
            log.append("cleaned up")

    task = await waiting(token.child_token().run_until_cancelled, body)
    token.cancel()
    with pytest.raises(TokenCancelled):
        await task
    assert log == ["cleaned up"]


@every_flavor
async def test_run_until_cancelled_does_not_begin_when_cancelled() -> None:
    token = CancellationToken()
    token.cancel()
    begun: list[int] = []

    async def body() -> None:
        begun.append(1)

    with pytest.raises(TokenCancelled):
        await token.run_until_cancelled(body)
    with pytest.raises(TokenCancelled):
        await token.run_until_cancelled(body())
    assert not begun


@every_flavor
async def test_run_until_cancelled_in_the_same_task() -> None:
    token = CancellationToken()

    async def which() -> int:
        return freerun.task.current().id

    assert await token.run_until_cancelled(which) == freerun.task.current().id


@every_flavor
async def test_what_it_returns_in_spite_of_the_cancel_stands() -> None:
    token = CancellationToken()

    async def stubborn() -> str:
        try:
            await sleep_long()
        except freerun.Cancelled:
            return "saved"
        return ""

    async def failing() -> str:
        try:
            await sleep_long()
        finally:
            raise TimeoutError("its own")

    saved = await waiting(token.run_until_cancelled, stubborn)
    failed = await waiting(token.run_until_cancelled, failing)
    token.cancel()
    assert await saved == "saved"
    with pytest.raises(TimeoutError, match="its own"):
        await failed


@every_flavor
async def test_an_abort_passes_through() -> None:
    token = CancellationToken()
    seen: list[str] = []

    async def body() -> None:
        try:
            await sleep_long()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    task = await waiting(token.run_until_cancelled, body)
    await abort(task)
    assert seen == ["Cancelled"]
    assert not token._running
    token.cancel()


@every_flavor
async def test_a_timeout_around_it_and_in_it() -> None:
    token = CancellationToken()
    with pytest.raises(TimeoutError):
        await freerun.time.timeout(0.01, token.run_until_cancelled(sleep_long))
    with pytest.raises(TimeoutError):
        await token.run_until_cancelled(freerun.time.timeout(0.01, sleep_long))
    assert not token._running


@every_flavor
async def test_nested_tokens() -> None:
    """The outer one ends both; the inner one only itself."""
    outer, inner = CancellationToken(), CancellationToken()

    async def both() -> str:
        try:
            await inner.run_until_cancelled(sleep_long)
        except TokenCancelled:
            return "inner"
        return ""

    async def run() -> str:
        try:
            return await outer.run_until_cancelled(both)
        except TokenCancelled:
            return "outer"

    task: freerun.JoinHandle[str] = await waiting(run)
    inner.cancel()
    assert await task == "inner"
    inner = CancellationToken()
    task = await waiting(run)
    outer.cancel()
    assert await task == "outer"


@every_flavor
async def test_a_result_and_a_cancel_at_once() -> None:
    """A value that was made is not lost: it comes out, or the token's exception did and it was never taken."""
    random = seeded()
    for _ in range(30):
        token = CancellationToken()
        tx, rx = freerun.sync.mpsc.channel(1)
        task = freerun.spawn(token.run_until_cancelled, rx.recv)
        for _ in range(random.randrange(3)):
            await freerun.yield_now()
        canceller = freerun.spawn_blocking(token.cancel)
        await tx.send(7)
        try:
            assert await task == 7
        except TokenCancelled:
            assert rx.try_recv() == 7
        await canceller


@every_flavor
async def test_run_until_cancelled_refuses() -> None:
    token = CancellationToken()
    for bad in (1, None, lambda: 1):
        with pytest.raises(TypeError, match="argument 'awaitable'"):
            await token.run_until_cancelled(bad)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes no arguments"):
        await token.run_until_cancelled(sleep_long(), 1)  # type: ignore[call-overload]


@every_flavor
async def test_many_at_once() -> None:
    token = CancellationToken()

    async def run(child: CancellationToken) -> bool:
        try:
            await child.run_until_cancelled(sleep_long)
        except TokenCancelled:
            return True
        return False

    tasks = [freerun.spawn(run, token.child_token() if n % 2 else token) for n in range(500)]
    await until(lambda: all(map(is_parked, tasks)))
    token.cancel()
    assert all([await task for task in tasks])
    assert not token._running


@every_flavor
async def test_in_the_branches_of_join_and_select() -> None:
    """Each ends its own branch and no other."""
    first, second = CancellationToken(), CancellationToken()

    async def run(token: CancellationToken, name: str) -> str:
        try:
            await token.run_until_cancelled(sleep_long)
        except TokenCancelled:
            return name
        return ""

    task: freerun.JoinHandle[tuple[int, str]] = freerun.spawn(freerun.select(run(first, "a"), run(second, "b")))
    await until(lambda: is_parked(task))
    second.cancel()
    assert await task == (1, "b")
    assert not first._running
    third = CancellationToken()
    both: freerun.JoinHandle[tuple[str, str]] = freerun.spawn(freerun.join(run(first, "a"), run(third, "c")))
    await until(lambda: is_parked(both))
    third.cancel()
    await still_waits(both)
    first.cancel()
    assert await both == ("a", "c")
