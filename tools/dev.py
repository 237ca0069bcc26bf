"""The ./dev command: makes a private environment with nox, finds an interpreter, calls a nox session.

Standard library only, Python 3.11+: this runs before anything else is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import build_python
from find_python import Choice, NoInterpreter, Survey, named, pair, survey, with_gil
from steps import CommandError, cache_dir, interrupt_on_signals, locked, run_logged, say

ROOT = Path(__file__).resolve().parent.parent
NOX = "nox>=2025.2"
FORGET_AFTER = 3600  # seconds for which a failed way to get an interpreter is not tried again

HELP = """\
usage: ./dev COMMAND [arguments]

  demo              the text service on asyncio and on freerun, with a chart
  test [pytest...]  the tests, on a free-threaded Python and on one with the GIL
  lint              ruff, clang-format, mypy, stubtest
  format            let ruff and clang-format rewrite the sources
  ctest [variant]   the C tests: plain, asan, tsan (all three unless named)
  bench [...]       benchmarks, against the peers that install
  stress [pytest..] the stress tests, longer (FR_STRESS_SECONDS, 60)
  soak [pytest...]  the soak tests (FR_SOAK_SECONDS, 3600)
  rounds            1,000 starts and stops of interpreters, on the one with the GIL (FREERUN_ROUNDS)
  docs              the examples in docstrings and documents
  python            which interpreters there are, which is taken, and why
      --make            make one if none is free-threaded    --again    try again what failed
      --rebuild         build the one from the distribution's source anew
  nox [...]         nox itself, in the same environment

environment
  FREERUN_PYTHON      the Python to use        FREERUN_CACHE  where interpreters are kept
  FREERUN_GIL_PYTHON  the Python with the GIL that the tests run on as well; "none" for none
"""

# What ./dev calls things is what nox calls them. Those on the right need no interpreter of their own.
SESSIONS = ("demo", "test", "bench", "stress", "soak", "rounds", "docs", "lint", "format", "ctest")
WITHOUT_INTERPRETER = ("format", "ctest")


class UserError(Exception):
    """Said as it is, without a traceback."""


def logs() -> Path:
    """Where the logs go; made if need be."""
    folder = cache_dir() / "log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}. Set FREERUN_CACHE to another folder.") from None
    return folder


# --- The private environment ----------------------------------------------------------------------------------------


def private_python() -> Path:
    """The Python of the private environment, which has nox; made on first use."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    key = hashlib.sha256(f"{NOX} {os.path.realpath(base)} {sys.version}".encode()).hexdigest()[:8]
    folder = cache_dir() / f"env-{sys.version_info[0]}.{sys.version_info[1]}-{key}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and python.exists():
        return python
    log = logs() / "environment.log"
    with locked(cache_dir() / ".env.lock", "another ./dev is making the private environment; waiting for it"):
        if ready.exists() and python.exists():
            return python
        say(f"making a private environment with nox in {folder}, once")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            run_logged([base, "-m", "venv", str(folder)], log)
            pip_install(python, NOX, log)
        except CommandError as error:
            raise UserError(
                f"cannot install nox: {short(error)}\n"
                "It comes from the registry that pip is configured for; that needs the network, or a registry\n"
                f"within reach (pip's own settings apply: PIP_INDEX_URL, pip.conf, proxies). Log: {log}"
            ) from None
        ready.touch()
    return python


def pip_install(python: Path, what: str, log: Path) -> None:
    """Install into the private environment, without long waits for a network that is not there."""
    quick = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1"]
    run_logged([str(python), "-m", "pip", "install", *quick, what], log, timeout=600)


def short(error: Exception) -> str:
    """An error without addresses, in reasonable length."""
    return build_python.without_addresses(str(error))[:400]


# --- Interpreters ---------------------------------------------------------------------------------------------------


