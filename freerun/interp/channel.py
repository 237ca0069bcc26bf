"""`channel`: a bounded channel whose ends may be in different interpreters."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, SupportsIndex, final

from freerun._arguments import integer
from freerun._core._native import Parcel, PipeEnd, consume_budget, isolated_pipe
from freerun._errors import RecvError, SendError, TrySendError, WouldBlock

__all__ = ["Receiver", "Sender", "channel"]

_MOST = (1 << 61) - 1


def channel(capacity: SupportsIndex) -> tuple[Sender[Any], Receiver[Any]]:
    """Make a channel that holds up to `capacity` values: `(sender, receiver)`, each of which may be cloned.

    An end that is an argument of `spawn_isolated`, or is sent through a channel, is one more end over there; the one
    here stays open until it is closed. Values cross by value, as the arguments of `spawn_isolated` do; a `memoryview`
    is copied. Several receivers share the values: each gets what no other one got.

    Errors: `ValueError` unless `capacity` is 1 to 2**61 - 1.
    Cancel safety: a cancelled `send` did not send, a cancelled `recv` lost nothing. Thread safety: any task and any
    thread of any interpreter. Tokio: `tokio::sync::mpsc::channel`, across interpreters.

    Example::

        import freerun
        from freerun.interp import channel

        async def main() -> list[int]:
            tx, rx = channel(10)
            with tx:
                for n in range(3):
                    await tx.send(n)
            return [n async for n in rx]

        assert freerun.run(main) == [0, 1, 2]
    """
    sender, receiver = isolated_pipe(integer(capacity, "capacity", most=_MOST))
    return Sender(sender), Receiver(receiver)


def _pack(value: Any) -> Parcel:
    from ._parcel import pack

    try:
        return pack(value)
    except Exception as error:
        kind = type(value).__name__
        raise TypeError(f"argument 'value' ({kind}) cannot cross to another interpreter: {error}") from error


class _End:
    """What both ends have in common."""

    __slots__ = ("__weakref__", "_end")

    def __init__(self, end: PipeEnd) -> None:
        if not isinstance(end, PipeEnd):
            raise TypeError("make one with freerun.interp.channel()")
        self._end = end

    def __reduce__(self) -> Any:
        kind = type(self).__name__
        raise TypeError(f"a {kind} crosses as an argument of spawn_isolated() or through a channel; it is not pickled")

    def clone(self) -> Self:
        """One more end of this kind. Errors: `ValueError` if this one is closed. Thread safety: any thread."""
        return type(self)(self._end.clone())

    def close(self) -> None:
        """Give this end up. When every sender is closed the receivers get what is left, then the end.

        A receiver that is closed closes the channel: nothing is sent any more, what is in it can still be received.
        May be called twice. Thread safety: any thread. Tokio: `drop`, and `Receiver::close`.
        """
        self._end.close()

    def is_closed(self) -> bool:
        """Whether nothing can be sent any more. Thread safety: any thread."""
        return self._end.is_closed()

    @property
    def capacity(self) -> int:
        """How many values it holds at most."""
        return self._end.capacity

    def __len__(self) -> int:
        return len(self._end)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed() else f"{len(self)} of {self.capacity}"
        return f"<{type(self).__name__} {state}>"


@final
class Sender[T](_End):
    """The sending end of a `channel`; `with` closes it.

    Example::

        import freerun
        from freerun.interp import Sender, channel

        async def main() -> int:
            tx, rx = channel(1)
            await tx.send(7)
            return await rx.recv()

        assert freerun.run(main) == 7
    """

    __slots__ = ()

    async def send(self, value: T) -> None:
        """Send a copy of `value`, waiting while the channel is full.

        Errors: `SendError` if it is closed; `TypeError` for what cannot cross. Cancel safety: nothing was sent.
        Thread safety: any task. Tokio: `mpsc::Sender::send`.
        """
        await consume_budget()
        while not self._push(value, _pack(value), SendError):
            await self._end.wait()

    def try_send(self, value: T) -> None:
        """Send without waiting. Errors: `TrySendError.Full`, `TrySendError.Closed`, `TypeError`. Any thread.

        Tokio: `mpsc::Sender::try_send`.
        """
        if not self._push(value, _pack(value), TrySendError.Closed):
            raise TrySendError.Full(value)

    def blocking_send(self, value: T) -> None:
        """As `send()`, on a plain thread. Errors: `RuntimeError` in a task, and those of `send()`.

        Tokio: `mpsc::Sender::blocking_send`.
        """
        while not self._push(value, _pack(value), SendError):
            self._end.blocking_wait()

    def _push(self, value: T, parcel: Parcel, closed: type[SendError]) -> bool:
        try:
            return self._end.push(parcel)
        except SendError:
            raise closed(value) from None


@final
class Receiver[T](_End):
    """The receiving end of a `channel`: `await rx.recv()`, or `async for`. `with` closes it.

    Example::

        import freerun
        from freerun.interp import channel

        async def main() -> list[str]:
            tx, rx = channel(2)
            tx.try_send("a")
            tx.close()
            return [each async for each in rx]

        assert freerun.run(main) == ["a"]
    """

    __slots__ = ()

    async def recv(self) -> T:
        """The oldest value, waiting for one. Errors: `RecvError` once the channel is closed and empty.

        Cancel safety: no value is lost. Thread safety: any task. Tokio: `mpsc::Receiver::recv`.
        """
        await consume_budget()
        while (parcel := self._end.pop()) is None:
            await self._end.wait()
        return self._open(parcel)

    def try_recv(self) -> T:
        """The oldest value. Errors: `WouldBlock` if there is none now, `RecvError`. Any thread.

        Tokio: `mpsc::Receiver::try_recv`.
        """
        parcel = self._end.pop()
        if parcel is None:
            raise WouldBlock("the channel is empty")
        return self._open(parcel)

    def blocking_recv(self) -> T:
        """As `recv()`, on a plain thread. Errors: `RuntimeError` in a task, `RecvError`.

        Tokio: `mpsc::Receiver::blocking_recv`.
        """
        while (parcel := self._end.pop()) is None:
            self._end.blocking_wait()
        return self._open(parcel)

    def _open(self, parcel: Parcel) -> T:
        from ._parcel import unpack

        value: T = unpack(parcel)
        return value

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except RecvError:
            raise StopAsyncIteration from None
