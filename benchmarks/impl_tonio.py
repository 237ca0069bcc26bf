"""The workloads on TonIO, by its `async` face (`tonio.colored`).

Variants: `tonio_ctx` (`context=True`, so that contextvars work as everyone else's do) and `tonio`
(its default, without). TonIO has one runtime per process and polls I/O and timers on one thread
more than `threads`. Where its documentation offers several ways, the fastest is taken: raw sockets
as in its own benchmark, `spawn(*coroutines)` for many at once.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

import contextvars
import socket as stdlib_socket
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import tonio.colored as tonio
from tonio.colored import sync
from tonio.colored import time as tonio_time
from tonio.colored.net import socket
from tonio.colored.sync import channel
from workloads import Unsupported, allocating_kernel, arithmetic_kernel, lateness, sleep_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

type Run = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def runtime(variant: str, workers: int) -> Iterator[Run]:
    """The runtime; yields the function that runs a coroutine in it."""
    yield tonio.runtime(threads=workers, context=variant == "tonio_ctx").run_until_complete


async def inherits_context(variable: contextvars.ContextVar[int], value: int) -> bool:
    """Whether a task sees its parent's context and keeps its own changes to itself."""

    async def child() -> bool:
        seen = variable.get(None)
        variable.set(value + 1)
        await tonio.yield_now()
        return seen == value

    variable.set(value)
    inherited: bool = await tonio.spawn(child())
    return inherited and variable.get() == value


# --- Scheduling ---------------------------------------------------------------------------------


async def spawn_many(count: int) -> int:
    """`count` tasks, one yield each."""

    async def task(number: int) -> int:
        await tonio.yield_now()
        return number

    return sum(await tonio.spawn(*[task(number) for number in range(count)]))


async def yield_many(tasks: int, yields: int) -> int:
    """`tasks` tasks that yield over and over."""

    async def task() -> int:
        for _ in range(yields):
            await tonio.yield_now()
        return yields

    return sum(await tonio.spawn(*[task() for _ in range(tasks)]))


async def ping_pong(rounds: int) -> int:
    """A child, a message there, a message back, the child's result; parent and child suspend.

    A oneshot is an Event and a Result, as in TonIO's own sources.
    """

    async def child(
        ping: tonio.Event,
        pinged: tonio.Result,
        pong: tonio.Event,
        ponged: tonio.Result,
        number: int,
    ) -> int:
        pinged.store(number)
        ping.set()
        await pong.waiter(None)
        reply: int = ponged.fetch()
        return reply

    total = 0
    for number in range(rounds):
        ping, pinged = tonio.Event(), tonio.Result()
        pong, ponged = tonio.Event(), tonio.Result()
        task = tonio.spawn(child(ping, pinged, pong, ponged, number))
        await ping.waiter(None)
        ponged.store(pinged.fetch() + 1)
        pong.set()
        total += await task
    return total


async def chained_spawn(depth: int, chains: int) -> int:
    """A task that spawns and awaits a task that spawns and awaits a task..."""

    async def link(left: int) -> int:
        if left == 1:
            await tonio.yield_now()
            return 1
        below: int = await tonio.spawn(link(left - 1))
        return 1 + below

    total = 0
    for _ in range(chains):
        total += await tonio.spawn(link(depth))
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
    sender, receiver = channel.unbounded()

    async def produce() -> None:
        for number in range(each):
            sender.send(number)
            if number % 128 == 127:
                await tonio.yield_now()

    tasks = tonio.spawn.without_results(*[produce() for _ in range(producers)])
    total = 0
    for _ in range(producers * each):
        total += await receiver.receive()
    await tasks
    return total


async def four_to_four(producers: int, each: int) -> int:
    """A channel that all consumers take from."""
    sender, receiver = channel.channel(128)

    async def produce() -> None:
        for number in range(each):
            await sender.send(number)

    async def consume() -> int:
        total = 0
        while (value := await receiver.receive()) is not None:
            total += value
        return total

    consumers = tonio.spawn(*[consume() for _ in range(4)])
    await tonio.spawn.without_results(*[produce() for _ in range(producers)])
    for _ in range(4):
        await sender.send(None)
    return sum(await consumers)


async def take_turns(lock: Any, tasks: int, rounds: int) -> int:
    """Tasks that enter a lock and yield inside."""

    async def work() -> int:
        done = 0
        for _ in range(rounds):
            async with lock:
                await tonio.yield_now()
                done += 1
        return done

    return sum(await tonio.spawn(*[work() for _ in range(tasks)]))


async def mutex(tasks: int, rounds: int) -> int:
    """One at a time."""
    return await take_turns(sync.Lock(), tasks, rounds)


async def semaphore_8(tasks: int, rounds: int) -> int:
    """Eight at a time."""
    return await take_turns(sync.Semaphore(8), tasks, rounds)


