"""What ./dev decides before it runs anything: which interpreter, which archive. Plain pytest, nothing is downloaded."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

# ./dev runs these on a Python that has nothing installed, so they are modules beside each other, not a package.
TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import apt_source  # noqa: E402
import build_python  # noqa: E402
import dev  # noqa: E402
import find_python  # noqa: E402
import steps  # noqa: E402
from find_python import Choice, Interpreter, NoInterpreter, Rejected, Survey  # noqa: E402

sys.path.remove(str(TOOLS))


def interpreter(release, *, free_threaded=True, level="final", where="on PATH"):
    version = (*map(int, release.split(".")), level, 0 if level == "final" else 1)
    return Interpreter(f"/opt/{release}{level}{free_threaded}/bin/python3", version, free_threaded, where)


def answer(**changes):
    usual = {
        "executable": "/opt/python3",
        "implementation": "cpython",
        "version": [3, 13, 5, "final", 0],
        "free_threaded": True,
        "headers": True,
        "missing": [],
    }
    return usual | changes


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine: returns its environment; ``machine["PATH"]`` is one empty folder."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "FREERUN_CACHE": str(tmp_path / "cache")}


def put_python(path, **changes):
    """A program that answers the probe as told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    reply = json.dumps(answer(executable=str(path), **changes))
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{reply}\nE\n")
    path.chmod(0o755)
    return path


# --- Choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"implementation": "pypy"}, "not CPython"),
        ({"version": [3, 12, 1, "final", 0]}, "3.12.1, freerun needs 3.13"),
        ({"version": [2, 7, 18, "final", 0]}, "2.7.18, freerun needs 3.13"),
        ({"headers": False}, "Python.h .*python3.13-dev"),
        ({"missing": ["ssl", "zlib"]}, "without ssl and zlib, which pip needs"),
    ],
)
def test_judge_rejects_with_the_reason(changes, why):
    verdict = find_python.judge(answer(**changes), "on PATH")
    assert isinstance(verdict, Rejected)
    assert str(verdict).startswith("/opt/python3 (on PATH): ")
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(verdict.why)


def test_judge_takes_what_can_build_and_run_freerun():
    verdict = find_python.judge(answer(), "on PATH")
    assert verdict == Interpreter("/opt/python3", (3, 13, 5, "final", 0), True, "on PATH")
    assert (verdict.release, verdict.label) == ("3.13.5", "3.13.5t")


@pytest.mark.parametrize(
    ("version", "label"),
    [
        ((3, 15, 0, "candidate", 2), "3.15.0rc2t"),
        ((3, 16, 0, "alpha", 1), "3.16.0a1t"),
        ((3, 14, 2, "final", 0), "3.14.2t"),
    ],
)
def test_label(version, label):
    assert Interpreter("/x", version, True, "").label == label


def test_best_is_the_newest_release_of_its_kind():
    old, new, gil = interpreter("3.13.5"), interpreter("3.14.2"), interpreter("3.15.0", free_threaded=False)
    seen = Survey([old, gil, new])
    assert seen.best(free_threaded=True) is new
    assert seen.best(free_threaded=False) is gil
    assert Survey([]).best(free_threaded=True) is None


def test_best_takes_a_prerelease_only_for_want_of_others():
    release, beta = interpreter("3.13.5"), interpreter("3.15.0", level="beta")
    assert Survey([beta, release]).best(free_threaded=True) is release
    assert Survey([beta]).best(free_threaded=True) is beta


def test_best_among_equals_is_the_first_place_looked_at():
    first, second = interpreter("3.14.2"), interpreter("3.14.2", where="pyenv")
    assert Survey([first, second]).best(free_threaded=True) is first


def test_pair_adds_a_gil_build_only_to_a_free_threaded_one():
    gil = interpreter("3.13.0", free_threaded=False)
    seen = Survey([gil])
    assert find_python.pair(interpreter("3.14.2"), seen, {}).gil is gil
    assert find_python.pair(interpreter("3.14.2"), seen, {"FREERUN_GIL_PYTHON": "none"}).gil is None
    assert find_python.pair(gil, seen, {}).gil is None


