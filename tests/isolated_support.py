"""What the tests of isolated work share, and what they run in other interpreters: that has to be importable there."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import freerun
from freerun.net import TcpListener

KINDS = ["interpreters", "threads"]


def interpreter() -> int:
    """The number of the interpreter that this runs in."""
    import _interpreters

    current = _interpreters.get_current()
    return int(current[0] if isinstance(current, tuple) else current)


def interpreters() -> int:
    """How many there are."""
    import _interpreters

    return len(_interpreters.list_all())


def where() -> tuple[int, int]:
    """The interpreter, and the thread."""
    return interpreter(), threading.get_ident()


def echo(*values: Any) -> Any:
    return values


async def async_echo(*values: Any) -> Any:
    await freerun.time.sleep(0.001)
    return values


def kernel(n: int) -> int:
    s = 0
    for i in range(n):
        s = (s * 31 + i) & 0xFFFF
    return s


def fail(message: str) -> None:
    raise ValueError(message)


async def async_fail(message: str) -> None:
    await freerun.yield_now()
    raise ValueError(message)


class OddError(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class LocalStateError(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("it has a lock")
        self.lock = threading.Lock()


class Refused(ValueError):
    """With an `__init__` that does not take what it gives its base class."""

    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(f"{what} refused with {code}")
        self.code = code


def refuse() -> None:
    raise Refused("it", code=7)


def refuse_in_a_group() -> None:
    raise ExceptionGroup("several", [KeyError("k"), ExceptionGroup("more", [Refused("one", code=1)])])


class Hostile(Exception):
    """Whose every method raises what is no Exception."""

    def __reduce__(self) -> Any:
        raise SystemExit(4)

    def __str__(self) -> str:
        raise SystemExit(5)


def fail_with(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


def leave(status: int) -> None:
    sys.exit(status)


async def leave_in_a_task() -> None:
    await freerun.spawn(async_leave)


async def async_leave() -> None:
    sys.exit(5)


def recurse(n: int = 0) -> int:
    return recurse(n + 1) + 1


def import_module(name: str) -> str:
    __import__(name)
    return sys.modules[name].__name__


def lock() -> Any:
    return threading.Lock()


def note(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(text + "\n")


async def wait_and_clean(path: str, name: str, cleanup: float = 0.0) -> None:
    """For ever, then cleanup that awaits."""
    note(path, f"{name} began")
    try:
        await freerun.time.sleep(3600)
    finally:
        await freerun.time.sleep(cleanup)
        note(path, f"{name} cleaned")


async def stubborn(path: str) -> str:
    note(path, "began")
    try:
        await freerun.time.sleep(3600)
    except freerun.Cancelled:
        return "no"
    return "never"


async def sleep_steps(path: str, name: str, steps: int) -> int:
    """Something that can be aborted at many points."""
    note(path, f"{name} began")
    try:
        for _ in range(steps):
            await freerun.time.sleep(0.001)
    finally:
        try:
            await freerun.yield_now()
        finally:  # the abort may come here
            note(path, f"{name} ended")
    return steps


def block_until(path: str) -> None:
    """Occupies its worker until the file is there."""
    while not Path(path).exists():
        time.sleep(0.005)


def block(seconds: float) -> None:
    time.sleep(seconds)


async def async_sleep(seconds: float) -> float:
    await freerun.time.sleep(seconds)
    return seconds


async def a_bit_of_everything() -> tuple[Any, ...]:
    """Timers, tasks, a channel, the blocking pool, a socket: the runtime over there has it all."""
    tx, rx = freerun.sync.mpsc.channel(1)

    async def produce() -> None:
        with tx:
            for n in range(5):
                await tx.send(n)

    freerun.spawn(produce)
    values = [each async for each in rx]
    blocking = await freerun.spawn_blocking(sum, [1, 2, 3])
    async with TcpListener.bind("127.0.0.1:0") as listener:
        client = await freerun.net.TcpStream.connect(listener.local_addr)
        server, _ = await listener.accept()
        async with client, server:
            await client.write_all(b"hello")
            data = await server.read_exact(5)
    return values, blocking, bytes(data)


async def serve(listener: TcpListener, stop: Any) -> int:
    """Answer each connection with the interpreter's number until told to stop; how many there were."""
    served = 0

    async def answer(stream: Any) -> None:
        async with stream:
            await stream.write_all(str(interpreter()).encode())

    async def accept() -> None:
        nonlocal served
        async for stream, _ in listener:
            served += 1
            freerun.spawn(answer, stream)

    task = freerun.spawn(accept)
    with_stop = await first_of(stop)
    task.abort()
    listener.close()
    assert with_stop is None
    return served


async def first_of(receiver: Any) -> Any:
    try:
        return await receiver.recv()
    except freerun.RecvError:
        return None


async def double_all(rx: Any, tx: Any) -> int:
    count = 0
    async for value in rx:
        await tx.send(value * 2)
        count += 1
    tx.close()
    return count


async def nested(n: int) -> int:
    """Isolated work out of isolated work."""
    handles = [freerun.spawn_isolated(kernel, each) for each in range(n)]
    return sum([await handle for handle in handles])


def keep(view: memoryview) -> int:
    """Holds on to a view that was lent."""
    _kept.append(view)
    return len(_kept)


def let_go() -> None:
    _kept.clear()


def kept() -> list[bytes]:
    return [bytes(view) for view in _kept]


async def keep_and_wait(view: memoryview, path: str) -> None:
    """Holds on to a view until it is aborted."""
    note(path, "has it")
    await freerun.time.sleep(3600)
    view[0] = 0


async def lend_and_end() -> None:
    """Lends what is its interpreter's own to another one, and ends that interpreter while it is looked at."""
    for size in (100, 100_000):
        view = memoryview(b"lent" * (size // 4))
        while not await freerun.spawn_isolated(keep_elsewhere, view, interpreter()):
            pass
    await shut_down_here()


def keep_elsewhere(view: memoryview, lender: int) -> bool:
    """Holds on to it, unless this is its lender's interpreter."""
    if interpreter() == lender:
        return False
    keep(view)
    return True


_kept: list[memoryview] = []


def set_first(view: memoryview, value: int) -> None:
    view[0] = value


def view_of(data: bytes) -> memoryview:
    return memoryview(data)


def describe_view(view: memoryview) -> tuple[Any, ...]:
    return view.format, view.shape, view.readonly, view.tolist()


def describe_first(view: memoryview) -> tuple[int, int]:
    return view[0], len(view)


async def shut_down_here() -> None:
    """What nobody should do."""
    freerun.runtime.atexit._registry.engines.copy().pop().shutdown_background()
    await freerun.time.sleep(3600)


def context(variable: Any) -> Any:
    return variable
