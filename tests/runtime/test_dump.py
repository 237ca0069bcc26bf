"""`dump_tasks` and `metrics`: what they say is true, and asking is harmless at any time."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from engine_support import drive, drive_until_parked, occupy_all
from support import CURRENT, PATIENCE, STRICT, Flavor, only, seeded, stress_seconds, wait_until

import freerun
from freerun.runtime import RuntimeMetrics


async def innermost() -> None:
    await freerun.time.sleep(3600)


async def middle() -> None:
    await innermost()


async def outermost() -> None:
    await middle()


def section(dump: str, name: str) -> str:
    """What it says about one task."""
    parts = [part for part in dump.split("\ntask ") if f"{name!r}" in part.splitlines()[0]]
    assert len(parts) == 1, dump
    return parts[0]


def test_a_waiting_task_with_its_stack(rt: freerun.Runtime) -> None:
    handle = rt.spawn(outermost, name="waits")
    drive_until_parked(rt, handle)
    text = section(rt.handle().dump_tasks(), "waits")
    head = text.splitlines()[0]
    assert head.startswith(f"{handle.id} 'waits', spawned at {__file__}:")
    assert "test_a_waiting_task_with_its_stack (waiting)" in head
    functions = [line.rpartition(" in ")[2] for line in text.splitlines() if ", in " in line]
    assert functions == ["outermost", "middle", "innermost"]
    assert "await freerun.time.sleep(3600)" in text


def test_what_tasks_wait_through(rt: freerun.Runtime) -> None:
    """Generators, `__await__`, asynchronous iteration: the chain goes on through them."""

    async def numbers() -> Any:
        await innermost()
        yield 1

    class Awaitable:
        def __await__(self) -> Any:
            return innermost().__await__()

    async def iterates() -> None:
        async for _ in numbers():
            pass

    async def awaits() -> None:
        await Awaitable()

    async def joins() -> None:
        await handles[0]

    handles: list[freerun.JoinHandle[None]] = []
    for body in (iterates, awaits, joins):
        handles.append(rt.spawn(body, name=body.__name__))
    drive_until_parked(rt, *handles)
    dump = rt.handle().dump_tasks()
    for name in ("iterates", "awaits"):
        assert "in innermost" in section(dump, name), dump
    assert "joins" in section(dump, "joins")


def test_the_main_task_was_spawned_where_block_on_was_called(rt: freerun.Runtime) -> None:
    """freerun's own frames in between do not count."""

    async def main() -> str:
        return freerun.Handle.current().dump_tasks()

    dump = rt.block_on(main)
    (head,) = [line for line in dump.splitlines() if line.startswith("task ")]
    assert f"spawned at {__file__}:" in head
    assert "in test_the_main_task_was_spawned_where_block_on_was_called" in head


@only(CURRENT, *STRICT)
def test_states(rt: freerun.Runtime, flavor: Flavor) -> None:
    inside, release = threading.Event(), threading.Event()
    waiting = rt.spawn(outermost, name="waiting one")
    drive_until_parked(rt, waiting)
    unpark = occupy_all(rt, flavor)
    rt.spawn(outermost, name="new one")
    call = rt.spawn_blocking(lambda: inside.set() or release.wait(PATIENCE))
    assert inside.wait(PATIENCE)
    waiting.abort()
    dump = rt.handle().dump_tasks()
    assert "(spawned)\n  not started" in section(dump, "new one")
    assert ", aborted)" in section(dump, "waiting one").splitlines()[0]
    assert f"blocking call {call.id}, spawned at {__file__}" in dump
    if not flavor.current_thread:
        assert "in hog" in dump  # the threads of what runs
    unpark()
    release.set()


def state(handle: freerun.JoinHandle[Any]) -> str:
    return repr(handle).rpartition(" ")[2].rstrip(">")


@only(CURRENT)
def test_a_task_that_is_queued_does_not_run(rt: freerun.Runtime) -> None:
    """Whoever queues it holds its lock for who will take it out, which is nobody's business."""
    wakers: list[freerun.lowlevel.Waker] = []
    seen: list[str] = []

    async def waits() -> None:
        wakers.append(freerun.lowlevel.current_waker())
        await freerun.lowlevel.park()
        seen.append(state(task))
        wakers[0].wake()
        await freerun.yield_now()
        await freerun.lowlevel.park()

    async def look() -> None:
        nonlocal task
        task = freerun.spawn(waits)
        assert state(task) == "spawned"
        while not wakers:
            await freerun.yield_now()
        assert state(task) == "waiting"
        wakers[0].wake()
        assert state(task) == "ready"  # woken
        while not seen:
            await freerun.yield_now()
        assert (state(task), seen) == ("ready", ["running"])  # it has yielded
        while state(task) != "waiting":
            await freerun.yield_now()
        task.abort()
        assert state(task) == "ready"
        with pytest.raises(freerun.JoinError):
            await task
        assert state(task) == "finished"

    task: freerun.JoinHandle[None]
    rt.block_on(look)


