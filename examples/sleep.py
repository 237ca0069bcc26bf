"""Sleeping, side by side and until an instant.

    python examples/sleep.py

What to expect: three naps of 0.3, 0.2 and 0.1 seconds that end in the order of their length, all of
them after 0.3 seconds, not 0.6: they sleep at the same time. Then one until an instant.
"""

import freerun
from freerun.time import Instant, sleep, sleep_until


async def nap(seconds: float) -> float:
    """Sleep, then say so; returns how long it took."""
    start = Instant.now()
    await sleep(seconds)
    print(f"a nap of {seconds} s is over")
    return start.elapsed()


@freerun.main
async def main() -> None:
    """Three naps at once, then one until an instant."""
    start = Instant.now()
    naps = [freerun.spawn(nap, seconds) for seconds in (0.3, 0.2, 0.1)]
    for seconds, handle in zip((0.3, 0.2, 0.1), naps, strict=True):
        assert await handle >= seconds, "a timer is never early"
    print(f"all of them took {start.elapsed():.2f} s")
    await sleep_until(start + 0.5)
    print(f"{start.elapsed():.2f} s after the start")


if __name__ == "__main__":
    main()
