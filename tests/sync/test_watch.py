"""`sync.watch`: Tokio's sync_watch.rs, and what Python adds."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from support import every_flavor, in_threads, is_freed, seeded
from waiting_support import Aborts, abort, gives_way, still_waits, waiting

import freerun
from freerun.sync import RecvError, SendError, watch


@every_flavor
async def test_single_rx_recv() -> None:
    tx, rx = watch.channel("one")
    task = await waiting(rx.changed)
    assert rx.borrow() == "one"
    await abort(task)
    task = await waiting(rx.changed)
    tx.send("two")
    assert await task is None
    assert rx.borrow() == "two"
    task = await waiting(rx.changed)
    tx.close()
    with pytest.raises(RecvError):
        await task
    assert rx.borrow() == "two"


def test_rx_version_underflow() -> None:
    _tx, rx = watch.channel("one")
    rx.mark_changed()
    rx.mark_changed()
    assert rx.has_changed()


@every_flavor
async def test_rx_mark_changed() -> None:
    tx, rx = watch.channel("one")
    rx2, rx3, rx4 = rx.clone(), rx.clone(), rx.clone()
    rx.mark_changed()
    assert rx.has_changed()
    await rx.changed()

    assert not rx2.has_changed()
    await abort(await waiting(rx2.changed))

    rx3.mark_changed()
    assert rx3.borrow() == "one"
    assert rx3.has_changed()
    assert rx3.borrow_and_update() == "one"
    assert not rx3.has_changed()
    await abort(await waiting(rx3.changed))

    tx.send("two")
    assert rx4.has_changed()
    assert rx4.borrow_and_update() == "two"
    rx4.mark_changed()
    assert rx4.has_changed()
    assert rx4.borrow_and_update() == "two"
    assert rx.borrow() == "two"


@every_flavor
async def test_rx_mark_unchanged() -> None:
    tx, rx = watch.channel("one")
    rx2 = rx.clone()
    assert not rx.has_changed()
    rx.mark_changed()
    assert rx.has_changed()
    rx.mark_unchanged()
    assert not rx.has_changed()
    await abort(await waiting(rx.changed))

    assert not rx2.has_changed()
    tx.send("two")
    assert rx2.has_changed()
    rx2.mark_unchanged()
    assert not rx2.has_changed()
    assert rx2.borrow_and_update() == "two"
    assert rx.borrow() == "two"


@every_flavor
async def test_multi_rx() -> None:
    tx, rx1 = watch.channel("one")
    rx2 = rx1.clone()
    assert rx1.borrow() == rx2.borrow() == "one"
    for value in ("two", "three", "four"):
        t1, t2 = await waiting(rx1.changed), await waiting(rx2.changed)
        tx.send(value)
        await t1
        await t2
        assert rx1.borrow() == rx2.borrow() == value
    t2 = await waiting(rx2.changed)  # one that has not run when the next value comes
    tx.send("five")
    tx.send("six")
    await t2
    assert rx2.borrow() == "six"


@every_flavor
async def test_rx_observes_final_value() -> None:
    tx, rx = watch.channel("one")
    tx.close()
    with pytest.raises(RecvError):
        await rx.changed()
    assert rx.borrow() == "one"

    tx, rx = watch.channel("one")
    tx.send("two")
    await rx.changed()
    assert rx.borrow() == "two"
    task = await waiting(rx.changed)
    tx.send("three")
    tx.close()
    await task
    assert rx.borrow() == "three"
    for _ in range(2):
        with pytest.raises(RecvError):
            await rx.changed()
    assert rx.borrow() == "three"


@pytest.mark.parametrize("how", ["close", "drop", "with"])
@every_flavor
async def test_poll_close(how: str) -> None:
    tx, rx = watch.channel("one")
    task = await waiting(tx.closed)
    if how == "close":
        rx.close()
        rx.close()
    elif how == "with":
        async with rx as same:
            assert same is rx
        del same
    else:
        del rx
        gc.collect()
    await task
    with pytest.raises(SendError) as caught:
        tx.send("two")
    assert caught.value.value == "two"
    assert tx.borrow() == "one"


@every_flavor
async def test_borrow_and_update() -> None:
    tx, rx = watch.channel("one")
    assert not rx.has_changed()
    tx.send("two")
    assert rx.has_changed()
    await rx.changed()
    await abort(await waiting(rx.changed))
    assert not rx.has_changed()
    tx.send("three")
    assert rx.has_changed()
    assert rx.borrow_and_update() == "three"
    await abort(await waiting(rx.changed))
    assert not rx.has_changed()
    tx.close()
    assert rx.borrow_and_update() == "three"
    with pytest.raises(RecvError):
        await rx.changed()
    with pytest.raises(RecvError):
        rx.has_changed()


def test_reopened_after_subscribe() -> None:
    tx, rx = watch.channel("one")
    assert not tx.is_closed()
    rx.close()
    assert tx.is_closed()
    rx = tx.subscribe()
    assert not tx.is_closed()
    tx.send("two")
    assert rx.has_changed()
    del rx
    gc.collect()
    assert tx.is_closed()


@every_flavor
async def test_send_modify_panic() -> None:
    tx, rx = watch.channel(["one"])

    def fail(value: list[str]) -> None:
        value[0] = "failed"
        raise ValueError("in modify")

    tx.send_modify(lambda value: ["two"])
    assert rx.borrow_and_update() == ["two"]
    rx2 = rx.clone()
    task = await waiting(rx2.changed)
    for send in (tx.send_modify, tx.send_if_modified):
        with pytest.raises(ValueError, match="in modify"):
            send(fail)
    await still_waits(task)
    assert not rx.has_changed()
    assert rx.borrow() == ["failed"]
    tx.send_modify(lambda value: ["three"])
    await task
    assert rx.borrow_and_update() == ["three"]


@every_flavor
async def test_multiple_sender() -> None:
    tx1, rx = watch.channel(0)
    tx2 = tx1.clone()
    assert tx1.sender_count() == 2

    async def take() -> tuple[int, int]:
        await rx.changed()
        first = rx.borrow_and_update()
        await rx.changed()
        return first, rx.borrow_and_update()

    task = await waiting(take)
    tx1.send(1)
    await still_waits(task)
    tx2.send(2)
    assert await task == (1, 2)


@every_flavor
async def test_receiver_is_notified_when_last_sender_is_dropped() -> None:
    tx1, rx = watch.channel(0)
    tx2 = tx1.clone()
    task = await waiting(rx.changed)
    del tx1
    gc.collect()
    await still_waits(task)
    del tx2
    gc.collect()
    with pytest.raises(RecvError):
        await task


@pytest.mark.parametrize("what", ["changed", "changed_ok", "wait_for", "wait_for_ok", "closed"])
@every_flavor
async def test_cooperative(what: str) -> None:
    """receiver_changed_is_cooperative[_ok], receiver_wait_for_is_cooperative[_ok], sender_closed_is_cooperative."""
    tx, rx = watch.channel(0)
    if what == "closed":
        rx.close()
    elif not what.endswith("_ok"):
        tx.close()

    async def work() -> None:
        match what:
            case "changed_ok":
                tx.send(1)
                await rx.changed()
            case "wait_for_ok":
                tx.send(1)
                await rx.wait_for(lambda value: value == 1)
            case "closed":
                await tx.closed()
            case _:
                with pytest.raises(RecvError):
                    await (rx.changed() if what == "changed" else rx.wait_for(lambda value: value == 1))

    await gives_way(work)


@pytest.mark.parametrize("seen", [True, False])
@every_flavor
async def test_closed_channel(seen: bool) -> None:
    """changed_{succeeds,errors}_on_closed_channel_with_{un,}seen_value, has_changed_errors_on_closed_channel_..."""
    tx, rx = watch.channel("A")
    if not seen:
        tx.send("B")
    tx.close()
    with pytest.raises(RecvError):
        rx.has_changed()
    if not seen:
        await rx.changed()
    with pytest.raises(RecvError):
        await rx.changed()


@every_flavor
async def test_wait_for_errors_on_closed_channel() -> None:
    """..._true_predicate does not; _false_predicate does."""
    tx, rx = watch.channel("A")
    tx.send("B")
    tx.close()
    assert await rx.wait_for(lambda value: True) == "B"
    with pytest.raises(RecvError):
        await rx.wait_for(lambda value: False)


# --- wait_for ---


@every_flavor
async def test_wait_for() -> None:
    tx, rx = watch.channel(1)
    asked: list[int] = []

    def wanted(value: int) -> bool:
        asked.append(value)
        return value % 2 == 0

    task = await waiting(rx.wait_for, wanted)
    assert asked == [1]
    tx.send(3)
    await still_waits(task)
    assert asked == [1, 3]
    tx.send(4)
    assert await task == 4
    assert not rx.has_changed()
    assert await rx.wait_for(wanted) == 4, "the present value counts, seen or not"
    task = await waiting(rx.wait_for, lambda value: value > 10)
    tx.send(5)
    tx.close()
    with pytest.raises(RecvError):
        await task


@every_flavor
async def test_wait_for_a_predicate_that_fails() -> None:
    tx, rx = watch.channel(1)

    def wanted(value: int) -> bool:
        return bool(1 // (2 - value))

    task = await waiting(rx.wait_for, lambda value: value != 1 and wanted(value))
    tx.send(2)
    with pytest.raises(ZeroDivisionError):
        await task
    assert len(rx._channel.news) == 0

    async def wrong(value: int) -> bool:
        return True

    for argument in (wrong, None):
        with pytest.raises(TypeError, match="'predicate'"):
            await rx.wait_for(argument)  # type: ignore[arg-type]


# --- Sending ---


def test_send_replace() -> None:
    tx, rx = watch.channel(1)
    assert tx.send_replace(2) == 1
    rx.close()
    assert tx.send_replace(3) == 2
    assert tx.borrow() == rx.borrow() == 3


def test_send_modify() -> None:
    tx, rx = watch.channel([1])
    same = rx.borrow()
    tx.send_modify(lambda value: value.append(2))
    assert rx.borrow() is same
    assert rx.has_changed()
    tx.send_modify(lambda value: [*value, 3])
    assert rx.borrow_and_update() == [1, 2, 3]
    assert same == [1, 2]
    for send in (tx.send_modify, tx.send_if_modified):
        with pytest.raises(TypeError, match="'modify'"):
            send(3)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("returned", "sent", "value"),
    [(True, True, [1]), (False, False, [1]), (None, False, [1]), ([2], True, [2]), ([], True, [])],
)
def test_send_if_modified(returned: Any, sent: bool, value: list[int]) -> None:
    tx, rx = watch.channel([1])
    assert tx.send_if_modified(lambda _: returned) is sent
    assert rx.has_changed() is sent
    assert rx.borrow() == value


@every_flavor
async def test_modify_sends() -> None:
    """A function that sends on the channel it is about: no deadlock, and what it returns is last."""
    tx, rx = watch.channel(0)

    def modify(value: int) -> int:
        tx.send(10)
        return value + 1

    tx.send_modify(modify)
    assert rx.borrow() == 1


def test_a_value_none() -> None:
    tx, rx = watch.channel(None)
    tx.send(None)
    assert rx.has_changed()
    assert rx.borrow_and_update() is None


def test_a_closed_sender() -> None:
    tx, rx = watch.channel(1)
    other = tx.clone()
    assert tx.same_channel(other)
    assert rx.same_channel(rx.clone())
    assert not rx.same_channel(watch.Sender(1).subscribe())
    with tx:
        pass
    for use in (
        lambda: tx.send_replace(1),
        lambda: tx.send_modify(lambda v: v),
        lambda: tx.send_if_modified(lambda v: v),
        tx.subscribe,
        tx.clone,
    ):
        with pytest.raises(RuntimeError, match="this sender is closed"):
            use()
    with pytest.raises(SendError) as caught:
        tx.send(1)
    assert caught.value.value == 1
    assert tx.borrow() == 1
    other.send(2)
    assert rx.borrow() == 2


@every_flavor
async def test_closing_a_receiver_that_is_waited_for() -> None:
    _tx, rx = watch.channel(1)
    task = await waiting(rx.changed)
    rx.close()
    with pytest.raises(RecvError, match="this receiver is closed"):
        await task


def test_old_values_are_released() -> None:
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    tx, rx = watch.channel(thing)
    del thing
    tx.send(Thing())
    assert is_freed(ref)
    ref = weakref.ref(rx.borrow())
    rx.close()
    tx.close()
    assert ref() is not None, "the last value can be borrowed to the end"
    del tx, rx
    assert is_freed(ref)


@every_flavor
async def test_a_value_whose_finalizer_sends() -> None:
    tx, rx = watch.channel(None)

    class Bomb:
        def __del__(self) -> None:
            tx.send("from a finalizer")

    tx.send(Bomb())
    tx.send("after")
    gc.collect()
    assert rx.borrow() == "from a finalizer"
    await rx.changed()


# --- Many at once ---


@every_flavor
async def test_senders_in_parallel() -> None:
    """send_modify is one step: no increment is lost. Receivers see versions in order, and the last one."""
    tx, rx = watch.channel(0)

    async def add(tx: watch.Sender[int]) -> None:
        with tx:
            for i in range(200):
                tx.send_modify(lambda n: n + 1)
                if i % 10 == 0:
                    await freerun.yield_now()

    async def look(rx: watch.Receiver[int]) -> int:
        last = 0
        try:
            while True:
                await rx.changed()
                value = rx.borrow_and_update()
                assert value > last
                last = value
        except RecvError:
            return last

    lookers = [freerun.spawn(look, rx.clone()) for _ in range(10)]
    for task in [freerun.spawn(add, tx.clone()) for _ in range(4)]:
        await task
    assert tx.borrow() == 800
    tx.close()
    for looker in lookers:
        assert await looker == 800


@every_flavor
async def test_cancelled_changed_misses_nothing() -> None:
    random = seeded()
    aborts = Aborts(random)
    tx, rx = watch.channel(0)

    async def look() -> int:
        await rx.changed()
        return rx.borrow_and_update()

    for i in range(1, 300):
        task = freerun.spawn(look)
        if random.random() < 0.5:
            await freerun.yield_now()
        tx.send(i)
        await aborts.maybe(task)
        value = await aborts.result(task)
        if value is None and rx.has_changed():
            value = await look()
        assert value == i
    assert len(rx._channel.news) == 0


@every_flavor
async def test_one_awaitable_is_for_one_task() -> None:
    tx, rx = watch.channel(0)
    changed = rx.changed()

    async def wait() -> None:
        await changed

    first = await waiting(wait)
    with pytest.raises(RuntimeError, match="another task is awaiting this very object"):
        await wait()
    tx.send(1)
    await first
    assert len(rx._channel.news) == 0


@every_flavor
async def test_from_threads() -> None:
    tx, rx = watch.channel(0)
    lock = threading.Lock()
    count = 0

    def send(_: int) -> None:
        nonlocal count
        for _ in range(100):
            with lock:
                count += 1
                tx.send(count)

    with in_threads(2, send):
        assert await rx.wait_for(lambda value: value == 200) == 200


def test_outside_a_task() -> None:
    _tx, rx = watch.channel(2)
    changed = rx.changed().__await__()
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(changed)
