"""What happens when a task fails and nobody takes its result: `Builder.unhandled_exception`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .log import logger
from .task_info import TaskInfo

__all__ = ["Policy", "Unhandled"]

type Policy = Literal["log", "shutdown"] | Callable[[BaseException, TaskInfo], object]


def log_unhandled(description: Mapping[str, Any], exception: BaseException) -> None:
    """What the engine calls when the failed task's runtime, and with it its policy, is gone."""
    logger().error("%s failed, and nobody took its result", TaskInfo._from(description), exc_info=exception)


class Unhandled:
    """Carries out a runtime's policy. The engine calls it on whatever thread drops the task's result; it never raises.

    `stop` ends the runtime in the background; set once it runs and cleared when it stops, so that the two do not keep
    each other alive.
    `fatal` is the exception that made policy "shutdown" stop the runtime.
    """

    __slots__ = ("_policy", "fatal", "stop")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.stop: Callable[[], None] | None = None
        self.fatal: BaseException | None = None

    def __call__(self, description: Mapping[str, Any], exception: BaseException) -> None:
        try:
            self._carry_out(TaskInfo._from(description), exception)
        except BaseException:
            with contextlib.suppress(BaseException):  # a logging handler that fails, too: there is nobody left to tell
                logger().exception("the function given to Builder.unhandled_exception() failed")

    def _carry_out(self, task: TaskInfo, exception: BaseException) -> None:
        if not isinstance(self._policy, str):
            self._policy(exception, task)
            return
        logger().error("%s failed, and nobody took its result", task, exc_info=exception)
        stop = self.stop
        if self._policy == "shutdown" and stop is not None:
            self.fatal = exception
            stop()
