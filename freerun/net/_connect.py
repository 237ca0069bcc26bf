"""Connecting to the first address that answers: "happy eyeballs" (RFC 8305), in one task.

The addresses are tried in the order of the resolver, the families taking turns; the next one when the last one has
failed or has not answered for `DELAY`. The first connection wins and the others are closed.

Nothing is spawned: the task polls the attempts' leaves and a timer by hand. Of the leaves that are polled in one step
the last one tells the engine how to suspend, so the timer, which never gives way for want of budget once it is armed,
comes first.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

from freerun._core._native import sleep

from ._socket import error_of, with_socket
from ._stream import SocketStream
from .addr import Address
from .lookup import SocketAddress

__all__ = ["Race", "interleaved", "summary"]

DELAY = 0.25
"""Seconds until the next address is tried besides the one that has not answered; as RFC 8305 recommends."""

type Target = tuple[int, SocketAddress]

_OVER = object()


class Race[S: SocketStream]:
    """Await it for the first connection; `OSError` if there is none.

    `make(family)` gives a socket to connect with. Cancel safety: every attempt is given up and its socket closed.
    """

    __slots__ = ("_errors", "_going", "_kind", "_make", "_name", "_timer", "_waiting")

    def __init__(
        self, kind: type[S], targets: list[Target], make: Callable[[int], socket.socket], name: Address
    ) -> None:
        self._kind = kind
        self._make = make
        self._name = name
        self._waiting = deque(interleaved(targets))
        self._going: list[_Attempt[S]] = []
        self._errors: list[OSError] = []
        self._timer: Any = None  # armed while an attempt is going on and another one may follow

    def __await__(self) -> Generator[Any, Any, S]:
        winner: _Attempt[S] | None = None
        try:
            while True:
                if self._timer is not None and next(self._timer, _OVER) is _OVER:
                    self._timer = None
                if self._waiting and self._timer is None:
                    self._begin(self._waiting.popleft())
                    continue
                token, winner = self._poll()
                if winner is not None:
                    return winner.stream
                if self._going and not (self._waiting and self._timer is None):
                    yield token
                elif not self._going and not self._waiting:
                    raise summary(self._name, self._errors)
        finally:
            self._give_up(winner)

    def _begin(self, target: Target) -> None:
        """Start an attempt; if it fails at once, the next one follows at once."""
        try:
            self._going.append(_Attempt(self._kind, target[1], self._make(target[0])))
        except OSError as error:
            self._failed(error, target[1])
        else:
            self._timer = sleep(DELAY).__await__() if self._waiting else None

    def _failed(self, error: OSError, where: SocketAddress) -> None:
        named = error if str(where) in str(error) else error_of(error.errno or 0, where)
        self._errors.append(named.with_traceback(None))
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _poll(self) -> tuple[Any, _Attempt[S] | None]:
        """Look at every attempt: how to suspend, and who has won."""
        token = None
        for attempt in tuple(self._going):
            try:
                token = attempt.poll()
            except OSError as error:
                self._going.remove(attempt)
                attempt.close()
                self._failed(error, attempt.where)
            else:
                if token is _OVER:
                    return None, attempt
        return token, None

    def _give_up(self, winner: _Attempt[S] | None) -> None:
        if self._timer is not None:
            self._timer.close()
        for attempt in self._going:
            if attempt is not winner:
                attempt.close()
        self._going.clear()
        self._errors = []  # who catches the error shall not meet this frame in a cycle


class _Attempt[S: SocketStream]:
    """One connection being made."""

    __slots__ = ("_leaf", "stream", "where")

    def __init__(self, kind: type[S], where: SocketAddress, sock: socket.socket) -> None:
        self.where = where
        with sock:
            number = sock.connect_ex(where)
            if number not in {0, errno.EINPROGRESS, errno.EINTR}:
                raise error_of(number, where)
            # Registered after the call: before it epoll would tell of a socket that is not connected.
            self.stream = kind._adopt(sock, assume_ready=False)
        self._leaf: Any = self.stream.writable()

    def poll(self) -> Any:
        """`_OVER` once it is connected, else the token to suspend with; raises what the attempt failed with."""
        while (token := next(self._leaf, _OVER)) is _OVER:
            if with_socket(self.stream, self._is_connected):
                break
            self.stream.clear_writable()
            self._leaf = self.stream.writable()
        return token

    def _is_connected(self, sock: socket.socket) -> bool:
        if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise error_of(number, self.where)
        try:
            sock.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            return False
        return True

    def close(self) -> None:
        self._leaf.close()
        self.stream.close()


def interleaved(targets: list[Target]) -> Iterator[Target]:
    """The families in turn, beginning with the one of the first address; the order within a family stays."""
    families: dict[int, list[Target]] = {}
    for target in targets:
        families.setdefault(target[0], []).append(target)
    rounds = itertools.zip_longest(*families.values())
    return (target for each in rounds for target in each if target is not None)


def summary(name: Address, errors: list[OSError]) -> OSError:
    """One error for all attempts: of the last one's type, naming every address; `__cause__` has them all."""
    last = errors[-1]
    if len(errors) == 1:
        return last
    attempts = "; ".join(error.strerror or str(error) for error in errors)
    error = OSError(last.errno, f"no connection to {name.host}:{name.port}: {attempts}")
    error.__cause__ = ExceptionGroup("the attempts", errors)
    return error
