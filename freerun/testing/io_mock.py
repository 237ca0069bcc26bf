"""`io_mock`: a stream that plays a script, to test protocols with."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Buffer, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self, cast, final

from freerun._arguments import Seconds, nanoseconds
from freerun.io._checks import CAPACITY, check_n, contiguous
from freerun.io._claim import Claim
from freerun.io._pipe import closed
from freerun.io.read_ext import AsyncReadExt
from freerun.io.write_ext import AsyncWriteExt
from freerun.lowlevel import PENDING, Listeners, Pending
from freerun.task import consume_budget
from freerun.time import Instant, timeout_at

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["IoMock", "IoMockBuilder", "IoMockHandle", "io_mock"]


def io_mock(name: str = "io_mock") -> IoMockBuilder:
    """Begin the script of a stream that stands for a peer: what it sends, what it must be sent, and in which order.

    The stream is an `AsyncRead` and an `AsyncWrite`, for whatever takes a `TcpStream`. A read gives what the script has
    next, and waits while that is a write. A write must agree with the next one in the script; it may come before what
    is to be read first. `wait()` holds up both. At the end of the script a read gives `b""`, and any write is wrong.
    What is wrong is an `AssertionError`, then and in whatever the stream is used for later; so is closing it with some
    of the script left.

    `name` is for the messages. Thread safety: any thread. Tokio: `tokio_test::io::Builder`.

    Example::

        import freerun
        from freerun.io import AsyncStream, BufStream
        from freerun.testing import io_mock

        async def greet(stream: AsyncStream) -> None:
            buffered = BufStream(stream)
            name = await buffered.read_line()
            await buffered.write_all(f"hello {name}".encode())
            await buffered.flush()

        @freerun.test
        async def test_greet() -> None:
            async with io_mock().read(b"wo").wait(0.001).read(b"rld\\n").write(b"hello world\\n").build() as stream:
                await greet(stream)

        test_greet()
    """
    if not isinstance(name, str):
        raise TypeError(f"argument 'name' must be a str, not {type(name).__name__}: {name!r}")
    return IoMockBuilder(name)


# --- The script -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Read:
    data: bytes


@dataclass(eq=False)
class _Write:
    data: bytes


@dataclass(eq=False)
class _Wait:
    nanoseconds: int
    until: Instant | None = None  # from when it was reached


@dataclass(eq=False)
class _ReadError:
    error: BaseException


@dataclass(eq=False)
class _WriteError:
    error: BaseException


type _Action = _Read | _Write | _Wait | _ReadError | _WriteError


def _data(data: Buffer) -> bytes:
    copy = bytes(contiguous(data))
    if not copy:
        raise ValueError("argument 'data' must not be empty; the end of the stream is the end of the script")
    return copy


def _error(error: BaseException) -> BaseException:
    if not isinstance(error, BaseException):
        raise TypeError(f"argument 'error' must be an exception, not {type(error).__name__}: {error!r}")
    if isinstance(error, StopIteration | StopAsyncIteration):
        raise ValueError(f"argument 'error' must not be {type(error).__name__}, which ends an await: {error!r}")
    return error


class _Script:
    """What is still to come. Its lock is held for a few lines; who waits looks again after each change."""

    def __init__(self, name: str, actions: list[_Action], *, grows: bool) -> None:
        self.name = name
        self._news = Listeners()
        self._lock = threading.RLock()
        # Under the lock:
        self._actions: deque[_Action] = deque(actions)
        self._grows = grows
        self.closed = False
        self._wrong: str | None = None  # the first write that was: it is not to be forgotten

    # What the handle does.

    def append(self, action: _Action) -> None:
        with self._lock:
            if self.closed:
                raise RuntimeError(f"{self.name}: the stream is closed: nobody will play what is added")
            if not self._grows:
                raise RuntimeError(f"{self.name}: the handle is closed, and the script complete")
            self._actions.append(action)
        self._news.wake_all()

    def complete(self) -> None:
        with self._lock:
            self._grows = False
        self._news.wake_all()

    # What the stream does.

    async def when_there[T](self, look: Callable[[], T | Instant | Pending]) -> T:
        await consume_budget()
        while isinstance(found := await self._news.wait(look), Instant):
            with suppress(TimeoutError):
                await timeout_at(found, self._news.wait(self._is_over))
        return cast("T", found)  # mypy leaves Pending in it

    def _is_over(self) -> bool | Pending:
        with self._lock:
            return self.closed or self._wrong is not None or PENDING

    # `Instant`: come again then.

    def read(self, n: int) -> bytes | Instant | Pending:
        return self._play(partial(self._read, n))

    def write(self, data: bytes | memoryview) -> int | Instant | Pending:
        return self._play(partial(self._write, data))

    def _play[T](self, move: Callable[[], T | BaseException | Pending]) -> T | Instant | Pending:
        with self._lock:
            found = self._look(move)
        if found is not PENDING:
            self._news.wake_all()
        if isinstance(found, BaseException):
            try:
                raise found.with_traceback(None)  # it may have been raised by another stream of the same script
            finally:
                del found  # no cycle with its traceback
        return found

    def _look[T](self, move: Callable[[], T | BaseException | Pending]) -> T | Instant | BaseException | Pending:
        if self.closed:
            return closed()
        if self._wrong is not None:
            return AssertionError(self._wrong)
        if self._actions and isinstance(first := self._actions[0], _Wait):
            return self._reached(first)
        return move()

    def _reached(self, wait: _Wait) -> Instant:
        now = Instant.now()
        if wait.until is None:
            wait.until = now + wait.nanoseconds / 1e9
        if now < wait.until:
            return wait.until
        self._actions.popleft()
        return now  # that is over: look again at once

    def _read(self, n: int) -> bytes | BaseException | Pending:
        if not self._actions:
            return PENDING if self._grows else b""
        match self._actions[0]:
            case _Read() as action:
                return self._use(action, n)
            case _ReadError(error=error):
                self._actions.popleft()
                return error
            case _:
                return PENDING  # a write comes first

    def _write(self, data: bytes | memoryview) -> int | BaseException | Pending:
        match next((each for each in self._actions if not isinstance(each, _Read | _ReadError)), None):
            case _Write() as action:
                if (expected := action.data[: len(data)]) != data[: len(expected)]:
                    return self._unexpected(data, f"instead of {action.data!r}")
                return len(self._use(action, len(data)))
            case _WriteError(error=error) as action:
                self._actions.remove(action)
                return error
            case None if not self._grows:
                return self._unexpected(data, "after the last one of the script")
            case _:
                return PENDING

    def _use(self, action: _Read | _Write, n: int) -> bytes:
        used, action.data = action.data[:n], action.data[n:]
        if not action.data:
            self._actions.remove(action)
        return used

    def _unexpected(self, data: bytes | memoryview, where: str) -> AssertionError:
        self._wrong = f"{self.name}: unexpected write of {bytes(data)!r} {where}"
        return AssertionError(self._wrong)

    def close(self) -> None:
        with self._lock:
            self.closed = True
        self._news.wake_all()

    def check_played(self) -> None:
        with self._lock:
            left = list(self._actions)
        if self._wrong is not None:
            raise AssertionError(self._wrong)
        if not all(isinstance(each, _Wait) for each in left):
            raise AssertionError(f"{self.name}: left of the script: {', '.join(map(_describe, left))}")


def _describe(action: _Action) -> str:
    match action:
        case _Read(data=data):
            return f"read({data!r})"
        case _Write(data=data):
            return f"write({data!r})"
        case _Wait(nanoseconds=ns):
            return f"wait({ns / 1e9:g})"
        case _ReadError(error=error):
            return f"read_error({error!r})"
        case _WriteError(error=error):
            return f"write_error({error!r})"


# --- Who writes the script ------------------------------------------------------------------------


class _Writer:
    """What may happen next. Each method returns the object it was called on."""

    __slots__ = ()

    def _add(self, action: _Action) -> None:
        raise NotImplementedError

    def read(self, data: Buffer, /) -> Self:
        """The peer sends `data`: reads give it, in pieces if they ask for less. Tokio: `Builder::read`."""
        self._add(_Read(_data(data)))
        return self

    def write(self, data: Buffer, /) -> Self:
        """`data` must be written, in whatever pieces. Tokio: `Builder::write`."""
        self._add(_Write(_data(data)))
        return self

    def read_error(self, error: BaseException, /) -> Self:
        """The next read raises `error`. Tokio: `Builder::read_error`."""
        self._add(_ReadError(_error(error)))
        return self

    def write_error(self, error: BaseException, /) -> Self:
        """The next write raises `error`. Tokio: `Builder::write_error`."""
        self._add(_WriteError(_error(error)))
        return self


@final
class IoMockBuilder(_Writer):
    """The script of an `IoMock`, in the making. Made by `io_mock()`. Each method returns the builder.

    Errors: `TypeError`/`ValueError` for a bad argument. Thread safety: none, build it in one place.
    Tokio: `tokio_test::io::Builder`.
    """

    __slots__ = ("_actions", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._actions: list[_Action] = []

    def _add(self, action: _Action) -> None:
        self._actions.append(action)

    def wait(self, seconds: Seconds, /) -> Self:
        """Nothing goes on for so long, from the first read or write that finds this next. Tokio: `Builder::wait`."""
        self._add(_Wait(nanoseconds(seconds, "seconds")))
        return self

    def build(self) -> IoMock:
        """A stream that plays the script so far. May be called again, for one more. Tokio: `Builder::build`."""
        return IoMock(self._script(grows=False))

    def build_with_handle(self) -> tuple[IoMock, IoMockHandle]:
        """The same, and a handle to write the script on with meanwhile. Tokio: `Builder::build_with_handle`."""
        script = self._script(grows=True)
        return IoMock(script), IoMockHandle(script)

    def _script(self, *, grows: bool) -> _Script:
        return _Script(self._name, [replace(action) for action in self._actions], grows=grows)  # it uses them up


@final
class IoMockHandle(_Writer):
    """Adds to the script of an `IoMock` while that is in use. Made by `IoMockBuilder.build_with_handle()`.

    Until it is closed, or dropped, the script is not over: reads and writes wait for more. A context manager.

    Errors: those of the builder; `RuntimeError` once it, or the stream, is closed. Thread safety: any thread.
    Tokio: `tokio_test::io::Handle`.
    """

    __slots__ = ("_script",)

    def __init__(self, script: _Script) -> None:
        self._script = script

    def _add(self, action: _Action) -> None:
        self._script.append(action)

    def close(self) -> None:
        """Nothing more comes. May be called twice."""
        self._script.complete()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_script"):
            self.close()


# --- The stream -----------------------------------------------------------------------------------


@final
class IoMock(AsyncReadExt, AsyncWriteExt):
    """A stream that plays a script. Made by `IoMockBuilder.build()`.

    `async with` closes it, and then none of the script may be left, unless the block has failed already.

    Errors: `AssertionError` for a write that is not in the script, for everything after it, and when some of the script
    is left at the end; what `read_error` and `write_error` say; `OSError` once it is closed; `RuntimeError` for a
    second reader or writer. Cancel safety: `read` and `write` have taken and written nothing. Thread safety: any
    thread; what is awaited, inside a task. Tokio: `tokio_test::io::Mock`.
    """

    __slots__ = ("__weakref__", "_checked", "_reading", "_script", "_writing")

    def __init__(self, script: _Script) -> None:
        self._checked = False
        self._script = script
        self._reading = Claim("reading from")
        self._writing = Claim("writing to")

    async def read(self, n: int = CAPACITY, /) -> bytes:
        """Up to `n` bytes of what the script has next, `b""` at its end. Cancel safe."""
        look = partial(self._script.read, check_n(n))
        with self._reading:
            return await self._script.when_there(look)

    async def write(self, data: Buffer, /) -> int:
        """Write what agrees with the next write of the script, and say how many bytes. Cancel safe."""
        view = contiguous(data)
        if not view:
            return 0
        look = partial(self._script.write, view)
        with self._writing:
            return await self._script.when_there(look)

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._script.closed

    def close(self) -> None:
        """Close it. Whoever waits on it gets an `OSError`. May be called twice. Any thread.

        Errors: `AssertionError` if some of the script is left, or a write was wrong, the first time.
        """
        self._script.close()
        if not self._checked:
            self._checked = True
            self._script.check_played()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._script.close()

    def __del__(self) -> None:
        if hasattr(self, "_script") and not self.closed:
            self.close()

    def __repr__(self) -> str:
        return f"<IoMock {self._script.name!r}{' closed' if self.closed else ''}>"
