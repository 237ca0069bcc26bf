"""A hundred thousand tasks, and what they cost.

    python examples/spawn_many.py [tasks]

What to expect: a task is far cheaper than a thread. A hundred thousand of them are spawned, each
gives way once, and every result is collected, in well under a second.
"""

import argparse
import time

import freerun


async def double(number: int) -> int:
    """Let the others run, then return a result."""
    await freerun.yield_now()
    return 2 * number


async def spawn_all(count: int) -> int:
    """Spawn `count` tasks and add up their results.

    `spawn(double, n)` rather than `spawn(double(n))`: the coroutine is then created on the worker
    that runs it first, which is cheaper, since its memory is local to that thread.
    """
    handles = [freerun.spawn(double, number) for number in range(count)]
    total = 0
    for handle in handles:
        total += await handle
    return total


def main() -> None:
    """Run, check and time it."""
    parser = argparse.ArgumentParser(description="Spawn many tasks and collect their results.")
    parser.add_argument("tasks", type=int, nargs="?", default=100_000)
    count = parser.parse_args().tasks
    if count < 1:
        parser.error(f"tasks must be 1 or more, not {count}")
    begin = time.perf_counter()
    total = freerun.run(spawn_all, count)
    took = time.perf_counter() - begin
    assert total == count * (count - 1), total
    print(f"{count:,} tasks in {took:.2f} s, {count / took:,.0f} a second; the sum is {total:,}")


if __name__ == "__main__":
    main()
