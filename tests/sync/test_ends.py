"""What becomes of channels and locks when a runtime is shut down, or the process forks or exits."""

from __future__ import annotations

import pytest
from support import Flavor, check_script, every_flavor, wait_until
from waiting_support import waiting

import freerun
from freerun.sync import Barrier, OnceCell, RecvError, RwLock, SetOnce, broadcast, watch


def test_shutdown_gives_everything_back(flavor: Flavor) -> None:
    """Tasks of a runtime that goes hold, wait for and are given things; another runtime finds all of it free."""
    lock = RwLock(0)
    barrier = Barrier(2)
    cell: OnceCell[int] = OnceCell()
    once: SetOnce[int] = SetOnce()
    tx, rx = broadcast.channel(4)
    watch_tx, watch_rx = watch.channel(0)

    async def hold() -> None:
        async with lock.write():
            await freerun.lowlevel.park()

    async def main() -> None:
        await waiting(hold)
        for _ in range(3):
            await waiting(hold)
            await waiting(lock.read)
        await waiting(barrier.wait)
        for _ in range(2):
            await waiting(cell.get_or_init, once.wait)
        await waiting(rx.recv)
        await waiting(watch_rx.changed)
        await waiting(tx.closed)

    with flavor.builder().build() as rt:
        rt.block_on(main)

    async def again() -> None:
        async with lock.write():
            pass
        task = await waiting(barrier.wait)
        assert (await barrier.wait()).is_leader()
        await task
        once.set(7)
        assert await cell.get_or_init(once.wait) == 7
        tx.send(1)
        assert await rx.recv() == 1
        watch_tx.send(1)
        await watch_rx.changed()

    with flavor.builder().build() as rt:
        rt.block_on(again)
    assert len(rx._channel.news) == len(watch_rx._channel.news) == len(once._waiting) == 0
    assert len(barrier._round.arrived) == len(cell._line) == 0


@every_flavor
async def test_what_an_ended_runtime_held(rt: freerun.Runtime) -> None:
    """A receiver may wait in one runtime for a sender in another one, which is shut down."""
    tx, rx = broadcast.channel(4)
    started = SetOnce[None]()

    async def send(tx: broadcast.Sender[int]) -> None:
        with tx:
            tx.send(1)
            started.set(None)
            await freerun.lowlevel.park()

    def other_runtime() -> None:
        with freerun.Builder.new_multi_thread().worker_threads(1).build() as other:
            other.spawn(send, tx)
            wait_until(started.initialized)

    other = freerun.spawn_blocking(other_runtime)
    assert await rx.recv() == 1
    with pytest.raises(RecvError):
        await rx.recv()
    await other


def test_fork_while_a_lock_is_held() -> None:
    """Python drops the other threads' frames in the child, and with them ends of channels whose lock is held by a
    thread that does not exist there. Their finalizers must not wait for it."""
    out = check_script(
        """
        import os, threading, warnings
        from freerun.sync import RwLock, broadcast, watch

        warnings.simplefilter("ignore", DeprecationWarning)  # fork() with threads, that is the point
        tx, rx = broadcast.channel(4)
        value_tx, value_rx = watch.channel(0)
        lock = RwLock(0)
        held, release = threading.Event(), threading.Event()

        def hold():
            mine = [tx.subscribe(), tx.clone(), value_tx.subscribe(), value_tx.clone(), lock.try_read()]
            with tx._channel.lock, value_tx._channel.lock:
                held.set()
                release.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            import gc
            gc.collect()
            del tx, rx, value_tx, value_rx, lock
            gc.collect()
            os.write(1, b"child ")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        release.set()
        thread.join()
        assert tx.receiver_count() == value_tx.receiver_count() == 1
        assert tx.strong_count() == value_tx.sender_count() == 1
        lock.try_write().release()
        print("parent", status)
        """
    )
    assert out == "child parent 0\n"


@pytest.mark.parametrize("flavor_name", ["current_thread", "multi_thread"])
def test_exit_with_everything_in_use(flavor_name: str) -> None:
    """The interpreter ends while tasks wait, guards are held and channels are globals: quietly."""
    check_script(
        """
        import sys, freerun
        from freerun.sync import Barrier, RwLock, broadcast, watch

        tx, rx = broadcast.channel(4)
        value_tx, value_rx = watch.channel(0)
        lock, barrier = RwLock(0), Barrier(2)
        guard = lock.try_write()
        builder = getattr(freerun.Builder, "new_" + sys.argv[1])()
        rt = builder.build()
        for work in (rx.recv, value_rx.changed, lock.read, barrier.wait):
            rt.spawn(work)
        rt.block_on(freerun.lowlevel.checkpoint)
        """,
        flavor_name,
    )
