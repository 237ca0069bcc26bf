"""The sessions that ./dev calls. A plain ``nox -s test`` works too, with what interpreters are there already.

Each session installs the package as a user would: a wheel, built once per interpreter and state of the sources, never
the source tree. Everything a session makes lies in ``.nox/``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from find_python import Choice, Interpreter, NoInterpreter, without_building  # noqa: E402
from steps import locked  # noqa: E402

nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["test", "lint", "ctest"]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORK = ROOT / ".nox" / "freerun"

WHY_NONE = ""
try:
    CHOICE = Choice.from_json(text) if (text := os.environ.get("FREERUN_CHOICE")) else without_building()
except NoInterpreter as error:
    CHOICE = None
    WHY_NONE = str(error)

BY_PATH = {each.path: each for each in (CHOICE.interpreters() if CHOICE else [])}
HOST = os.environ.get("FREERUN_DEV_HOST", sys.executable)


def on(*interpreters: Interpreter | None):
    """Run a session once per interpreter; without any it fails with the reason."""
    params = [nox.param(each.path, id=each.label) for each in interpreters if each]
    return nox.parametrize("python", params or [nox.param(False, id="none")])


MAIN = CHOICE and CHOICE.main
GIL = next((each for each in BY_PATH.values() if not each.free_threaded), None)


# --- Installing -----------------------------------------------------------------------------------------------------


def group(name: str) -> list[str]:
    """A dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


@functools.cache
def sources_hash() -> str:
    """Changes when the wheel would."""
    files = [ROOT / name for name in ("meson.build", "meson.options", "pyproject.toml", "README.md", "LICENSE")]
    files.append(ROOT / "tools" / "list_package_files.py")
    files += [path for path in (ROOT / "freerun").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS"):
        digest.update(f"{name}={os.environ.get(name, '')}\0".encode())
    return digest.hexdigest()[:16]


def install(session: nox.Session, *groups: str, package: bool = True) -> Interpreter | None:
    """Install dependency groups and the package; do nothing where all of it is there already."""
    interpreter = BY_PATH.get(str(session.python))
    if package and interpreter is None:
        session.error(WHY_NONE or "no interpreter")
    wanted = [requirement for name in groups for requirement in group(name)]
    if package:
        wanted += [*PROJECT["project"]["dependencies"], *group("build")]
    site = Path(session.virtualenv.location)
    once(
        site / ".freerun-dependencies",
        "\n".join(wanted),
        # Never from source: where a Python has no wheel of the newest hypothesis, an older one is pure Python.
        lambda: session.install("--quiet", "--only-binary", "hypothesis", *wanted),
    )
    if package:
        wheel = build_wheel(session, interpreter)
        once(
            site / ".freerun-wheel",
            str(wheel),
            lambda: session.install("--quiet", "--no-deps", "--force-reinstall", str(wheel)),
        )
    return interpreter


def once(stamp: Path, key: str, action) -> None:
    """Do *action* unless *stamp* says that it was done for *key*."""
    if not (stamp.exists() and stamp.read_text() == key):
        stamp.unlink(missing_ok=True)
        action()
        stamp.write_text(key)


def build_wheel(session: nox.Session, interpreter: Interpreter) -> Path:
    """The wheel for this interpreter and these sources; the compiler sees only what changed."""
    key = f"{interpreter.label}-{hashlib.sha256(interpreter.path.encode()).hexdigest()[:8]}"
    home = WORK / "wheels" / key / sources_hash()
    with locked(WORK / f"{key}.lock", "another session is building the package; waiting for it"):
        if found := next(home.glob("*.whl"), None):
            return found
        build, made = WORK / "build" / key, home.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        command = ["python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--disable-pip-version-check", f"-Cbuild-dir={build}", "--wheel-dir", str(made), str(ROOT)]
        # A build folder of another meson, or of an interpreter that moved, is thrown away and made again, quietly.
        fresh = not build.exists()
        done = session.run(*command, success_codes=[0] if fresh else [0, 1], silent=not fresh)
        if not any(made.glob("*.whl")):
            if "FAILED: " in str(done):  # ninja's word: it is the sources
                session.error(f"the package does not build\n{done}")
            session.log(f"building anew: {str(done)[-300:]}")
            shutil.rmtree(build, ignore_errors=True)
            session.run(*command)
        made.rename(home)
        for old in sorted(home.parent.iterdir(), key=lambda each: each.stat().st_mtime)[:-4]:
            shutil.rmtree(old, ignore_errors=True)
        return next(home.glob("*.whl"))


def no_yield(session: nox.Session, interpreter: Interpreter) -> dict[str, str]:
    """So that a start of free-threaded 3.13 takes no minute on a busy machine: tools/no_yield.c says why."""
    if not interpreter.free_threaded or interpreter.version[:2] != (3, 13):
        return {}
    source, library = ROOT / "tools" / "no_yield.c", WORK / "no_yield.so"
    with locked(WORK / "no_yield.lock", "another session is compiling no_yield.c; waiting for it"):
        if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
            compiler = os.environ.get("CC", "cc").split()
            session.run(*compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), external=True)
    return {"LD_PRELOAD": str(library)}


