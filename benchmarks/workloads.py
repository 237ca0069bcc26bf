"""What is measured: the workloads, their sizes, and the answers that prove the work was done.

Every runtime implements the same functions (`impl_asyncio.py`, `impl_tonio.py`, `impl_freerun.py`)
under the same rules: every task really suspends, every result is collected, and contextvars are on
(but for the variant `tonio`, which is there to show what they cost it). A workload returns a number
that follows from its sizes, and a run whose number is wrong is an error, not a result.
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Unsupported(Exception):
    """A runtime does not have what a workload needs: the cell is left out, with this reason."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table."""

    name: str
    what: str
    unit: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    operations: Callable[..., int]
    """How many operations a run of these sizes is."""
    answer: Callable[..., int]
    """What a run of these sizes returns."""
    kind: str = "async"
    """`async`, `sync` (makes its own runtimes), `value` (what it returns is the result), `memory` or `echo`."""
    more_is_better: bool = True


def allocating_kernel(seed: int) -> int:
    """About a millisecond that allocates all the time: strings, lists, tuples, a dictionary.

    `str(number)` and not an f-string with a format: that looks up `int.__format__`, whose reference count every
    thread would write. On sixteen cores little else was measured: 3.7 times one thread's rate with 16 threads on
    3.14t, and 14 times without it.
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for number in range(seed, seed + 2500):
        name = str(number)
        groups.setdefault(name[-1], []).append((number, name))
    total = 0
    for members in groups.values():
        for number, name in members:
            total += number + len(name)
    return total


def arithmetic_kernel(seed: int) -> int:
    """About a millisecond of integer arithmetic that keeps nothing.

    The large numbers are variables on purpose. As constants they would belong to the thread that
    compiled this, and every use by another one would touch a shared reference count: on 3.14t two
    threads are then slower than one, under any runtime.
    """
    factor, mask = 1_103_515_245, 0x7FFFFFFF
    value = seed
    for step in range(10_000):
        value = (value * factor + step) & mask
    return value


def answer_of_kernels(kernel: Callable[[int], int], tasks: int, rounds: int) -> int:
    """The sum that a `cpu` workload returns."""
    return sum(kernel(task + step) for task in range(tasks) for step in range(rounds))


def cpu_allocating_answer(tasks: int, rounds: int) -> int:
    """See `answer_of_kernels`."""
    return answer_of_kernels(allocating_kernel, tasks, rounds)


def cpu_arithmetic_answer(tasks: int, rounds: int) -> int:
    """See `answer_of_kernels`."""
    return answer_of_kernels(arithmetic_kernel, tasks, rounds)


def product(*sizes: int) -> int:
    """All sizes multiplied."""
    result = 1
    for size in sizes:
        result *= size
    return result


def sum_below(count: int) -> int:
    """0 + 1 + ... + (count - 1)."""
    return count * (count - 1) // 2


def sleep_seconds(number: int) -> float:
    """How long sleeper `number` sleeps: 50 to 150 ms, spread evenly."""
    return (50 + number % 101) / 1000


async def lateness(work: Coroutine[Any, Any, int], start: Callable[..., Any], pause: Callable[..., Any]) -> list[float]:
    """How late, in ms, each tick of a ticker of 1 ms was while `work` ran; sorted.

    Late is what a sleep took beyond 2 ms, which is in order for timers that count whole milliseconds and are never
    early.

    `start(coroutine)` gives something to await, `pause(seconds)` sleeps: the runtime's own.
    """
    late: list[float] = []
    over = False

    async def tick() -> None:
        while not over:
            begin = time.perf_counter()
            await pause(0.001)
            late.append(max(0.0, time.perf_counter() - begin - 0.002) * 1000)

    ticker = start(tick())
    await pause(0.01)
    late.clear()
    await work
    over = True
    await ticker
    return sorted(late)


TLS_MESSAGE = b"0123456789abcdef" * 64


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's: the certificate for tests that freerun brings along, for everyone."""
    from freerun.testing import localhost_tls

    return localhost_tls()