def test_choice_survives_the_way_to_nox():
    choice = Choice(interpreter("3.14.2"), interpreter("3.13.0", free_threaded=False))
    assert Choice.from_json(choice.to_json()) == choice
    assert Choice.from_json(Choice(choice.main).to_json()) == Choice(choice.main)


# --- Looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3.13.0", True),
        ("3.14.0rc1t", True),
        ("3.14t-dev", True),
        ("my-own-build", True),
        ("cpython-3.14.2+freethreaded-linux-x86_64-gnu", True),
        ("cpython-3.12.1-linux-x86_64-gnu", False),
        ("3.9.18", False),
        ("2.7.18", False),
        ("pypy3.11-7.3.19", False),
    ],
)
def test_may_be_new_enough(name, expected):
    assert find_python.may_be_new_enough(name) is expected


def test_survey_of_an_empty_machine(machine):
    seen = find_python.survey(machine)
    assert (seen.found, seen.rejected) == ([], [])
    with pytest.raises(NoInterpreter, match=r"\./dev python --make"):
        find_python.without_building(machine)


def test_without_any_python_the_error_says_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("FREERUN_CACHE", str(tmp_path))
    monkeypatch.delenv("FREERUN_PYTHON", raising=False)
    monkeypatch.delenv("FREERUN_GIL_PYTHON", raising=False)
    old = Rejected("/usr/bin/python3", "on PATH", "3.11.2, freerun needs 3.13 or later")
    monkeypatch.setattr(dev, "survey", lambda: Survey(rejected=[old]))

    def no_network():
        raise steps.CommandError("cannot resolve https://releases.example/python")

    monkeypatch.setattr(dev, "WAYS", {"by carrier pigeon": no_network, "by sea": no_network})
    with pytest.raises(NoInterpreter) as caught:
        dev.choose()
    lines = str(caught.value).splitlines()
    assert "  /usr/bin/python3 (on PATH): 3.11.2, freerun needs 3.13 or later" in lines
    assert "  by carrier pigeon: cannot resolve the archive" in lines
    assert "  by sea: cannot resolve the archive" in lines
    assert "network" in str(caught.value)
    assert not (tmp_path / "python" / "tried.json").exists()  # whoever reads this changes something, and tries again


def test_survey_looks_everywhere(machine, tmp_path):
    on_path = put_python(tmp_path / "bin" / "python3.14t", version=[3, 14, 2, "final", 0])
    pyenv = put_python(tmp_path / ".pyenv/versions/3.13.0/bin/python3", free_threaded=False)
    put_python(tmp_path / ".pyenv/versions/3.12.0/bin/python3", version=[3, 12, 0, "final", 0])
    uv = put_python(tmp_path / ".local/share/uv/python/cpython-3.15.0+freethreaded-linux/bin/python3")
    built = put_python(tmp_path / "cache/python/3.13.5+freethreaded/bin/python3")
    (built.parents[1] / find_python.STAMP).touch()
    put_python(tmp_path / "cache/python/unfinished/bin/python3")
    found = {each.path: each.where for each in find_python.survey(machine).found}
    assert found == {
        str(on_path): "on PATH",
        str(pyenv): "pyenv",
        str(uv): "managed by uv",
        str(built): "built here from the distribution's source",
    }


def test_survey_honours_pyenv_root_and_uv_settings(machine, tmp_path):
    pyenv = put_python(tmp_path / "elsewhere/versions/3.13.1/bin/python")
    uv = put_python(tmp_path / "uvs/cpython-3.14.0+freethreaded/bin/python3")
    machine |= {"PYENV_ROOT": str(tmp_path / "elsewhere"), "UV_PYTHON_INSTALL_DIR": str(tmp_path / "uvs")}
    assert {each.path for each in find_python.survey(machine).found} == {str(pyenv), str(uv)}


def test_survey_keeps_each_interpreter_once(machine, tmp_path):
    real = put_python(tmp_path / "opt/python3.14t")
    for name in ("python3", "python", "python3.14t"):
        (tmp_path / "bin" / name).symlink_to(real)
    assert len(find_python.survey(machine).found) == 1


