"""`ctrl_c`: wait for one Ctrl-C."""

from __future__ import annotations

import signal as system
from collections.abc import Coroutine
from typing import Any

from .signal import Signal, signal

__all__ = ["ctrl_c"]


def ctrl_c() -> Coroutine[Any, Any, None]:
    """Await it to wait for one Ctrl-C (`SIGINT`).

    From the call on until it has been awaited, or was cancelled or dropped, Ctrl-C does not raise `KeyboardInterrupt`;
    after that it does again, unless somebody else listens. So two of these in a row have a gap between them: use
    `signal(SIGINT)` to hear every one.

    Errors: `OSError` (`EMFILE`: too many descriptors are open). Cancel safety: a Ctrl-C that came and was not seen is
    lost. Thread safety: call it on any thread, await it in a task. Tokio: `tokio::signal::ctrl_c`.

    Example::

        import os
        import signal

        import freerun

        async def main() -> str:
            stop = freerun.spawn(freerun.signal.ctrl_c())
            os.kill(os.getpid(), signal.SIGINT)    # or somebody types it
            await stop
            return "cleaning up"

        assert freerun.run(main) == "cleaning up"
    """
    return _one(signal(system.SIGINT))


async def _one(listener: Signal) -> None:
    with listener:
        await listener.recv()
