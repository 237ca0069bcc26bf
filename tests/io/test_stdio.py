"""`stdin`, `stdout`, `stderr` in processes of their own: pipes, terminals, sockets, files, nothing at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import socket
import subprocess
import sys
import textwrap
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from support import DRIVERS, PATIENCE

HEAD = """
import os, sys, threading
import freerun
from freerun import io
from freerun.io import BufReader

workers, driver = int(sys.argv[1]), sys.argv[2]
builder = freerun.Builder
builder = builder.new_multi_thread().worker_threads(workers) if workers else builder.new_current_thread()
builder = builder.driver(driver)

async def parked(handle):
    while "waiting" not in repr(handle):
        await freerun.time.sleep(0.001)

def run(main):
    with builder.build() as rt:
        return rt.block_on(main)
"""


@pytest.fixture(
    params=[(workers, driver) for driver in DRIVERS for workers in (0, 2)],
    ids=lambda each: f"{'multi_thread_2' if each[0] else 'current_thread'}_{each[1]}",
)
def start(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start a script; it must end with status 0 and an empty stderr."""
    with contextlib.ExitStack() as stack:

        def starts(source: str, **streams: Any) -> Process:
            return stack.enter_context(Process(HEAD + textwrap.dedent(source), request.param, streams))

        yield starts


class Process:
    def __init__(self, source: str, how: tuple[int, str], streams: dict[str, Any]) -> None:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **streams}
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-X", "faulthandler", "-c", source, *map(str, how)],
            stderr=subprocess.PIPE,
            **streams,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.popen.kill()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream:
                stream.close()
        self.popen.wait()

    def wait(self, stdin: bytes | None = None) -> bytes:
        """What it printed. `None`: its input stays open."""
        if stdin is None:
            out = self.popen.stdout.read() if self.popen.stdout else b""
            err = self.popen.stderr.read() if self.popen.stderr else b""
            self.popen.wait(PATIENCE)
        else:
            out, err = self.popen.communicate(stdin, PATIENCE)
        assert (self.popen.returncode, err) == (0, b""), f"{out!r}\n{err.decode()}"
        return out or b""


def is_blocking(fd: int) -> bool:
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


LINES = """
    async def main():
        async for line in BufReader(io.stdin()).lines():
            print(line, flush=True)
        print("end")
    run(main)
"""

NEVER = """
    async def main():
        reading = freerun.spawn(io.stdin().read)
        await parked(reading)
        print("parked")
    run(main)
"""


def test_a_pipe(start: Any) -> None:
    assert start(LINES, stdin=subprocess.PIPE).wait(b"one\ntwo") == b"one\ntwo\nend\n"


def test_a_pipe_that_sends_now_and_then(start: Any) -> None:
    process = start(LINES, stdin=subprocess.PIPE)
    for i in range(20):
        line = b"line %d\n" % i
        process.popen.stdin.write(line)
        process.popen.stdin.flush()
        assert process.popen.stdout.readline() == line
    assert process.wait(b"") == b"end\n"


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket", "eventfd"])
def test_what_never_comes_holds_nothing_up(start: Any, kind: str) -> None:
    """Neither the shutdown nor the exit; and the open file is as it was."""
    with inputs(kind) as (ours, theirs):
        assert start(NEVER, stdin=theirs).wait() == b"parked\n"
        assert is_blocking(theirs)
        del ours


@contextlib.contextmanager
def inputs(kind: str) -> Iterator[tuple[int, int]]:
    """Where to write, and what to make the standard input."""
    if kind == "pipe":
        theirs, ours = os.pipe()
    elif kind == "terminal":
        ours, theirs = pty.openpty()
    elif kind == "socket":
        ours, theirs = (end.detach() for end in socket.socketpair())
    else:  # neither can it be opened again, nor is there an end to it
        theirs = os.eventfd(0, 0)
        ours = os.dup(theirs)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_a_terminal(start: Any) -> None:
    """It gives one line per read, however many are there; its end is not for ever."""
    source = """
        async def main():
            stdin = io.stdin()
            for _ in range(5):
                print(await stdin.read(), flush=True)
            freerun.spawn(stdin.read)
        run(main)
    """
    with inputs("terminal") as (ours, theirs):
        os.write(ours, b"one\ntwo\nthree\n")
        process = start(source, stdin=theirs)
        for line in (b"one", b"two", b"three"):
            assert process.popen.stdout.readline() == b"b'%s\\n'\n" % line
        os.write(ours, b"\x04")
        assert process.popen.stdout.readline() == b"b''\n"
        os.write(ours, b"four\n")
        assert process.wait() == b"b'four\\n'\n"
        assert is_blocking(theirs)


