"""Find the Python interpreters that freerun is built for. Standard library only, Python 3.11+.

The order, and why:

1. ``FREERUN_PYTHON``: you said so. It is taken or it is an error, never passed over.
2. A free-threaded Python on PATH, under pyenv, managed by uv, or made here before; the newest release first.
3. ``uv python install 3.14t`` (a download of some 30 MB).
4. The distribution's source package of Python 3.13, built with ``--disable-gil`` (build_python.py).
5. A build with the GIL: everything works, nothing is faster than one core.

Steps 1 and 2 are looked at every time and take well under a second. Steps 3 and 4 put their result where step 2 finds
it; when they fail, the reason is kept for an hour (``./dev python --again`` forgets it).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steps import cache_dir

OLDEST = (3, 13)

# Run by whatever calls itself python, so it keeps to what every Python since 2.7 understands.
PROBE = """
import json, os, sys, sysconfig
missing = []
for name in ("ssl", "zlib"):
    try:
        __import__(name)
    except ImportError:
        missing.append(name)
implementation = getattr(sys, "implementation", None)
print(json.dumps({
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "implementation": getattr(implementation, "name", "cpython"),
    "version": list(sys.version_info),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
    "missing": missing,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that can build and run freerun."""

    path: str
    version: tuple[int, int, int, str, int]
    free_threaded: bool
    where: str

    @property
    def release(self) -> str:
        major, minor, micro, level, serial = self.version
        suffix = "" if level == "final" else {"alpha": "a", "beta": "b", "candidate": "rc"}[level] + str(serial)
        return f"{major}.{minor}.{micro}{suffix}"

    @property
    def label(self) -> str:
        """Short and unique enough to name a session: ``3.14.2t``."""
        return self.release + ("t" if self.free_threaded else "")

    def __str__(self) -> str:
        kind = "free-threaded" if self.free_threaded else "with the GIL"
        return f"Python {self.release} {kind} ({self.path}, {self.where})"


@dataclass(frozen=True)
class Rejected:
    """Something called python that was not taken."""

    path: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.path} ({self.where}): {self.why}"


@dataclass
class Survey:
    """Everything that was looked at."""

    found: list[Interpreter] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def best(self, *, free_threaded: bool) -> Interpreter | None:
        """The newest release of that kind, a pre-release only for want of others. Ties: the first place looked at."""
        kind = [each for each in self.found if each.free_threaded is free_threaded]
        return max(kind, key=lambda each: (each.version[3] == "final", each.version[:3]), default=None)


@dataclass(frozen=True)
class Choice:
    """What the sessions run on: *main* for everything, *gil* besides it for the tests."""

    main: Interpreter
    gil: Interpreter | None = None

    def interpreters(self) -> list[Interpreter]:
        return [self.main] if self.gil is None else [self.main, self.gil]

    def to_json(self) -> str:
        return json.dumps({name: value and asdict(value) for name, value in vars(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Choice:
        def interpreter(data: dict[str, Any]) -> Interpreter:
            return Interpreter(**{**data, "version": tuple(data["version"])})

        return cls(**{name: data and interpreter(data) for name, data in json.loads(text).items()})


def judge(answer: Mapping[str, Any], where: str) -> Interpreter | Rejected:
    """Decide on what the probe answered."""
    path = str(answer["executable"])
    version: tuple[int, int, int, str, int] = tuple(answer["version"])
    release = ".".join(map(str, version[:3]))
    if answer["implementation"] != "cpython":
        return Rejected(path, where, f"{answer['implementation']}, not CPython")
    if version[:2] < OLDEST:
        return Rejected(path, where, f"{release}, freerun needs 3.13 or later")
    if not answer["headers"]:
        package = f"python{version[0]}.{version[1]}-dev"
        return Rejected(path, where, f"{release} without Python.h (on Debian and Ubuntu: {package})")
    if missing := answer["missing"]:
        return Rejected(path, where, f"{release} built without {' and '.join(missing)}, which pip needs")
    return Interpreter(path, version, bool(answer["free_threaded"]), where)


def probe(path: str, where: str) -> Interpreter | Rejected:
    """Ask the program at *path* what it is."""
    try:
        ran = subprocess.run(
            [path, "-E", "-s", "-c", PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if ran.returncode != 0:
            last = (ran.stderr.strip() or "no message").splitlines()[0]
            return Rejected(path, where, f"does not run: {last}")
        return judge(json.loads(ran.stdout), where)
    except subprocess.TimeoutExpired:
        return Rejected(path, where, "does not answer")
    except OSError as error:
        return Rejected(path, where, f"does not run: {error.strerror}")
    except ValueError:
        return Rejected(path, where, "does not answer like a Python")


def _names() -> list[str]:
    minors = [f"python3.{minor}{kind}" for minor in range(19, OLDEST[1] - 1, -1) for kind in ("t", "")]
    return [*minors, "python3t", "python3", "python"]


def _on_path(environ: Mapping[str, str]) -> Iterable[Path]:
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        for name in _names():
            path = Path(folder or ".") / name
            if path.is_file() and os.access(path, os.X_OK):
                yield path.absolute()


_VERSION_IN_NAME = re.compile(r"(?:^|cpython-)(\d+)\.(\d+)")


def may_be_new_enough(folder: str) -> bool:
    """Whether the name of an installed version leaves it possible that it is 3.13 or later."""
    if found := _VERSION_IN_NAME.search(folder):
        return (int(found[1]), int(found[2])) >= OLDEST
    return not re.match(r"(pypy|graalpy|jython|ironpython|stackless|micropython)", folder)


def _in_versions(root: Path) -> Iterable[Path]:
    if root.is_dir():
        for folder in sorted(root.iterdir(), reverse=True):
            if not folder.is_symlink() and may_be_new_enough(folder.name):
                yield from (path for name in ("python3", "python") if (path := folder / "bin" / name).exists())


def uv_roots(environ: Mapping[str, str]) -> list[Path]:
    """Where uv keeps the interpreters it manages: its own places, then ours."""
    if explicit := environ.get("UV_PYTHON_INSTALL_DIR"):
        own = Path(explicit)
    else:
        data = environ.get("XDG_DATA_HOME") or ""
        own = (Path(data) if data.startswith("/") else Path("~/.local/share").expanduser()) / "uv" / "python"
    return [own, cache_dir(environ) / "uv-python"]


STAMP = "freerun-build.json"


def built_here(environ: Mapping[str, str]) -> Iterable[Path]:
    """Interpreters that build_python.py finished: its last step before moving one in place is the stamp."""
    for stamp in sorted((cache_dir(environ) / "python").glob(f"*/{STAMP}"), reverse=True):
        yield stamp.parent / "bin" / "python3"


def candidates(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every (path, where) worth asking, in order of place."""
    pyenv = Path(environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    places: list[tuple[str, Iterable[Path]]] = [
        ("on PATH", _on_path(environ)),
        ("pyenv", _in_versions(pyenv / "versions")),
        *(("managed by uv", _in_versions(root)) for root in uv_roots(environ)),
        ("built here from the distribution's source", built_here(environ)),
    ]
    seen: set[str] = set()
    result = []
    for where, paths in places:
        for path in paths:
            real = os.path.realpath(path)
            # A pyenv shim is one script under many names, and each name answers for another version.
            key = str(path) if "shims" in path.parts else real
            if key not in seen:
                seen.add(key)
                result.append((str(path), where))
    return result


def survey(environ: Mapping[str, str] = os.environ) -> Survey:
    """Ask every candidate, at the same time, and keep each interpreter once."""
    asked = candidates(environ)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: probe(*each), asked))
    result = Survey()
    seen: set[str] = set()
    for answer in answers:
        real = os.path.realpath(answer.path)
        if real not in seen:
            seen.add(real)
            if isinstance(answer, Interpreter):
                result.found.append(answer)
            else:
                result.rejected.append(answer)
    return result


class NoInterpreter(Exception):
    """There is no interpreter to use; the message says what was looked at and what to do."""


def named(variable: str, environ: Mapping[str, str]) -> Interpreter | None:
    """The interpreter that an environment variable names, by path or by a name on PATH."""
    value = environ.get(variable)
    if not value:
        return None
    path = shutil.which(Path(value).expanduser(), path=environ.get("PATH"))
    if path is None:
        raise NoInterpreter(f"{variable}={value}: no such program. Unset it, or name a Python 3.13 or later.")
    answer = probe(str(Path(path).absolute()), variable)
    if isinstance(answer, Rejected):
        raise NoInterpreter(f"{variable}={value}: {answer.why}. Unset it, or name another Python.")
    return answer


def pair(main: Interpreter, seen: Survey, environ: Mapping[str, str] = os.environ) -> Choice:
    """Add the build with the GIL that the tests run on too."""
    return Choice(main, with_gil(seen, environ) if main.free_threaded else None)


def with_gil(seen: Survey, environ: Mapping[str, str] = os.environ) -> Interpreter | None:
    """The build with the GIL to use; ``FREERUN_GIL_PYTHON`` names one, ``none`` means none."""
    if environ.get("FREERUN_GIL_PYTHON") == "none":
        return None
    return named("FREERUN_GIL_PYTHON", environ) or seen.best(free_threaded=False)


def without_building(environ: Mapping[str, str] = os.environ) -> Choice:
    """What can be chosen without downloading or building anything: for a plain ``nox``, which ./dev did not call."""
    seen = survey(environ)
    main = named("FREERUN_PYTHON", environ) or seen.best(free_threaded=True) or with_gil(seen, environ)
    if main is None:
        raise NoInterpreter("no Python 3.13 or later found: run ./dev python --make")
    return pair(main, seen, environ)
