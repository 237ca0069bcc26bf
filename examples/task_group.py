"""Many tasks as one: all or nothing, first come first served, and cleanup that is left in peace.

    python examples/task_group.py

What to expect: a group whose tasks succeed, one in which a failure ends the others, the two fastest of
five answers, and a block that is cut off after its limit but says goodbye properly.
"""

import freerun
from freerun.time import sleep


async def fetch(n: int, seconds: float) -> str:
    """Stands for something slow; tells when it is given up."""
    try:
        await sleep(seconds)
    except freerun.Cancelled:
        print(f"  {n}: given up")
        raise
    if n == 13:
        raise ValueError("13 never works")
    return f"answer {n}"


async def all_or_nothing() -> None:
    """`TaskGroup`: the block ends when all have ended; a failure ends them all."""
    async with freerun.TaskGroup() as group:
        handles = [group.spawn(fetch, n, 0.01) for n in range(3)]
    print([await handle for handle in handles])
    try:
        async with freerun.TaskGroup() as group:
            for n in (11, 12, 13):
                group.spawn(fetch, n, 0.02 if n == 13 else 60)
    except* ValueError as failures:
        print(f"all have ended: {failures.exceptions}")


async def first_come() -> None:
    """`JoinSet`: results in the order in which they come; what is left is aborted at the end of the block."""
    async with freerun.JoinSet[str]() as tasks:
        for n in range(5):
            tasks.spawn(fetch, n, 0.01 + (4 - n) / 50)
        print([await tasks.join_next(), await tasks.join_next()])


async def a_proper_goodbye() -> None:
    """`CancelScope`: cut off after its deadline, but the goodbye is shielded."""
    with freerun.CancelScope(deadline=0.05) as scope:
        try:
            await sleep(60)
        finally:
            with freerun.CancelScope(shield=True, deadline=1):
                await sleep(0.01)
                print("goodbye")
    print(f"cut off: {scope.cancelled_caught}")


@freerun.main
async def main() -> None:
    """One after the other."""
    await all_or_nothing()
    await first_come()
    await a_proper_goodbye()


if __name__ == "__main__":
    main()
