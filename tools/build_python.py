"""Build a free-threaded Python from the distribution's source package. Standard library only, Python 3.11+.

No profile-guided optimisation and no link-time optimisation: ready in three to five minutes on two cores instead of
twenty, at the price of an interpreter some 10-20 % slower than a distributor's. Every runtime that the benchmarks
compare runs on the same interpreter.

The result appears under ``<cache>/python/`` by one rename, finished, tried and stamped, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import apt_source
from apt_source import SourceError
from find_python import STAMP, Interpreter, probe
from steps import CommandError, cache_dir, last_words, locked, run_logged, say

CONFIGURE = ["--disable-gil", "--with-ensurepip=install", "--disable-test-modules", "--without-static-libpython"]
# -g1: a debugger still shows the stack; full debug information makes the compiler a quarter slower.
OPTIMISATION = "OPT=-DNDEBUG -g1 -fwrapv -O3 -Wall"
FILES_TO_COMPILE = 350  # about; only for the progress line
DISK_NEEDED = 700_000_000


@dataclass(frozen=True)
class Need:
    """Something the build wants on the machine."""

    package: str
    header: str
    what: str  # what the result lacks without it
    required: bool = False


NEEDS = [
    Need("zlib1g-dev", "zlib.h", "zlib (pip needs it)", required=True),
    Need("libssl-dev", "openssl/ssl.h", "ssl (pip needs it)", required=True),
    Need("libffi-dev", "ffi.h", "ctypes"),
    Need("libbz2-dev", "bzlib.h", "bz2"),
    Need("liblzma-dev", "lzma.h", "lzma"),
    Need("libsqlite3-dev", "sqlite3.h", "sqlite3"),
]


class BuildError(Exception):
    """There will be no interpreter from here; the message says why."""


def compiler() -> str | None:
    """The C compiler that configure would take."""
    if own := os.environ.get("CC"):
        return own.split()[0] if shutil.which(own.split()[0]) else None
    return next((name for name in ("gcc", "cc", "clang") if shutil.which(name)), None)


def has_header(cc: str, header: str) -> bool:
    """Ask the compiler, which knows where it looks; the package manager does not."""
    ran = subprocess.run(
        [cc, "-E", "-xc", "-", "-o", os.devnull],
        input=f"#include <{header}>\n".encode(),
        capture_output=True,
        check=False,
    )
    return ran.returncode == 0


def check_needs(log: Path) -> list[Need]:
    """See to the build dependencies; return those that the result will do without."""

    def lacking(cc: str | None) -> tuple[list[str], list[Need]]:
        tools = [] if cc else ["gcc", "libc6-dev"]
        tools += [] if shutil.which("make") else ["make"]
        return tools, [need for need in NEEDS if not (cc and has_header(cc, need.header))]

    tools, missing = lacking(compiler())
    if not tools and not missing:
        return []
    packages = [*tools, *(need.package for need in missing)]
    install = f"apt-get install {' '.join(packages)}"
    if os.geteuid() == 0:
        say(f"installing build dependencies: {' '.join(packages)}")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
        lock = ["-o", "DPkg::Lock::Timeout=120"]
        try:
            run_logged(["apt-get", *lock, "update"], log, env=env, timeout=300)
            run_logged(
                ["apt-get", *lock, "install", "-y", "--no-install-recommends", *packages], log, env=env, timeout=900
            )
        except CommandError as error:
            say(f"could not install them: {error}")
        tools, missing = lacking(compiler())
    required = [*tools, *(need.package for need in missing if need.required)]
    if required:
        raise BuildError(f"needs {', '.join(required)}, and only root can install them: {install}")
    for need in missing:
        say(f"without {need.package} the result lacks {need.what} (have it: {install}, ./dev python --rebuild)")
    return missing


def fetch_source(work: Path, log: Path) -> tuple[str, str, Path]:
    """Get the source through apt. Returns package, its version, and the unpacked source tree."""
    if not shutil.which("apt-get"):
        raise SourceError("this machine has no apt-get: only Debian and Ubuntu sources are known here")
    try:
        system = apt_source.distribution(Path("/etc/os-release").read_text())
    except OSError:
        system = None
    if system is None:
        raise SourceError("/etc/os-release names neither Debian nor Ubuntu, nor a relative of theirs")
    entry = apt_source.archive(apt_source.configured(), system)
    if entry is None:
        raise SourceError(f"apt's configuration has no main archive for {system.codename or 'this release'}")

    apt = work / "apt"
    for folder in ("sources.list.d", "state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "apt.conf").write_text(apt_source.apt_conf(apt))
    command = ["apt-get", "-q", "-c", str(apt / "apt.conf")]
    env = {**os.environ, "LC_ALL": "C"}
    problems = []
    for suite in apt_source.suites_to_ask(system):
        for signed_by in apt_source.keyrings_to_try(entry, system.family):
            stanza = apt_source.source_stanza(entry, suite, system.family, signed_by)
            (apt / "sources.list.d/freerun.sources").write_text(stanza)
            say(f"reading the signed source index of {system.family} {suite}")
            try:
                # --error-on=any: an index that could not be had or verified is a failure, not a warning.
                run_logged([*command, "--error-on=any", "update"], log, env=env, timeout=300)
                break
            except CommandError as error:
                problem = f"{suite}: {without_addresses(str(error))}"
                if problem not in problems:
                    problems.append(problem)
        else:
            continue
        for package in apt_source.PACKAGES:
            try:
                run_logged([*command, "source", "--download-only", package], log, cwd=work, env=env, timeout=600)
            except CommandError as error:
                problems.append(f"{suite}: {without_addresses(str(error))}")
                continue
            return package, *unpack(work, package)
    more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
    raise SourceError(f"{problems[0]}{more}")


def without_addresses(text: str) -> str:
    """Cut the addresses out of apt's messages; the log has them."""
    return re.sub(r"\w+://\S+", "the archive", text)


