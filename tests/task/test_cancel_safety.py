"""What docs/cancel-safety.md says of each leaf: it loses when a `select`, and loses nothing.

Each test has a side that is never cancelled, and one that takes (or gives) in `Hurried` awaits: in a branch that may
lose, under a limit that may end, in a task that may be aborted, at random. What was taken is written down in the same
step in which the await ends, so the books of both sides must agree.
"""

from __future__ import annotations

import contextlib
import random as rnd
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from net_support import LOCAL, pair
from support import every_flavor, seeded, until

import freerun
from freerun import stream
from freerun.io import BufReader, duplex
from freerun.net import TcpListener, TcpStream, UdpSocket
from freerun.sync import (
    Condvar,
    Mutex,
    Notify,
    OnceCell,
    RecvError,
    RwLock,
    Semaphore,
    SetOnce,
    broadcast,
    mpsc,
    oneshot,
    watch,
)
from freerun.task import AbortOnDropHandle, CancellationToken, JoinMap, TaskTracker, consume_budget
from freerun.time import DelayQueue, Instant, interval, sleep, timeout

LOST = object()
COUNT = 60


class Hurried:
    """Awaits that are cancelled at random moments, in every way there is, until one is not."""

    def __init__(self) -> None:
        self.random: rnd.Random = seeded()
        self.lost = 0

    async def pause(self) -> None:
        for _ in range(self.random.randrange(4)):
            await freerun.yield_now()
        if self.random.random() < 0.2:
            await sleep(self.random.choice([0, 0.001, 0.002]))

    async def once(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """The result, or `LOST`."""
        how = self.random.randrange(6)
        if how == 0:
            which, result = await freerun.select(make(), self.pause())
        elif how == 1:
            which, result = await freerun.select(make(), self.pause(), biased=True)
        elif how == 2:
            spent = self.random.choice([0, *range(122, 130)])  # the end of the budget falls anywhere in it
            name, result = await freerun.select(pause=self.pause(), it=wrapped(make, spent), never=sleep(3600))
            which = int(name != "it")
        elif how == 3:
            which, (result, *_) = await freerun.select(freerun.join(make()), freerun.join(self.pause()))
        elif how == 4:
            try:
                return await timeout(self.random.choice([0, 0.001]), make())
            except TimeoutError:
                which = 1
        else:
            results: list[Any] = []
            task = freerun.spawn(noted, make, results)
            await self.pause()
            task.abort()
            with contextlib.suppress(freerun.JoinError):
                await task
            which, result = (0, results[0]) if results else (1, None)
        if which == 1:
            self.lost += 1
            return LOST
        return result

    async def __call__(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """The result, after however many cancellations."""
        while (result := await self.once(make)) is LOST:
            pass
        return result


async def wrapped(make: Callable[[], Awaitable[Any]], spent: int) -> Any:
    async with timeout(3600):
        for _ in range(spent):
            await consume_budget()
        return await make()


async def noted(make: Callable[[], Awaitable[Any]], results: list[Any]) -> None:
    results.append(await make())


async def drain(hurried: Hurried, make: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Everything until the end."""
    got = []
    while True:
        try:
            got.append(await hurried(make))
        except RecvError:
            return got


@pytest.mark.parametrize("capacity", [1, 4])
@every_flavor
async def test_mpsc_recv(capacity: int) -> None:
    hurried = Hurried()
    tx, rx = mpsc.channel(capacity)

    async def produce() -> None:
        with tx:
            for n in range(COUNT):
                await tx.send(n)

    task = freerun.spawn(produce)
    assert await drain(hurried, rx.recv) == list(range(COUNT))
    await task


@every_flavor
async def test_mpsc_recv_many() -> None:
    hurried = Hurried()
    tx, rx = mpsc.unbounded_channel()

    async def produce() -> None:
        with tx:
            for n in range(COUNT):
                tx.send(n)
                if n % 5 == 0:
                    await freerun.yield_now()

    task = freerun.spawn(produce)
    parts = await drain(hurried, lambda: rx.recv_many(7))
    assert [n for part in parts for n in part] == list(range(COUNT))
    await task


@every_flavor
async def test_mpsc_send() -> None:
    """What was cancelled was not sent; what was not was, once."""
    hurried = Hurried()
    tx, rx = mpsc.channel(1)
    sent: list[int] = []

    async def consume() -> list[int]:
        return [n async for n in rx]

    async def send(n: int) -> None:
        await tx.send(n)
        sent.append(n)

    task = freerun.spawn(consume)
    with tx:
        for n in range(COUNT):
            await hurried.once(lambda n=n: send(n))  # type: ignore[misc]
    assert await task == sent


@every_flavor
async def test_mpsc_reserve() -> None:
    hurried = Hurried()
    tx, rx = mpsc.channel(2)

    async def consume() -> list[int]:
        return [n async for n in rx]

    task = freerun.spawn(consume)
    with tx:
        for n in range(COUNT):
            permit = await hurried(tx.reserve)
            permit.send(n)
            del permit
        permits = await hurried(lambda: tx.reserve_many(2))
        for permit in permits:
            permit.send(0)
        del permit, permits
    assert await task == [*range(COUNT), 0, 0]
    assert rx.capacity() == 2


@every_flavor
async def test_oneshot() -> None:
    hurried = Hurried()
    for n in range(COUNT):
        tx, rx = oneshot.channel()

        async def send(tx: Any = tx, n: int = n) -> None:
            await hurried.pause()
            tx.send(n)

        task = freerun.spawn(send)
        assert await hurried(lambda rx=rx: rx) == n  # type: ignore[misc]
        await task


@every_flavor
async def test_broadcast_recv() -> None:
    hurried = Hurried()
    tx, rx = broadcast.channel(COUNT)
    other = tx.subscribe()

    async def send() -> None:
        with tx:
            for n in range(COUNT):
                tx.send(n)
                await hurried.pause()

    task = freerun.spawn(send)
    one, two = await freerun.join(drain(hurried, rx.recv), drain(hurried, other.recv))
    assert one == two == list(range(COUNT))
    await task


@every_flavor
async def test_watch() -> None:
    """A change that nobody was told of is told."""
    hurried = Hurried()
    tx, rx = watch.channel(-1)
    seen: list[int] = []

    async def send() -> None:
        for n in range(COUNT):
            tx.send(n)
            await until(lambda n=n: seen and seen[-1] == n)  # type: ignore[misc]

    task = freerun.spawn(send)
    while not seen or seen[-1] != COUNT - 1:
        if hurried.random.random() < 0.5:
            await hurried(rx.changed)
            seen.append(rx.borrow_and_update())
        else:
            last = seen[-1] if seen else -1
            value = await hurried(lambda last=last: rx.wait_for(lambda value: value > last))  # type: ignore[misc]
            rx.mark_unchanged()
            seen.append(value)
    await task
    assert seen == list(range(COUNT))


@pytest.mark.parametrize("n", [1, 3])
@every_flavor
async def test_semaphore(n: int) -> None:
    hurried = Hurried()
    semaphore = Semaphore(3)
    inside = most = done = 0

    async def worker() -> None:
        nonlocal inside, most, done
        for _ in range(10):
            permit = await hurried(lambda: semaphore.acquire(n))
            with permit:
                inside += n
                most = max(most, inside)
                await hurried.pause()
                inside -= n
            done += 1

    await freerun.join(*[worker() for _ in range(6)])
    assert (done, semaphore.available_permits()) == (60, 3)
    assert most <= 3


@every_flavor
async def test_mutex() -> None:
    hurried = Hurried()
    mutex = Mutex(0)

    async def block() -> None:
        async with mutex as guard:
            value = guard.value
            await freerun.lowlevel.cancel_shielded_checkpoint()
            guard.value = value + 1

    async def worker() -> int:
        done = 0
        for n in range(15):
            if n % 2:
                with await hurried(mutex.lock) as guard:
                    value = guard.value
                    await hurried.pause()
                    guard.value = value + 1
                done += 1
            else:
                before = done
                results: list[int] = []

                async def counted(results: list[int] = results) -> None:
                    await block()
                    results.append(1)

                await hurried.once(counted)
                done = before + len(results)
        return done

    tasks = [freerun.spawn(worker) for _ in range(4)]
    counted = sum([await task for task in tasks])
    with await mutex.lock() as guard:
        assert guard.value >= counted  # a block that was cancelled at its end has counted, and did not say so
    assert counted >= 4 * 7


@every_flavor
async def test_rwlock() -> None:
    hurried = Hurried()
    lock = RwLock(0)
    readers = writers = 0

    async def worker(writes: bool) -> None:
        nonlocal readers, writers
        for _ in range(12):
            if writes:
                with await hurried(lock.write) as guard:
                    writers += 1
                    assert (readers, writers) == (0, 1)
                    await hurried.pause()
                    guard.value += 1
                    writers -= 1
            else:
                with await hurried(lock.read):
                    readers += 1
                    assert writers == 0
                    await hurried.pause()
                    readers -= 1

    await freerun.join(*[worker(n % 3 == 0) for n in range(6)])
    with await lock.write() as guard:
        assert guard.value == 24


@every_flavor
async def test_notify() -> None:
    """A notification that its waiter did not see any more is passed on, or kept."""
    hurried = Hurried()
    notify = Notify()
    seen = 0

    async def listen() -> None:
        nonlocal seen
        await notify.notified()
        seen += 1

    async def tell() -> None:
        for n in range(COUNT):
            notify.notify_one()
            await until(lambda n=n: seen == n + 1)  # type: ignore[misc]

    task = freerun.spawn(tell)
    while not task.is_finished():
        await hurried.once(lambda: freerun.join(listen(), sleep(0)))
    await task
    assert seen == COUNT


@every_flavor
async def test_condvar() -> None:
    """Whether told or cancelled: the mutex is held again, and a notification is not lost."""
    hurried = Hurried()
    queue: Mutex[list[int]] = Mutex([])
    filled = Condvar()
    got: list[int] = []

    async def take() -> None:
        async with queue.lock() as guard:
            await filled.wait_for(guard, len)
            got.append(guard.value.pop(0))

    async def put() -> None:
        for n in range(COUNT):
            async with queue.lock() as guard:
                guard.value.append(n)
            filled.notify_one()
            await until(lambda n=n: len(got) == n + 1)  # type: ignore[misc]

    task = freerun.spawn(put)
    while not task.is_finished():
        await freerun.join(hurried.once(take), hurried.once(take))
    await task
    assert got == list(range(COUNT))
    queue.try_lock().release()


@every_flavor
async def test_once_cell_and_set_once() -> None:
    hurried = Hurried()
    for n in range(COUNT // 2):
        cell: OnceCell[int] = OnceCell()
        made = 0

        async def make(n: int = n) -> int:
            nonlocal made
            await hurried.pause()
            made += 1
            return n

        results = await freerun.join(*[hurried(lambda: cell.get_or_init(make)) for _ in range(3)])
        assert (results, cell.get()) == ((n, n, n), n)
        once: SetOnce[int] = SetOnce()

        async def put(once: SetOnce[int] = once, n: int = n) -> None:
            await hurried.pause()
            once.set(n)

        assert await freerun.join(hurried(once.wait), put()) == (n, None)


@every_flavor
async def test_join_handle() -> None:
    """The task runs on, and its result stays."""
    hurried = Hurried()

    async def work(n: int) -> int:
        await hurried.pause()
        return n

    for n in range(COUNT):
        handle = freerun.spawn(work, n)
        assert await hurried(lambda handle=handle: handle) == n  # type: ignore[misc]
    blocking = freerun.spawn_blocking(lambda: "value")
    assert await hurried(lambda: blocking) == "value"


@every_flavor
async def test_abort_on_drop_is_a_handle() -> None:
    hurried = Hurried()

    async def work(n: int) -> int:
        await hurried.pause()
        return n

    for n in range(COUNT // 2):
        handle = AbortOnDropHandle(freerun.spawn(work, n))
        assert await hurried(lambda handle=handle: handle) == n  # type: ignore[misc]


@every_flavor
async def test_join_set() -> None:
    """Every result is taken, once."""
    hurried = Hurried()
    tasks: freerun.JoinSet[int] = freerun.JoinSet()
    got: list[int] = []

    async def work(n: int) -> int:
        await hurried.pause()
        return n

    for n in range(COUNT):
        tasks.spawn(work, n)
    while len(got) < COUNT:
        how = hurried.random.randrange(4)
        if how == 0:
            got.append(await hurried(tasks.join_next))
        elif how == 1:
            got.append((await hurried(tasks.join_next_with_id))[1])
        elif how == 2:
            got.append(await (await hurried(tasks.join_next_handle)))
        else:
            got.append(await hurried(tasks.__anext__))
    assert sorted(got) == list(range(COUNT))
    assert tasks.is_empty()


@every_flavor
async def test_join_map() -> None:
    hurried = Hurried()
    tasks: JoinMap[int, int] = JoinMap()
    got: list[tuple[int, int]] = []

    async def work(n: int) -> int:
        await hurried.pause()
        return n * n

    for n in range(COUNT):
        tasks.spawn(n, work, n)
    while len(got) < COUNT:
        how = hurried.random.randrange(3)
        if how == 0:
            got.append(await hurried(tasks.join_next))
        elif how == 1:
            key, handle = await hurried(tasks.join_next_handle)
            got.append((key, await handle))
        else:
            got.append(await hurried(tasks.__anext__))
    assert sorted(got) == [(n, n * n) for n in range(COUNT)]
    assert tasks.is_empty()


@every_flavor
async def test_join_all_loses_what_it_has_taken() -> None:
    """It says so. What it has not taken stays."""
    tasks: freerun.JoinSet[int] = freerun.JoinSet()
    tx, rx = oneshot.channel()

    async def last() -> int:
        return await rx

    tasks.spawn(freerun.join(sleep(0)))
    tasks.spawn(last)
    joining = freerun.spawn(tasks.join_all)
    await until(lambda: len(tasks) == 1)
    joining.abort()
    with pytest.raises(freerun.JoinError):
        await joining
    tx.send(7)
    assert await tasks.join_all() == [7]


@every_flavor
async def test_told_that_it_is_over() -> None:
    """What has nothing to lose: it is told all the same, whoever was cancelled before."""
    hurried = Hurried()
    for _ in range(3):
        token, tracker = CancellationToken(), TaskTracker()
        (bounded, of_bounded), (unbounded, of_unbounded) = mpsc.channel(1), mpsc.unbounded_channel()
        (one, of_one), (many, of_many), (watched, of_watched) = (
            oneshot.channel(),
            broadcast.channel(1),
            watch.channel(0),
        )
        async with pair() as (ours, theirs):

            async def end(what: Any = (token, tracker, of_bounded, of_unbounded, of_one, of_many, of_watched)) -> None:
                for each in hurried.random.sample(what, len(what)):
                    await hurried.pause()
                    (each.cancel if each is what[0] else each.close)()
                await ours.write_all(b"news")  # it is awaited in here

            task = freerun.spawn(end)
            waits: list[Callable[[], Awaitable[Any]]] = [
                token.cancelled,
                token.child_token().cancelled,
                tracker.wait,
                bounded.closed,
                unbounded.closed,
                one.closed,
                many.closed,
                watched.closed,
                theirs.readable,
                freerun.yield_now,
                consume_budget,
                freerun.lowlevel.checkpoint,
            ]
            await freerun.join(*[hurried(wait) for wait in waits])
            await task
            assert await theirs.read() == b"news"


@pytest.mark.parametrize("kind", ["channel", "generator"])
@every_flavor
async def test_streams(kind: str) -> None:
    """The next item of a stream, whatever it is made of, and whatever is around it."""
    hurried = Hurried()
    tx, rx = mpsc.channel(2)

    async def numbers() -> Any:
        for n in range(COUNT):
            await hurried.pause()
            yield n

    async def produce() -> None:
        with tx:
            for n in range(COUNT):
                await tx.send(n)

    task = freerun.spawn(produce) if kind == "channel" else None
    source: Any = rx if kind == "channel" else numbers()
    limited = stream.timeout(stream.throttle(source, 0), 3600)
    keyed = stream.StreamMap({"key": stream.merge(limited)})
    chunks = stream.chunks_timeout(keyed, 3, 0.001)
    got: list[int] = []
    while True:
        try:
            got += [n for _, n in await hurried(chunks.__anext__)]
        except StopAsyncIteration:
            break
    assert got == list(range(COUNT))
    if task is not None:
        await task


@every_flavor
async def test_buffered_streams() -> None:
    hurried = Hurried()

    async def work(n: int) -> int:
        await hurried.pause()
        return n

    for buffer in (stream.buffered, stream.buffer_unordered):
        results = buffer(stream.iter(work(n) for n in range(COUNT)), 4)
        got = []
        while True:
            try:
                got.append(await hurried(results.__anext__))
            except StopAsyncIteration:
                break
        assert (got if buffer is stream.buffered else sorted(got)) == list(range(COUNT))


@every_flavor
async def test_sleep() -> None:
    """The same object, awaited again, ends at the same time and not before."""
    hurried = Hurried()
    for _ in range(8):
        begin, nap = Instant.now(), sleep(0.008)
        await hurried(lambda nap=nap: nap)  # type: ignore[misc]
        assert begin.elapsed() >= 0.008


@every_flavor
async def test_interval() -> None:
    """A tick that was cancelled is not taken: the number of ticks is the number of periods."""
    hurried = Hurried()
    ticks = interval(0.002)
    begin = await hurried(ticks.tick)
    for n in range(1, 15):
        assert await hurried(ticks.tick) == begin + 0.002 * n


@every_flavor
async def test_delay_queue() -> None:
    hurried = Hurried()
    queue: DelayQueue[int] = DelayQueue()
    for n in range(COUNT):
        queue.insert(n, 0.0005 * n)
    got = [(await hurried(queue.next)).value for _ in range(COUNT)]
    assert sorted(got) == list(range(COUNT))
    assert len(queue) == 0


async def feed(stream: Any, hurried: Hurried, data: bytes) -> None:
    at = 0
    while at < len(data):
        n = hurried.random.randrange(1, 400)
        await stream.write_all(data[at : at + n])
        at += n
        await hurried.pause()


@every_flavor
async def test_tcp_read() -> None:
    hurried = Hurried()
    data = hurried.random.randbytes(20_000)
    async with pair() as (ours, theirs):
        task = freerun.spawn(feed, ours, hurried, data)
        got = bytearray()
        buffer = bytearray(100)
        while len(got) < len(data):
            if hurried.random.random() < 0.5:
                got += await hurried(lambda: theirs.read(300))
            else:
                got += buffer[: await hurried(lambda: theirs.read_into(buffer))]
        await task
    assert got == data


@every_flavor
async def test_tcp_write() -> None:
    """`write` says how much it took; one that was cancelled took nothing."""
    hurried = Hurried()
    data = hurried.random.randbytes(400_000)
    async with pair() as (ours, theirs):

        async def write() -> None:
            at = 0
            while at < len(data):
                taken = await hurried.once(lambda at=at: ours.write(data[at : at + 20_000]))  # type: ignore[misc]
                at += 0 if taken is LOST else taken
            await ours.shutdown()

        async def read() -> bytes:
            got = bytearray()
            while part := await theirs.read(7000):
                got += part
                await hurried.pause()
            return bytes(got)

        _, got = await freerun.join(write(), read())
    assert got == data


@every_flavor
async def test_buf_reader() -> None:
    """Every method, the long ones too: what was read stays in the buffer."""
    hurried = Hurried()
    lines = [hurried.random.randbytes(hurried.random.randrange(1, 300)).hex() for _ in range(40)]
    data = "".join(f"{line}\n" for line in lines).encode()
    ours, theirs = duplex(64)
    task = freerun.spawn(feed, ours, hurried, data)
    reader = BufReader(theirs, capacity=128)
    got = bytearray()
    while len(got) < len(data):
        how = hurried.random.randrange(3)
        if how == 0:
            got += await hurried(lambda: reader.read_until(b"\n"))
        elif how == 1:
            n = min(200, len(data) - len(got))
            got += await hurried(lambda n=n: reader.read_exact(n))  # type: ignore[misc]
        else:
            got += await hurried(lambda: reader.read(50))
    assert got == data
    await task


@every_flavor
async def test_accept() -> None:
    """Every connection is accepted, once."""
    hurried = Hurried()
    async with TcpListener.bind(LOCAL) as listener:

        async def connect() -> list[TcpStream]:
            streams = []
            for _ in range(15):
                streams.append(await TcpStream.connect(listener.local_addr))
                await hurried.pause()
            return streams

        task = freerun.spawn(connect)
        peers = []
        for _ in range(15):
            stream, address = await hurried(listener.accept)
            peers.append(address)
            stream.close()
        streams = await task
        assert peers == [stream.local_addr for stream in streams]
        for stream in streams:
            stream.close()


@every_flavor
async def test_udp() -> None:
    hurried = Hurried()
    async with UdpSocket.bind(LOCAL) as receiver:
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with plain:
            got = []
            for n in range(COUNT):
                plain.sendto(b"%d" % n, receiver.local_addr)
                got.append(int((await hurried(lambda: receiver.recv_from(100)))[0]))
    assert got == list(range(COUNT))
