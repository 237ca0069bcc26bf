"""A leaf that has ended is its worker's spare, and the next of its kind; it holds nothing any more. See `leaf.h`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support import CURRENT, only, until

import freerun
from freerun.sync import RecvError, mpsc, oneshot
from freerun.time import timeout

LEAVES = {"MpscSend", "MpscRecv", "Timed"}
"""The spares that the collector knows; the others hold nothing that could be in a cycle."""

ROUNDS = 50


def leaves() -> list[Any]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each).__name__ in LEAVES]


class Value:
    """Something that tells when it goes, and may do things then."""

    def __init__(self, when_gone: Callable[[], object] = lambda: None) -> None:
        self.when_gone = when_gone

    def __del__(self) -> None:
        self.when_gone()


async def ready() -> int:
    return 1


async def use_each() -> None:
    """Each kind ends once, with a value."""
    tx, rx = mpsc.channel(4)
    await tx.send(1)
    assert await rx.recv() == 1
    one, other = oneshot.channel()
    one.send(2)
    assert await other == 2
    assert await timeout(10, ready()) == 1
    assert await freerun.spawn(ready) == 1


def test_a_value_and_its_channel_go(rt: freerun.Runtime) -> None:
    gone: list[str] = []

    async def main() -> None:
        for _ in range(ROUNDS):
            gone.clear()
            tx, rx = mpsc.channel(4)
            await tx.send(Value(lambda: gone.append("sent")))
            await rx.recv()
            one, other = oneshot.channel()
            one.send(Value(lambda: gone.append("oneshot")))
            await other
            await until(lambda: sorted(gone) == ["oneshot", "sent"])

    rt.block_on(main)


def test_the_last_sender_may_go_with_its_message(rt: freerun.Runtime) -> None:
    """`await channel(1)[0].send(...)`: nobody has the sender but the leaf."""

    async def main() -> None:
        for _ in range(ROUNDS):
            tx, rx = mpsc.channel(1)
            message = [tx.send(1)]
            del tx
            await message.pop()
            assert await rx.recv() == 1
            with pytest.raises(RecvError):
                await rx.recv()

    rt.block_on(main)


def test_the_last_receiver_may_go_with_its_message(rt: freerun.Runtime) -> None:
    """What it leaves behind is dropped meanwhile, and its destructor may want a leaf of the same kind."""

    async def main() -> None:
        other_tx, other_rx = mpsc.channel(ROUNDS)
        started: list[Awaitable[int]] = []
        for number in range(ROUNDS):
            tx, rx = mpsc.channel(4)
            await tx.send(number)
            await tx.send(Value(lambda: started.append(other_rx.recv())))
            message = [rx.recv()]
            del rx
            assert await message.pop() == number
            await until(tx.is_closed)
            await until(lambda: started)
            await other_tx.send(number)
            assert await started.pop() == number

    rt.block_on(main)


def test_a_leaf_that_somebody_has_is_no_spare(rt: freerun.Runtime) -> None:
    async def main() -> None:
        for _ in range(ROUNDS):
            tx, rx = mpsc.channel(4)
            kept = tx.send(1)
            await kept
            await tx.send(2)
            with pytest.raises(RuntimeError, match="sent already"):
                await kept
            again = rx.recv()
            assert [await again, await again] == [1, 2]
            limit = timeout(10, ready())
            assert await limit == 1
            assert await timeout(10, timeout(10, ready())) == 1
            with pytest.raises(RuntimeError, match="awaited already"):
                await limit

    rt.block_on(main)


def test_whoever_gets_hold_of_a_spare_has_a_leaf_that_has_ended(rt: freerun.Runtime) -> None:
    """The collector shows them. They refuse to be awaited, put up with the rest, and are nobody's next leaf."""

    others = leaves()

    async def main() -> None:
        for _ in range(5):
            await use_each()
            found = [each for each in leaves() if not any(each is other for other in others)]
            assert found
            for each in found:
                each.close()
                with pytest.raises(ValueError, match="thrown"):
                    each.throw(ValueError("thrown"))
                with pytest.raises(RuntimeError):
                    await each
            await use_each()
            del each, found

    rt.block_on(main)


@only(CURRENT)
def test_the_next_leaf_is_the_spare(rt: freerun.Runtime) -> None:
    others = {id(each) for each in leaves()}

    async def main() -> None:
        tx, rx = mpsc.channel(4)
        for _ in range(5):
            await use_each()
            spares = {type(each).__name__: id(each) for each in leaves() if id(each) not in others}
            assert spares.keys() == LEAVES
            taken = [tx.send(1), rx.recv(), timeout(10, ready())]
            assert [id(each) for each in taken] == [spares[name] for name in ("MpscSend", "MpscRecv", "Timed")]
            assert [await taken.pop(0), await taken.pop(0), await taken.pop(0)] == [None, 1, 1]

    rt.block_on(main)


@only(CURRENT)
def test_one_that_had_to_wait_is_a_spare_too(rt: freerun.Runtime) -> None:
    async def main() -> None:
        tx, rx = mpsc.channel(1)

        async def send_two() -> int:
            await tx.send(1)
            waits = tx.send(2)
            number = id(waits)
            unnamed = [waits]
            del waits
            await unnamed.pop()
            return number if id(tx.send(3)) == number else 0

        sender = freerun.spawn(send_two)
        await freerun.yield_now()
        assert [await rx.recv(), await rx.recv()] == [1, 2]
        assert await sender != 0

    rt.block_on(main)


def test_a_runtime_that_ends_leaves_none() -> None:
    before = len(leaves())
    for _ in range(3):
        with freerun.Builder().worker_threads(2).build() as runtime:
            runtime.block_on(use_each)
    assert len(leaves()) == before


def test_what_was_awaited_with_a_limit_goes(rt: freerun.Runtime) -> None:
    async def main() -> None:
        for _ in range(ROUNDS):
            value = Value()
            seen = weakref.ref(value)

            async def holds(value: Value) -> int:
                await freerun.yield_now()
                return 1

            inner = timeout(10, holds(value))
            del value
            assert await inner == 1
            assert await timeout(10, ready()) == 1
            await until(lambda: seen() is None)

    rt.block_on(main)
