"""A TCP service that stops in order: every request that it has accepted is answered.

    python examples/graceful_shutdown.py                     # serve on port 7777 until SIGTERM or Ctrl-C
    python examples/graceful_shutdown.py --deadline 5        # wait that long for what is under way

One line is a request: `work 20` is answered with `done 20` after 20 ms, `stuck` never. Any number of
requests may follow one another on a connection, without waiting for the answers.

What to expect: try `printf 'work 3000\\n' | nc 127.0.0.1 7777` and, meanwhile, `kill` the service:
the answer comes, then the service ends with status 0 and says how many requests it has accepted and
answered. With `stuck`, it aborts the connection when the deadline has passed. A second Ctrl-C (or
SIGTERM) ends it at once.

The order of things, explained in docs/graceful-shutdown.md:

    signal -> token -> tracker closes -> deadline -> abort
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import suppress

import freerun
from freerun import stream
from freerun.io import BufReader
from freerun.net import TcpListener, TcpStream
from freerun.signal import Signal
from freerun.task import CancellationToken, TaskTracker, TokenCancelled
from freerun.time import Instant, sleep, timeout, timeout_at

LAST_CALL = 0.05
"""Seconds after the signal in which an idle connection may still bring a request. What a client had
sent before the signal is in the system's buffers by then, and counts; also later, if it is the turn of
an earlier request until then."""

BACKLOG = 1024
"""Connections that the system keeps for us until we accept them."""

ABORT_GRACE = 2.0
"""Seconds that the cleanup of what was aborted may take."""


def say(line: str) -> None:
    """One line, whole: tasks run in parallel, and print() writes a line and its end apart."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Service:
    """What the tasks share."""

    def __init__(self) -> None:
        self.stop = CancellationToken()
        self.last_call = Instant.now()  # once the token is cancelled: see LAST_CALL
        self.tasks = TaskTracker()
        self.lock = threading.Lock()
        self.accepted = 0
        self.answered = 0

    def begin_to_stop(self) -> None:
        """From now on, nothing new."""
        self.last_call = Instant.now() + LAST_CALL
        self.stop.cancel()
        self.tasks.close()

    async def accept(self, listener: TcpListener) -> None:
        """Accept until the token is cancelled; then who is in the listener's queue, for they are connected already."""
        async with listener:
            with suppress(TokenCancelled):
                while True:
                    client, _ = await self.stop.run_until_cancelled(listener.accept)
                    self.tasks.spawn(self.serve, client)
            with suppress(TimeoutError):
                for _ in range(BACKLOG):  # more were not in it; those that go on connecting must not keep us
                    client, _ = await timeout_at(self.last_call, listener.accept())
                    self.tasks.spawn(self.serve, client)

    async def serve(self, client: TcpStream) -> None:
        """One connection."""
        async with client:
            try:
                await self.answer_all(client)
                await self.hang_up(client)
            except OSError as error:
                say(f"a client went away: {error}")
            except freerun.Cancelled:
                say("a connection was aborted")
                raise

    async def answer_all(self, client: TcpStream) -> None:
        """Answer one request after the other, until the client or the service has had enough."""
        reader = BufReader(client)
        while request := await self.next_request(reader):
            self.count("accepted")
            await client.write_all(await answer(request))
            self.count("answered")

    async def next_request(self, reader: BufReader) -> str:
        """The next line; "" at the end. A cancelled `read_line()` loses nothing, so this may give up and ask again."""
        try:
            return await self.stop.run_until_cancelled(reader.read_line)
        except TokenCancelled:
            with suppress(TimeoutError):
                return await timeout_at(self.last_call, reader.read_line())
            return ""

    async def hang_up(self, client: TcpStream) -> None:
        """Say that there will be no more answers, and wait until the client has hung up as well.

        To close a socket with unread data in it makes the system reset the connection, and the client may then lose
        answers that it has not read yet. So what still comes is read, and dropped.
        """
        await client.shutdown()
        while await client.read():
            pass

    def count(self, what: str) -> None:
        """Connections are served in parallel."""
        with self.lock:
            setattr(self, what, getattr(self, what) + 1)


async def answer(request: str) -> bytes:
    """One request, one answer."""
    match request.split():
        case ["work", milliseconds] if milliseconds.isdigit():
            await sleep(int(milliseconds) / 1000)
            return f"done {milliseconds}\n".encode()
        case ["stuck"]:
            await sleep(3600)
    return b"what?\n"


async def run_service(port: int, deadline: float) -> None:
    """The whole life of the service."""
    with Signal(signal.SIGTERM) as terminate, Signal(signal.SIGINT) as interrupt:  # from here on none is missed
        service = Service()
        freerun.spawn(obey, stream.merge(terminate, interrupt), service)
        listener = await TcpListener.bind(("127.0.0.1", port), backlog=BACKLOG)
        service.tasks.spawn(service.accept, listener)
        say(f"listening on 127.0.0.1:{listener.local_addr[1]}, process {os.getpid()}")

        await service.stop.cancelled()
        try:
            await timeout(deadline, service.tasks.wait())
        except TimeoutError:  # what is left is aborted when the runtime is shut down, in main()
            say(f"the deadline has passed: aborting {len(service.tasks)}")
        say(f"accepted {service.accepted}, answered {service.answered}")


async def obey(signals: stream.Stream[int], service: Service) -> None:
    """The first signal stops the service, the second ends it."""
    async for number in signals:
        if service.stop.is_cancelled():
            say("again: not waiting")
            raise SystemExit(1)
        say(f"{signal.Signals(number).name}: stopping")
        service.begin_to_stop()


def main() -> None:
    """Read the command line and run the service."""
    parser = argparse.ArgumentParser(description="A service that stops in order.")
    parser.add_argument("--port", type=int, default=7777, help="0: any free one")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds")
    options = parser.parse_args()
    runtime = freerun.Runtime()
    try:
        runtime.block_on(run_service, options.port, options.deadline)
    except OSError as error:
        raise SystemExit(f"graceful_shutdown: {error}") from None
    finally:
        runtime.shutdown(ABORT_GRACE)


if __name__ == "__main__":
    main()
