"""`reaper`: collects the exit status of children that nobody waits for any more, so that none stays a zombie.

It belongs to no runtime: a child may live on when its runtime is gone. While there are orphans, a daemon thread watches
their pidfds; where the system gives none, it looks every 20 ms. Where no thread can be had (in sub-interpreters, at the
interpreter's exit), every new process and every new orphan is an occasion to look.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading

from ._process import Process

__all__ = ["reaper"]

LINGER = 1.0
"""Seconds without orphans after which the thread ends."""

INTERVAL = 0.02
"""Seconds between two looks at orphans without a pidfd."""


class _Reaper:
    def __init__(self) -> None:
        self._lock = threading.RLock()  # finalizers adopt
        # Under the lock:
        self._arrived: list[Process] = []
        self._wake_fd = -1  # an eventfd while the thread runs

    def adopt(self, process: Process) -> None:
        """See to it that the process is collected when it ends. Any thread, finalizers included."""
        if process.has_ended():
            return
        with self._lock:
            self._arrived.append(process)
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
                return
        self.sweep()
        self._start()

    def sweep(self) -> None:
        """Collect those that the thread has not taken over, for there may be none."""
        with self._lock:
            self._arrived = [each for each in self._arrived if not each.has_ended()]

    def __len__(self) -> int:
        with self._lock:
            return len(self._arrived)

    def _start(self) -> None:
        with self._lock, contextlib.suppress(OSError, RuntimeError):  # no descriptors, no thread: sweep() will do
            if self._wake_fd >= 0 or not self._arrived:
                return
            wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                epoll = select.epoll()
                epoll.register(wake_fd, select.EPOLLIN)
                thread = threading.Thread(target=self._run, args=(epoll, wake_fd), name="freerun-reaper", daemon=True)
                self._wake_fd = wake_fd
                thread.start()
            except BaseException:
                self._wake_fd = -1
                os.close(wake_fd)
                raise

    def _run(self, epoll: select.epoll, wake_fd: int) -> None:
        watched: dict[int, Process] = {}
        polled: list[Process] = []
        while True:
            self._take_over(epoll, watched, polled)
            ready = epoll.poll(INTERVAL if polled else -1 if watched else LINGER)
            for fd, _ in ready:
                if fd == wake_fd:
                    os.eventfd_read(wake_fd)
                elif watched[fd].has_ended():
                    del watched[fd]
                    epoll.unregister(fd)  # closing would not do: a process that is just being started has it, too
                    os.close(fd)
            polled = [each for each in polled if not each.has_ended()]
            if not ready and not polled and not watched and self._end(wake_fd):
                epoll.close()
                return

    def _take_over(self, epoll: select.epoll, watched: dict[int, Process], polled: list[Process]) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for process in arrived:
            fd = process.open_pidfd()
            if fd is None:
                polled.append(process)
                continue
            watched[fd] = process
            try:
                epoll.register(fd, select.EPOLLIN)
            except OSError:  # no room for it
                polled.append(watched.pop(fd))
                os.close(fd)

    def _end(self, wake_fd: int) -> bool:
        with self._lock:
            if self._arrived:
                return False
            self._wake_fd = -1
            os.close(wake_fd)
        return True


reaper = _Reaper()


def _after_fork() -> None:
    """In the child: the orphans are the parent's, the thread does not exist, its lock may be held."""
    reaper.__init__()  # type: ignore[misc]  # in place: it was imported by name
    # By name: what a hook holds is freed by an interpreter's very last garbage collection, which does not see that the
    # type of a native object goes, too; and with the type stays the interpreter's whole memory (10 MiB, CPython 3.14).
    if spawning := sys.modules.get("freerun.process._spawning"):
        spawning.after_fork()


os.register_at_fork(after_in_child=_after_fork)