def test_a_socket(start: Any) -> None:
    with inputs("socket") as (ours, theirs):
        process = start(LINES, stdin=theirs)
        for i in range(20):
            os.write(ours, b"%d\n" % i)
            assert process.popen.stdout.readline() == b"%d\n" % i
        with socket.socket(fileno=os.dup(ours)) as sock:
            sock.shutdown(socket.SHUT_WR)
        assert process.wait() == b"end\n"
        assert is_blocking(theirs)


def test_what_can_only_be_read_on_a_thread(start: Any) -> None:
    """A read that was given up goes on, and what it gets is for the next one, of another runtime too."""
    source = """
        async def give_up():
            reading = freerun.spawn(io.stdin().read, 3)
            await parked(reading)
            assert "freerun-stdin" in [thread.name for thread in threading.enumerate()]

        async def read():
            stdin = io.stdin()
            reading = freerun.spawn(stdin.read, 5)
            await parked(reading)
            try:
                await io.stdin().read()
            except RuntimeError as error:
                assert "already reading" in str(error)
            print("ready", flush=True)
            print(await reading, await stdin.read_exact(3))

        run(give_up)
        run(read)
    """
    with inputs("eventfd") as (ours, theirs):
        process = start(source, stdin=theirs)
        assert process.popen.stdout.readline() == b"ready\n"
        os.eventfd_write(ours, int.from_bytes(b"abcdefgh", sys.byteorder))
        assert process.wait() == b"b'abcde' b'fgh'\n"


def test_two_runtimes_one_after_the_other(start: Any) -> None:
    """A handle follows."""
    source = """
        stdin = io.stdin()
        async def main():
            print(await stdin.read(1))
        for _ in range(3):
            run(main)
        print(os.listdir("/proc/self/fd") == before)
    """
    source = "before = os.listdir('/proc/self/fd')\n" + textwrap.dedent(source).replace(
        "print(os", "stdin.close(); print(os"
    )
    assert start(source, stdin=subprocess.PIPE).wait(b"abc") == b"b'a'\nb'b'\nb'c'\nTrue\n"


def test_aborted_reads_lose_no_byte(start: Any) -> None:
    source = """
        import random
        async def main():
            reader = BufReader(io.stdin(), 100)
            out = []
            async def read():
                async for line in reader.lines():
                    out.append(line)
            aborted = 0
            while True:
                task = freerun.spawn(read)
                for _ in range(random.randrange(10)):
                    await freerun.yield_now()
                task.abort()
                try:
                    await task
                except freerun.JoinError:
                    aborted += 1
                else:
                    break
            print(out == [str(i) for i in range(3000)])
        run(main)
    """
    data = "".join(f"{i}\n" for i in range(3000)).encode()
    for kind in ("pipe", "socket"):
        with inputs(kind) as (ours, theirs):
            process = start(source, stdin=theirs)
            with contextlib.ExitStack() as stack:
                sock = stack.enter_context(socket.socket(fileno=os.dup(ours))) if kind == "socket" else None
                for at in range(0, len(data), 500):
                    os.write(ours, data[at : at + 500])
                if sock:
                    sock.shutdown(socket.SHUT_WR)
                else:
                    os.dup2(sys.stderr.fileno(), ours)  # closes the pipe
            assert process.wait() == b"True\n"


