"""Limits: on one await, on a block, one inside the other.

    python examples/timeout.py

What to expect: a call that is in time, one that is not, with its cleanup; a block whose deadline is
moved as long as there is progress; and a limit of a whole that cuts off the last of its parts.
"""

import freerun
from freerun.time import Instant, sleep, timeout


async def fetch(name: str, seconds: float) -> str:
    """Stands for something slow; tells when it is given up."""
    try:
        await sleep(seconds)
    except freerun.Cancelled:
        print(f"  {name}: given up, cleaning up")
        await sleep(0.01)  # cleanup may await
        raise
    return f"{name} after {seconds} s"


async def one_await() -> None:
    """`await timeout(seconds, awaitable)`: the result, or TimeoutError."""
    print(await timeout(1, fetch("quick", 0.05)))
    try:
        await timeout(0.1, fetch, "slow", 60)  # an async function and its arguments will do
    except TimeoutError as error:
        print(f"slow: {error}")


async def as_long_as_it_moves() -> None:
    """`async with timeout(seconds)`: here the limit is on each step, not on the whole."""
    steps = 0
    try:
        async with timeout(0.1) as limit:
            for pause in (0.05, 0.05, 0.05, 60):
                await sleep(pause)
                steps += 1
                limit.reschedule(Instant.now() + 0.1)
    except TimeoutError:
        print(f"stuck after {steps} steps")


async def nested() -> None:
    """Each part has a limit, and so has the whole."""
    done = []
    try:
        async with timeout(0.3):
            for seconds in (0.05, 60, 0.05, 60, 60):
                try:
                    done.append(await timeout(0.12, fetch("part", seconds)))
                except TimeoutError:
                    done.append("too slow")
    except TimeoutError:
        print(f"the whole is cut off after {done}")


@freerun.main
async def main() -> None:
    """One after the other."""
    await one_await()
    await as_long_as_it_moves()
    await nested()


if __name__ == "__main__":
    main()
