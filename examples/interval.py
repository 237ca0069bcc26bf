"""Ticks at a fixed period, and what happens to those that are missed.

    python examples/interval.py

What to expect: the same work under three rules. It takes 10 ms, but 120 ms at the third tick, with
a period of 50 ms. "burst" catches up with the schedule, "delay" moves it, "skip" leaves ticks out.
"""

import freerun
from freerun.time import Instant, MissedTick, interval, sleep

PERIOD = 0.05
TICKS = 7


async def work(missed_tick: MissedTick) -> list[int]:
    """Tick a few times; when each tick was taken, in periods since the first."""
    taken: list[int] = []
    start = Instant.now()
    async for _ in interval(PERIOD, missed_tick):
        taken.append(round(start.elapsed() / PERIOD * 10))
        if len(taken) == TICKS:
            break
        await sleep(0.12 if len(taken) == 3 else 0.01)
    return taken


@freerun.main
async def main() -> None:
    """The three rules side by side."""
    rules: list[MissedTick] = ["burst", "delay", "skip"]
    workers = [freerun.spawn(work, rule) for rule in rules]
    print("when each tick was taken, in periods:")
    for rule, worker in zip(rules, workers, strict=True):
        print(f"  {rule:<6}", "  ".join(f"{tenths / 10:.1f}" for tenths in await worker))


if __name__ == "__main__":
    main()
