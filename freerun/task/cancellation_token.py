"""`CancellationToken`: says to many tasks at once that it is time to end. Tokio: `tokio_util::sync::CancellationToken`.

Tokens form a tree. A child holds its parent, so that a token between two others lives as long as it has to; a parent
knows its children by weak references, which a child that goes takes out itself. The set of them is a plain `set`, of
which CPython makes each method atomic, with the GIL or without it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Self, final, overload

from freerun._arguments import close_unstarted
from freerun._core._native import CancelScope
from freerun.lowlevel import PENDING, Listeners, Pending

from ._awaitable import as_awaitable

__all__ = ["CancellationToken", "DropGuard", "TokenCancelled"]


class TokenCancelled(Exception):
    """What `CancellationToken.run_until_cancelled()` raises when the token ended it. Tokio: its `None`."""


TokenCancelled.__module__ = "freerun.task"


@final
class CancellationToken:
    """A flag that is set once, and can be waited for; with children that are cancelled together with it.

    Give tasks a token, or each a `child_token()`, and `cancel()` when they are to end. Nothing is thrown into them:
    they look at `is_cancelled()`, wait for `cancelled()`, or run a part of their work in `run_until_cancelled()`.
    Cancelling a child does nothing to its parent. A child that is dropped leaves nothing behind in its parent.

    Thread safety: every method, from any thread; what is awaited, inside a task.
    Tokio: `tokio_util::sync::CancellationToken`.

    Example::

        import freerun
        from freerun.task import CancellationToken, TokenCancelled

        async def work(token: CancellationToken) -> str:
            try:
                await token.run_until_cancelled(freerun.time.sleep, 60)
            except TokenCancelled:
                return "cleaned up"
            return "done"

        async def main() -> list[str]:
            token = CancellationToken()
            tasks = [freerun.spawn(work, token.child_token()) for _ in range(3)]
            token.cancel()
            return [await task for task in tasks]

        assert freerun.run(main) == ["cleaned up"] * 3
    """

    __slots__ = ("__weakref__", "_cancelled", "_children", "_lock", "_parent", "_running", "_self", "_waiting")

    def __init__(self) -> None:
        # No call under it, and so no finalizer; should one come in between all the same, what it does is in order.
        self._lock = threading.RLock()
        self._cancelled = False  # set under the lock, once
        # These are made when they are first needed, and added to, under the lock: most tokens have none.
        self._children: set[weakref.ref[CancellationToken]] | None = None
        self._running: set[CancelScope] | None = None  # of run_until_cancelled()
        self._waiting: Listeners | None = None
        self._parent: CancellationToken | None = None
        self._self: weakref.ref[CancellationToken] | None = None  # what the parent has in its set

    def cancel(self) -> None:
        """Cancel this token and all that come from it; nothing if that was done before. Never waits.

        When it returns, all of them say `is_cancelled()`, unless another thread is just at the same.

        Thread safety: any thread, and finalizers. Tokio: `CancellationToken::cancel`.
        """
        todo = [self]  # not a recursion: a tree may be deep
        while todo:
            todo += todo.pop()._cancel_one()

    def _cancel_one(self) -> list[CancellationToken]:
        """Cancel this one; its children, which are to be cancelled next."""
        with self._lock:
            first = not self._cancelled
            self._cancelled = True
        if not first:
            return []
        if self._waiting is not None:
            self._waiting.wake_all()
        for scope in self._running.copy() if self._running else ():
            scope.cancel()
        self._leave_parent()
        if not (refs := self._children):
            return []
        children = [child for ref in refs.copy() if (child := ref()) is not None]
        refs.clear()
        return children

    def _leave_parent(self) -> None:
        parent, self._parent = self._parent, None
        if parent is not None and self._self is not None and parent._children is not None:
            parent._children.discard(self._self)

    def is_cancelled(self) -> bool:
        """Whether it was cancelled. Thread safety: any thread. Tokio: `CancellationToken::is_cancelled`."""
        return self._cancelled

    def cancelled(self) -> Awaitable[None]:
        """Wait until the token is cancelled; return at once if it has been.

        Cancel safe. Thread safety: inside a task; each needs an awaitable of its own. Tokio:
        `CancellationToken::cancelled`.

        Example::

            import threading
            import freerun
            from freerun.task import CancellationToken

            async def main() -> bool:
                token = CancellationToken()
                threading.Timer(0.01, token.cancel).start()
                await token.cancelled()
                return token.is_cancelled()

            assert freerun.run(main)
        """
        return self._listeners().wait(self._look)

    def blocking_cancelled(self) -> None:
        """As `cancelled()`, on a plain thread. Errors: `RuntimeError` inside a task."""
        self._listeners().block(self._look)

    def _listeners(self) -> Listeners:
        with self._lock:  # who cancels sees them, or they see that it is cancelled
            if self._waiting is None:
                self._waiting = Listeners()
            return self._waiting

    def _look(self) -> Pending | None:
        return None if self._cancelled else PENDING

    def child_token(self) -> CancellationToken:
        """A new token that is cancelled when this one is; at once, if this one has been. Never waits.

        Thread safety: any thread. Tokio: `CancellationToken::child_token`.

        Example::

            from freerun.task import CancellationToken

            parent = CancellationToken()
            child, other = parent.child_token(), parent.child_token()
            child.cancel()
            assert not parent.is_cancelled()
            parent.cancel()
            assert other.is_cancelled()
        """
        child = CancellationToken()
        child._parent = self
        with self._lock:  # who cancels sees the child, or the child sees that it is cancelled
            if (children := self._children) is None:
                children = self._children = set()
            child._self = weakref.ref(child, children.discard)
            children.add(child._self)
            cancelled = self._cancelled
        if cancelled:
            child.cancel()
        return child

    @overload
    async def run_until_cancelled[T](self, awaitable: Awaitable[T], /) -> T: ...
    @overload
    async def run_until_cancelled[*Ts, T](self, async_fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T: ...
    async def run_until_cancelled(self, awaitable: Any, /, *args: Any) -> Any:  # type: ignore[misc]  # mypy on TypeVarTuple
        """Await something in this very task, until the token is cancelled; its result, or what it raises.

        When the token is cancelled, `freerun.Cancelled` is raised in the awaited where it waits; its cleanup may await.
        If it then ends with `Cancelled`, `TokenCancelled` is raised here; a result that it returns all the same, or
        another exception, stands as it is. With a token that is cancelled already, the awaited does not begin.

        Errors: `TokenCancelled`; `TypeError` for what cannot be awaited; what the awaited raises.
        Cancel safety: an abort is passed on to what is awaited. Thread safety: for tasks.
        Tokio: `CancellationToken::run_until_cancelled`.

        Example::

            import freerun
            from freerun.task import CancellationToken, TokenCancelled

            async def main() -> str:
                token = CancellationToken()
                assert await token.run_until_cancelled(freerun.time.sleep(0)) is None
                freerun.spawn_blocking(token.cancel)
                try:
                    await token.run_until_cancelled(freerun.time.sleep, 60)
                except TokenCancelled:
                    return "cancelled"
                return "slept"

            assert freerun.run(main) == "cancelled"
        """
        if self.is_cancelled():
            close_unstarted(awaitable)
            raise TokenCancelled("the token had been cancelled before this began")
        awaited = as_awaitable(awaitable, args)
        scope = CancelScope()
        try:
            with scope:
                with self._lock:
                    if (running := self._running) is None:
                        running = self._running = set()
                    running.add(scope)
                    cancelled = self._cancelled
                if cancelled:
                    scope.cancel()
                return await awaited
        finally:
            if self._running is not None:
                self._running.discard(scope)
        raise TokenCancelled("the token was cancelled")

    def drop_guard(self) -> DropGuard:
        """Something that cancels the token when it goes: at the end of `with`, or when Python frees it.

        Thread safety: any thread. Tokio: `CancellationToken::drop_guard`.

        Example::

            from freerun.task import CancellationToken

            token = CancellationToken()
            with token.drop_guard():
                assert not token.is_cancelled()
            assert token.is_cancelled()
        """
        return DropGuard(self)

    def __repr__(self) -> str:
        return f"<CancellationToken{' cancelled' if self._cancelled else ''} at {id(self):#x}>"


@final
class DropGuard:
    """Cancels a token when it goes; see `CancellationToken.drop_guard()`. Tokio: `tokio_util::sync::DropGuard`.

    Thread safety: every method, from any thread.
    """

    __slots__ = ("__weakref__", "_pid", "_token")

    _getpid = staticmethod(os.getpid)  # here: when a finalizer runs, the module's names may be gone

    def __init__(self, token: CancellationToken) -> None:
        self._pid = self._getpid()
        self._token: CancellationToken | None = token

    def disarm(self) -> CancellationToken:
        """Let go of the token without cancelling it, and return it.

        Errors: `RuntimeError` if the guard has done its work or was disarmed. Tokio: `DropGuard::disarm`.

        Example::

            from freerun.task import CancellationToken

            with CancellationToken().drop_guard() as guard:
                token = guard.disarm()
            assert not token.is_cancelled()
        """
        token, self._token = self._token, None
        if token is None:
            raise RuntimeError("this guard has cancelled its token already, or was disarmed")
        return token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._cancel()

    def __del__(self) -> None:
        if self._pid == self._getpid():  # a forked child has a copy, whose lock may be held by nobody that is there
            self._cancel()

    def _cancel(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            token.cancel()

    def __repr__(self) -> str:
        return f"<DropGuard of {self._token!r}>"