async def notify(waiters: int, rounds: int) -> int:
    """An event for each round."""
    events = [tonio.Event() for _ in range(rounds)]
    acks = Acks(waiters)

    async def wait() -> int:
        done = 0
        for event in events:
            acks.give()
            await event.waiter(None)
            done += 1
        return done

    tasks = tonio.spawn(*[wait() for _ in range(waiters)])
    for event in events:
        await acks.all()
        event.set()
    return sum(await tasks)


async def mutex_free(rounds: int) -> int:
    """Nobody waits."""
    return await rwlock_free(rounds)


async def ready(rounds: int) -> int:
    """An event that is set."""
    event = tonio.Event()
    event.set()
    done = 0
    for _ in range(rounds):
        await event.waiter(None)
        done += 1
    return done


async def many_to_one(capacity: int, producers: int, each: int) -> int:
    """Several producers, one consumer, a bounded channel."""
    sender, receiver = channel.channel(capacity)

    async def produce() -> None:
        for number in range(each):
            await sender.send(number)

    tasks = tonio.spawn.without_results(*[produce() for _ in range(producers)])
    total = 0
    for _ in range(producers * each):
        total += await receiver.receive()
    await tasks
    return total


class Acks:
    """Whoever sends waits until everybody has what was sent."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.given: list[None] = []
        self.event = tonio.Event()

    def give(self) -> None:
        """From every receiver, once a round."""
        self.given.append(None)
        if len(self.given) == self.wanted:
            self.event.set()

    async def all(self) -> None:
        """Wait for them; then the next round begins. Two may set the event, the second one late."""
        while len(self.given) < self.wanted:
            await self.event.waiter(None)
            self.event.clear()
        self.given.clear()


async def broadcast(receivers: int, sends: int) -> int:
    """TonIO has no such channel: one for each receiver."""
    pairs = [channel.unbounded() for _ in range(receivers)]
    acks = Acks(receivers)

    async def receive(receiver: Any) -> int:
        total = 0
        while (value := await receiver.receive()) is not None:
            total += value
            acks.give()
        return total

    tasks = tonio.spawn(*[receive(receiver) for _, receiver in pairs])
    for number in range(sends):
        for sender, _ in pairs:
            sender.send(number)
        await acks.all()
    for sender, _ in pairs:
        sender.send(None)
    return sum(await tasks)


async def watch(receivers: int, sends: int) -> int:
    """TonIO has no such channel: a value, and an event for its next change.

    A receiver that acknowledges may not take the event for the next change from where the sender
    puts it, since that may be too late: it takes the one that belongs to the change.
    """
    changes = [tonio.Event() for _ in range(sends)]
    values = [-1]
    acks = Acks(receivers)

    async def receive() -> int:
        total = 0
        for change in changes:
            await change.waiter(None)
            total += values[0]
            acks.give()
        return total

    tasks = tonio.spawn(*[receive() for _ in range(receivers)])
    for number in range(sends):
        values[0] = number
        changes[number].set()
        await acks.all()
    return sum(await tasks)


async def rwlock(tasks: int, rounds: int) -> int:
    """TonIO has no lock for readers: one lock for all."""
    lock = sync.Lock()

    async def work() -> int:
        done = 0
        for _ in range(rounds):
            async with lock:
                await tonio.yield_now()
                done += 1
        return done

    return sum(await tonio.spawn(*[work() for _ in range(tasks)]))


async def rwlock_free(rounds: int) -> int:
    """Nobody waits."""
    lock = sync.Lock()
    done = 0
    for _ in range(rounds):
        async with lock:
            done += 1
    return done


async def task_group_1000(tasks: int, rounds: int) -> int:
    """A scope, over and over; it gives no results, so the tasks count themselves."""
    done: list[None] = []

    async def task() -> None:
        await tonio.yield_now()
        done.append(None)

    for _ in range(rounds):
        async with tonio.scope() as scope:
            for _ in range(tasks):
                scope.spawn(task())
    return len(done)


async def cancel_4000(tasks: int, rounds: int) -> int:
    """A scope that is cancelled. Its tasks cannot count that: their cleanup does not run, or not in time."""
    cancelled = 0
    for _ in range(rounds):
        never = tonio.Event()
        parked: list[None] = []

        async def park(never: tonio.Event = never, parked: list[None] = parked) -> None:
            parked.append(None)
            await never.waiter(None)

        async with tonio.scope() as scope:
            for _ in range(tasks):
                scope.spawn(park())
            while len(parked) < tasks:
                await tonio.yield_now()
            scope.cancel()
        cancelled += len(parked)
    return cancelled


async def join_set(tasks: int, rounds: int) -> int:
    """`as_completed()`."""

    async def task(number: int) -> int:
        await tonio.yield_now()
        return number

    total = 0
    for _ in range(rounds):
        async for number in tonio.as_completed(*[task(number) for number in range(tasks)]):
            total += number
    return total


async def sleepers(count: int) -> int:
    """`count` tasks that sleep at the same time."""

    async def task(number: int) -> int:
        await tonio.sleep(sleep_seconds(number))
        return number

    return sum(await tonio.spawn(*[task(number) for number in range(count)]))


async def processes(count: int) -> int:
    """`run_process` with nothing to feed."""

    async def run() -> bool:
        done = await tonio.run_process(["/bin/true"], stdin=subprocess.DEVNULL)
        return bool(done.returncode == 0)

    return sum(await tonio.spawn(*[run() for _ in range(count)]))


async def processes_stall_p99(count: int) -> float:
    """How late a ticker is."""
    late = await lateness(processes(count), tonio.spawn, tonio_time.sleep)
    return late[len(late) * 99 // 100]


async def processes_stall_worst(count: int) -> float:
    """The same, at its worst."""
    return (await lateness(processes(count), tonio.spawn, tonio_time.sleep))[-1]


async def timeouts(count: int) -> int:
    """Timeouts that never fire. TonIO has no blocks, only awaitables."""
    return await timeouts_await(count)


async def timeouts_await(count: int) -> int:
    """The same: TonIO has this form only."""

    async def body() -> int:
        await tonio.yield_now()
        return 1

    done = 0
    for _ in range(count):
        result, in_time = await tonio_time.timeout(body(), 10)
        assert in_time
        done += result
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
        result, in_time = await tonio_time.timeout(body(), 10)
        assert in_time
        done += result
    return done


async def select_100(branches: int, rounds: int) -> int:
    """One winner. TonIO cancels the others, and does not say when they have ended."""
    never = tonio.Event()

    async def branch(number: int, winner: int) -> int:
        if number == winner:
            await tonio.yield_now()
            return number
        await never.wait()
        return -1

    total = 0
    for round in range(rounds):
        winner = round % branches
        total += await tonio.select(*[branch(number, winner) for number in range(branches)])
    return total


async def join_100(branches: int, rounds: int) -> int:
    """All of them: its `spawn` waits for many at once."""

    async def branch(number: int) -> int:
        await tonio.yield_now()
        return number

    total = 0
    for _ in range(rounds):
        total += sum(await tonio.spawn(*[branch(number) for number in range(branches)]))
    return total


def nothing(number: int) -> int:
    """What a blocking call does."""
    return number


async def spawn_blocking_rt(count: int) -> int:
    """One after another."""
    return sum([await tonio.spawn_blocking(nothing, number) for number in range(count)])


async def spawn_blocking(tasks: int, rounds: int, batch: int) -> int:
    """Tasks, rounds, batches."""

    async def task() -> int:
        total = 0
        for _ in range(rounds):
            total += sum(await tonio.spawn(*[tonio.spawn_blocking(nothing, 1) for _ in range(batch)]))
        return total

    return sum(await tonio.spawn(*[task() for _ in range(tasks)]))


async def tls_echo(connections: int, requests: int) -> int:
    """The bar for TLS is asyncio's."""
    raise Unsupported("compared with asyncio and uvloop")


