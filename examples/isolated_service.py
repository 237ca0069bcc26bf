"""The service of text_service.py on every core of a Python that has the GIL.

    python examples/isolated_service.py                  # a worker for every core
    python examples/isolated_service.py --workers 4

On a build with the GIL, threads take turns at running Python. Here each worker is an interpreter with a
GIL of its own, in one process, and all of them accept from one listening socket. What changes against
`text_service.py` is this file: the handler is the very same. What crosses to the workers is the listener
and the documents' text, once; each builds its own index, since interpreters share nothing.

On a free-threaded build the same code runs on the runtime's ordinary workers.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

import freerun
from freerun.net import TcpListener
from freerun.time import sleep

sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # where text_service.py is, over there too

from text_service import (
    Corpus,
    announcer,
    build_corpus,
    counted,
    handle,
    interrupt_when_stdin_closes,
    load_documents,
    number_of,
)

if TYPE_CHECKING:
    from freerun.net import TcpStream


async def serve(listener: TcpListener, documents: dict[str, str]) -> None:
    """One worker: accept for ever. It runs in an interpreter of its own, with a runtime of its own."""
    corpus = build_corpus(documents)
    async with listener:
        while True:
            try:
                stream, _ = await listener.accept()
            except OSError:  # that client is gone, or there are no descriptors left just now
                await sleep(0.05)
                continue
            freerun.spawn(serve_client, stream, corpus)


async def serve_client(stream: TcpStream, corpus: Corpus) -> None:
    """One connection."""
    async with stream:
        await handle(stream, corpus)


async def main(options: argparse.Namespace) -> None:
    """Listen, and hand the listener to every worker."""
    documents = load_documents(options.corpus)
    build_corpus(documents)  # says what is wrong with them before anybody serves
    async with TcpListener.bind((options.host, options.port)) as listener:
        address = listener.local_addr
        workers = [freerun.spawn_isolated(serve, listener, documents) for _ in range(options.workers)]
    announcer(f"freerun, isolated, {counted(options.workers, 'worker')}")(address)
    for worker in workers:
        await worker


def run() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=number_of(1, 1024), default=freerun.build_info().worker_threads)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=number_of(0, 65535), default=8765, help="0: any free one")
    parser.add_argument("--corpus", nargs="+", default=[], metavar="FILE", help="instead of Python's own texts")
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in a background job
    if options.until_stdin_closes:
        interrupt_when_stdin_closes()
    try:
        with freerun.Builder().worker_threads(options.workers).build() as runtime:
            runtime.block_on(main(options))
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except (OSError, ValueError) as error:
        print(f"isolated_service: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