def test_a_file(start: Any, tmp_path: Path) -> None:
    """It is read from where it stands, and stands after what was read."""
    path = tmp_path / "input"
    path.write_bytes(b"skipped one\ntwo\nthree\n" + bytes(100_000))
    with path.open("rb", buffering=0) as file:
        file.seek(8)
        source = """
            async def main():
                stdin = io.stdin()
                reading = freerun.spawn(stdin.read, 1000)
                reading.abort()
                try:
                    print(len(await reading))
                except freerun.JoinError:
                    print(len(await stdin.read(1000)))
                print(len(await stdin.read_to_end()), await stdin.read())
            run(main)
        """
        assert start(source, stdin=file).wait() == b"1000\n%d b''\n" % (21 - 8 + 100_000 - 1000 + 1)
        assert file.tell() == 22 + 100_000


def test_no_standard_streams_at_all(start: Any, tmp_path: Path) -> None:
    """Their numbers belong to something else by then."""
    source = """
        async def main():
            ours, theirs = io.duplex(10)
            assert await io.stdin().read() == b""
            assert await io.stdin().read_to_end() == b""
            await io.stdout().write_all(b"x" * 100_000)
            assert await io.stderr().write(b"y") == 1
            open(sys.argv[3], "w").write("done")
        run(main)
    """
    done = tmp_path / "done"
    code = HEAD + textwrap.dedent(source)
    for how in [(workers, driver) for driver in DRIVERS for workers in ("0", "2")]:
        subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-P", "-c", code, *how, str(done)],
            check=True,
            timeout=PATIENCE,
        )
        assert done.read_text() == "done"
        done.unlink()


def test_dev_null(start: Any) -> None:
    source = """
        async def main():
            assert await io.stdin().read() == b""
            await io.stderr().write_all(b"")
            await io.stdout().write_all(b"x" * 1_000_000)
        run(main)
    """
    start(source, stdout=subprocess.DEVNULL).wait()


def test_a_named_pipe_whose_writer_has_gone(start: Any, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_RDONLY)
    writing = os.open(path, os.O_WRONLY)
    os.write(writing, b"left\n")
    os.close(writing)
    assert start(LINES, stdin=reading).wait() == b"left\nend\n"
    os.close(reading)


def test_bad_arguments(start: Any) -> None:
    source = """
        async def main():
            out = io.stdout()
            for use in (lambda: io.stdin().read(0), lambda: out.write("text"), lambda: out.write_all(1)):
                try:
                    await use()
                except (ValueError, TypeError) as error:
                    print(error)
            print(io.stdin(), io.stdout(), io.stderr(), io.stdin().fileno(), io.stderr().fileno())
        run(main)
    """
    out = start(source).wait().decode().splitlines()
    assert ["'n'" in out[0], "'data'" in out[1], "'data'" in out[2], out[3]] == [
        True,
        True,
        True,
        "<Stdin> <Stdout> <Stderr> 0 2",
    ]


# ---- output

BIG = """
    async def main():
        stdout = io.stdout()
        for i in range(300):
            await stdout.write_all(bytes([i % 256]) * 10_000)
    run(main)
"""

BIG_DATA = b"".join(bytes([i % 256]) * 10_000 for i in range(300))


@contextlib.contextmanager
def outputs(kind: str) -> Iterator[tuple[int, int]]:
    """Where to read, and what to make the standard output."""
    if kind == "pipe":
        ours, theirs = os.pipe()
    elif kind == "terminal":
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
    else:
        ours, theirs = (end.detach() for end in socket.socketpair())
    try:
        yield ours, theirs
    finally:
        os.close(ours)


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_a_lot_into_a_slow_reader(start: Any, kind: str) -> None:
    with outputs(kind) as (ours, theirs):
        process = start(BIG, stdout=theirs)
        assert is_blocking(theirs)
        digest, size = hashlib.sha256(), 0
        while size < len(BIG_DATA):
            piece = os.read(ours, 5000)
            digest.update(piece)
            size += len(piece)
        process.wait()
        assert is_blocking(theirs)
        os.close(theirs)
        assert digest.hexdigest() == hashlib.sha256(BIG_DATA).hexdigest()


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_a_reader_that_never_reads_holds_nothing_up(start: Any, kind: str) -> None:
    source = """
        async def main():
            writing = freerun.spawn(io.stdout().write_all, bytes(10_000_000))
            await parked(writing)
            # Others wait for their turn, and may be given up too.
            second = freerun.spawn(io.stdout().write, b"x")
            await parked(second)
        run(main)
    """
    with outputs(kind) as (_ours, theirs):
        start(source, stdout=theirs).wait()
        os.close(theirs)


