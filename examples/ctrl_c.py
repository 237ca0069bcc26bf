"""A service that works until Ctrl-C or SIGTERM, then stops in order; a second Ctrl-C meanwhile ends it at once.

python examples/ctrl_c.py [current_thread | multi_thread]
"""

from __future__ import annotations

import signal
import sys

import freerun
from freerun.time import interval, sleep


async def work() -> None:
    """What the service does, and what it has to do at its end."""
    try:
        async for _ in interval(0.2):
            print(".", end="", flush=True)
    finally:
        print("\ncleaning up")
        await sleep(0.2)


async def terminated() -> None:
    with freerun.signal.signal(signal.SIGTERM) as terminations:
        await terminations.recv()


async def impatient() -> None:
    await freerun.signal.ctrl_c()
    print("again: not waiting for the cleanup")
    raise SystemExit(1)


async def main() -> None:
    stops = [freerun.spawn(freerun.signal.ctrl_c()), freerun.spawn(terminated)]
    worker = freerun.spawn(work)
    print("working; press Ctrl-C")
    await either(stops)
    second = freerun.spawn(impatient)
    worker.abort()
    try:
        await worker
    except freerun.JoinError:
        print("stopped in order")
    second.abort()


async def either(handles: list[freerun.JoinHandle[None]]) -> None:
    """Wait for the first one, and abort the others."""
    done = freerun.sync.Notify()

    async def tell(handle: freerun.JoinHandle[None]) -> None:
        await handle
        done.notify_one()

    tellers = [freerun.spawn(tell, handle) for handle in handles]
    await done.notified()
    for each in [*handles, *tellers]:
        each.abort()


if __name__ == "__main__":
    freerun.run(main, flavor=sys.argv[1] if len(sys.argv) > 1 else "multi_thread")