def pytest(
    session: nox.Session, interpreter: Interpreter, *arguments: str, env: dict[str, str] | None = None, **kw
) -> None:
    """Run pytest on the installed package."""
    # SAFEPATH: neither this process nor one that a test starts may import freerun from the source tree.
    env = {"PYTHONSAFEPATH": "1", "PYTHONFAULTHANDLER": "1", **no_yield(session, interpreter), **(env or {})}
    session.run("python", "tools/run_pytest.py", interpreter.label, *arguments, env=env, **kw)


# --- Sessions that run the package ----------------------------------------------------------------------------------


@nox.session
@on(*BY_PATH.values())
def test(session: nox.Session) -> None:
    """The tests. Arguments go to pytest."""
    interpreter = install(session, "test")
    pytest(session, interpreter, *session.posargs)


@nox.session
@on(MAIN)
def demo(session: nox.Session) -> None:
    """The main job: a CPU-parallel TCP service against asyncio, with a chart."""
    install(session)
    session.run("python", "examples/text_service.py", "demo", *session.posargs)


@nox.session
@on(MAIN)
def bench(session: nox.Session) -> None:
    """Benchmarks. Arguments go to benchmarks/run.py."""
    install(session)
    peers = group("peers")

    def try_peers() -> None:
        for peer in peers:
            # Wheels only: a peer that must be compiled is not what its users run.
            command = ["python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", peer]
            output = session.run(*command, success_codes=[0, 1, 2], silent=True)
            if "ERROR" in str(output):
                session.log(f"{peer} does not install on {session.python}: the table goes without it")

    once(Path(session.virtualenv.location) / ".freerun-peers", "\n".join(peers), try_peers)
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
@on(MAIN)
def stress(session: nox.Session) -> None:
    """The stress tests, each for FR_STRESS_SECONDS (60)."""
    interpreter = install(session, "test")
    seconds = os.environ.get("FR_STRESS_SECONDS", "60")
    limit = str(int(float(seconds)) * 3 + 120)
    pytest(
        session, interpreter, "-m", "stress", f"--timeout={limit}", *session.posargs, env={"FR_STRESS_SECONDS": seconds}
    )


@nox.session
@on(MAIN)
def soak(session: nox.Session) -> None:
    """The soak tests, for FR_SOAK_SECONDS (3600) in all."""
    interpreter = install(session, "test")
    seconds = os.environ.get("FR_SOAK_SECONDS", "3600")
    pytest(session, interpreter, "-m", "soak", "--timeout=0", *session.posargs, env={"FR_SOAK_SECONDS": seconds})


@nox.session
@on(GIL or MAIN)
def rounds(session: nox.Session) -> None:
    """Runtimes that start and stop interpreters, FREERUN_ROUNDS (1000) of them; ./dev test does 2 seconds of it."""
    interpreter = install(session, "test")
    tests = ["tests/interp/test_lifetime.py", "-k", "many_rounds", "-s", "--timeout=0"]
    pytest(session, interpreter, *tests, env={"FREERUN_ROUNDS": os.environ.get("FREERUN_ROUNDS", "1000")})


@nox.session
@on(MAIN)
def docs(session: nox.Session) -> None:
    """The examples in docstrings and documents; ./dev test runs them too."""
    interpreter = install(session, "test")
    pytest(session, interpreter, "tests/test_docs_examples.py", *session.posargs)


# --- Sessions that look at the sources ------------------------------------------------------------------------------