def test_a_file_as_output(start: Any, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb", buffering=0) as file:
        file.write(b"before ")
        start(BIG, stdout=file).wait()
        file.write(b" after")
    assert (tmp_path / "out").read_bytes() == b"before " + BIG_DATA + b" after"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_has_gone(start: Any, kind: str) -> None:
    source = """
        async def main():
            for _ in range(2):
                try:
                    await io.stdout().write_all(bytes(1000))
                except BrokenPipeError:
                    print("broken", file=open(os.environ["OUT"], "a"))
        run(main)
    """
    with outputs(kind) as (ours, theirs), outputs("pipe") as (read, write):
        os.dup2(read, ours)
        name = f"/proc/{os.getpid()}/fd/{write}"
        start(source, stdout=theirs, env={**os.environ, "OUT": name}).wait()
        os.close(theirs)
        os.close(write)
        assert os.read(read, 100) == b"broken\nbroken\n"


def test_a_full_disk(start: Any) -> None:
    source = """
        async def main():
            try:
                await io.stdout().write_all(b"x")
            except OSError as error:
                assert error.errno == 28, error
            else:
                sys.exit(3)
        run(main)
    """
    with Path("/dev/full").open("wb") as full:
        start(source, stdout=full).wait()


def test_what_several_tasks_write_stays_together(start: Any) -> None:
    """Also from several handles, and when some are aborted."""
    source = """
        async def write(i):
            for _ in range(10):
                await io.stdout().write_all(b"%d" % i * 30_000 + b"\\n")

        async def main():
            tasks = [freerun.spawn(write, i) for i in range(5)]
            given_up = [freerun.spawn(io.stdout().write_all, b"") for i in range(20)]
            for task in given_up:
                task.abort()
            for task in tasks:
                await task
        run(main)
    """
    process = start(source)
    lines = process.wait().splitlines()
    assert len(lines) == 50
    assert {(line, len(line)) for line in lines} == {(b"%d" % i * 30_000, 30_000) for i in range(5)}


def test_stderr(start: Any) -> None:
    source = """
        async def main():
            async with io.stderr() as stderr:
                await stderr.write_all(b"to stderr")
                await stderr.flush()
                await stderr.shutdown()
        run(main)
    """
    process = start(source)
    out, err = process.popen.communicate(timeout=PATIENCE)
    assert (process.popen.returncode, out, err) == (0, b"", b"to stderr")


def test_copying_input_to_output(start: Any) -> None:
    source = """
        async def main():
            await io.copy(io.stdin(), io.stdout())
        run(main)
    """
    process = start(source, stdin=subprocess.PIPE)
    writing = threading.Thread(target=lambda: (process.popen.stdin.write(BIG_DATA), process.popen.stdin.close()))
    writing.start()
    assert process.wait() == BIG_DATA
    writing.join()


def test_after_a_fork(start: Any) -> None:
    """The child has no thread that reads, and nobody's turn."""
    source = """
        async def main():
            reading = freerun.spawn(io.stdin().read)
            writing = freerun.spawn(io.stdout().write_all, bytes(10_000_000))
            await parked(reading)
            await parked(writing)

        async def child():
            reading = freerun.spawn(io.stdin().read)
            await parked(reading)
            await io.stdout().write_all(b"")

        from freerun.io._stdin_thread import stdin_thread
        from freerun.io.stdout import _turns

        run(main)
        assert stdin_thread._asked                  # its thread still reads
        assert _turns[1]._busy.acquire(blocking=False)
        pid = os.fork()
        if not pid:
            assert not stdin_thread._asked
            run(child)                              # its own turn, whosoever it is in the parent
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    with inputs("eventfd") as (_, theirs), outputs("pipe") as (_, out):
        process = start(source, stdin=theirs, stdout=out)
        err = process.popen.stderr.read()
        process.popen.wait(PATIENCE)
        assert process.popen.returncode == 0, err.decode()
        os.close(out)
