"""The workloads on freerun.

Variants: `freerun` (the work-stealing pool with `--workers` threads), `freerun_ct` (the
current-thread flavour) and `freerun_io_uring` (the pool on that driver). contextvars are always on.
"""

from __future__ import annotations

import contextvars
import importlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from workloads import (
    TLS_MESSAGE,
    Unsupported,
    allocating_kernel,
    arithmetic_kernel,
    lateness,
    sleep_seconds,
    tls_contexts,
)

import freerun
from freerun import sync as channels
from freerun.lowlevel import current_waker, park
from freerun.net import TcpListener, TlsListener, TlsStream
from freerun.process import Command, Stdio
from freerun.sync import oneshot
from freerun.task import consume_budget
from freerun.time import sleep, timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from freerun.net import TcpStream

type Run = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def runtime(variant: str, workers: int) -> Iterator[Run]:
    """A runtime; yields the function that runs a coroutine in it."""
    if variant == "freerun_ct":
        builder = freerun.Builder.new_current_thread()
    else:
        driver = "io_uring" if variant == "freerun_io_uring" else "epoll"
        builder = freerun.Builder().worker_threads(workers).driver(driver)
    with builder.build() as running:
        yield running.block_on


def needed(module: str, name: str) -> Any:
    """`module.name`, or Unsupported while freerun does not have it yet."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise Unsupported(f"there is no {module}.{name} yet") from None


async def inherits_context(variable: contextvars.ContextVar[int], value: int) -> bool:
    """Whether a task sees its parent's context and keeps its own changes to itself."""

    async def child() -> bool:
        seen = variable.get(None)
        variable.set(value + 1)
        await freerun.yield_now()
        return seen == value

    variable.set(value)
    return await freerun.spawn(child) and variable.get() == value


# --- Scheduling ---------------------------------------------------------------------------------


async def spawn_many(count: int) -> int:
    """`count` tasks, one yield each."""

    async def task(number: int) -> int:
        await freerun.yield_now()
        return number

    handles = [freerun.spawn(task, number) for number in range(count)]
    total = 0
    for handle in handles:
        total += await handle
    return total


async def yield_many(tasks: int, yields: int) -> int:
    """`tasks` tasks that yield over and over."""

    async def task() -> int:
        for _ in range(yields):
            await freerun.yield_now()
        return yields

    handles = [freerun.spawn(task) for _ in range(tasks)]
    total = 0
    for handle in handles:
        total += await handle
    return total


async def ping_pong(rounds: int) -> int:
    """A child, a message there, a message back, the child's result; parent and child suspend."""

    async def child(ping: oneshot.Sender[int], pong: oneshot.Receiver[int], number: int) -> int:
        ping.send(number)
        return await pong

    total = 0
    for number in range(rounds):
        ping, pinged = oneshot.channel()
        ponged, pong = oneshot.channel()
        handle = freerun.spawn(child, ping, pong, number)
        ponged.send(await pinged + 1)
        total += await handle
    return total


async def chained_spawn(depth: int, chains: int) -> int:
    """A task that spawns and awaits a task that spawns and awaits a task..."""

    async def link(left: int) -> int:
        if left == 1:
            await freerun.yield_now()
            return 1
        below: int = await freerun.spawn(link, left - 1)
        return 1 + below

    total = 0
    for _ in range(chains):
        total += await freerun.spawn(link, depth)
    return total


async def many_to_one(capacity: int, producers: int, each: int) -> int:
    """Several producers, one consumer, a bounded channel."""
    sender, receiver = channels.mpsc.channel(capacity)

    async def produce(mine: channels.mpsc.Sender[int]) -> None:
        for number in range(each):
            await mine.send(number)

    handles = [freerun.spawn(produce, sender.clone()) for _ in range(producers)]
    total = 0
    for _ in range(producers * each):
        total += await receiver.recv()
    for handle in handles:
        await handle
    return total


async def mpsc(producers: int, each: int) -> int:
    """Room for 128."""
    return await many_to_one(128, producers, each)


async def mpsc_1(producers: int, each: int) -> int:
    """Room for one."""
    return await many_to_one(1, producers, each)


async def spsc(producers: int, each: int) -> int:
    """One to one."""
    return await many_to_one(128, producers, each)