def unpack(work: Path, package: str) -> tuple[str, Path]:
    """Unpack what apt verified, once more against the checksums in the .dsc. Returns version and source tree.

    Debian's own patches (paths and tests, mostly) are not applied: dpkg-source may be missing, and they are not needed.
    """
    dsc = next(work.glob(f"{package}_*.dsc")).read_text(errors="replace")
    archive = next(work.glob(f"{package}_*.orig.tar.*z"))
    version = re.search(r"^Version: *(\S+)$", dsc, re.MULTILINE)
    sums = re.search(r"^Checksums-Sha256:((?:\n .*)+)", dsc, re.MULTILINE)
    expected = {line.split()[2]: line.split()[0] for line in sums[1].strip().splitlines()} if sums else {}
    if version is None or expected.get(archive.name) != hashlib.sha256(archive.read_bytes()).hexdigest():
        raise SourceError(f"{archive.name} is not what its .dsc describes")
    into = work / "source"
    into.mkdir()
    try:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(into)
    except tarfile.ReadError:  # this Python has no lzma
        subprocess.run(["tar", "-C", str(into), "-xf", str(archive)], check=True)
    return version[1], next(path.parent for path in into.glob("*/configure"))


def build_environment() -> dict[str, str]:
    """Ours, less what would leak into the interpreter's build."""
    drop = {"CFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "MAKELEVEL", "DESTDIR", "CONFIG_SITE", "PREFIX"}
    env = {name: value for name, value in os.environ.items() if name not in drop and not name.startswith("PYTHON")}
    return {**env, "LC_ALL": "C.UTF-8", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_WARN_SCRIPT_LOCATION": "1"}


def build(*, rebuild: bool = False) -> Interpreter:
    """Build one, or return the one that another run finished while this one waited."""
    cache = cache_dir()
    home = cache / "python"
    if re.search(r"\s", str(home)):
        raise BuildError(f"CPython does not build in a folder with a space in its name: {home}; set FREERUN_CACHE")
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"cannot make the cache folder {home}: {error.strerror}; set FREERUN_CACHE") from None
    asked_at = time.time()
    with locked(home / ".lock", "another ./dev is building; waiting for it"):
        for stamp in sorted(home.glob(f"*/{STAMP}"), reverse=True):
            # One that appeared while this run waited is new enough even for --rebuild.
            if not rebuild or stamp.stat().st_mtime > asked_at:
                answer = probe(str(stamp.parent / "bin/python3"), "built here from the distribution's source")
                if isinstance(answer, Interpreter):
                    return answer
        for left in home.glob(".build-*"):  # of a run that was killed: nobody else holds the lock
            shutil.rmtree(left, ignore_errors=True)
        if (free := shutil.disk_usage(home).free) < DISK_NEEDED:
            raise BuildError(f"needs {DISK_NEEDED // 10**6} MB in {home}, which has {free // 10**6}; set FREERUN_CACHE")
        logs = cache / "log"
        logs.mkdir(exist_ok=True)
        log = logs / f"build-python-{time.strftime('%Y%m%d-%H%M%S')}.log"
        log.touch()
        work = Path(tempfile.mkdtemp(prefix=".build-", dir=home))
        try:
            return _build(work, home, log)
        except SourceError as error:
            raise BuildError(f"{error} (log: {log})") from error
        except (CommandError, OSError, subprocess.SubprocessError, tarfile.TarError, StopIteration) as error:
            raise BuildError(f"{str(error) or type(error).__name__} (log: {log})") from error
        finally:
            for _ in range(10):
                shutil.rmtree(work, ignore_errors=True)
                if not work.exists():
                    break
                time.sleep(0.2)  # an interrupted compiler was still writing


def _build(work: Path, home: Path, log: Path) -> Interpreter:
    say(f"building a free-threaded Python in {home}, once; three to ten minutes; log: {log}")
    lacks = check_needs(log)
    package, version, source = fetch_source(work, log)
    release = re.search(r"PY_VERSION\s+\"([^\"]+)\"", (source / "Include/patchlevel.h").read_text())
    if release is None:
        raise BuildError("the source has no version in Include/patchlevel.h")
    prefix = home / f"{release[1]}+freethreaded"
    env = build_environment()
    jobs = len(os.sched_getaffinity(0))
    objects = work / "objects"
    objects.mkdir()

    say(f"configuring {package} {version}")
    configure = [str(source / "configure"), f"--prefix={prefix}", *CONFIGURE, OPTIMISATION]
    run_logged(configure, log, cwd=objects, env=env)
    say(f"compiling with {jobs} jobs")

    def progress() -> str:
        done = sum(1 for _ in objects.rglob("*.o"))
        return f"compiling: {min(99, 100 * done // FILES_TO_COMPILE)} %"

    run_logged(["make", f"-j{jobs}"], log, cwd=objects, env=env, tick=progress)
    say("installing")
    stage = work / "stage"
    run_logged(
        ["make", "install", f"DESTDIR={stage}"],
        log,
        cwd=objects,
        env=env,
        tick=lambda: "installing: compiling the library",
    )
    staged = Path(f"{stage}{prefix}")
    answer = probe(str(staged / "bin/python3"), "just built")
    if not isinstance(answer, Interpreter) or not answer.free_threaded:
        raise BuildError(f"the result does not do: {answer}; {last_words(log)}")
    stamp = {
        "package": package,
        "version": version,
        "configure": [*CONFIGURE, OPTIMISATION],
        "lacks": [need.what for need in lacks],
    }
    (staged / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
    if prefix.exists():
        prefix.rename(work / "old")
    staged.rename(prefix)
    say(f"done: {prefix}")
    final = probe(str(prefix / "bin/python3"), f"built here from {package} {version}")
    if not isinstance(final, Interpreter):
        raise BuildError(str(final))
    return final
