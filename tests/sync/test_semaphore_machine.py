"""`sync.Semaphore` against a model, in any order of steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from sync_support import PENDING, Machine, Permits

from freerun.sync import AcquireError, Semaphore, WouldBlock


class SemaphoreMachine(Machine):
    """Leaves that wait, permits that are held, and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.semaphore = Semaphore(3)
        self.model = Permits(3)
        self.waiting: list[Any] = []
        self.held: list[tuple[Any, int]] = []

    @rule(n=st.integers(0, 5))
    def acquire(self, n: int) -> None:
        leaf = self.semaphore.acquire(n)
        if self.model.closed:
            with pytest.raises(AcquireError):
                self.poll(leaf, True)
        elif self.model.acquire(id(leaf), n):
            assert self.poll(leaf, True) is leaf
            self.held.append((leaf, n))
        else:
            assert self.poll(leaf, False) is PENDING
            self.waiting.append(leaf)

    @rule(n=st.integers(0, 5))
    def try_acquire(self, n: int) -> None:
        if self.model.closed:
            with pytest.raises(AcquireError):
                self.semaphore.try_acquire(n)
        elif self.model.free < n:
            with pytest.raises(WouldBlock):
                self.semaphore.try_acquire(n)
        else:
            self.model.free -= n
            self.held.append((self.semaphore.try_acquire(n), n))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def poll_again(self, data: st.DataObject) -> None:
        leaf = data.draw(st.sampled_from(self.waiting))
        if not self.model.is_settled(id(leaf)):
            assert self.poll(leaf, False) is PENDING
            return
        self.waiting.remove(leaf)
        n = self.model.asked[id(leaf)]
        if self.model.look(id(leaf)):
            assert self.poll(leaf, True) is leaf
            self.held.append((leaf, n))
        else:
            with pytest.raises(AcquireError):
                self.poll(leaf, True)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        leaf = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(leaf)
        self.model.leave(id(leaf))
        leaf.close()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        permit, n = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.model.give(n)
        permit.release()
        assert permit.num_permits() == 0

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        permit, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        permit.forget()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), k=st.integers(0, 5))
    def split(self, data: st.DataObject, k: int) -> None:
        i = data.draw(st.integers(0, len(self.held) - 1))
        permit, n = self.held[i]
        if k > n:
            with pytest.raises(ValueError, match="'k' must be at most"):
                permit.split(k)
        else:
            self.held.append((permit.split(k), k))
            self.held[i] = (permit, n - k)

    @precondition(lambda self: len(self.held) > 1)
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        other, m = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        i = data.draw(st.integers(0, len(self.held) - 1))
        permit, n = self.held[i]
        permit.merge(other)
        self.held[i] = (permit, n + m)

    @rule(n=st.integers(0, 5))
    def add_permits(self, n: int) -> None:
        self.model.give(n)
        self.semaphore.add_permits(n)

    @rule(n=st.integers(0, 5))
    def forget_permits(self, n: int) -> None:
        gone = min(n, self.model.free)
        self.model.free -= gone
        assert self.semaphore.forget_permits(n) == gone

    @rule(really=st.integers(0, 9))
    def close(self, really: int) -> None:
        if really == 0:
            self.model.close()
            self.semaphore.close()

    @invariant()
    def agrees(self) -> None:
        assert self.semaphore.available_permits() == self.model.free
        assert self.semaphore.is_closed() == self.model.closed
        for permit, n in self.held:
            assert permit.num_permits() == n


TestSemaphore = SemaphoreMachine.TestCase
TestSemaphore.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
