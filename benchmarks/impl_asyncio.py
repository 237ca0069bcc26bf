"""The workloads on asyncio, and on uvloop, which is asyncio with another event loop.

Variants: `asyncio`, `uvloop`, and `asyncio_eager` (tasks run at once up to their first suspension).
Thread safe: no. One event loop, one thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from workloads import TLS_MESSAGE, allocating_kernel, arithmetic_kernel, lateness, sleep_seconds, tls_contexts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

type Run = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def runtime(variant: str, workers: int) -> Iterator[Run]:
    """An event loop; yields the function that runs a coroutine in it."""
    with asyncio.Runner(loop_factory=loop_factory(variant)) as runner:
        yield runner.run


def loop_factory(variant: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop of a variant."""
    if variant == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    if variant == "asyncio_eager":
        return eager_loop
    return asyncio.new_event_loop


def eager_loop() -> asyncio.AbstractEventLoop:
    """A loop whose tasks start at once."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


async def inherits_context(variable: contextvars.ContextVar[int], value: int) -> bool:
    """Whether a task sees its parent's context and keeps its own changes to itself."""

    async def child() -> bool:
        seen = variable.get(None)
        variable.set(value + 1)
        await asyncio.sleep(0)
        return seen == value

    variable.set(value)
    return await asyncio.create_task(child()) and variable.get() == value


# --- Scheduling ---------------------------------------------------------------------------------


async def spawn_many(count: int) -> int:
    """`count` tasks, one yield each."""

    async def task(number: int) -> int:
        await asyncio.sleep(0)
        return number

    return sum(await asyncio.gather(*[task(number) for number in range(count)]))


async def yield_many(tasks: int, yields: int) -> int:
    """`tasks` tasks that yield over and over."""

    async def task() -> int:
        for _ in range(yields):
            await asyncio.sleep(0)
        return yields

    return sum(await asyncio.gather(*[task() for _ in range(tasks)]))


async def ping_pong(rounds: int) -> int:
    """A child, a message there, a message back, the child's result; parent and child suspend."""
    loop = asyncio.get_running_loop()

    async def child(ping: asyncio.Future[int], pong: asyncio.Future[int], number: int) -> int:
        ping.set_result(number)
        return await pong

    total = 0
    for number in range(rounds):
        ping: asyncio.Future[int] = loop.create_future()
        pong: asyncio.Future[int] = loop.create_future()
        task = asyncio.create_task(child(ping, pong, number))
        pong.set_result(await ping + 1)
        total += await task
    return total


async def chained_spawn(depth: int, chains: int) -> int:
    """A task that spawns and awaits a task that spawns and awaits a task..."""

    async def link(left: int) -> int:
        if left == 1:
            await asyncio.sleep(0)
            return 1
        return 1 + await asyncio.create_task(link(left - 1))

    total = 0
    for _ in range(chains):
        total += await asyncio.create_task(link(depth))
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
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def produce() -> None:
        for number in range(each):
            queue.put_nowait(number)
            if number % 128 == 127:
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(produce()) for _ in range(producers)]
    total = 0
    for _ in range(producers * each):
        total += await queue.get()
    await asyncio.gather(*tasks)
    return total


async def four_to_four(producers: int, each: int) -> int:
    """A queue that all consumers take from."""
    queue: asyncio.Queue[int | None] = asyncio.Queue(128)

    async def produce() -> None:
        for number in range(each):
            await queue.put(number)

    async def consume() -> int:
        total = 0
        while (value := await queue.get()) is not None:
            total += value
        return total

    consumers = [asyncio.create_task(consume()) for _ in range(4)]
    await asyncio.gather(*[produce() for _ in range(producers)])
    for _ in consumers:
        await queue.put(None)
    return sum(await asyncio.gather(*consumers))


