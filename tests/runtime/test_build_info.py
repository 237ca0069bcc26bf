"""`build_info()`, and how many workers there are by default."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig
from pathlib import Path

import pytest
from support import check_script

import freerun
from freerun.runtime.cpus import usable_cpus


def test_build_info() -> None:
    info = freerun.build_info()
    assert info.version == freerun.__version__ == importlib.metadata.version("freerun")
    assert info.python.startswith(".".join(map(str, sys.version_info[:2])))
    assert info.free_threaded == bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert info.gil_enabled == sys._is_gil_enabled()
    assert info.driver in info.drivers
    assert info.driver_why
    assert info.workers == "threads"
    assert ("in parallel" in info.workers_why.split(":")[0]) == (not info.gil_enabled)
    assert info.worker_threads >= 1
    assert info.worker_threads_why
    page = str(info)
    for text in (info.version, info.python, info.driver_why, info.workers_why, info.worker_threads_why):
        assert text in page


def test_as_a_module() -> None:
    source = "import runpy, sys; sys.argv = ['freerun']; runpy.run_module('freerun', run_name='__main__')"
    assert f"freerun {freerun.__version__}" in check_script(source)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="only a free-threaded build can turn it on")
def test_the_gil_stays_off() -> None:
    """Importing the engine must not turn the GIL on; PYTHON_GIL=1 does, and is told."""
    env = {key: "" for key in ("PYTHON_GIL",) if key in os.environ}
    print_it = "import freerun; info = freerun.build_info(); print(info.gil_enabled, info.workers_why)"
    assert check_script(print_it, env=env).startswith("False")
    told = check_script(print_it, env={"PYTHON_GIL": "1"})
    assert told.startswith("True")
    assert "the GIL was turned on" in told


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("files", "expected"), [
    ({}, None),
    ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
    ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
    ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
      "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 1),
    ({"proc/self/cgroup": "0::/not/mounted\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
    ({"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
    ({"proc/self/cgroup": "4:cpu,cpuacct:/x\n", "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
      "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 1),
    ({"proc/self/cgroup": "4:cpu,cpuacct:/x\n", "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n",
      "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, None),
    ({"proc/self/cgroup": "garbage\n\n0:\n", "sys/fs/cgroup/cpu.max": "what\n"}, None),
    ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "100000 0\n"}, None),
])  # fmt: skip
def test_quota(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    count, why = usable_cpus(write(tmp_path, files))
    cpus = os.process_cpu_count() or 1
    assert count == (cpus if expected is None else min(cpus, expected))
    assert ("control group" in why) == (expected is not None and expected < cpus)