async def mpsc_unbounded(producers: int, each: int) -> int:
    """Room for all; a producer yields now and then, or the consumer would see them at the end."""
    sender, receiver = channels.mpsc.unbounded_channel()

    async def produce(mine: channels.mpsc.UnboundedSender[int]) -> None:
        for number in range(each):
            mine.send(number)
            if number % 128 == 127:
                await freerun.yield_now()

    handles = [freerun.spawn(produce, sender.clone()) for _ in range(producers)]
    total = 0
    for _ in range(producers * each):
        total += await receiver.recv()
    for handle in handles:
        await handle
    return total


async def four_to_four(producers: int, each: int) -> int:
    """A channel for each consumer; every producer sends to all of them in turn."""
    pairs = [channels.mpsc.channel(128) for _ in range(4)]

    async def produce(mine: list[channels.mpsc.Sender[int]]) -> None:
        for number in range(each):
            await mine[number % 4].send(number)
        for sender in mine:
            sender.close()

    async def consume(receiver: channels.mpsc.Receiver[int]) -> int:
        total = 0
        async for value in receiver:
            total += value
        return total

    senders = [sender for sender, _ in pairs]
    consumers = [freerun.spawn(consume, receiver) for _, receiver in pairs]
    for _ in range(producers):
        freerun.spawn(produce, [sender.clone() for sender in senders])
    for sender in senders:
        sender.close()
    total = 0
    for handle in consumers:
        total += await handle
    return total


async def take_turns(lock: Any, tasks: int, rounds: int) -> int:
    """Tasks that enter a lock and yield inside."""

    async def work() -> int:
        done = 0
        for _ in range(rounds):
            async with lock:
                await freerun.yield_now()
                done += 1
        return done

    handles = [freerun.spawn(work) for _ in range(tasks)]
    total = 0
    for handle in handles:
        total += await handle
    return total


async def mutex(tasks: int, rounds: int) -> int:
    """One at a time."""
    return await take_turns(channels.Mutex(), tasks, rounds)


async def semaphore_8(tasks: int, rounds: int) -> int:
    """Eight at a time."""
    return await take_turns(channels.Semaphore(8), tasks, rounds)


async def notify(waiters: int, rounds: int) -> int:
    """Everybody waits, is woken, and says so."""
    news = channels.Notify()
    acks = Acks(waiters)

    async def wait() -> int:
        done = 0
        for _ in range(rounds):
            notified = news.notified()
            acks.give()
            await notified
            done += 1
        return done

    handles = [freerun.spawn(wait) for _ in range(waiters)]
    for _ in range(rounds):
        await acks.all()
        news.notify_waiters()
    total = 0
    for handle in handles:
        total += await handle
    return total


async def mutex_free(rounds: int) -> int:
    """Nobody waits."""
    lock = channels.Mutex()
    done = 0
    for _ in range(rounds):
        async with lock:
            done += 1
    return done


async def ready(rounds: int) -> int:
    """A leaf that is ready at once: the budget is not spent, mostly."""
    done = 0
    for _ in range(rounds):
        await consume_budget()
        done += 1
    return done