async def take_turns(lock: Any, tasks: int, rounds: int) -> int:
    """Tasks that enter a lock and yield inside."""

    async def work() -> int:
        done = 0
        for _ in range(rounds):
            async with lock:
                await asyncio.sleep(0)
                done += 1
        return done

    return sum(await asyncio.gather(*[work() for _ in range(tasks)]))


async def mutex(tasks: int, rounds: int) -> int:
    """One at a time."""
    return await take_turns(asyncio.Lock(), tasks, rounds)


async def semaphore_8(tasks: int, rounds: int) -> int:
    """Eight at a time."""
    return await take_turns(asyncio.Semaphore(8), tasks, rounds)


async def notify(waiters: int, rounds: int) -> int:
    """An event for each round."""
    events = [asyncio.Event() for _ in range(rounds)]
    acks = Acks(waiters)

    async def wait() -> int:
        done = 0
        for event in events:
            acks.give()
            await event.wait()
            done += 1
        return done

    tasks = [asyncio.create_task(wait()) for _ in range(waiters)]
    for event in events:
        await acks.all()
        event.set()
    return sum(await asyncio.gather(*tasks))


async def mutex_free(rounds: int) -> int:
    """Nobody waits."""
    lock = asyncio.Lock()
    done = 0
    for _ in range(rounds):
        async with lock:
            done += 1
    return done


async def ready(rounds: int) -> int:
    """A future that is done."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(1)
    done = 0
    for _ in range(rounds):
        done += await future
    return done


async def many_to_one(capacity: int, producers: int, each: int) -> int:
    """Several producers, one consumer, a bounded queue."""
    queue: asyncio.Queue[int] = asyncio.Queue(capacity)

    async def produce() -> None:
        for number in range(each):
            await queue.put(number)

    tasks = [asyncio.create_task(produce()) for _ in range(producers)]
    total = 0
    for _ in range(producers * each):
        total += await queue.get()
    await asyncio.gather(*tasks)
    return total


class Acks:
    """Whoever sends waits until everybody has what was sent."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.given = 0
        self.event = asyncio.Event()

    def give(self) -> None:
        """From every receiver, once a round."""
        self.given += 1
        if self.given == self.wanted:
            self.event.set()

    async def all(self) -> None:
        """Wait for them; then the next round begins."""
        await self.event.wait()
        self.event.clear()
        self.given = 0


async def broadcast(receivers: int, sends: int) -> int:
    """asyncio has no such channel: a queue for each receiver."""
    queues: list[asyncio.Queue[int | None]] = [asyncio.Queue(16) for _ in range(receivers)]
    acks = Acks(receivers)

    async def receive(queue: asyncio.Queue[int | None]) -> int:
        total = 0
        while (value := await queue.get()) is not None:
            total += value
            acks.give()
        return total

    tasks = [asyncio.create_task(receive(queue)) for queue in queues]
    for number in range(sends):
        for queue in queues:
            queue.put_nowait(number)
        await acks.all()
    for queue in queues:
        queue.put_nowait(None)
    return sum(await asyncio.gather(*tasks))


async def watch(receivers: int, sends: int) -> int:
    """asyncio has no such channel: a value, and an event for its next change."""
    value = -1
    change = asyncio.Event()
    acks = Acks(receivers)

    async def receive() -> int:
        total = 0
        for _ in range(sends):
            await change.wait()
            total += value
            acks.give()
        return total

    tasks = [asyncio.create_task(receive()) for _ in range(receivers)]
    await asyncio.sleep(0)
    for number in range(sends):
        value = number
        before, change = change, asyncio.Event()
        before.set()
        await acks.all()
    return sum(await asyncio.gather(*tasks))


async def rwlock(tasks: int, rounds: int) -> int:
    """asyncio has no lock for readers: one lock for all."""
    lock = asyncio.Lock()

    async def work() -> int:
        done = 0
        for _ in range(rounds):
            async with lock:
                await asyncio.sleep(0)
                done += 1
        return done

    return sum(await asyncio.gather(*[work() for _ in range(tasks)]))


