"""The smallest program: spawn two tasks, wait for both.

    python examples/hello.py

What to expect: both greetings after one second, not two, in either order: the tasks sleep at the
same time. Then `9 and 16`, the results that `await` took from the handles.
"""

import freerun
from freerun.time import sleep


async def greet(name: str, number: int) -> int:
    """Say hello after a second, and square a number."""
    await sleep(1)
    print(f"hello, {name}")
    return number * number


@freerun.main
async def main() -> None:
    """The root task; the runtime starts before it and stops after it."""
    first = freerun.spawn(greet, "world", 3)
    second = freerun.spawn(greet, "freerun", 4)
    print(f"{await first} and {await second}")


if __name__ == "__main__":
    main()