class Tried:
    """Ways that failed lately, so that every command does not wait for them again."""

    def __init__(self) -> None:
        self._file = cache_dir() / "python" / "tried.json"
        try:
            self._entries = json.loads(self._file.read_text())
        except (OSError, ValueError):
            self._entries = {}

    def why(self, way: str) -> str | None:
        entry = self._entries.get(way)
        return entry["why"] if entry and 0 <= time.time() - entry["at"] < FORGET_AFTER else None

    def failed(self, way: str, why: str) -> None:
        self._entries[way] = {"why": why, "at": time.time()}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._entries, indent=2))

    def forget(self) -> None:
        self._entries = {}
        self._file.unlink(missing_ok=True)


def uv_install() -> None:
    """Let uv download a free-threaded 3.14 into the cache, where the survey finds it. Raises CommandError."""
    python = private_python()
    log = logs() / "uv.log"
    with locked(cache_dir() / ".env.lock", "another ./dev is using uv; waiting for it"):
        if not (python.parent / "uv").exists():
            say("installing uv into the private environment")
            pip_install(python, "uv", log)
        say("uv python install 3.14t")
        env = {
            **os.environ,
            "UV_PYTHON_INSTALL_DIR": str(cache_dir() / "uv-python"),
            "UV_HTTP_TIMEOUT": "15",
            "UV_HTTP_RETRIES": "0",
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
        }
        # Not in the clone: a .python-version or uv.toml of the user's has no say in it.
        command = [str(python.parent / "uv"), "python", "install", "--no-config", "--no-bin", "3.14t"]
        with tempfile.TemporaryDirectory() as elsewhere:
            run_logged(command, log, cwd=Path(elsewhere), env=env, timeout=300)


WAYS: dict[str, Callable[[], object]] = {
    "uv python install 3.14t": uv_install,
    "the distribution's source package": build_python.build,
}

WHAT_THE_GIL_MEANS = (
    "This Python has a GIL: everything works and the tests pass, but only one thread runs Python code at a time, so no "
    "speed-up over one core is possible on it (separate interpreters aside)."
)


def choose() -> Choice:
    """Take an interpreter, saying which, why, and why not the ones before it."""
    if main := named("FREERUN_PYTHON", os.environ):
        choice = pair(main, survey() if main.free_threaded else Survey())
        say(f"using {main}: FREERUN_PYTHON names it")
        return announced(choice)
    seen = survey()
    if main := seen.best(free_threaded=True):
        say(f"using {main}: {reason(seen)}")
        return announced(pair(main, seen))

    say("no free-threaded Python 3.13 or later on PATH, under pyenv, managed by uv, or built here before")
    tried = Tried()
    failed = []
    for way, make in WAYS.items():
        if why := tried.why(way):
            say(f"{way}: failed within the hour ({why}); ./dev python --again --make tries again")
            failed.append(f"{way}: {why}")
            continue
        try:
            make()
        except (CommandError, UserError, build_python.BuildError) as error:
            tried.failed(way, short(error))
            failed.append(f"{way}: {short(error)}")
            say(f"{way}: no: {short(error)}")
            continue
        seen = survey()
        if main := seen.best(free_threaded=True):
            say(f"using {main}")
            return announced(pair(main, seen))
        tried.failed(way, "its result does not run")

    if main := with_gil(seen, os.environ):
        say(f"using {main}: there is nothing better")
        return announced(Choice(main))
    tried.forget()  # somebody is about to change something
    looked = "\n".join(f"  {each}" for each in seen.rejected) or "  nothing called python3"
    made = "\n".join(f"  {each}" for each in failed)
    raise NoInterpreter(
        f"no Python 3.13 or later to run freerun on.\nLooked at:\n{looked}\nCould not make one:\n{made}\n"
        "Making one needs the network: a release of Python through uv, or the distribution's archive through apt.\n"
        "Install a free-threaded Python 3.13 or later, or name one with FREERUN_PYTHON."
    )


