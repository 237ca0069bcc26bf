"""`MainModule`: the script that was started, imported in another interpreter, as multiprocessing's spawn does it."""

from __future__ import annotations

import sys
from types import ModuleType

from freerun._core._native import Parcel

__all__ = ["MainModule"]

_NAME = "__mp_main__"  # what scripts that guard their main part know from multiprocessing


class MainModule:
    """Imported when a parcel first mentions it. An import that failed fails the same way for everybody after that."""

    __slots__ = ("_failed", "_name", "_path", "_there")

    def __init__(self, name: str | None, path: str | None) -> None:
        self._name = name
        self._path = path
        self._there = False
        self._failed: BaseException | None = None

    def provide(self, parcel: Parcel) -> None:
        """Import the script, if the parcel's pickle may need it."""
        if self._there or b"__main__" not in bytes(parcel.data()):
            return
        if self._failed is None:
            try:
                self._import()
            except (Exception, SystemExit) as error:
                self._failed = error
            else:
                self._there = True
                return
        message = (
            "the main script, which defines what shall run here, cannot be imported in another interpreter: "
            f"{type(self._failed).__name__}: {self._failed}; "
            'code that shall run in the first one only belongs under if __name__ == "__main__":'
        )
        raise ImportError(message) from self._failed

    def _import(self) -> None:
        import runpy

        if self._name is None and self._path is None:
            raise ImportError("it has no file (python -c, interactive, or from a pipe)")
        module = ModuleType(_NAME)
        if self._name is not None:
            content = runpy.run_module(self._name, run_name=_NAME, alter_sys=True)
        else:
            assert self._path is not None
            content = runpy.run_path(self._path, run_name=_NAME)
        module.__dict__.update(content)
        sys.modules["__main__"] = sys.modules[_NAME] = module
