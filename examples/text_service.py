"""A CPU-bound TCP service: text analysis in plain Python, one line of JSON in, one line out.

    python examples/text_service.py serve                     # freerun, a worker for every core
    python examples/text_service.py serve --runtime asyncio   # the very same handler on asyncio
    python examples/text_service.py demo                      # load both; a table and a chart

Then, from another terminal:

    $ printf '{"op": "terms", "text": "to be or not to be"}\\n' | nc 127.0.0.1 8765
    {"ok": true, "op": "terms", "terms": [...]}

`op` is one of

    terms         the words that set this text apart from the corpus (tf-idf)
    readability   sentences, words, syllables, Flesch reading ease, Flesch-Kincaid grade
    similar       the documents of the corpus nearest to it (cosine)
    report        all three

and `top` (1 to 50, 5 unless told) says how many terms or documents to list. A line that is no such
request gets `{"ok": false, "error": {"code": ..., "message": ...}}` and the connection goes on.

What to expect: a request costs a millisecond or two of pure Python, so that asyncio, which has one
thread, is worn out by one core. `handle` below is an ordinary `async def`; freerun polls many of
them at the same time, and on a free-threaded Python the requests per second grow with the cores.

Read it in this order: the text functions (they know nothing of networks), `answer` (one line in,
one line out, never raises for bad input), `handle` (one connection), and the two `serve_*`
functions, which are all that differs between the runtimes. The load and the chart are in
`text_service_demo.py` and `chart.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from freerun.net import TcpStream

MAX_LINE = 64 * 1024
"""Bytes a request may have. Nothing that a client sends makes the service hold more than this."""

MAX_DOCUMENTS = 256
"""A document's number fits in a byte of `Corpus.postings`."""

READ_SIZE = 16 * 1024
DEFAULT_TOP = 5
MAX_TOP = 50


# --- Text, in plain Python ----------------------------------------------------------------------
#
# Loops over characters, on purpose: they stand for the code that services really run, and they
# allocate all the time. No regular expression and no Counter does the work in C.


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case: runs of letters, with apostrophes allowed inside."""
    words: list[str] = []
    start = -1
    for position, char in enumerate(text):
        if char.isalpha() or (char == "'" and start >= 0):
            if start < 0:
                start = position
        elif start >= 0:
            words.append(text[start:position].rstrip("'").lower())
            start = -1
    if start >= 0:
        words.append(text[start:].rstrip("'").lower())
    return words


def count_sentences(text: str) -> int:
    """How many sentences: a full stop, question or exclamation mark before a space or the end."""
    sentences = 0
    ended = False
    letters = False
    for char in text:
        if char in ".!?":
            ended = letters
        elif char.isspace():
            if ended:
                sentences += 1
                ended = letters = False
        elif char.isalpha():
            ended = False
            letters = True
    return sentences + 1 if letters else max(sentences, 1)


def count_syllables(word: str) -> int:
    """Syllables of an English word, about: groups of vowels, less a silent final e."""
    groups = 0
    in_vowels = False
    for char in word:
        if char in "aeiouyáéíóúàèìòùäëïöüâêîôû":
            if not in_vowels:
                groups += 1
            in_vowels = True
        else:
            in_vowels = False
    if groups > 1 and word[-1] == "e" and word[-2:] != "le":
        groups -= 1
    return groups or 1


def count_terms(words: Sequence[str]) -> dict[str, int]:
    """How often each word of three letters and more occurs."""
    counts: dict[str, int] = {}
    for word in words:
        if len(word) > 2:
            counts[word] = counts.get(word, 0) + 1
    return counts


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents that requests are compared with, as an index that is never written again.

    Every thread reads it at once, so it is laid out to be read without touching a shared reference
    count: the words are interned and the postings are bytes, and on a free-threaded Python interned
    strings and small integers are immortal. For the same reason a function takes what it needs of it
    once, into its own variables: to read an attribute of an object that another thread made counts a
    reference, and done for every word it is what sixteen threads wait for, not the words.
    """

    names: list[str]
    idf: dict[str, float]
    """How telling a word is: high when few documents have it."""
    unseen_idf: float
    """The same for a word that no document has."""
    postings: dict[str, bytes]
    """For each word the documents that have it: number, weight from 1 to 255, number, weight..."""
    norms: list[float]
    """The length of each document's vector of weights."""


def top_terms(corpus: Corpus, counts: dict[str, int], top: int) -> list[dict[str, Any]]:
    """The `top` terms by tf-idf."""
    idf, unseen_idf = corpus.idf, corpus.unseen_idf
    total = sum(counts.values())
    scored: list[tuple[float, str]] = []
    for term, count in counts.items():
        scored.append((-idf.get(term, unseen_idf) * count / total, term))
    scored.sort()
    return [{"term": term, "count": counts[term], "score": round(-score, 6)} for score, term in scored[:top]]


