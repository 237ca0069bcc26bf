"""Which worker ran what: one task spawns all the work, and idle workers steal it.

    python examples/work_stealing.py [--tasks 200] [--workers N]

What to expect: one row for each worker thread, all of about the same length, although every task
was spawned by the same one: a worker with nothing to do takes half of another's queue. On a
free-threaded Python the workers compute at the same time; with the GIL they take turns, and the
speed-up is about 1.
"""

import argparse
import os
import threading
import time

import freerun


def chew(rounds: int) -> int:
    """Some arithmetic and some garbage, in plain Python: a few milliseconds."""
    total = 0
    for number in range(rounds):
        digits = [int(digit) for digit in str(number * number)]
        total += sum(digits)
    return total


async def work(rounds: int) -> int:
    """One task; tells which thread ended it."""
    chew(rounds)
    await freerun.yield_now()
    chew(rounds)
    return threading.get_ident()


async def share_out(tasks: int, rounds: int) -> dict[int, int]:
    """Spawn everything from one task; count the tasks that each thread finished."""
    handles = [freerun.spawn(work, rounds) for _ in range(tasks)]
    finished: dict[int, int] = {}
    for handle in handles:
        worker = await handle
        finished[worker] = finished.get(worker, 0) + 1
    return finished


async def on_a_worker(tasks: int, rounds: int) -> dict[int, int]:
    """Run `share_out` as a task, so that its spawns land in one worker's own queue."""
    return await freerun.spawn(share_out, tasks, rounds)


def timed(workers: int, tasks: int, rounds: int) -> tuple[float, dict[int, int], int]:
    """Run everything on that many workers; seconds, tasks by thread, and how many were stolen."""
    with freerun.Builder().worker_threads(workers).build() as runtime:
        begin = time.perf_counter()
        finished = runtime.block_on(on_a_worker(tasks, rounds))
        took = time.perf_counter() - begin
        return took, finished, sum(worker.steals for worker in runtime.metrics().workers)


def main() -> None:
    """Once on one worker, once on all of them."""
    parser = argparse.ArgumentParser(description="Show how the work is shared out.")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=500, help="the length of one task")
    parser.add_argument("--workers", type=int, default=os.process_cpu_count() or 1)
    options = parser.parse_args()

    alone, _, _ = timed(1, options.tasks, options.rounds)
    together, finished, stolen = timed(options.workers, options.tasks, options.rounds)
    for thread, count in sorted(finished.items()):
        print(f"thread {thread:#x}{count:>6} tasks  {'#' * round(40 * count / options.tasks)}")
    print(f"{stolen} times a worker ran a task that it had taken from another's queue")
    print(f"1 worker {alone:.2f} s, {options.workers} workers {together:.2f} s: ", end="")
    print(f"{alone / together:.2f} times as fast")


if __name__ == "__main__":
    main()