def test_survey_says_why_something_does_not_run(machine, tmp_path):
    shim = tmp_path / "bin" / "python3.13"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    babbler = tmp_path / "bin" / "python3"
    babbler.write_text("#!/bin/sh\necho hello\n")
    babbler.chmod(0o755)
    whys = {each.path: each.why for each in find_python.survey(machine).rejected}
    assert whys == {
        str(shim): "does not run: pyenv: python3.13: command not found",
        str(babbler): "does not answer like a Python",
    }


def test_freerun_python_is_taken_or_is_an_error(machine, tmp_path):
    good = put_python(tmp_path / "bin/my-python")
    assert find_python.named("FREERUN_PYTHON", machine) is None
    for value in (str(good), "my-python"):
        found = find_python.named("FREERUN_PYTHON", machine | {"FREERUN_PYTHON": value})
        assert found is not None
        assert (found.path, found.where) == (str(good), "FREERUN_PYTHON")
    with pytest.raises(NoInterpreter, match=r"FREERUN_PYTHON=/nope: no such program"):
        find_python.named("FREERUN_PYTHON", machine | {"FREERUN_PYTHON": "/nope"})
    put_python(tmp_path / "bin/old", version=[3, 11, 2, "final", 0])
    with pytest.raises(NoInterpreter, match=r"FREERUN_PYTHON=old: 3\.11\.2, freerun needs 3\.13"):
        find_python.named("FREERUN_PYTHON", machine | {"FREERUN_PYTHON": "old"})


def test_the_probe_answers_on_this_interpreter():
    found = find_python.probe(sys.executable, "here")
    assert isinstance(found, Interpreter)
    assert found.version == tuple(sys.version_info)
    assert Path(found.path).exists()


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert steps.cache_dir({}) == Path("/home/ada/.cache/freerun")
    assert steps.cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/freerun")
    assert steps.cache_dir({"XDG_CACHE_HOME": "relative"}) == Path("/home/ada/.cache/freerun")
    assert steps.cache_dir({"XDG_CACHE_HOME": "/x", "FREERUN_CACHE": "~/own"}) == Path("/home/ada/own")


# --- apt --------------------------------------------------------------------------------------------------------------

DEBIAN = apt_source.Distribution("debian", "bookworm")