def readability(text: str, words: Sequence[str]) -> dict[str, Any]:
    """Counts, and the two scores by Flesch that are made of them."""
    sentences = count_sentences(text)
    syllables = 0
    for word in words:
        syllables += count_syllables(word)
    per_sentence = len(words) / sentences
    per_word = syllables / len(words)
    return {
        "sentences": sentences,
        "words": len(words),
        "syllables": syllables,
        "flesch_reading_ease": round(206.835 - 1.015 * per_sentence - 84.6 * per_word, 2),
        "flesch_kincaid_grade": round(0.39 * per_sentence + 11.8 * per_word - 15.59, 2),
    }


def similar_documents(corpus: Corpus, counts: dict[str, int], top: int) -> list[dict[str, Any]]:
    """The `top` documents by the cosine between their weights and those of the text."""
    idf, unseen_idf, postings, norms = corpus.idf, corpus.unseen_idf, corpus.postings, corpus.norms
    scores = [0.0] * len(norms)
    squares = 0.0
    for term, count in counts.items():
        weight = count * idf.get(term, unseen_idf)
        squares += weight * weight
        posting = postings.get(term, b"")
        for at in range(0, len(posting), 2):
            scores[posting[at]] += weight * posting[at + 1]
    length = math.sqrt(squares)
    ranked: list[tuple[float, int]] = []
    for number, score in enumerate(scores):
        if score:
            ranked.append((-score / (length * norms[number]), number))
    ranked.sort()
    names = corpus.names
    return [{"document": names[number], "cosine": round(-cosine, 4)} for cosine, number in ranked[:top]]


# --- The corpus ---------------------------------------------------------------------------------


def build_corpus(documents: dict[str, str]) -> Corpus:
    """Index `documents` (name to text); those without a word are left out."""
    counted = {name: count_terms(words_of(text)) for name, text in documents.items()}
    counted = {name: counts for name, counts in counted.items() if counts}
    if not counted:
        raise ValueError("the corpus has no words")
    if len(counted) > MAX_DOCUMENTS:
        raise ValueError(f"the corpus has {len(counted)} documents; {MAX_DOCUMENTS} are the most")

    having: dict[str, int] = {}
    for counts in counted.values():
        for term in counts:
            having[term] = having.get(term, 0) + 1
    idf = {sys.intern(term): math.log((1 + len(counted)) / n) for term, n in having.items()}

    postings: dict[str, bytearray] = {sys.intern(term): bytearray() for term in having}
    norms: list[float] = []
    for number, counts in enumerate(counted.values()):
        largest = max(count * idf[term] for term, count in counts.items())
        squares = 0
        for term, count in counts.items():
            weight = max(1, round(255 * count * idf[term] / largest))
            postings[term] += bytes((number, weight))
            squares += weight * weight
        norms.append(math.sqrt(squares))
    return Corpus(
        names=list(counted),
        idf=idf,
        unseen_idf=math.log(1 + len(counted)),
        postings={term: bytes(posting) for term, posting in postings.items()},
        norms=norms,
    )


def library_documents(limit: int = 120, length: int = 8000) -> dict[str, str]:
    """Real text that comes with Python: the language reference, and the library's docstrings."""
    documents: dict[str, str] = {}
    for name, text in library_texts():
        if len(documents) == limit:
            break
        if len(text) >= 1500:
            documents[name] = text[:length]
    return documents


def library_texts() -> Iterator[tuple[str, str]]:
    """Name and text of each topic that `help()` knows, then of each module's docstrings."""
    with suppress(ImportError):  # some distributions leave it out
        from pydoc_data.topics import topics

        for topic, text in sorted(topics.items()):
            yield f"reference/{topic}", text
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        # What stands between triple quotes is prose, near enough; parsing it all takes seconds.
        yield f"library/{path.name}", "\n".join(source.split('"""')[1::2])


def file_documents(paths: Sequence[str]) -> dict[str, str]:
    """The texts of the files given on the command line."""
    return {path: Path(path).read_text(encoding="utf-8", errors="replace") for path in paths}


def load_documents(paths: Sequence[str]) -> dict[str, str]:
    """The files at `paths`, or Python's own texts when there are none."""
    return file_documents(paths) if paths else library_documents()


# --- The protocol -------------------------------------------------------------------------------


