"""`freerun.interp.channel`: within one interpreter, and across."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import isolated_support as there
import pytest
from support import PATIENCE, every_flavor, in_threads, is_parked, seeded, until

import freerun
from freerun.interp import channel, spawn_isolated


@every_flavor
async def test_values_in_order() -> None:
    tx, rx = channel(3)

    async def produce() -> None:
        with tx:
            for n in range(50):
                await tx.send((n, b"x" * n))

    task = freerun.spawn(produce)
    assert [each async for each in rx] == [(n, b"x" * n) for n in range(50)]
    await task


@every_flavor
async def test_full_and_empty() -> None:
    tx, rx = channel(2)
    with pytest.raises(freerun.WouldBlock):
        rx.try_recv()
    tx.try_send(1)
    tx.try_send(2)
    with pytest.raises(freerun.TrySendError.Full) as caught:
        tx.try_send(3)
    assert caught.value.value == 3
    assert (len(tx), len(rx), tx.capacity) == (2, 2, 2)
    waiting = freerun.spawn(tx.send, 3)
    await until(lambda: is_parked(waiting))
    assert [await rx.recv() for _ in range(3)] == [1, 2, 3]
    await waiting


@every_flavor
async def test_the_end() -> None:
    tx, rx = channel(2)
    other = tx.clone()
    await tx.send(1)
    tx.close()
    tx.close()
    with pytest.raises(freerun.SendError) as caught:
        await tx.send(2)
    assert caught.value.value == 2
    assert tx.is_closed()
    assert not other.is_closed()
    await other.send(3)
    waiting = freerun.spawn(drain, rx)
    other.close()
    assert await waiting == [1, 3]
    with pytest.raises(freerun.RecvError):
        rx.try_recv()
    with pytest.raises(ValueError, match="closed"):
        tx.clone()


async def drain(rx: Any) -> list[Any]:
    return [each async for each in rx]


@every_flavor
async def test_a_receiver_that_closes_or_goes() -> None:
    tx, rx = channel(1)
    await tx.send(1)
    waiting = freerun.spawn(tx.send, 2)
    await until(lambda: is_parked(waiting))
    rx.close()
    with pytest.raises(freerun.SendError):
        await waiting
    with pytest.raises(freerun.TrySendError.Closed):
        tx.try_send(3)
    assert await rx.recv() == 1
    with pytest.raises(freerun.RecvError):
        await rx.recv()
    tx, rx = channel(1)
    del rx
    with pytest.raises(freerun.SendError):
        await tx.send(1)


@every_flavor
async def test_a_cancelled_receiver_passes_its_turn_on() -> None:
    for _ in range(50):
        tx, rx = channel(1)
        first, second = freerun.spawn(rx.recv), freerun.spawn(rx.clone().recv)
        await until(lambda: is_parked(first) and is_parked(second))
        tx.try_send("it")
        first.abort()
        outcomes = []
        for task in (first, second):
            if task is second and "it" in outcomes:
                second.abort()
            try:
                outcomes.append(await task)
            except freerun.JoinError:
                outcomes.append("aborted")
        assert sorted(outcomes) == ["aborted", "it"]


@every_flavor
async def test_a_cancelled_sender_sent_nothing() -> None:
    tx, rx = channel(1)
    tx.try_send(1)
    waiting = freerun.spawn(tx.send, 2)
    await until(lambda: is_parked(waiting))
    waiting.abort()
    with pytest.raises(freerun.JoinError):
        await waiting
    tx.close()
    assert await drain(rx) == [1]


@every_flavor
async def test_many_senders_and_receivers() -> None:
    rng = seeded()
    tx, rx = channel(rng.randrange(1, 8))

    async def produce(tx: Any, first: int) -> None:
        with tx:
            for n in range(first, first + 100):
                await tx.send(n)

    tasks = [freerun.spawn(produce, tx.clone(), 100 * each) for each in range(5)]
    receivers = [freerun.spawn(drain, rx.clone()) for _ in range(3)]
    tx.close()
    received = [value for each in receivers for value in await each]
    assert sorted(received) == list(range(500))
    for task in tasks:
        await task


def test_plain_threads() -> None:
    tx, rx = channel(2)
    received: list[int] = []

    def work(i: int) -> None:
        if i:
            for n in range(100):
                tx.blocking_send(n)
        else:
            received.extend(rx.blocking_recv() for _ in range(200))

    with in_threads(3, work):
        pass
    assert sorted(received) == sorted(2 * list(range(100)))


@every_flavor
async def test_blocking_in_a_task_is_refused() -> None:
    tx, rx = channel(1)
    with pytest.raises(RuntimeError, match="block"):
        rx.blocking_recv()
    tx.try_send(1)
    with pytest.raises(RuntimeError, match="block"):
        tx.blocking_send(2)


def test_arguments() -> None:
    for bad in (0, -1, 1 << 61):
        with pytest.raises(ValueError, match="'capacity'"):
            channel(bad)
    with pytest.raises(TypeError, match="'capacity'"):
        channel("1")  # type: ignore[arg-type]
    tx, rx = channel(1)
    with pytest.raises(TypeError, match=r"argument 'value' \(lock\) cannot cross"):
        tx.try_send(threading.Lock())
    for end in (tx, rx):
        with pytest.raises(TypeError, match="crosses as an argument of spawn_isolated"):
            pickle.dumps(end)
        assert "0 of 1" in repr(end)
    with pytest.raises(TypeError):
        freerun.interp.Sender(1)  # type: ignore[arg-type]


def test_across(shared: freerun.Runtime) -> None:
    async def main() -> None:
        there_tx, there_rx = channel(4)
        back_tx, back_rx = channel(4)
        worker = spawn_isolated(there.double_all, there_rx, back_tx)
        back_tx.close()
        del there_rx

        async def send() -> None:
            with there_tx:
                for n in range(200):
                    await there_tx.send(n)

        sender = freerun.spawn(send)
        assert [each async for each in back_rx] == [2 * n for n in range(200)]
        assert await worker == 200
        await sender

    shared.block_on(main)


def test_an_end_through_a_channel(shared: freerun.Runtime) -> None:
    async def main() -> None:
        tx, rx = channel(1)
        inner_tx, inner_rx = channel(1)
        await tx.send((inner_tx, "with it"))
        inner_tx.close()
        got, _ = await rx.recv()
        await got.send(5)
        got.close()
        assert [each async for each in inner_rx] == [5]

    shared.block_on(main)


def test_what_was_not_received_goes_with_the_channel(shared: freerun.Runtime) -> None:
    async def main() -> None:
        tx, rx = channel(1)
        inner_tx, inner_rx = channel(1)
        await tx.send(inner_tx)
        inner_tx.close()
        assert not inner_rx.is_closed()
        rx.close()
        del rx
        assert [each async for each in inner_rx] == []

    shared.block_on(main)


def test_a_channel_in_itself() -> None:
    """A sender in its own channel goes with the receivers; a receiver there would never go, and is refused."""
    tx, rx = channel(2)
    witness, seen = channel(1)
    tx.try_send((tx, witness))
    tx.close()
    witness.close()
    del tx, rx, witness
    with pytest.raises(freerun.RecvError):
        seen.blocking_recv()
    tx, rx = channel(2)
    with pytest.raises(TypeError, match="Receiver of this very channel"):
        tx.try_send([rx])
    tx.try_send(1)
    assert rx.try_recv() == 1


def test_blocking_wait_is_interrupted_by_nothing_but_news() -> None:
    tx, rx = channel(1)
    thread = threading.Timer(0.02, tx.close)
    thread.start()
    with pytest.raises(freerun.RecvError):
        rx.blocking_recv()
    thread.join(PATIENCE)
