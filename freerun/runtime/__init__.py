"""Building, running and watching a runtime. Tokio: `tokio::runtime`."""

from __future__ import annotations

from .build_info import BuildInfo, build_info
from .builder import Builder
from .handle import Handle
from .local_runtime import LocalRuntime
from .main import main, run
from .metrics import RuntimeMetrics, WorkerMetrics
from .runtime import Runtime
from .task_info import TaskInfo

__all__ = [
    "BuildInfo",
    "Builder",
    "Handle",
    "LocalRuntime",
    "Runtime",
    "RuntimeMetrics",
    "TaskInfo",
    "WorkerMetrics",
    "build_info",
    "main",
    "run",
]