async def rwlock_free(rounds: int) -> int:
    """Nobody waits."""
    lock = asyncio.Lock()
    done = 0
    for _ in range(rounds):
        async with lock:
            done += 1
    return done


async def task_group_1000(tasks: int, rounds: int) -> int:
    """A `TaskGroup`, over and over."""

    async def task() -> int:
        await asyncio.sleep(0)
        return 1

    total = 0
    for _ in range(rounds):
        async with asyncio.TaskGroup() as group:
            spawned = [group.create_task(task()) for _ in range(tasks)]
        for each in spawned:
            total += each.result()
    return total


async def cancel_4000(tasks: int, rounds: int) -> int:
    """`Task.cancel()` for each, then `gather()`."""
    cancelled: list[None] = []
    loop = asyncio.get_running_loop()

    async def parked() -> None:
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            cancelled.append(None)
            raise

    for _ in range(rounds):
        spawned = [asyncio.create_task(parked()) for _ in range(tasks)]
        await asyncio.sleep(0)
        for each in spawned:
            each.cancel()
        await asyncio.gather(*spawned, return_exceptions=True)
    return len(cancelled)


async def join_set(tasks: int, rounds: int) -> int:
    """`asyncio.as_completed()`."""

    async def task(number: int) -> int:
        await asyncio.sleep(0)
        return number

    total = 0
    for _ in range(rounds):
        for each in asyncio.as_completed([task(number) for number in range(tasks)]):
            total += await each
    return total


async def sleepers(count: int) -> int:
    """`count` tasks that sleep at the same time."""

    async def task(number: int) -> int:
        await asyncio.sleep(sleep_seconds(number))
        return number

    return sum(await asyncio.gather(*[task(number) for number in range(count)]))


