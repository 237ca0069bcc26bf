"""The memory of tasks, however they are woken and end: counted in bytes of the C heap, so that not one is missed."""

from __future__ import annotations

import pytest
from support import CURRENT, HEAP_IN_USE, MULTI, Flavor, check_script

SCENARIOS = {
    "yields": """
        await ends([freerun.spawn(yields) for _ in range(COUNT)])
        await ends([freerun.spawn(yields()) for _ in range(COUNT)])
    """,
    "aborted before its first poll": """
        handles = [freerun.spawn(yields) for _ in range(COUNT)] + [freerun.spawn(yields()) for _ in range(COUNT)]
        for handle in handles:
            handle.abort()
        await ends(handles)
    """,
    "aborted as it waits": """
        handles = [freerun.spawn(sleep, 3600) for _ in range(COUNT)]
        await sleep(0.002)
        for handle in handles:
            handle.abort()
            handle.abort()
        await ends(handles)
    """,
    "woken, also twice, and by an unnecessary wake": """
        wakers = []
        async def parks():
            wakers.append(freerun.lowlevel.current_waker())
            for _ in range(5):
                await freerun.lowlevel.park()
                await freerun.yield_now()
        handles = [freerun.spawn(parks) for _ in range(COUNT)]
        while not all(handle.is_finished() for handle in handles):
            for waker in wakers:
                waker.wake()
                waker.wake()
            await freerun.yield_now()
        await ends(handles)
    """,
    "waits in branches, and for a time": """
        async def waits():
            await freerun.select(yields(), sleep(1), sleep(0.0001))
            await freerun.join(yields(), yields())
            try:
                async with freerun.time.timeout(0.0001):
                    await sleep(9)
            except TimeoutError:
                pass
        await ends([freerun.spawn(waits) for _ in range(COUNT)])
    """,
    "was granted something and does not look": """
        class Neglects:
            def __await__(self):
                waiting = semaphore.acquire().__await__()
                yield next(waiting)
                yield from freerun.lowlevel.park().__await__()
        semaphore = freerun.sync.Semaphore(0)
        handles = [freerun.spawn(Neglects()) for _ in range(COUNT)]
        await sleep(0.0005)
        semaphore.add_permits(COUNT)
        await sleep(0.0005)
        for handle in handles:
            handle.abort()
        await ends(handles)
    """,
    "reads a file": """
        async def reads():
            async with freerun.fs.File.open(path) as file:
                while await file.read(100_000):
                    pass
        handles = [freerun.spawn(reads) for _ in range(COUNT // 4)]
        for number, handle in enumerate(handles):
            if number % 3 == 0:
                await freerun.yield_now()
            if number % 2:
                handle.abort()
        await ends(handles)
    """,
    "is there at the shutdown, queued, waiting and yielding": """
        for _ in range(COUNT):
            freerun.spawn(yields, 10**9)
            freerun.spawn(sleep, 3600)
        await sleep(0.001)
        for _ in range(COUNT):
            freerun.spawn(yields)
    """,
    "spawns during the shutdown": """
        async def spawns():
            try:
                await sleep(3600)
            finally:
                for refused in (lambda: freerun.spawn(yields()), lambda: freerun.spawn(yields),
                                lambda: freerun.spawn_blocking(int)):
                    try:
                        refused()
                    except freerun.RuntimeShutdown:
                        pass
        for _ in range(COUNT):
            freerun.spawn(spawns)
        await sleep(0.001)
    """,
    "swallows what would end it": """
        async def swallows(wait):
            while True:
                try:
                    await wait()
                except freerun.Cancelled:
                    pass
        for _ in range(COUNT // 10):
            freerun.spawn(swallows, freerun.lowlevel.park)
            freerun.spawn(swallows, freerun.yield_now)
        await sleep(0.001)
    """,
    "reads at the shutdown": """
        async def reads():
            async with freerun.fs.File.open(path) as file:
                while True:
                    await file.read(100_000)
                    await file.seek(0)
        for _ in range(COUNT // 4):
            freerun.spawn(reads)
        await sleep(0.002)
    """,
}

SCRIPT = """
import logging, sys, tempfile, warnings
import freerun
from freerun.time import sleep

COUNT = 100
LEAST = 150 * int(sys.argv[5])  # a task has more bytes
file = tempfile.NamedTemporaryFile()
file.write(bytes(300_000))
file.flush()
path = file.name
logging.disable()
warnings.simplefilter("ignore")  # that of a kernel that refuses io_uring

async def yields(n=3):
    for _ in range(n):
        await freerun.yield_now()

async def ends(handles):
    for handle in handles:
        try:
            await handle
        except freerun.JoinError:
            pass

async def scenario():
{body}

def once():
    workers, driver = int(sys.argv[1]), sys.argv[2]
    builder = freerun.Builder().worker_threads(workers) if workers else freerun.Builder.new_current_thread()
    runtime = builder.driver(driver).build()
    runtime.block_on(scenario)
    runtime.shutdown(timeout=float(sys.argv[3]))

rounds = int(sys.argv[4])
grown = []
for _ in range(4):  # the first also fills what is made once
    before = in_use()[1]
    for _ in range(rounds):
        once()
    grown.append(in_use()[1] - before)
# Something may be made later: what leaks does so each time, one of so many tasks in each runtime at least.
assert min(grown) < rounds * LEAST, grown
"""


KINDS = [CURRENT, MULTI[1]]
CASES = [(kind, scenario) for scenario in SCENARIOS for kind in KINDS]
CASES += [(Flavor(2, "io_uring"), scenario) for scenario in SCENARIOS if "reads" in scenario]  # only files differ there


@pytest.mark.parametrize(("kind", "scenario"), CASES, ids=lambda part: str(part))
def test_a_task_is_freed(kind: Flavor, scenario: str) -> None:
    script = SCRIPT.replace("{body}", SCENARIOS[scenario])
    swallows, reads_here = "swallows" in scenario, "reads" in scenario and kind.current_thread
    # Of coroutines that nothing ends some memory stays, for good; and what the interpreter keeps for threads that come
    # and go beside this one goes up and down by 2 or 4 KiB. Then it takes more than one task to be noticed.
    tasks = "5" if swallows or reads_here else "1"
    deadline, rounds = ("0.05", "3") if swallows else ("10", "8")
    check_script(HEAP_IN_USE + script, str(kind.workers), kind.driver, deadline, rounds, tasks)
