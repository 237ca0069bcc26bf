"""`Sender.send_timeout()`: a permit and a timer, polled in one task."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from freerun._core._native import MpscPermit, MpscSender, sleep
from freerun._errors import SendError, SendTimeoutError

__all__ = ["send_timeout"]


def send_timeout(sender: MpscSender[Any], value: Any, limit: Any) -> SendTimeout:
    """What `sender.send_timeout(value, limit)` returns."""
    return SendTimeout(sender, value, sleep(limit))


class SendTimeout:
    """Awaited, it sends the value, or gives up when the timer is over."""

    __slots__ = ("_sender", "_timer", "_value")

    def __init__(self, sender: MpscSender[Any], value: Any, timer: Any) -> None:
        self._sender = sender
        self._value = value
        self._timer = timer

    def __await__(self) -> Generator[Any]:
        permit = self._sender.reserve()
        timer = self._timer.__await__()
        try:
            while not self._has_room(permit):
                try:
                    token = next(timer)
                except StopIteration:
                    raise SendTimeoutError(self._value) from None
                yield token
        except SendTimeoutError:
            raise
        except SendError:
            raise SendError(self._value) from None
        finally:
            permit.close()
            timer.close()
        permit.send(self._value)

    def _has_room(self, permit: MpscPermit[Any]) -> bool:
        """Poll the permit once."""
        try:
            next(permit)
        except StopIteration:
            return True
        return False
