"""How many CPUs this process may use: its affinity, and the quota of its control groups.

Linux enforces a quota by stopping every thread of the group for the rest of a period, so more workers than quota make
nothing faster and everything uneven.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["default_worker_threads", "usable_cpus"]

VARIABLE = "FREERUN_WORKER_THREADS"
MAX_WORKERS = 1024


def default_worker_threads() -> tuple[int, str]:
    """How many workers a runtime gets that was not told, and why."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return usable_cpus()
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= MAX_WORKERS:
        raise ValueError(
            f"the environment variable {VARIABLE} must be a whole number from 1 to {MAX_WORKERS}: {text!r}"
        )
    return count, f"{VARIABLE}={text}"


def usable_cpus(root: Path = Path("/")) -> tuple[int, str]:
    """How many CPUs this process may use, and what says so. `root` is another file system, for tests."""
    allowed = os.process_cpu_count() or 1
    quota = _quota(root)
    if quota is not None and math.ceil(quota) < allowed:
        return max(1, math.ceil(quota)), f"the control group's quota of {quota:g} CPUs"
    return min(allowed, MAX_WORKERS), f"{allowed} CPUs usable by this process"


def _quota(root: Path) -> float | None:
    """The smallest CPU quota on the way from this process's control group up, in CPUs."""
    quotas: list[float] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if hierarchy == "0":
            quotas += _quotas_v2(root / "sys/fs/cgroup", group)
        elif "cpu" in controllers.split(","):
            mounts = [controllers, "cpu"]
            quotas += next(
                (found for each in mounts if (found := _quotas_v1(root / "sys/fs/cgroup" / each, group))), []
            )
    return min(quotas, default=None)


def _quotas_v2(mount: Path, group: str) -> list[float]:
    """`cpu.max`: "quota period" in microseconds, or "max period"."""
    texts = [_read(folder / "cpu.max") for folder in _way_up(mount, group)]
    return [quota for text in texts if (quota := _ratio(*(text.split() or ["max"])[:2])) is not None]


def _quotas_v1(mount: Path, group: str) -> list[float]:
    """`cpu.cfs_quota_us`, -1 for none, and `cpu.cfs_period_us`."""
    pairs = [(_read(each / "cpu.cfs_quota_us"), _read(each / "cpu.cfs_period_us")) for each in _way_up(mount, group)]
    return [quota for pair in pairs if (quota := _ratio(*pair)) is not None]


def _way_up(mount: Path, group: str) -> list[Path]:
    """The group's folder and those above it. In a container the path may be the host's, then only the mount exists."""
    parts = [part for part in group.split("/") if part and part != ".."]
    return [mount.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]


def _ratio(quota: str, period: str = "100000") -> float | None:
    try:
        microseconds, length = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return None
    return microseconds / length if microseconds > 0 and length > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