def test_empty(rt: freerun.Runtime) -> None:
    assert rt.handle().dump_tasks() == "0 tasks\n"


def test_from_a_task(rt: freerun.Runtime) -> None:
    """The task that asks is running."""

    async def main() -> str:
        return freerun.Handle.current().dump_tasks()

    dump = rt.block_on(main)
    assert dump.startswith("1 task\n")
    assert "(running)" in dump


def test_while_tasks_churn(rt: freerun.Runtime) -> None:
    """Frames are read while other threads poll, spawn, abort and end tasks; every task still ends as it should."""
    random = seeded()
    stop = threading.Event()
    dumps = 0

    async def child(i: int) -> int:
        for _ in range(i % 5):
            await freerun.yield_now()
        await freerun.time.sleep(0.0001 * (i % 3))
        return i

    async def parent() -> int:
        count = 0
        while count == 0 or not stop.is_set():
            handles = [freerun.spawn(child, i, name=str(i)) for i in range(20)]
            handles[random.randrange(20)].abort()
            for i, handle in enumerate(handles):
                try:
                    assert await handle == i
                except freerun.JoinError:
                    pass
                count += 1
        return count

    async def main() -> list[int]:
        parents = [freerun.spawn(parent) for _ in range(4)]
        return [await each for each in parents]

    def dump() -> None:
        nonlocal dumps
        while dumps == 0 or not stop.is_set():
            assert "task" in rt.handle().dump_tasks()
            assert rt.metrics().alive_tasks >= 0
            dumps += 1

    thread = threading.Thread(target=dump)
    timer = threading.Timer(stress_seconds(0.5), stop.set)
    timer.start()
    thread.start()
    try:
        counts = rt.block_on(main)
    finally:
        stop.set()
        timer.join()
        thread.join()
    assert all(counts)
    assert dumps > 0


# ---- metrics ----


def test_task_counts(rt: freerun.Runtime) -> None:
    before = rt.metrics()
    assert before.alive_tasks == 0
    handles = [rt.spawn(outermost) for _ in range(10)]
    drive_until_parked(rt, *handles)
    during = rt.metrics()
    assert during.alive_tasks == 10
    assert during.spawned_tasks - before.spawned_tasks >= 10
    for handle in handles:
        handle.abort()
    drive(rt, lambda: all(handle.is_finished() for handle in handles))
    wait_until(lambda: rt.metrics().alive_tasks == 0)
    assert rt.metrics().global_queue_depth == 0
    assert sum(worker.polls for worker in rt.metrics().workers) >= 20


def test_worker_counts(rt: freerun.Runtime, flavor: Flavor) -> None:
    metrics = rt.metrics()
    assert isinstance(metrics, RuntimeMetrics)
    assert metrics.num_workers == len(metrics.workers) == max(flavor.workers, 1)


def test_counters_only_grow(rt: freerun.Runtime) -> None:
    async def work() -> None:
        for handle in [freerun.spawn(freerun.time.sleep, 0.001) for _ in range(50)]:
            await handle

    seen = [rt.metrics()]
    for _ in range(5):
        rt.block_on(work)
        seen.append(rt.metrics())
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert later.spawned_tasks >= earlier.spawned_tasks + 51
        for before, after in zip(earlier.workers, later.workers, strict=True):
            for name in ("polls", "parks", "steals", "steal_attempts", "overflows", "lifo_hits", "driver_turns"):
                assert getattr(after, name) >= getattr(before, name)
            assert after.steals <= after.steal_attempts * 256


def test_blocking_counts(flavor: Flavor) -> None:
    release = threading.Event()
    with flavor.builder().max_blocking_threads(2).build() as rt:
        calls = [rt.spawn_blocking(release.wait, PATIENCE) for _ in range(5)]
        wait_until(lambda: rt.metrics().blocking_queue_depth == 3)
        assert rt.metrics().num_blocking_threads == 2
        assert rt.metrics().num_idle_blocking_threads == 0
        release.set()
        for call in calls:
            assert call.blocking_result(PATIENCE)
        wait_until(lambda: rt.metrics().num_idle_blocking_threads == 2)
        assert rt.metrics().blocking_queue_depth == 0


@only(*STRICT)
def test_queue_depths(rt: freerun.Runtime, flavor: Flavor) -> None:
    release = occupy_all(rt, flavor)
    handles = [rt.spawn(freerun.time.sleep, 0) for _ in range(100)]
    metrics = rt.metrics()
    assert metrics.global_queue_depth + sum(worker.local_queue_depth for worker in metrics.workers) == 100
    release()
    for handle in handles:
        handle.blocking_result(PATIENCE)
    wait_until(lambda: rt.metrics().global_queue_depth == 0)