def c_files() -> list[str]:
    core = ROOT / "freerun" / "_core"
    return sorted(str(path.relative_to(ROOT)) for path in core.rglob("*") if path.suffix in {".c", ".h"})


def python_files() -> Iterable[str]:
    """What the formatter and the linter look at."""
    folders = ["freerun", "tests", "tools", "examples", "benchmarks", "docs"]
    return ["noxfile.py", *(name for name in folders if (ROOT / name).is_dir())]


# With a GIL where there is one: mypy's own compiled parts have wheels there.
@nox.session(python=GIL.path if GIL else HOST)
def lint(session: nox.Session) -> None:
    """ruff, clang-format, mypy strict, and the stub of the compiled module against the module."""
    install(session, "lint", "test", package=GIL is not None)
    session.run("ruff", "check", *python_files())
    session.run("ruff", "format", "--check", *python_files())
    if files := c_files():
        session.run("clang-format", "--dry-run", "-Werror", *files)
    session.run("mypy")
    # They run on the oldest Python that ./dev starts with.
    tools = ["mypy", "--python-version", "3.11", "--config-file", "pyproject.toml", "tools"]
    session.run(*tools, env={"MYPYPATH": "tools"})
    if GIL is None:
        session.log("no Python 3.13+ with the GIL: the stub is not compared with the compiled module")
        return
    # From elsewhere: the module is the installed one, not the source tree, which has none.
    with session.chdir(session.create_tmp()):
        session.run(
            "python",
            "-m",
            "mypy.stubtest",
            "--ignore-disjoint-bases",
            "--allowlist",
            str(ROOT / "tools" / "stubtest_allowlist.txt"),
            "freerun._core._native",
            env={"PYTHONSAFEPATH": "1"},
        )


@nox.session(python=HOST)
def format(session: nox.Session) -> None:
    """Rewrite the sources as ruff and clang-format want them."""
    install(session, "lint", package=False)
    session.run("ruff", "check", "--fix-only", *python_files())
    session.run("ruff", "format", *python_files())
    if files := c_files():
        session.run("clang-format", "-i", *files)


SANITIZE = {"plain": "none", "asan": "address,undefined", "tsan": "thread"}


@nox.session(python=HOST)
def ctest(session: nox.Session) -> None:
    """The C tests of rt/, plain and under sanitizers. Arguments: plain, asan, tsan; others go to meson test."""
    install(session, "build", package=False)
    variants = [each for each in session.posargs if each in SANITIZE] or list(SANITIZE)
    others = [each for each in session.posargs if each not in SANITIZE]
    env = {
        "FR_STRESS_SECONDS": os.environ.get("FR_STRESS_SECONDS", "2"),
        "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
    }
    for variant in variants:
        build = WORK / "ctest" / variant
        options = ["-Dextension=false", "-Dcore_tests=true", "-Db_ndebug=false", "-Db_lundef=false"]
        options += ["-Dbuildtype=debugoptimized", f"-Db_sanitize={SANITIZE[variant]}"]
        if not (build / "build.ninja").exists():
            shutil.rmtree(build, ignore_errors=True)
            session.run("meson", "setup", *options, str(build), silent=True)
        session.log(f"C tests, {variant}")
        session.run("meson", "compile", "-C", str(build), silent=True)
        # ThreadSanitizer of older compilers cannot live with today's address randomisation.
        steady = ["--wrapper=setarch -R"] if variant == "tsan" and can_fix_addresses() else []
        patience = f"--timeout-multiplier={max(1.0, float(env['FR_STRESS_SECONDS']) / 20)}"
        command = ["meson", "test", "-C", str(build), "--no-rebuild", "--print-errorlogs", patience]
        session.run(*command, *steady, *others, env=env)


def can_fix_addresses() -> bool:
    setarch = shutil.which("setarch")
    return bool(setarch) and subprocess.run([setarch, "-R", "true"], capture_output=True, check=False).returncode == 0


@nox.session(python=HOST)
def news(session: nox.Session) -> None:
    """Put the news fragments together. Arguments go to towncrier build: --draft shows, --yes does."""
    install(session, "news", package=False)
    version = re.search(r"^  version: '([^']+)'", (ROOT / "meson.build").read_text(), re.MULTILINE)
    session.run("towncrier", "build", f"--version={version[1]}", "--name=freerun", *(session.posargs or ["--draft"]))