class BadRequestError(Exception):
    """What is wrong with a request: a word for programs, a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    """A line of JSON that was found to be a request."""

    op: str
    text: str
    top: int


OPERATIONS = ("terms", "readability", "similar", "report")


def parse_request(line: bytes) -> Request:
    """Check one line of input; raises BadRequestError and nothing else."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRequestError("not_utf8", f"the line is not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of 5,000 digits
        raise BadRequestError("not_json", f"the line is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequestError("not_object", 'a request is an object: {"op": ..., "text": ...}')
    for field in ("op", "text"):
        if field not in value:
            raise BadRequestError("missing_field", f"the request has no {field!r}")
    op, text, top = value["op"], value["text"], value.get("top", DEFAULT_TOP)
    if not isinstance(op, str) or op not in OPERATIONS:
        raise BadRequestError("bad_op", f"'op' must be one of {', '.join(OPERATIONS)}")
    if not isinstance(text, str):
        raise BadRequestError("bad_text", f"'text' must be a string, not {type(text).__name__}")
    if type(top) is not int or not 1 <= top <= MAX_TOP:
        raise BadRequestError("bad_top", f"'top' must be an integer from 1 to {MAX_TOP}")
    return Request(op, text, top)


def analyse(corpus: Corpus, request: Request) -> dict[str, Any]:
    """The answer to a good request."""
    words = words_of(request.text)
    counts = count_terms(words)
    if not counts:
        raise BadRequestError("no_words", "the text has no word of three letters or more")
    answer: dict[str, Any] = {"ok": True, "op": request.op}
    if request.op in ("terms", "report"):
        answer["terms"] = top_terms(corpus, counts, request.top)
    if request.op in ("readability", "report"):
        answer["readability"] = readability(request.text, words)
    if request.op in ("similar", "report"):
        answer["similar"] = similar_documents(corpus, counts, request.top)
    return answer


def failure(code: str, message: str) -> bytes:
    """The line that says what was wrong."""
    return encode({"ok": False, "error": {"code": code, "message": message}})


def encode(value: dict[str, Any]) -> bytes:
    """One value as one line."""
    return json.dumps(value).encode("ascii") + b"\n"


def answer(corpus: Corpus, line: bytes) -> bytes:
    """One line in, one line out; a bad line gets an answer too."""
    try:
        return encode(analyse(corpus, parse_request(line)))
    except BadRequestError as error:
        return failure(error.code, error.message)


# --- One connection, the same on every runtime --------------------------------------------------


class Stream(Protocol):
    """What `handle` needs of a connection; freerun's `TcpStream` is one as it stands."""

    def read(self, n: int, /) -> Awaitable[bytes]:
        """Up to `n` bytes; empty at the end of the stream."""

    def write_all(self, data: bytes, /) -> Awaitable[None]:
        """Write all of `data`, waiting while the peer is slow."""


class LineTooLongError(Exception):
    """A line went over MAX_LINE; the rest of it will be thrown away as it comes."""


class LineReader:
    """Lines from a stream, holding MAX_LINE bytes at the most (and one read beyond)."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._skipping = False
        self._ended = False

    async def next_line(self) -> bytes | None:
        """The next line without its end, or None when there are no more.

        Raises LineTooLongError as soon as a line is too long, so that the client is told at once
        and not only when (if ever) its line ends.
        """
        seen = 0
        while True:
            end = self._buffer.find(b"\n", seen)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                if not self._skipping:
                    if len(line) > MAX_LINE:
                        raise LineTooLongError
                    return line
                self._skipping = False
                seen = 0
                continue
            if self._skipping:
                self._buffer.clear()
            elif len(self._buffer) > MAX_LINE:
                self._buffer.clear()
                self._skipping = True
                raise LineTooLongError
            seen = len(self._buffer)
            if self._ended:
                return self._last_line()
            data = await self._stream.read(READ_SIZE)
            self._ended = not data
            self._buffer += data

    def _last_line(self) -> bytes | None:
        """What is left when the stream has ended: a line whose end was not sent, or nothing."""
        line = bytes(self._buffer)
        self._buffer.clear()
        return line or None


async def handle(stream: Stream, corpus: Corpus) -> None:
    """Answer one client until it hangs up.

    The only awaits are for the network: the analysis is plain Python between them, and it is the
    runtime's business how many of these run at once.
    """
    lines = LineReader(stream)
    try:
        while True:
            try:
                line = await lines.next_line()
            except LineTooLongError:
                message = f"a line may have {MAX_LINE} bytes"
                await stream.write_all(failure("too_long", message))
                continue
            if line is None:
                return
            if line.strip():
                await stream.write_all(answer(corpus, line))
    except OSError:
        return  # the client went away; there is nobody left to tell


# --- freerun ------------------------------------------------------------------------------------


async def serve_freerun(corpus: Corpus, host: str, port: int, announce: Announce) -> None:
    """Accept for ever; every connection is a task, and a task runs on any worker."""
    import freerun
    from freerun.net import TcpListener
    from freerun.time import sleep

    async def serve_client(stream: TcpStream) -> None:
        async with stream:
            await handle(stream, corpus)

    async with TcpListener.bind((host, port)) as listener:
        announce(listener.local_addr)
        while True:
            try:
                stream, _ = await listener.accept()
            except OSError:  # that client is gone, or there are no descriptors left just now
                await sleep(0.05)
                continue
            freerun.spawn(serve_client, stream)


def run_freerun(corpus: Corpus, options: argparse.Namespace) -> None:
    """Serve on a work-stealing pool of `--workers` threads."""
    import freerun

    builder = freerun.Builder()
    if options.workers:
        builder.worker_threads(options.workers)
    with builder.build() as runtime:
        announce = announcer(f"freerun, {counted(runtime.metrics().num_workers, 'worker')}")
        runtime.block_on(serve_freerun(corpus, options.host, options.port, announce))


# --- asyncio ------------------------------------------------------------------------------------


class AsyncioStream:
    """asyncio's reader and writer as one `Stream`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.read = reader.read
        self._writer = writer

    async def write_all(self, data: bytes, /) -> None:
        """Hand `data` to the transport and wait while its buffer is full."""
        self._writer.write(data)
        await self._writer.drain()


async def serve_asyncio(corpus: Corpus, host: str, port: int, announce: Announce) -> None:
    """The same service on asyncio's streams."""

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(AsyncioStream(reader, writer), corpus)
        finally:
            writer.close()
            with suppress(OSError):  # or asyncio logs how each client went away
                await writer.wait_closed()

    server = await asyncio.start_server(serve_client, host, port, backlog=1024)
    announce(server.sockets[0].getsockname())
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        server.close_clients()


def run_asyncio(corpus: Corpus, options: argparse.Namespace) -> None:
    """Serve on one event loop: one thread, whatever `--workers` says."""
    asyncio.run(serve_asyncio(corpus, options.host, options.port, announcer("asyncio, 1 thread")))


# --- The command line ---------------------------------------------------------------------------

type Announce = Callable[[tuple[Any, ...]], None]


def announcer(what: str) -> Announce:
    """A function that prints the address, in the form that the demo reads."""

    def announce(address: tuple[Any, ...]) -> None:
        gil = "with the GIL" if gil_enabled() else "without the GIL"
        print(f"listening on {address[0]}:{address[1]} ({what}, {gil})", flush=True)

    return announce


def gil_enabled() -> bool:
    """Whether threads of this process take turns at running Python."""
    return sys._is_gil_enabled()


def counted(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def interrupt_when_stdin_closes() -> None:
    """Stop this process when whoever started it is gone, however it went.

    The demo holds the other end of standard input, so that no server can outlive it.
    """

    def watch() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)
        os._exit(3)  # the interrupt was not enough

    threading.Thread(target=watch, name="watch stdin", daemon=True).start()


def serve(options: argparse.Namespace) -> int:
    """Run the service until Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in a background job
    if options.until_stdin_closes:
        interrupt_when_stdin_closes()
    runner = run_freerun if options.runtime == "freerun" else run_asyncio
    try:
        runner(build_corpus(load_documents(options.corpus)), options)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    return 0


def number_of(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: an integer in a range."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {value}")
        return value

    parse.__name__ = "integer"
    return parse


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Text analysis over TCP: a line of JSON in, a line of JSON out.")
    commands = parser.add_subparsers(required=True, metavar="serve|demo")

    server = commands.add_parser("serve", help="run the service until Ctrl-C")
    server.set_defaults(command=serve)
    server.add_argument("--runtime", choices=("freerun", "asyncio"), default="freerun")
    server.add_argument("--workers", type=number_of(1, 1024), help="freerun's threads (default: every core)")
    server.add_argument("--host", default="127.0.0.1")
    server.add_argument("--port", type=number_of(0, 65535), default=8765, help="0: any free one")
    server.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)

    demo = commands.add_parser("demo", help="compare asyncio and freerun under load")
    demo.set_defaults(command=run_demo)
    demo.add_argument("--connections", type=number_of(1, 512), default=64)
    demo.add_argument("--seconds", type=float, default=2.5, help="measured, for each server")
    demo.add_argument("--rounds", type=number_of(1, 100), default=5)
    demo.add_argument("--budget", type=float, default=80.0, help="start no round after this (s)")
    demo.add_argument("--runtimes", default="asyncio,freerun", help="asyncio, freerun or both")
    demo.add_argument("--chart", default="out/text_service.svg", help="where the chart goes")
    demo.add_argument("--json", help="where every number goes")

    for command in (server, demo):
        command.add_argument("--corpus", nargs="+", default=[], metavar="FILE", help="instead of Python's own texts")
    return parser


def run_demo(options: argparse.Namespace) -> int:
    """See text_service_demo.py."""
    from text_service_demo import demo

    return demo(options)


def main() -> int:
    """Run the command; what a user can mend is one line, not a traceback."""
    options = arguments().parse_args()
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, ImportError) as error:
        print(f"text_service: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
