"""A lock for many readers or one writer. Tokio: `tokio::sync::RwLock`.

How it works, since it is also an example of a primitive on `freerun.lowlevel`:

* Whoever cannot go in at once stands in one line, readers and writers, and nobody overtakes it. Whoever leaves lets in
  as many from its head as may be in together, and wakes them: they *have* the lock then, and need not compete for it.
* So one that is cancelled may have the lock without knowing; it gives it back then, which lets in the next.
* The inner lock is held for a few lines. It is reentrant, since Python may run a finalizer, and with it a guard's
  release, at any call and at the end of any turn of a loop, under this very lock too. A release inside `_settle`
  therefore leaves the settling to the one outside, which looks again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Coroutine, Generator, Iterable
from types import TracebackType
from typing import Any, Self

from freerun._arguments import integer
from freerun._errors import WouldBlock
from freerun.lowlevel import current_waker, park
from freerun.task import consume_budget

from ._blocking import Blocked, refuse_on_worker
from ._handle import ProcessBound
from ._listeners import Wakes

__all__ = ["RwLock", "RwLockReadGuard", "RwLockWriteGuard"]

_MAX_READERS = (1 << 29) - 1  # Tokio's


class RwLock[T](ProcessBound):
    """Any number of readers at a time, or one writer, of the `value` that it holds.

    `async with lock.read() as guard` reads `guard.value`; `async with lock.write() as guard` may also assign it. The
    lock is fair: who waits goes in in the order of coming, and a waiting writer holds back new readers. So a task that
    has a reading guard must not wait for a second one.

    `max_readers` limits the readers at a time.

    Errors: `ValueError`/`TypeError` for a bad `max_readers`. Thread safety: every method, from any thread; what is
    awaited, inside a task. Tokio: `tokio::sync::RwLock`.

    Example::

        import freerun
        from freerun.sync import RwLock

        async def main() -> None:
            prices = RwLock({"tea": 3})
            async with prices.write() as guard:
                guard.value["coffee"] = 4
            async with prices.read() as one, prices.read() as another:
                assert one.value is another.value
                assert one.value == {"tea": 3, "coffee": 4}

        freerun.run(main)
    """

    __slots__ = ("__weakref__", "_line", "_lock", "_max", "_readers", "_settling", "_unsettled", "_value", "_writing")

    def __init__(self, value: T = None, *, max_readers: int = _MAX_READERS) -> None:  # type: ignore[assignment]
        super().__init__()
        self._max = integer(max_readers, "max_readers", most=_MAX_READERS)
        self._value = value
        self._lock = threading.RLock()
        # Under the lock:
        self._readers = 0  # that are in
        self._writing = False  # a writer is in
        self._line: OrderedDict[_Waiting, None] = OrderedDict()  # who has to wait
        self._settling = False
        self._unsettled = False

    def read(self) -> RwLockReadGuard[T]:
        """To read the value: `async with lock.read() as guard`, or `guard = await lock.read()` and `guard.release()`.

        Waits while a writer is in, or waits already. Cancel safe: it loses its place, and what it was given goes to the
        next. Thread safety: inside a task. Tokio: `RwLock::read`, `read_owned`.
        """
        return RwLockReadGuard(self)

    def write(self) -> RwLockWriteGuard[T]:
        """To read and assign the value, alone: `async with lock.write() as guard`, or `guard = await lock.write()`.

        Waits while anybody is in, or waits already. Cancel safe: it loses its place, and what it was given goes to the
        next. Thread safety: inside a task. Tokio: `RwLock::write`, `write_owned`.
        """
        return RwLockWriteGuard(self)

    def try_read(self) -> RwLockReadGuard[T]:
        """A reading guard now, to be used by `with`.

        Errors: `WouldBlock` if a writer is in or waits, or `max_readers` are in. Thread safety: any thread. Tokio:
        `RwLock::try_read`.
        """
        return RwLockReadGuard(self)._try()

    def try_write(self) -> RwLockWriteGuard[T]:
        """A writing guard now, to be used by `with`.

        Errors: `WouldBlock` if anybody is in. Thread safety: any thread. Tokio: `RwLock::try_write`.
        """
        return RwLockWriteGuard(self)._try()

    def blocking_read(self) -> RwLockReadGuard[T]:
        """`read()` for a plain thread: `with lock.blocking_read() as guard`.

        Errors: `RuntimeError` in a task. Thread safety: threads that are not workers. Tokio: `RwLock::blocking_read`.
        """
        refuse_on_worker("blocking_read", "use 'async with lock.read()'")
        return RwLockReadGuard(self)._block()

    def blocking_write(self) -> RwLockWriteGuard[T]:
        """`write()` for a plain thread: `with lock.blocking_write() as guard`.

        Errors: `RuntimeError` in a task. Thread safety: threads that are not workers. Tokio: `RwLock::blocking_write`.
        """
        refuse_on_worker("blocking_write", "use 'async with lock.write()'")
        return RwLockWriteGuard(self)._block()

    def _go_in(self, writes: bool) -> bool:
        """Go in if that is possible now."""
        with self._lock:  # no call in here, and so no finalizer
            if self._line or self._writing or self._readers >= (1 if writes else self._max):
                return False
            if writes:
                self._writing = True
            else:
                self._readers += 1
            return True

    def _go_out(self, guard: _Guard[T]) -> None:
        with self._lock:
            if guard._state is not guard._INSIDE:
                return
            guard._state = guard._OUTSIDE
            if guard._writes:
                self._writing = False
            else:
                self._readers -= 1
            let_in = self._settle() if self._line else ()
        self._wake(let_in)

    def _line_up(self, waiting: _Waiting) -> None:
        """Stand in line. That alone may let it in."""
        with self._lock:
            self._line[waiting] = None
            let_in = self._settle()
        self._wake(let_in)

    def _give_up(self, waiting: _Waiting) -> None:
        """Leave the line, or the lock: it was let in, and will not come."""
        with self._lock:
            self._line.pop(waiting, None)
            if waiting.inside and waiting.writes:
                self._writing = False
            elif waiting.inside:
                self._readers -= 1
            let_in = self._settle()  # also those that stood behind a writer
        self._wake(let_in)

    def _downgrade(self, guard: RwLockWriteGuard[T]) -> None:
        with self._lock:
            guard._check()
            if not guard._writes:
                return
            guard._writes = self._writing = False
            self._readers += 1
            let_in = self._settle()
        self._wake(let_in)

    def _wake(self, let_in: Iterable[_Waiting]) -> None:
        """Tell them that they are in."""
        for waiting in let_in:
            waiting.waker.wake()

    def _settle(self) -> list[_Waiting]:
        """Let in who may be in now, from the head of the line; to be woken after the lock, under which this runs."""
        let_in: list[_Waiting] = []
        self._unsettled = True
        if self._settling:  # we are a finalizer inside the loop below, on this very thread: that one looks again
            return let_in
        self._settling = True
        try:
            while self._unsettled:
                self._unsettled = False
                while self._line:
                    for first in self._line:  # noqa: B007  # no call, and so no finalizer, from here to the append
                        break
                    if self._writing or self._readers >= (1 if first.writes else self._max):
                        break
                    del self._line[first]
                    if first.writes:
                        self._writing = True
                    else:
                        self._readers += 1
                    first.inside = True
                    let_in.append(first)
        finally:
            self._settling = False
        return let_in

    def __repr__(self) -> str:
        state = "written" if self._writing else f"{self._readers} readers" if self._readers else "free"
        return f"<RwLock {state}, {len(self._line)} waiting>"


class _Waiting:
    """Somebody in line."""

    __slots__ = ("inside", "waker", "writes")

    def __init__(self, waker: Wakes, writes: bool) -> None:
        self.waker = waker
        self.writes = writes
        self.inside = False  # let in, by somebody else, under the lock


class _Guard[T]:
    """What `read()` and `write()` give: the right to go in, once, and then the right to be in."""

    __slots__ = ("__weakref__", "_lock", "_state", "_writes")

    # What an error says of it, and compared as it is.
    _NEW = "was not entered yet: await it, or use 'async with'"
    _ENTERING = "is not entered yet"
    _INSIDE = "is inside"
    _OUTSIDE = "was released"

    _writes: bool  # else it reads

    def __init__(self, lock: RwLock[T]) -> None:
        self._lock = lock
        self._state = self._NEW

    @property
    def value(self) -> T:
        """What the lock guards. Errors: `RuntimeError` outside."""
        self._check()
        return self._lock._value

    def release(self) -> None:
        """Leave the lock. May be called twice. Any thread."""
        self._lock._go_out(self)

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._enter().__await__()

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock._go_out(self)

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock._go_out(self)

    def __del__(self) -> None:
        if hasattr(self, "_state") and self._state is self._INSIDE and not self._lock.forked:
            self._lock._go_out(self)

    async def _enter(self) -> Self:
        self._begin()
        await consume_budget()
        lock = self._lock
        if not lock._go_in(self._writes):
            waiting = _Waiting(current_waker(), self._writes)
            try:
                lock._line_up(waiting)
                while not waiting.inside:
                    await park()
            except BaseException:
                lock._give_up(waiting)
                raise
        self._state = self._INSIDE
        return self

    def _block(self) -> Self:
        self._begin()
        lock = self._lock
        if not lock._go_in(self._writes):
            blocked = Blocked()
            waiting = _Waiting(blocked, self._writes)
            try:
                lock._line_up(waiting)
                while not waiting.inside:
                    blocked.wait()
            except BaseException:
                lock._give_up(waiting)
                raise
        self._state = self._INSIDE
        return self

    def _try(self) -> Self:
        self._begin()
        if not self._lock._go_in(self._writes):
            raise WouldBlock(f"the lock is not free: {self._lock!r}")
        self._state = self._INSIDE
        return self

    def _begin(self) -> None:
        if self._state is not self._NEW:
            raise RuntimeError("a guard is entered once: call read() or write() again")
        self._state = self._ENTERING

    def _check(self) -> None:
        if self._state is not self._INSIDE:
            raise RuntimeError(f"this guard {self._state}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state}>"


class RwLockReadGuard[T](_Guard[T]):
    """Reads the value of a `RwLock`. Made by `read()`, `try_read()`, `blocking_read()`.

    Leaving `with` or `async with` releases it, as does `release()`; garbage collection is only the safety net. It may
    be kept, handed to another task and released there.

    Thread safety: any thread. Tokio: `RwLockReadGuard`, `OwnedRwLockReadGuard`.
    """

    __slots__ = ()

    def __init__(self, lock: RwLock[T]) -> None:
        super().__init__(lock)
        self._writes = False


class RwLockWriteGuard[T](_Guard[T]):
    """Reads and assigns the value of a `RwLock`. Made by `write()`, `try_write()`, `blocking_write()`.

    Leaving `with` or `async with` releases it, as does `release()`; garbage collection is only the safety net. It may
    be kept, handed to another task and released there.

    Thread safety: any thread. Tokio: `RwLockWriteGuard`, `OwnedRwLockWriteGuard`.
    """

    __slots__ = ()

    def __init__(self, lock: RwLock[T]) -> None:
        super().__init__(lock)
        self._writes = True

    @property
    def value(self) -> T:
        """What the lock guards; may be assigned. Errors: `RuntimeError` outside, or when assigned after `downgrade`."""
        self._check()
        return self._lock._value

    @value.setter
    def value(self, value: T) -> None:
        self._check()
        if not self._writes:
            raise RuntimeError("this guard was downgraded: it only reads")
        self._lock._value = value

    def downgrade(self) -> Self:
        """Become a reading guard, with no writer in between, and let in the readers at the head of the line.

        Returns this guard, which stays to be released, once. May be called twice.

        Errors: `RuntimeError` if it was released. Thread safety: any thread. Tokio: `RwLockWriteGuard::downgrade`.

        Example::

            import freerun
            from freerun.sync import RwLock

            async def main() -> None:
                lock = RwLock(1)
                async with lock.write() as guard:
                    guard.value = 2
                    guard.downgrade()
                    async with lock.read() as other:
                        assert other.value == guard.value == 2

            freerun.run(main)
        """
        self._lock._downgrade(self)
        return self