class Acks:
    """Whoever sends waits until everybody has what was sent."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.given: list[None] = []
        self.waker = current_waker()

    def give(self) -> None:
        """From every receiver, once a round."""
        self.given.append(None)
        if len(self.given) == self.wanted:
            self.waker.wake()

    async def all(self) -> None:
        """Wait for them; then the next round begins."""
        while len(self.given) < self.wanted:
            await park()
        self.given.clear()


async def broadcast(receivers: int, sends: int) -> int:
    """Every receiver suspends for every value."""
    tx, first = channels.broadcast.channel(16)
    acks = Acks(receivers)

    async def receive(rx: channels.broadcast.Receiver[int]) -> int:
        total = 0
        async for value in rx:
            total += value
            acks.give()
        return total

    every = [first, *[tx.subscribe() for _ in range(receivers - 1)]]
    handles = [freerun.spawn(receive, rx) for rx in every]
    for number in range(sends):
        tx.send(number)
        await acks.all()
    tx.close()
    total = 0
    for handle in handles:
        total += await handle
    return total


async def watch(receivers: int, sends: int) -> int:
    """Every receiver suspends for every change."""
    tx, first = channels.watch.channel(-1)
    acks = Acks(receivers)

    async def receive(rx: channels.watch.Receiver[int]) -> int:
        total = 0
        for _ in range(sends):
            await rx.changed()
            total += rx.borrow_and_update()
            acks.give()
        return total

    every = [first, *[tx.subscribe() for _ in range(receivers - 1)]]
    handles = [freerun.spawn(receive, rx) for rx in every]
    for number in range(sends):
        tx.send(number)
        await acks.all()
    total = 0
    for handle in handles:
        total += await handle
    return total


async def rwlock(tasks: int, rounds: int) -> int:
    """Readers share the lock, writers do not."""
    lock = channels.RwLock(0)

    async def work(number: int) -> int:
        done = 0
        for step in range(rounds):
            async with lock.write() if (number + step) % 10 == 0 else lock.read():
                await freerun.yield_now()
                done += 1
        return done

    handles = [freerun.spawn(work, number) for number in range(tasks)]
    total = 0
    for handle in handles:
        total += await handle
    return total


async def rwlock_free(rounds: int) -> int:
    """Nobody waits."""
    lock = channels.RwLock(0)
    done = 0
    for _ in range(rounds):
        async with lock.read():
            done += 1
    return done


async def task_group_1000(tasks: int, rounds: int) -> int:
    """A `TaskGroup`, over and over."""

    async def task() -> int:
        await freerun.yield_now()
        return 1

    total = 0
    for _ in range(rounds):
        async with freerun.TaskGroup() as group:
            handles = [group.spawn(task) for _ in range(tasks)]
        for handle in handles:
            total += await handle
    return total


async def cancel_4000(tasks: int, rounds: int) -> int:
    """`JoinSet.shutdown()` of tasks that all wait."""
    started: list[None] = []
    cancelled: list[None] = []

    async def parked() -> None:
        started.append(None)
        try:
            while True:
                await park()
        except freerun.Cancelled:
            cancelled.append(None)
            raise

    for _ in range(rounds):
        started.clear()
        group = freerun.JoinSet[None]()
        for _ in range(tasks):
            group.spawn(parked)
        while len(started) < tasks:
            await freerun.yield_now()
        await group.shutdown()
    return len(cancelled)


async def join_set(tasks: int, rounds: int) -> int:
    """`async for` over a `JoinSet`."""

    async def task(number: int) -> int:
        await freerun.yield_now()
        return number

    total = 0
    for _ in range(rounds):
        group = freerun.JoinSet[int]()
        for number in range(tasks):
            group.spawn(task, number)
        async for number in group:
            total += number
    return total


async def sleepers(count: int) -> int:
    """`count` tasks that sleep at the same time."""

    async def task(number: int) -> int:
        await sleep(sleep_seconds(number))
        return number

    handles = [freerun.spawn(task, number) for number in range(count)]
    total = 0
    for handle in handles:
        total += await handle
    return total


async def processes(count: int) -> int:
    """The least that `Command` can do."""
    handles = [freerun.spawn(Command("/bin/true").stdin(Stdio.null()).status()) for _ in range(count)]
    return sum([(await handle).success for handle in handles])


async def processes_stall_p99(count: int) -> float:
    """How late a ticker is."""
    late = await lateness(processes(count), freerun.spawn, sleep)
    return late[len(late) * 99 // 100]


async def processes_stall_worst(count: int) -> float:
    """The same, at its worst."""
    return (await lateness(processes(count), freerun.spawn, sleep))[-1]


async def timeouts(count: int) -> int:
    """Timeouts that never fire."""
    done = 0
    for _ in range(count):
        async with timeout(10):
            await freerun.yield_now()
            done += 1
    return done


async def timeouts_await(count: int) -> int:
    """The same around an awaitable."""

    async def body() -> int:
        await freerun.yield_now()
        return 1

    done = 0
    for _ in range(count):
        done += await timeout(10, body())
    return done


async def await_ready(count: int) -> int:
    """The bare await."""

    async def body() -> int:
        return 1

    done = 0
    for _ in range(count):
        done += await body()
    return done


async def timeout_ready(count: int) -> int:
    """The same in a timeout."""

    async def body() -> int:
        return 1

    done = 0
    for _ in range(count):
        done += await timeout(10, body())
    return done


async def select_100(branches: int, rounds: int) -> int:
    """One winner, the others cancelled and awaited."""
    never = channels.Notify()
    lost = 0

    async def branch(number: int, winner: int) -> int:
        nonlocal lost
        if number == winner:
            await freerun.yield_now()
            return number
        try:
            await never.notified()
        finally:
            lost += 1
        return -1

    total = 0
    for round in range(rounds):
        winner = round % branches
        _, value = await freerun.select(*[branch(number, winner) for number in range(branches)])
        total += value
    assert lost == rounds * (branches - 1)
    return total


async def join_100(branches: int, rounds: int) -> int:
    """All of them, in one task."""

    async def branch(number: int) -> int:
        await freerun.yield_now()
        return number

    total = 0
    for _ in range(rounds):
        total += sum(await freerun.join(*[branch(number) for number in range(branches)]))
    return total


def nothing(number: int) -> int:
    """What a blocking call does."""
    return number


async def spawn_blocking_rt(count: int) -> int:
    """One after another."""
    return sum([await freerun.spawn_blocking(nothing, number) for number in range(count)])


async def spawn_blocking(tasks: int, rounds: int, batch: int) -> int:
    """Tasks, rounds, batches."""

    async def task() -> int:
        total = 0
        for _ in range(rounds):
            handles = [freerun.spawn_blocking(nothing, 1) for _ in range(batch)]
            total += sum([await handle for handle in handles])
        return total

    return sum([await handle for handle in [freerun.spawn(task) for _ in range(tasks)]])


async def tls_echo(connections: int, requests: int) -> int:
    """Server and clients over TLS, one request in flight on each connection."""
    server_context, client_context = tls_contexts()

    async def serve(stream: TlsStream) -> None:
        async with stream:
            while data := await stream.read():
                await stream.write_all(data)

    async def accept(listener: TlsListener) -> None:
        async for stream, _ in listener:
            freerun.spawn(serve, stream)

    async def client(address: tuple[str, int]) -> int:
        done = 0
        async with TlsStream.connect(address, client_context, server_name="localhost") as stream:
            for _ in range(requests):
                await stream.write_all(TLS_MESSAGE)
                done += await stream.read_exact(len(TLS_MESSAGE)) == TLS_MESSAGE
            await stream.shutdown()
        return done

    async with TlsListener.bind(("127.0.0.1", 0), server_context) as listener:
        acceptor = freerun.spawn(accept, listener)
        clients = [freerun.spawn(client, listener.local_addr) for _ in range(connections)]
        total = sum([await each for each in clients])
        acceptor.abort()
    return total


async def cpu(kernel: Callable[[int], int], tasks: int, rounds: int) -> int:
    """Tasks that compute, with a yield after each kernel."""

    async def task(number: int) -> int:
        total = 0
        for step in range(rounds):
            total += kernel(number + step)
            await freerun.yield_now()
        return total

    handles = [freerun.spawn(task, number) for number in range(tasks)]
    total = 0
    for handle in handles:
        total += await handle
    return total


async def cpu_allocating(tasks: int, rounds: int) -> int:
    """`cpu` with the kernel that allocates."""
    return await cpu(allocating_kernel, tasks, rounds)


async def cpu_arithmetic(tasks: int, rounds: int) -> int:
    """`cpu` with the kernel that does not."""
    return await cpu(arithmetic_kernel, tasks, rounds)


# --- Costs --------------------------------------------------------------------------------------


def start_stop(variant: str, workers: int, rounds: int) -> int:
    """Build a runtime, run one task, shut it down."""

    async def task() -> int:
        await freerun.yield_now()
        return 1

    total = 0
    for _ in range(rounds):
        with runtime(variant, workers) as run:
            total += run(task())
    return total


async def park_tasks(count: int, hold: bool) -> object:
    """Leave `count` tasks parked; returns what has to be kept alive."""
    park = needed("freerun.lowlevel", "park")

    async def parked() -> None:
        while True:
            await park()

    kept: list[object] = []
    for _ in range(count):
        handle = freerun.spawn(parked)
        if hold:
            kept.append(handle)
    return kept


async def pause(seconds: float) -> None:
    """Sleep."""
    await sleep(seconds)


# --- Echo ---------------------------------------------------------------------------------------


def serve_echo(variant: str, style: str, workers: int, announce: Callable[[int], None]) -> None:
    """Serve for ever."""
    with runtime(variant, workers) as run:
        run(serve(announce))


async def serve(announce: Callable[[int], None]) -> None:
    """Echo with streams, a task for each connection; they have TCP_NODELAY set."""

    async def serve_client(stream: TcpStream) -> None:
        async with stream:
            with suppress(OSError):  # the client went away
                while data := await stream.read(65536):
                    await stream.write_all(data)

    async with TcpListener.bind("127.0.0.1:0") as listener:
        announce(listener.local_addr[1])
        async for stream, _ in listener:
            freerun.spawn(serve_client, stream)
