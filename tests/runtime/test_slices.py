"""Threads that somebody waits for ask the kernel for short slices; those of the blocking pool do not."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading

import pytest
from support import Flavor

import freerun

GETATTR = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
LEAST = 100_000

needs_slices = pytest.mark.skipif(
    GETATTR is None or tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 12),
    reason="the kernel knows no slices of threads",
)


def scheduling() -> tuple[int, int, int]:
    """Policy, niceness and slice in ns of the calling thread; see sched_getattr(2)."""
    raw = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None, use_errno=True).syscall(GETATTR, 0, raw, len(raw), 0) == 0, os.strerror(ctypes.get_errno())
    _, policy, _, nice, _, runtime, _, _ = struct.unpack("=IIQiIQQQ", raw)
    return policy, nice, runtime


@needs_slices
def test_workers_have_short_ones_and_the_pool_the_usual(flavor: Flavor) -> None:
    usual = scheduling()
    assert usual[2] != LEAST

    async def main() -> None:
        task = await freerun.spawn(_scheduling)
        call = await freerun.spawn_blocking(scheduling)
        assert task == (usual if flavor.current_thread else (*usual[:2], LEAST))
        assert call == usual  # though a worker started that thread

    with flavor.builder().build() as rt:
        rt.block_on(main)
    assert scheduling() == usual  # who blocks keeps its own


async def _scheduling() -> tuple[int, int, int]:
    return scheduling()


@needs_slices
def test_niceness_stays(flavor: Flavor) -> None:
    """It is its parent's, as ever: a slice changes nobody's share."""
    seen: list[tuple[int, int, int]] = []

    def nicer() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # of this thread alone

        async def main() -> None:
            seen.append(await freerun.spawn(_scheduling))
            seen.append(await freerun.spawn_blocking(scheduling))

        with flavor.builder().build() as rt:
            rt.block_on(main)

    thread = threading.Thread(target=nicer)
    thread.start()
    thread.join()
    assert [each[:2] for each in seen] == [(0, 19), (0, 19)]


@needs_slices
def test_a_real_time_thread_is_left_alone() -> None:
    """Where one may have such a policy at all."""
    seen: list[tuple[int, int, int]] = []

    def real_time() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except PermissionError:
            return
        with freerun.Builder().worker_threads(1).build() as rt:
            seen.append(rt.block_on(rt.spawn(_scheduling)))

    thread = threading.Thread(target=real_time)
    thread.start()
    thread.join()
    assert all(each[0] == os.SCHED_RR for each in seen)
