"""Other programs: their output, talking to one, a pipeline, a time limit, errors.

python examples/run_program.py [current_thread | multi_thread]
"""

from __future__ import annotations

import sys

import freerun
from freerun.io import BufReader
from freerun.process import ChildStdin, Command, Stdio
from freerun.time import timeout


async def output() -> None:
    """All of what a program writes, and how it ended."""
    result = await Command("uname").arg("-s").output()
    print("system:", result.stdout.decode().strip(), f"({result.status})")


async def talk() -> None:
    """One task feeds it, this one reads line by line."""

    async def feed(stdin: ChildStdin) -> None:
        async with stdin:
            for word in ("cherry", "apple", "banana"):
                await stdin.write_all(f"{word}\n".encode())

    async with Command("sort").stdin(Stdio.piped()).stdout(Stdio.piped()).spawn() as child:
        freerun.spawn(feed, child.take_stdin())
        lines = [line async for line in BufReader(child.stdout).lines()]
        await child.wait()
    print("sorted:", ", ".join(lines))


async def pipeline() -> None:
    """The system connects them: what goes through does not pass by here."""
    numbers = await Command("seq", "100000").stdout(Stdio.piped()).spawn()
    count = await Command("wc", "-l").stdin(numbers.stdout).output()
    await numbers.wait()
    print("lines:", count.stdout.decode().strip())


async def limit() -> None:
    """Given up, it is killed."""
    try:
        await timeout(0.2, Command("sleep").arg("3600").kill_on_drop(True).status())
    except TimeoutError:
        print("sleep 3600: killed after 0.2 s")


async def many() -> None:
    """As many at a time as you like: a few are started at once, all of them run."""
    children = [freerun.spawn(Command("sleep", "0.2").status()) for _ in range(50)]
    statuses = [await child for child in children]
    print("fifty at once:", sum(status.success for status in statuses))


async def errors() -> None:
    """They say which program it was, and why."""
    for command in (Command("no-such-program"), Command("ls").current_dir("/no/such/directory")):
        try:
            await command.status()
        except OSError as error:
            print(type(error).__name__, error.args[1], error.filename, sep=": ")


async def main() -> None:
    for part in (output, talk, pipeline, limit, many, errors):
        await part()


if __name__ == "__main__":
    freerun.run(main, flavor=sys.argv[1] if len(sys.argv) > 1 else "multi_thread")