async def processes(count: int) -> int:
    """asyncio starts them on the loop, one after the other."""

    async def run() -> bool:
        process = await asyncio.create_subprocess_exec("/bin/true", stdin=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0

    return sum(await asyncio.gather(*[run() for _ in range(count)]))


async def processes_stall_p99(count: int) -> float:
    """How late a ticker is."""
    late = await lateness(processes(count), asyncio.ensure_future, asyncio.sleep)
    return late[len(late) * 99 // 100]


async def processes_stall_worst(count: int) -> float:
    """The same, at its worst."""
    return (await lateness(processes(count), asyncio.ensure_future, asyncio.sleep))[-1]


async def timeouts(count: int) -> int:
    """Timeouts that never fire."""
    done = 0
    for _ in range(count):
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            done += 1
    return done


async def timeouts_await(count: int) -> int:
    """The same around an awaitable."""

    async def body() -> int:
        await asyncio.sleep(0)
        return 1

    done = 0
    for _ in range(count):
        done += await asyncio.wait_for(body(), 10)
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
        done += await asyncio.wait_for(body(), 10)
    return done


async def select_100(branches: int, rounds: int) -> int:
    """One winner, the others cancelled and awaited."""
    never = asyncio.Event()
    lost = 0

    async def branch(number: int, winner: int) -> int:
        nonlocal lost
        if number == winner:
            await asyncio.sleep(0)
            return number
        try:
            await never.wait()
        finally:
            lost += 1
        return -1

    total = 0
    for round in range(rounds):
        winner = round % branches
        tasks = [asyncio.create_task(branch(number, winner)) for number in range(branches)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        total += done.pop().result()
    assert lost == rounds * (branches - 1)
    return total


async def join_100(branches: int, rounds: int) -> int:
    """All of them, gathered."""

    async def branch(number: int) -> int:
        await asyncio.sleep(0)
        return number

    total = 0
    for _ in range(rounds):
        total += sum(await asyncio.gather(*[branch(number) for number in range(branches)]))
    return total


def nothing(number: int) -> int:
    """What a blocking call does."""
    return number


async def spawn_blocking_rt(count: int) -> int:
    """One after another."""
    return sum([await asyncio.to_thread(nothing, number) for number in range(count)])


async def spawn_blocking(tasks: int, rounds: int, batch: int) -> int:
    """Tasks, rounds, batches."""

    async def task() -> int:
        total = 0
        for _ in range(rounds):
            total += sum(await asyncio.gather(*[asyncio.to_thread(nothing, 1) for _ in range(batch)]))
        return total

    return sum(await asyncio.gather(*[task() for _ in range(tasks)]))


async def tls_echo(connections: int, requests: int) -> int:
    """Server and clients on streams over TLS, one request in flight on each connection."""
    server_context, client_context = tls_contexts()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]

    async def client() -> int:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
        )
        done = 0
        for _ in range(requests):
            writer.write(TLS_MESSAGE)
            await writer.drain()
            done += await reader.readexactly(len(TLS_MESSAGE)) == TLS_MESSAGE
        writer.close()
        await writer.wait_closed()
        return done

    total = sum(await asyncio.gather(*[client() for _ in range(connections)]))
    server.close()
    await server.wait_closed()
    return total


async def cpu(kernel: Callable[[int], int], tasks: int, rounds: int) -> int:
    """Tasks that compute, with a yield after each kernel."""

    async def task(number: int) -> int:
        total = 0
        for step in range(rounds):
            total += kernel(number + step)
            await asyncio.sleep(0)
        return total

    return sum(await asyncio.gather(*[task(number) for number in range(tasks)]))


async def cpu_allocating(tasks: int, rounds: int) -> int:
    """`cpu` with the kernel that allocates."""
    return await cpu(allocating_kernel, tasks, rounds)


async def cpu_arithmetic(tasks: int, rounds: int) -> int:
    """`cpu` with the kernel that does not."""
    return await cpu(arithmetic_kernel, tasks, rounds)


# --- Costs --------------------------------------------------------------------------------------


def start_stop(variant: str, workers: int, rounds: int) -> int:
    """Start an event loop, run one task, stop it."""

    async def task() -> int:
        await asyncio.sleep(0)
        return 1

    total = 0
    for _ in range(rounds):
        with runtime(variant, workers) as run:
            total += run(task())
    return total


async def park_tasks(count: int, hold: bool) -> object:
    """Leave `count` tasks parked; returns what has to be kept alive: here, always the tasks."""
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def parked() -> None:
        await never

    tasks = [asyncio.create_task(parked()) for _ in range(count)]
    await asyncio.sleep(0)
    return never, tasks


async def pause(seconds: float) -> None:
    """Sleep."""
    await asyncio.sleep(seconds)


# --- Echo ---------------------------------------------------------------------------------------


def serve_echo(variant: str, style: str, workers: int, announce: Callable[[int], None]) -> None:
    """Serve for ever."""
    serve = {"protocol": serve_protocol, "streams": serve_streams, "sock": serve_sock}[style]
    with runtime(variant, workers) as run:
        run(serve(announce))


class Echo(asyncio.Protocol):
    """asyncio's callback style, its fastest."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio sets TCP_NODELAY itself."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one only by its looks

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


async def serve_protocol(announce: Callable[[int], None]) -> None:
    """Echo with a protocol."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def serve_streams(announce: Callable[[int], None]) -> None:
    """Echo with a reader and a writer."""

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the client went away
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve_client, "127.0.0.1", 0, backlog=1024)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def serve_sock(announce: Callable[[int], None]) -> None:
    """Echo with the event loop's socket coroutines."""
    loop = asyncio.get_running_loop()

    async def serve_client(client: socket.socket) -> None:
        with client, suppress(OSError):  # the client went away
            while data := await loop.sock_recv(client, 65536):
                await loop.sock_sendall(client, data)

    tasks: set[asyncio.Task[None]] = set()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        announce(listener.getsockname()[1])
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(serve_client(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