DEB822 = """\
# our mirror
Types: deb deb-src
# http://older.example/debian
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://other.example
Suites: nodistro
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_deb822_sources():
    entries = apt_source.parse_deb822(DEB822)
    assert [entry.uris for entry in entries] == [
        ("http://mirror.example/debian",),
        ("http://mirror.example/debian-security",),
        ("http://other.example",),
    ]
    assert entries[0].suites == ("bookworm", "bookworm-updates")
    assert entries[0].components == ("main", "contrib")
    assert entries[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert entries[1].signed_by == ""
    assert "BEGIN PGP" in entries[2].signed_by


def test_one_line_sources():
    entries = apt_source.parse_one_line(
        "# deb http://commented.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k/a.gpg,/k/b.gpg] http://mirror.example/debian bookworm main contrib # here\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
    )
    assert entries == [
        apt_source.AptEntry(("http://mirror.example/debian",), ("bookworm",), ("main", "contrib"), "/k/a.gpg /k/b.gpg"),
        apt_source.AptEntry(("http://mirror.example/debian-security",), ("bookworm-security",), ("main",)),
    ]


def test_archive_is_the_distributions_own():
    others = apt_source.parse_one_line(
        "deb cdrom:[Debian] bookworm main\n"
        "deb http://packages.example tool-bookworm main\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
    )
    own = apt_source.AptEntry(("http://mirror.example/debian",), ("bookworm",), ("main",))
    assert apt_source.archive([*others, own], DEBIAN) is own
    assert apt_source.archive(others, DEBIAN) is None


def test_archive_may_go_by_an_alias():
    own = apt_source.AptEntry(("http://mirror.example/debian",), ("testing",), ("main",))
    assert apt_source.archive([own], apt_source.Distribution("debian", "forky")) is own


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        ('ID=debian\nVERSION_CODENAME=bookworm\nVERSION_ID="12"\n', ("debian", "bookworm")),
        ("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n", ("ubuntu", "noble")),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=xia\nUBUNTU_CODENAME=noble\n', ("ubuntu", "noble")),
        ("ID=fedora\nVERSION_ID=43\n", None),
    ],
)
def test_distribution(os_release, expected):
    assert apt_source.distribution(os_release) == (expected and apt_source.Distribution(*expected))


def test_suites_start_with_the_machines_own_unless_it_is_too_old():
    assert apt_source.suites_to_ask(DEBIAN)[0] == "trixie"
    assert apt_source.suites_to_ask(apt_source.Distribution("debian", "forky"))[:2] == ["forky", "trixie"]
    assert "noble" not in apt_source.suites_to_ask(apt_source.Distribution("ubuntu", "noble"))


def test_the_stanza_keeps_the_signature_check():
    entry = apt_source.parse_deb822(DEB822)[0]
    stanza = apt_source.source_stanza(entry, "trixie", "debian", entry.signed_by)
    assert apt_source.parse_deb822(stanza.replace("deb-src", "deb")) == [
        apt_source.AptEntry(entry.uris, ("trixie",), ("main",), entry.signed_by)
    ]
    conf = apt_source.apt_conf(Path("/cache"))
    assert 'Acquire::AllowInsecureRepositories "false"' in conf
    assert "trusted" not in (stanza + conf).lower()


# --- Building ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lacking(monkeypatch, tmp_path):
    """Pretend that some headers are missing and that we are root or not; returns the commands that were run."""
    ran = []

    def pretend(headers, *, root):
        missing = set(headers)

        def run(command, *_args, **_kw):
            ran.append(command)
            if "install" in command:
                missing.clear()

        monkeypatch.setattr(build_python, "has_header", lambda _cc, header: header not in missing)
        monkeypatch.setattr(build_python, "run_logged", run)
        monkeypatch.setattr(build_python.shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
        return build_python.check_needs(tmp_path / "log")

    return pretend, ran


def test_nothing_is_installed_when_nothing_is_missing(lacking):
    pretend, ran = lacking
    assert (pretend([], root=True), ran) == ([], [])


def test_root_installs_what_is_missing(lacking):
    pretend, ran = lacking
    assert pretend(["zlib.h", "ffi.h"], root=True) == []
    assert ran[-1][-2:] == ["zlib1g-dev", "libffi-dev"]


def test_others_are_told_what_the_result_lacks(lacking, capsys):
    pretend, ran = lacking
    assert [need.what for need in pretend(["ffi.h"], root=False)] == ["ctypes"]
    assert ran == []
    assert "without libffi-dev the result lacks ctypes" in capsys.readouterr().err


def test_without_zlib_or_ssl_there_is_no_use_in_building(lacking):
    pretend, _ = lacking
    with pytest.raises(build_python.BuildError, match=r"libssl-dev.*only root.*apt-get install libssl-dev libffi-dev"):
        pretend(["openssl/ssl.h", "ffi.h"], root=False)


def test_a_failed_command_is_told_by_its_errors(tmp_path):
    log = tmp_path / "log"
    script = "echo 'Reading lists'; echo 'E: no such package'; echo done; exit 3"
    with pytest.raises(steps.CommandError, match=r"^sh ended with 3: E: no such package$"):
        steps.run_logged(["sh", "-c", script], log)
    assert "Reading lists" in log.read_text()


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path):
    with pytest.raises(steps.CommandError, match="gave up after"):
        steps.run_logged(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"], tmp_path / "log", timeout=0.5)
    child = int((tmp_path / "child").read_text())
    for _ in range(500):  # the signal was sent; it dies in its own time
        try:
            state = Path(f"/proc/{child}/stat").read_text().split()[2]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {child} runs on")


def test_addresses_do_not_reach_the_terminal():
    assert build_python.without_addresses("E: Failed http://a.example/x 404") == "E: Failed the archive 404"


def test_a_folder_with_a_space_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FREERUN_CACHE", str(tmp_path / "my cache"))
    with pytest.raises(build_python.BuildError, match="space in its name"):
        build_python.build()
