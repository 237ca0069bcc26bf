"""Lets a thread free what others have dropped.

On free-threaded CPython an object belongs to the thread that made it. When another thread drops the last reference, the
object is queued for its owner, who frees it the next time it runs Python code. A parked thread runs none, so its queue
would only grow: the engine wakes it now and then to call this.
"""

__all__ = ["drain"]


def drain() -> None:
    """Do nothing, in Python: entering a function is where the interpreter looks at the queue."""
