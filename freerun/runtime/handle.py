"""`Handle`: a runtime as seen from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, final, overload

from freerun._core._native import Core, current_core, try_current_core
from freerun.interp._isolated import spawning_isolated

from . import signals
from .dump import dump_tasks
from .metrics import RuntimeMetrics

if TYPE_CHECKING:
    from types import TracebackType

    from freerun.interp.spawn_isolated import SpawnIsolated
    from freerun.task.spawn import Spawn, SpawnBlocking

__all__ = ["Entered", "Handle"]


@final
class Entered:
    """What `Handle.enter()` returns; `with` makes the runtime this thread's until the block ends."""

    __slots__ = ("_core", "_previous")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._previous: list[Core | None] = []

    def __enter__(self) -> Handle:
        self._previous.append(self._core.enter())
        return Handle(self._core)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._core.leave(self._previous.pop())


@final
class Handle:
    """A reference to a running runtime: spawn on it, enter it, look at it. It does not keep the runtime running.

    Made by `Handle.current()`, `Handle.try_current()` and `Runtime.handle()`. Handles to one runtime are equal.
    Thread safety: every method may be called from any thread. Tokio: `tokio::runtime::Handle`.

    Example::

        import threading
        import freerun

        async def double(n: int) -> int:
            return 2 * n

        def plain_thread(handle: freerun.Handle, results: list[int]) -> None:
            results.append(handle.spawn(double, 21).blocking_result())

        with freerun.Runtime() as rt:
            results: list[int] = []
            thread = threading.Thread(target=plain_thread, args=(rt.handle(), results))
            thread.start()
            thread.join()
            assert results == [42]
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        if not isinstance(core, Core):
            raise TypeError("make a Handle with Handle.current() or Runtime.handle()")
        self._core = core

    @classmethod
    def current(cls) -> Self:
        """The runtime of the running task, or the one that this thread has entered.

        Errors: `RuntimeError` outside a runtime. Thread safety: any thread. Tokio: `Handle::current`.

        Example::

            import freerun

            async def main() -> bool:
                return freerun.Handle.current() == freerun.Handle.try_current()

            assert freerun.run(main)
        """
        return cls(current_core())

    @classmethod
    def try_current(cls) -> Self | None:
        """As `current()`, but `None` outside a runtime. Thread safety: any thread. Tokio: `Handle::try_current`."""
        core = try_current_core()
        return None if core is None else cls(core)

    @property
    def spawn(self) -> Spawn:
        """`handle.spawn(coro)` or `handle.spawn(async_fn, *args, name=None)`: run a task; see `freerun.spawn`.

        With `async_fn, *args` the coroutine is made on the worker that runs it, which is faster.
        Errors: `TypeError` for what is neither, `RuntimeShutdown` if the runtime takes no tasks any more.
        Cancel safety: does not wait. Thread safety: any thread, inside a runtime or not. Tokio: `Handle::spawn`.

        Example::

            import freerun

            async def one() -> int:
                return 1

            with freerun.Runtime() as rt:
                assert rt.handle().spawn(one, name="one").blocking_result() == 1
        """
        return self._core.spawn  # type: ignore[return-value]  # the stub is less exact

    @property
    def spawn_blocking(self) -> SpawnBlocking:
        """`handle.spawn_blocking(fn, *args, **kwargs)`: call a function on the blocking pool.

        Errors: `TypeError` for what cannot be called or is async, `RuntimeShutdown`.
        Cancel safety: does not wait. Thread safety: any thread. Tokio: `Handle::spawn_blocking`.

        Example::

            import freerun

            with freerun.Runtime() as rt:
                assert rt.handle().spawn_blocking(sum, [1, 2], start=3).blocking_result() == 6
        """
        return self._core.spawn_blocking

    @property
    def spawn_isolated(self) -> SpawnIsolated:
        """`handle.spawn_isolated(fn, *args)`: run a function that shares nothing; see `freerun.spawn_isolated`.

        Errors: `TypeError` that names what cannot cross, `RuntimeShutdown`. Cancel safety: does not wait.
        Thread safety: any thread. Tokio has no such thing.

        Example::

            import math
            import freerun

            with freerun.Runtime() as rt:
                assert rt.handle().spawn_isolated(math.factorial, 4).blocking_result() == 24
        """
        return spawning_isolated(self._core)

    @overload
    def block_on[T](self, coro: Coroutine[Any, Any, T], /) -> T: ...
    @overload
    def block_on[*Ts, T](self, coro: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts) -> T: ...
    def block_on(self, coro: Any, /, *args: Any) -> Any:  # type: ignore[misc]  # mypy on TypeVarTuple
        """Run a coroutine, or `async_fn(*args)`, on this runtime and wait for it on a plain thread.

        Errors: what the coroutine raises; `RuntimeError` inside a task; `RuntimeShutdown`; `TypeError`.
        Ctrl-C on the main thread: as with `Runtime.block_on`. Thread safety: any thread. Tokio: `Handle::block_on`.

        Example::

            import freerun

            async def one() -> int:
                return 1

            with freerun.Runtime() as rt:
                assert rt.handle().block_on(one) == 1
        """
        return signals.block_on(self._core, coro, *args)

    def metrics(self) -> RuntimeMetrics:
        """The runtime's counters now. Thread safety: any thread. Tokio: `Handle::metrics`."""
        return RuntimeMetrics._from(self._core.metrics())

    def dump_tasks(self) -> str:
        """Every task that has not ended: id, name, state, spawn site, and the stack of awaits it waits in, as text.

        Of tasks that are being polled at this moment only their threads' stacks can be shown; they come last.
        Thread safety: any thread; tasks are held for as long as it takes to read their frames. Tokio: `Handle::dump`.

        Example::

            import freerun

            async def waits() -> None:
                await freerun.time.sleep(60)

            async def main() -> str:
                freerun.spawn(waits, name="waits")
                await freerun.time.sleep(0.01)
                return freerun.Handle.current().dump_tasks()

            assert "'waits'" in freerun.run(main)
        """
        return dump_tasks(self._core)

    def enter(self) -> Entered:
        """`with handle.enter():` makes this runtime the one that `freerun.spawn` and others use on this thread.

        Nested blocks are left in reverse order. Thread safety: for the thread that enters. Tokio: `Handle::enter`.

        Example::

            import freerun

            async def one() -> int:
                return 1

            rt = freerun.Runtime()
            with rt.handle().enter():
                assert freerun.spawn(one).blocking_result() == 1
            rt.shutdown()
        """
        return Entered(self._core)

    def __eq__(self, other: object) -> bool:
        return self._core is other._core if isinstance(other, Handle) else NotImplemented

    def __hash__(self) -> int:
        return hash(id(self._core))

    def __repr__(self) -> str:
        core = self._core
        flavor = "current_thread" if core.is_current_thread else f"multi_thread, {core.worker_threads} workers"
        return f"<Handle {flavor}{', shut down' if core.is_shut_down() else ''}>"