def test_io_registered(rt: freerun.Runtime) -> None:
    async def bind() -> freerun.net.TcpListener:
        return await freerun.net.TcpListener.bind("127.0.0.1:0")

    listeners = [rt.block_on(bind) for _ in range(3)]
    assert rt.metrics().io_registered == 3
    for listener in listeners:
        listener.close()
    drive(rt, lambda: rt.metrics().io_registered == 0)


def test_an_idle_runtime_does_nothing(rt: freerun.Runtime) -> None:
    """Nobody polls, nobody searches, nobody turns the driver: no work, no wake-ups."""
    rt.block_on(freerun.time.sleep, 0.001)

    def activity() -> list[Any]:
        return [(worker.polls, worker.steal_attempts, worker.driver_turns) for worker in rt.metrics().workers]

    last = None

    def at_rest() -> bool:
        nonlocal last
        before, last = last, activity()
        return before == last

    wait_until(at_rest)


@pytest.mark.parametrize("workers", [1, 3])
def test_current_thread_ignores_worker_threads(workers: int) -> None:
    with freerun.Builder.new_current_thread().worker_threads(workers).build() as rt:
        assert rt.metrics().num_workers == 1


def test_every_branch(rt: freerun.Runtime) -> None:
    """Of `join` and `select`, one in another, by number or name; what has ended is not there any more."""

    async def nothing() -> None:
        pass

    async def selects() -> None:
        await freerun.select(first=innermost(), second=middle(), third=freerun.time.sleep(3600))

    async def joins() -> None:
        await freerun.join(nothing(), outermost(), selects(), freerun.time.timeout(3600, middle()))

    handle = rt.spawn(joins, name="joins")
    drive_until_parked(rt, handle)
    text = section(rt.handle().dump_tasks(), "joins")
    lines = text.splitlines()[1:]
    found = [
        line.partition(" in ")[2].rpartition(".")[2] or line for line in lines if ", in " in line or "branch" in line
    ]
    assert found == [
        "joins",
        "  branch 1",
        "outermost",
        "middle",
        "innermost",
        "  branch 2",
        "selects",
        "    branch 'first'",
        "innermost",
        "    branch 'second'",
        "middle",
        "innermost",
        "    branch 'third': Sleep",
        "  branch 3",
        "middle",
        "innermost",
    ]
    deepest = [line for line in lines if ", in innermost" in line][1]
    assert deepest.startswith('      File "')  # further in than what is around it


def test_what_streams_poll(rt: freerun.Runtime) -> None:
    async def numbers() -> Any:
        await innermost()
        yield 1

    async def results() -> Any:
        yield outermost
        yield middle
        await freerun.time.sleep(3600)

    async def merges() -> None:
        async for _ in freerun.stream.merge(numbers(), freerun.stream.throttle(numbers(), 1)):
            pass

    async def maps() -> None:
        async for _ in freerun.stream.StreamMap({"one": numbers(), "two": numbers()}):
            pass

    async def buffers() -> None:
        async for _ in freerun.stream.buffer_unordered(results(), 5):
            pass

    async def scoped() -> None:
        await freerun.task.task_local("x").scope(1, outermost)

    handles = [rt.spawn(body, name=body.__name__) for body in (merges, maps, buffers, scoped)]
    drive_until_parked(rt, *handles)
    dump = rt.handle().dump_tasks()
    for name, branches, inside in [
        ("merges", ["stream", "streams[0]", "streams[1]"], {"innermost": 2}),
        ("maps", ["stream 'one'", "stream 'two'"], {"innermost": 2}),
        ("buffers", ["awaitable", "awaitable", "stream"], {"outermost": 1, "middle": 2, "innermost": 2}),
        ("scoped", [], {"outermost": 1, "innermost": 1}),
    ]:
        text = section(dump, name)
        labels = [line.strip() for line in text.splitlines() if line.strip().startswith(("stream", "awaitable"))]
        assert sorted(labels) == branches, text  # who is first takes turns
        assert {each: text.count(f", in {each}\n") for each in inside} == inside, text


def test_very_many_branches_are_cut_short(rt: freerun.Runtime) -> None:
    async def joins() -> None:
        await freerun.join(*[innermost() for _ in range(130)])

    drive_until_parked(rt, rt.spawn(joins, name="joins"))
    text = section(rt.handle().dump_tasks(), "joins")
    assert text.count(", in innermost\n") == 100
    assert "and 30 more" in text


def test_very_deep_ones_too(rt: freerun.Runtime) -> None:
    async def nested(n: int) -> None:
        await (freerun.join(nested(n - 1)) if n else innermost())

    drive_until_parked(rt, rt.spawn(nested, 150, name="nested"))
    text = section(rt.handle().dump_tasks(), "nested")
    assert ", in test_very_deep_ones_too.<locals>.nested\n" in text