async def cpu(kernel: Callable[[int], int], tasks: int, rounds: int) -> int:
    """Tasks that compute, with a yield after each kernel."""

    async def task(number: int) -> int:
        total = 0
        for step in range(rounds):
            total += kernel(number + step)
            await tonio.yield_now()
        return total

    return sum(await tonio.spawn(*[task(number) for number in range(tasks)]))


async def cpu_allocating(tasks: int, rounds: int) -> int:
    """`cpu` with the kernel that allocates."""
    return await cpu(allocating_kernel, tasks, rounds)


async def cpu_arithmetic(tasks: int, rounds: int) -> int:
    """`cpu` with the kernel that does not."""
    return await cpu(arithmetic_kernel, tasks, rounds)


# --- Costs --------------------------------------------------------------------------------------


def start_stop(variant: str, workers: int, rounds: int) -> int:
    """Not possible."""
    raise Unsupported("TonIO has one runtime per process")


async def park_tasks(count: int, hold: bool) -> object:
    """Leave `count` tasks parked; returns what has to be kept alive."""
    never = tonio.Event()

    async def parked() -> None:
        await never.waiter(None)

    kept: list[object] = [never]
    for _ in range(count):
        if hold:
            kept.append(tonio.spawn(parked()))
        else:
            tonio.spawn.without_tracking(parked())
    return kept


async def pause(seconds: float) -> None:
    """Sleep."""
    await tonio.sleep(seconds)


# --- Echo ---------------------------------------------------------------------------------------


def serve_echo(variant: str, style: str, workers: int, announce: Callable[[int], None]) -> None:
    """Serve for ever."""
    with runtime(variant, workers) as run:
        run(serve(announce))


async def serve(announce: Callable[[int], None]) -> None:
    """Echo with raw sockets, as TonIO's own benchmark does."""

    async def serve_client(client: Any) -> None:
        client.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        with client, suppress(OSError):  # the client went away
            while data := await client.recv(65536):
                while data:
                    sent = await client.send(data)
                    data = data[sent:]

    with socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        announce(listener.getsockname()[1])
        while True:
            client, _ = await listener.accept()
            tonio.spawn.without_tracking(serve_client(client))
