"""`sync.oneshot`: every order of send, receive, close and drop, from tasks and threads."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from typing import Any

import pytest
from support import PATIENCE, every_flavor, in_threads, is_freed, is_parked, run_script, until
from sync_support import parked, put_in_line

import freerun
from freerun.sync import RecvError, SendError, WouldBlock, oneshot


class Thing:
    pass


@every_flavor
async def test_send_then_receive() -> None:
    tx, rx = oneshot.channel()
    assert tx.send(5) is None
    assert await rx == 5


@every_flavor
async def test_receive_then_send() -> None:
    tx, rx = oneshot.channel()

    async def receive() -> object:
        return await rx

    task = freerun.spawn(receive)
    await until(lambda: is_parked(task))
    tx.send(None)  # None is a value like any other
    assert await task is None


@every_flavor
async def test_try_recv() -> None:
    tx, rx = oneshot.channel()
    with pytest.raises(WouldBlock):
        rx.try_recv()
    tx.send("x")
    assert rx.try_recv() == "x"
    with pytest.raises(RecvError, match="received already"):
        rx.try_recv()
    with pytest.raises(RecvError, match="received already"):
        await rx


@every_flavor
async def test_one_value_only() -> None:
    tx, rx = oneshot.channel()
    tx.send(1)
    with pytest.raises(RuntimeError, match="one value"):
        tx.send(2)
    assert await rx == 1
    with pytest.raises(RuntimeError, match="one value"):
        tx.send(3)


@pytest.mark.parametrize("how", ["close", "drop", "with"])
def test_sender_goes(rt: freerun.Runtime, how: str) -> None:
    async def main(parked: bool) -> None:
        tx, rx = oneshot.channel()

        async def receive() -> object:
            return await rx

        task = freerun.spawn(receive)
        if parked:
            await until(lambda: is_parked(task))
        if how == "close":
            tx.close()
            tx.close()
            with pytest.raises(RuntimeError):
                tx.send(1)
        elif how == "with":
            with tx as same:
                assert same is tx
        del tx
        gc.collect()
        with pytest.raises(RecvError, match="went away"):
            await task
        with pytest.raises(RecvError):
            rx.try_recv()

    rt.block_on(main, True)
    rt.block_on(main, False)


@pytest.mark.parametrize("how", ["close", "drop", "with"])
def test_receiver_goes(rt: freerun.Runtime, how: str) -> None:
    async def main() -> None:
        tx, rx = oneshot.channel()
        assert not tx.is_closed()
        if how == "close":
            rx.close()
            with pytest.raises(RecvError, match="closed"):
                rx.try_recv()
            with pytest.raises(RecvError, match="closed"):
                await rx
        elif how == "with":
            with rx:
                pass
        del rx
        gc.collect()
        assert tx.is_closed()
        value = Thing()
        with pytest.raises(SendError) as caught:
            tx.send(value)
        assert caught.value.value is value

    rt.block_on(main)


@every_flavor
async def test_a_value_sent_before_the_close_can_be_received() -> None:
    for receive_how in ("await", "try"):
        tx, rx = oneshot.channel()
        tx.send(17)
        rx.close()
        assert not tx.is_closed()
        assert (await rx if receive_how == "await" else rx.try_recv()) == 17
        assert tx.is_closed()
        with pytest.raises(RecvError, match="received already"):
            await rx
        with pytest.raises(RuntimeError, match="used or closed"):
            tx.send(18)


@every_flavor
async def test_a_value_sent_is_lost_with_the_receiver() -> None:
    for how in ("drop", "with"):
        tx, rx = oneshot.channel()
        value = Thing()
        ref = weakref.ref(value)
        tx.send(value)
        del value
        if how == "with":
            with rx:
                pass
            with pytest.raises(RecvError, match="closed"):
                rx.try_recv()
        del rx
        await until(lambda ref=ref: is_freed(ref))
        assert tx.is_closed()
        with pytest.raises(RuntimeError, match="used or closed"):
            tx.send(1)


@every_flavor
async def test_sent_and_sender_closed() -> None:
    tx, rx = oneshot.channel()
    tx.send(1)
    tx.close()
    del tx
    gc.collect()
    assert await rx == 1


@every_flavor
async def test_cancelled_receive_loses_nothing() -> None:
    for send_first in (True, False):
        tx, rx = oneshot.channel()

        async def receive(rx: Any = rx) -> object:
            return await rx

        task = freerun.spawn(receive)
        await until(lambda task=task: is_parked(task))
        if send_first:
            task.abort()
            tx.send("kept")
        else:
            task.abort()
            with pytest.raises(freerun.JoinError):
                await task
            tx.send("kept")
        try:
            assert await task == "kept"  # it got it before the abort
        except freerun.JoinError:
            assert await rx == "kept"


@every_flavor
async def test_abort_and_send_race() -> None:
    """Whichever comes first, the value is received exactly once."""
    for _ in range(100):
        tx, rx = oneshot.channel()

        async def receive(rx: Any = rx) -> object:
            return await rx

        task = freerun.spawn(receive)
        await freerun.yield_now()
        sender = freerun.spawn_blocking(tx.send, "value")
        task.abort()
        await sender
        try:
            received = await task
        except freerun.JoinError:
            received = await rx
        assert received == "value"
        with pytest.raises(RecvError):
            rx.try_recv()


@every_flavor
async def test_two_receivers() -> None:
    tx, rx = oneshot.channel()

    async def receive() -> object:
        return await rx

    first = freerun.spawn(receive)
    await until(lambda: is_parked(first))
    with pytest.raises(RuntimeError, match="another task is already awaiting"):
        await rx
    tx.send(1)
    assert await first == 1


@every_flavor
async def test_from_threads() -> None:
    for _ in range(50):
        tx, rx = oneshot.channel()
        thread = threading.Thread(target=tx.send, args=(threading.get_ident(),))
        thread.start()
        assert isinstance(await rx, int)
        thread.join()


def test_outside_any_runtime() -> None:
    tx, rx = oneshot.channel()
    tx.send(1)
    assert rx.try_recv() == 1
    with pytest.raises(RuntimeError, match="inside a freerun task"):
        next(iter(oneshot.channel()[1].__await__()))


@every_flavor
async def test_values_are_released() -> None:
    tx, rx = oneshot.channel()
    value = Thing()
    ref = weakref.ref(value)
    tx.send(value)
    del value
    gc.collect()
    assert ref() is not None, "the channel keeps what was sent"
    value = await rx
    assert value is ref()
    del value
    await until(lambda: is_freed(ref))

    tx, rx = oneshot.channel()
    tx.send(thing := Thing())
    ref = weakref.ref(thing)
    del thing, rx
    await until(lambda: is_freed(ref))


@every_flavor
async def test_a_channel_in_its_own_value_is_collected() -> None:
    tx, rx = oneshot.channel()
    value: Any = Thing()
    value.rx = rx
    ref = weakref.ref(value)
    tx.send(value)
    del value, rx
    await until(lambda: is_freed(ref))
    assert tx.is_closed()


@every_flavor
async def test_ping_pong() -> None:
    async def pong(rx: Any) -> int:
        hops = 0
        while (message := await rx) is not None:
            tx, rx = message
            answer_tx, answer_rx = oneshot.channel()
            hops += 1
            tx.send(answer_tx)
            rx = answer_rx
        return hops

    first_tx, first_rx = oneshot.channel()
    task = freerun.spawn(pong, first_rx)
    tx = first_tx
    for _ in range(300):
        reply_tx, reply_rx = oneshot.channel()
        tx.send((reply_tx, None))
        tx = await reply_rx
    tx.send(None)
    assert await task == 300


@every_flavor
async def test_dropped_by_another_task() -> None:
    """The sender dies with the task that owned it, wherever that ran and whoever made it."""

    async def owns(tx: Any, yields: int) -> None:
        for _ in range(yields):
            await freerun.yield_now()

    for i in range(300):
        tx, rx = oneshot.channel()
        freerun.spawn(owns, tx, i % 4)
        del tx
        with pytest.raises(RecvError):
            await rx


@every_flavor
async def test_dropped_by_a_blocking_call() -> None:
    for _ in range(100):
        tx, rx = oneshot.channel()
        call = freerun.spawn_blocking(len, [tx])
        del tx
        with pytest.raises(RecvError):
            await rx
        assert await call == 1


@every_flavor
async def test_between_runtimes() -> None:
    tx, rx = oneshot.channel()

    async def sends(tx: Any) -> None:
        await freerun.time.sleep(0.001)
        tx.send("across")

    other = freerun.Builder().worker_threads(1).build()
    try:
        other.spawn(sends, tx)
        assert await rx == "across"
    finally:
        other.shutdown(PATIENCE)


@every_flavor
async def test_many_at_once() -> None:
    async def receive(rx: Any) -> Any:
        return await rx

    channels = [oneshot.channel() for _ in range(2000)]
    tasks = [freerun.spawn(receive, rx) for _, rx in channels]
    for i, (tx, _) in enumerate(channels):
        tx.send(i)
    assert [await task for task in tasks] == list(range(2000))


@pytest.mark.parametrize("how", ["close", "drop", "received", "sender"])
@every_flavor
async def test_awaiting_the_close(how: str) -> None:
    tx, rx = oneshot.channel()
    task = await parked(tx.closed())
    if how == "close":
        rx.close()
    elif how == "received":
        tx.send(1)
        assert is_parked(task)
        assert await rx == 1
    elif how == "sender":
        tx.close()
    else:
        del rx
        await until(lambda: gc.collect() is not None and task.is_finished())
    assert await task is None
    await tx.closed()


@every_flavor
async def test_awaiting_the_close_is_cancelled() -> None:
    tx, rx = oneshot.channel()
    for _ in range(3):
        task = await parked(tx.closed())
        with pytest.raises(RuntimeError, match="another task is already awaiting closed"):
            await tx.closed()
        task.abort()
        with pytest.raises(freerun.JoinError):
            await task
    task = await parked(tx.closed())
    rx.close()
    await task


@every_flavor
async def test_awaiting_the_close_changes_task() -> None:
    tx, rx = oneshot.channel()
    leaf = tx.closed()
    await freerun.spawn(put_in_line, leaf)
    task = await parked(leaf)
    rx.close()
    await task


@every_flavor
async def test_close_races_with_who_awaits_it() -> None:
    for _ in range(200):
        tx, rx = oneshot.channel()
        task = freerun.spawn(tx.closed())
        closing = freerun.spawn_blocking(rx.close)
        await task
        await closing


def test_blocking_recv(rt: freerun.Runtime) -> None:
    channels = [oneshot.channel() for _ in range(50)]
    got: list[int] = []

    def receive(_: int) -> None:
        for _, rx in channels:
            got.append(rx.blocking_recv())

    async def send() -> None:
        for n, (tx, _) in enumerate(channels):
            if n % 5 == 0:
                await freerun.time.sleep(0.001)
            tx.send(n)

    with in_threads(1, receive):
        rt.block_on(send)
    assert got == list(range(50))
    with pytest.raises(RecvError, match="received already"):
        channels[0][1].blocking_recv()


def test_blocking_recv_of_a_sender_that_leaves(rt: freerun.Runtime) -> None:
    for _ in range(50):
        tx, rx = oneshot.channel()

        def receive(_: int, rx: Any = rx) -> None:
            with pytest.raises(RecvError, match="went away"):
                rx.blocking_recv()

        with in_threads(1, receive):
            tx.close()


@every_flavor
async def test_blocking_recv_in_a_task() -> None:
    tx, rx = oneshot.channel()
    with pytest.raises(RuntimeError, match="would block a worker: inside a task, await the receiver"):
        rx.blocking_recv()
    waiting = freerun.spawn_blocking(rx.blocking_recv)
    await freerun.time.sleep(0.002)
    if not waiting.is_finished():
        with contextlib.suppress(WouldBlock):
            rx.try_recv()
    tx.send("x")
    assert await waiting == "x"


@every_flavor
async def test_a_thread_and_a_task_receive() -> None:
    tx, rx = oneshot.channel()

    async def receive() -> object:
        return await rx

    task = await parked(receive())
    with pytest.raises(RuntimeError, match="already awaiting this oneshot receiver"):
        await freerun.spawn_blocking(rx.blocking_recv)
    tx.send(1)
    assert await task == 1


def test_a_signal_ends_a_blocking_recv() -> None:
    done = run_script(
        """
        import os, signal, threading
        from freerun.sync import oneshot
        tx, rx = oneshot.channel()
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            rx.blocking_recv()
        except KeyboardInterrupt:
            tx.send(5)
            print(rx.blocking_recv())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_kinds() -> None:
    assert oneshot.Sender[int].__origin__ is oneshot.Sender
    assert oneshot.Receiver[int].__origin__ is oneshot.Receiver
    for kind in (oneshot.Sender, oneshot.Receiver):
        with pytest.raises(TypeError):
            kind()
