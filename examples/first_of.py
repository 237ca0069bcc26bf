"""Several awaits in one task: the first of them, all of them, and a loop that must lose nothing.

    python examples/first_of.py

What to expect: the quicker of two servers answers and the other one is given up, cleanup included;
two parts of a page come together; and a worker that gets jobs, a tick now and then, and the word to
stop, in one loop.
"""

import freerun
from freerun.sync import mpsc, oneshot
from freerun.time import interval, sleep


async def ask(server: str, seconds: float) -> str:
    """Stands for a request; tells when it is given up."""
    try:
        await sleep(seconds)
    except freerun.Cancelled:
        await sleep(0.01)  # cleanup may await, and select waits for it
        print(f"  {server}: given up")
        raise
    return f"the answer of {server}"


async def work(jobs: mpsc.Receiver[int], stop: oneshot.Receiver[None]) -> str:
    """`recv` and `tick` lose nothing when they lose: see docs/cancel-safety.md."""
    ticks = interval(0.02)
    done = 0
    while True:
        match await freerun.select(stop=stop, job=jobs.recv(), tick=ticks.tick(), biased=True):
            case "stop", _:
                return f"{done} jobs done"
            case "job", _:
                done += 1
            case "tick", _:
                pass


@freerun.main
async def main() -> None:
    which, answer = await freerun.select(ask("near", 0.05), ask("far", 60))
    print(f"branch {which} won: {answer}")

    print(await freerun.join(ask("head", 0.02), ask("body", 0.03)))

    sender, jobs = mpsc.channel(4)
    say_stop, stop = oneshot.channel()
    worker = freerun.spawn(work, jobs, stop)
    for number in range(10):
        await sender.send(number)
        await sleep(0.005)
    say_stop.send(None)
    print(await worker)


if __name__ == "__main__":
    main()
