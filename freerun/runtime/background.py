"""`background_thread`: a thread that nobody waits for at exit, where there can be one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

__all__ = ["background_thread"]


def background_thread(target: Callable[..., object], *args: object, name: str) -> threading.Thread:
    """Start one: a daemon, since Python waits for others before it tells us of its exit. Only the first interpreter has
    daemons.

    Errors: `RuntimeError` if the system has no more threads, or the interpreter is exiting.
    """
    try:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    except RuntimeError:
        thread = threading.Thread(target=target, args=args, name=name)
    contextvars.Context().run(thread.start)  # or it would keep what the caller's context variables hold
    return thread