WORKLOADS = [
    Workload(
        "spawn_many",
        "spawn tasks that yield once; gather their results",
        "tasks/s",
        (200_000,),
        (20_000,),
        product,
        sum_below,
    ),
    Workload(
        "yield_many",
        "200 tasks that yield 3000 times each",
        "yields/s",
        (200, 3000),
        (200, 300),
        product,
        lambda tasks, yields: tasks * yields,
    ),
    Workload(
        "ping_pong",
        "spawn a child; a oneshot there, a oneshot back, await the child",
        "rounds/s",
        (20_000,),
        (2_000,),
        product,
        lambda rounds: sum_below(rounds) + rounds,
    ),
    Workload(
        "chained_spawn",
        "every task spawns the next and awaits it, 1000 deep",
        "tasks/s",
        (1000, 50),
        (500, 10),
        product,
        product,
    ),
    Workload(
        "mpsc",
        "4 producers, one consumer, capacity 128",
        "messages/s",
        (4, 50_000),
        (4, 5_000),
        product,
        lambda producers, each: producers * sum_below(each),
    ),
    Workload(
        "mpsc_1",
        "the same with capacity 1",
        "messages/s",
        (4, 25_000),
        (4, 2_500),
        product,
        lambda producers, each: producers * sum_below(each),
    ),
    Workload(
        "mpsc_unbounded",
        "4 producers, one consumer, no limit",
        "messages/s",
        (4, 50_000),
        (4, 5_000),
        product,
        lambda producers, each: producers * sum_below(each),
    ),
    Workload(
        "spsc",
        "one producer, one consumer, capacity 128",
        "messages/s",
        (1, 200_000),
        (1, 20_000),
        product,
        lambda producers, each: producers * sum_below(each),
    ),
    Workload(
        "four_to_four",
        "4 producers, 4 consumers, capacity 128; each producer goes round the consumers",
        "messages/s",
        (4, 50_000),
        (4, 5_000),
        product,
        lambda producers, each: producers * sum_below(each),
    ),
    Workload(
        "mutex",
        "4,000 tasks take one lock 10 times, and yield once inside",
        "locks/s",
        (4000, 10),
        (400, 10),
        product,
        product,
    ),
    Workload(
        "semaphore_8",
        "2,000 tasks take one of 8 permits 10 times, and yield once inside",
        "permits/s",
        (2000, 10),
        (200, 10),
        product,
        product,
    ),
    Workload(
        "notify",
        "500 tasks wait for the same notification, 100 times",
        "wake-ups/s",
        (500, 100),
        (100, 20),
        product,
        product,
    ),
    Workload(
        "mutex_free",
        "one task takes a lock that nobody else wants",
        "locks/s",
        (200_000,),
        (20_000,),
        product,
        product,
    ),
    Workload(
        "ready",
        "await something that is ready: what `mutex_free` is measured by",
        "awaits/s",
        (200_000,),
        (20_000,),
        product,
        product,
    ),
    Workload(
        "broadcast",
        "1000 receivers get every one of 100 values; the next is sent when all have it",
        "deliveries/s",
        (1000, 100),
        (100, 20),
        product,
        lambda receivers, sends: receivers * sum_below(sends),
    ),
    Workload(
        "watch",
        "1000 receivers see every one of 100 changes of a value; the next comes when all have",
        "changes/s",
        (1000, 100),
        (100, 20),
        product,
        lambda receivers, sends: receivers * sum_below(sends),
    ),
    Workload(
        "rwlock",
        "200 tasks take a lock 200 times, every tenth time to write, and yield once inside",
        "locks/s",
        (200, 200),
        (50, 40),
        product,
        product,
    ),
    Workload(
        "rwlock_free",
        "one task takes a lock that nobody else wants, to read",
        "locks/s",
        (100_000,),
        (10_000,),
        product,
        product,
    ),
    Workload(
        "task_group_1000",
        "a task group of 1000 tasks that yield once, 50 times",
        "tasks/s",
        (1000, 50),
        (1000, 5),
        product,
        product,
    ),
    Workload(
        "cancel_4000",
        "4000 parked tasks are cancelled together and waited for (the parking counts too), 10 times",
        "tasks/s",
        (4000, 10),
        (4000, 2),
        product,
        product,
    ),
    Workload(
        "join_set",
        "1000 tasks that yield once; their results in the order in which they come, 50 times",
        "tasks/s",
        (1000, 50),
        (1000, 5),
        product,
        lambda tasks, rounds: sum_below(tasks) * rounds,
    ),
    Workload(
        "sleepers",
        "tasks that sleep 50 to 150 ms",
        "tasks/s",
        (500_000,),  # the longest sleep alone would cap 50,000 at 333 k/s
        (5_000,),
        product,
        sum_below,
    ),
    Workload(
        "timeouts",
        "timeout(10 s) as a block around one yield, one after another",
        "timeouts/s",
        (50_000,),
        (5_000,),
        product,
        lambda count: count,
    ),
    Workload(
        "timeouts_await",
        "timeout(10 s, a coroutine that yields once), one after another",
        "timeouts/s",
        (50_000,),
        (5_000,),
        product,
        lambda count: count,
    ),
    Workload(
        "await_ready",
        "await a coroutine that returns at once: what timeout_ready is compared with",
        "awaits/s",
        (200_000,),
        (20_000,),
        product,
        lambda count: count,
    ),
    Workload(
        "timeout_ready",
        "timeout(10 s, a coroutine that returns at once)",
        "timeouts/s",
        (200_000,),
        (20_000,),
        product,
        lambda count: count,
    ),
    Workload(
        "select_100",
        "the first of 100: one yields once, the others wait, are cancelled and awaited",
        "branches/s",
        (100, 10_000),
        (100, 300),
        product,
        lambda branches, rounds: sum(number % branches for number in range(rounds)),
    ),
    Workload(
        "join_100",
        "all of 100 that yield once",
        "branches/s",
        (100, 2_000),
        (100, 300),
        product,
        lambda branches, rounds: rounds * sum_below(branches),
    ),
    Workload(
        "spawn_blocking_rt",
        "a function that does nothing, on a thread that may block, one after another",
        "calls/s",
        (20_000,),
        (2_000,),
        product,
        sum_below,
    ),
    Workload(
        "spawn_blocking",
        "64 tasks, each 100 rounds of 16 such calls at once",
        "calls/s",
        (64, 100, 16),
        (16, 20, 16),
        product,
        product,
    ),
    Workload(
        "tls_echo",
        "TLS echo, 1 KB, 16 connections, both ends in the runtime",
        "requests/s",
        (16, 2000),
        (16, 200),
        product,
        product,
    ),
    Workload(
        "cpu_allocating",
        "32 tasks of 20 allocating kernels, a yield after each",
        "kernels/s",
        (32, 20),
        (16, 5),
        product,
        cpu_allocating_answer,
    ),
    Workload(
        "cpu_arithmetic",
        "32 tasks of 20 arithmetic kernels, a yield after each",
        "kernels/s",
        (32, 20),
        (16, 5),
        product,
        cpu_arithmetic_answer,
    ),
    Workload(
        "processes",
        "start /bin/true 500 times, all at once; wait for all",
        "processes/s",
        (500,),
        (100,),
        product,
        lambda count: count,
    ),
    Workload(
        "processes_stall_p99",
        "how late a ticker of 1 ms is meanwhile, 99th percentile",
        "ms",
        (500,),
        (100,),
        product,
        product,
        kind="value",
        more_is_better=False,
    ),
    Workload(
        "processes_stall_worst",
        "the same, at its worst",
        "ms",
        (500,),
        (100,),
        product,
        product,
        kind="value",
        more_is_better=False,
    ),
    Workload(
        "start_stop",
        "start a runtime, run one task, stop it",
        "rounds/s",
        (200,),
        (20,),
        product,
        lambda rounds: rounds,
        kind="sync",
    ),
    Workload(
        "parked",
        "memory for a parked task whose handle was dropped, beyond its coroutine",
        "bytes",
        (100_000,),
        (20_000,),
        product,
        lambda count: count,
        kind="memory",
        more_is_better=False,
    ),
    Workload(
        "parked_held",
        "the same while the handles are kept",
        "bytes",
        (100_000,),
        (20_000,),
        product,
        lambda count: count,
        kind="memory",
        more_is_better=False,
    ),
    Workload(
        "echo_1",
        "TCP echo, 1 KB, closed loop over 1 connection",
        "requests/s",
        (1, 0),
        (1, 0),
        product,
        product,
        kind="echo",
    ),
    Workload(
        "echo_64",
        "TCP echo, 1 KB, closed loop over 64 connections",
        "requests/s",
        (64, 0),
        (64, 0),
        product,
        product,
        kind="echo",
    ),
    Workload(
        "echo_1k",
        "TCP echo, 1 KB, closed loop over 64 connections, with 936 idle ones",
        "requests/s",
        (64, 936),
        (64, 436),
        product,
        product,
        kind="echo",
    ),
    Workload(
        "echo_10k",
        "TCP echo, 1 KB, closed loop over 64 connections, with 9,936 idle ones",
        "requests/s",
        (64, 9936),
        (64, 1936),
        product,
        product,
        kind="echo",
    ),
]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One runtime, or one way of using it."""

    name: str
    module: str
    """The implementation of the workloads."""
    needs: str
    """What has to be importable."""
    many_threads: bool = False
    judged: bool = True
    """Whether it counts as a peer: contextvars on, and used the way its documentation says."""
    echo: tuple[str, ...] = field(default=("",))
    """Its ways of serving TCP."""


CONTESTANTS = [
    Contestant("freerun", "impl_freerun", "freerun", many_threads=True),
    Contestant("freerun_ct", "impl_freerun", "freerun"),
    Contestant("freerun_io_uring", "impl_freerun", "freerun", many_threads=True, judged=False),
    Contestant("asyncio", "impl_asyncio", "asyncio", echo=("protocol", "streams", "sock")),
    Contestant("asyncio_eager", "impl_asyncio", "asyncio", judged=False, echo=()),
    Contestant("uvloop", "impl_asyncio", "uvloop", echo=("protocol", "streams")),
    Contestant("tonio", "impl_tonio", "tonio", many_threads=True, judged=False),
    Contestant("tonio_ctx", "impl_tonio", "tonio", many_threads=True),
]
DEFAULT_CONTESTANTS = "freerun,asyncio,uvloop,tonio,tonio_ctx"