def reason(seen: Survey) -> str:
    """Why this one among those found."""
    others = sum(each.free_threaded for each in seen.found) - 1
    because = "the newest free-threaded one found" if others else "free-threaded, the only one found"
    return because if "FREERUN_PYTHON" in os.environ else f"{because} (FREERUN_PYTHON is not set)"


def announced(choice: Choice) -> Choice:
    if choice.gil:
        say(f"and, for the tests, {choice.gil}")
    if not choice.main.free_threaded:
        say(WHAT_THE_GIL_MEANS)
    return choice


def show_pythons(arguments: Sequence[str]) -> None:
    """./dev python."""
    if unknown := set(arguments) - {"--make", "--again", "--rebuild"}:
        raise UserError(f"./dev python: unknown: {' '.join(sorted(unknown))}")
    if "--again" in arguments:
        Tried().forget()
    if "--rebuild" in arguments:
        build_python.build(rebuild=True)
    seen = survey()
    for title, entries in (("usable", seen.found), ("not usable", seen.rejected)):
        print(f"{title}:")
        print("\n".join(f"  {each}" for each in entries) or "  none")
    explicit = named("FREERUN_PYTHON", os.environ)
    if explicit or seen.best(free_threaded=True) or "--make" in arguments:
        choice = choose()
        print(f"taken: {choice.main}")
        print(f"the tests run on this one too: {choice.gil}" if choice.gil else "no other one for the tests")
        return
    tried = Tried()
    print("taken: none of these; ./dev python --make, and every command that needs one, would try:")
    for way in WAYS:
        print(f"  {way}" + (f" - failed within the hour: {why}" if (why := tried.why(way)) else ""))
    gil = seen.best(free_threaded=False)
    print(f"  {gil}: {WHAT_THE_GIL_MEANS}" if gil else "  and then give up: there is no build with the GIL either")


# --- Sessions -------------------------------------------------------------------------------------------------------


def run_nox(arguments: Sequence[str], choice: Choice | None) -> int:
    """Run nox in the private environment; afterwards repeat pytest's summary lines."""
    python = private_python()
    with tempfile.TemporaryDirectory(prefix="freerun-dev-") as folder:
        summary = Path(folder) / "summary"
        env = {**os.environ, "FREERUN_SUMMARY": str(summary), "FREERUN_DEV_HOST": sys.executable}
        if choice is not None:
            env["FREERUN_CHOICE"] = choice.to_json()
        command = [str(python), "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=env)
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt as interrupt:
                # Ctrl-C reached nox as well and it winds up; SIGTERM and SIGHUP reached only us. nox ends what it
                # started when it is interrupted, not when it is terminated.
                if interrupt.args:
                    process.send_signal(signal.SIGINT)
        sys.stdout.flush()
        if summary.exists():
            print(summary.read_text(), end="", flush=True)
        return code


def check_compiler() -> None:
    """Say now what would otherwise end a build in the middle."""
    if build_python.compiler() is None and os.geteuid() != 0:
        raise UserError(
            "no C compiler: install gcc or clang (Debian, Ubuntu: apt-get install gcc libc6-dev), or set CC"
        )


def main(arguments: Sequence[str]) -> int:
    command, *rest = arguments or ["help"]
    if command in {"help", "--help", "-h"}:
        print(HELP, end="")
        return 0
    if command == "python":
        show_pythons(rest)
        return 0
    if command not in (*SESSIONS, "nox"):
        print(f"dev: no command {command!r}\n\n{HELP}", end="", file=sys.stderr)
        return 2
    check_compiler()
    private_python()  # first, as it fails soonest: no registry, no need to build an interpreter
    if command == "nox":
        return run_nox(rest, None)
    choice = None if command in WITHOUT_INTERPRETER else choose()
    return run_nox(["--session", command, *(["--", *rest] if rest else [])], choice)


if __name__ == "__main__":
    interrupt_on_signals()
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, NoInterpreter, build_python.BuildError) as error:
        print(f"dev: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("dev: interrupted", file=sys.stderr)
        sys.exit(130)
