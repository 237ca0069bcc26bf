"""`Command`: arguments, environment, directory, streams; what cannot be started, and why."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_support import check_program
from process_support import children, no_child_left, own_pipes, python, shell
from support import PATIENCE, Flavor, every_flavor, occupy, open_fds, until

import freerun
from freerun.net import UnixStream
from freerun.process import Child, Command, ExitStatus, Output, Stdio


async def text(command: Command) -> str:
    output = await command.output()
    assert output.status.success, output
    assert output.stderr == b""
    return output.stdout.decode()


@every_flavor
async def test_arguments() -> None:
    show = 'for each in "$0" "$@"; do printf "<%s>" "$each"; done'
    command = Command("sh", "-c", show).arg("name").args(["a b", b"c", Path("/d"), "", "é", "*"])
    assert await text(command) == "<name><a b><c></d><><é><*>"
    assert await text(command.arg("more")) == "<name><a b><c></d><><é><*><more>"
    assert repr(Command("ls", "-l")) == "<Command 'ls' '-l'>"
    assert await text(Command("sh").arg0("other").args(["-c", "ps -o args= $$ || cat /proc/$$/cmdline"])) != ""
    first = "import sys; print(open('/proc/self/cmdline').read().split(chr(0))[0])"
    assert await text(Command(sys.executable).args(["-I", "-S", "-c", first]).arg0("another")) == "another\n"


@every_flavor
async def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FR_INHERITED", "inherited")
    show = 'echo "$FR_INHERITED,$FR_ONE,$FR_TWO"'
    assert await text(shell(show)) == "inherited,,\n"
    command = shell(show).env("FR_ONE", "1").envs({"FR_TWO": b"2"})
    assert await text(command) == "inherited,1,2\n"
    assert await text(command.env_remove("FR_INHERITED").envs([("FR_ONE", "=")])) == ",=,2\n"
    assert await text(command.env("FR_INHERITED", "mine")) == "mine,=,2\n"
    assert "FR_ONE" not in os.environ
    cleared = Command("/usr/bin/env").env("FR_ONE", "1").env_clear().env("FR_TWO", "2")
    assert await text(cleared) == "FR_TWO=2\n"


@every_flavor
async def test_the_childs_own_path_is_searched(tmp_path: Path) -> None:
    program = tmp_path / "fr-program"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    with pytest.raises(FileNotFoundError, match="no such program in PATH: 'fr-program'"):
        await Command("fr-program").output()
    assert await text(Command("fr-program").env("PATH", f"{tmp_path}:/usr/bin:/bin")) == "found\n"


@every_flavor
async def test_directory(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    assert await text(Command("ls").current_dir(tmp_path)) == "mark\n"
    (tmp_path / "here").write_text("#!/bin/sh\necho $1\n")
    (tmp_path / "here").chmod(0o755)
    assert await text(Command("./here", "x").current_dir(os.fsencode(tmp_path))) == "x\n"


@every_flavor
async def test_process_groups() -> None:
    async with (
        python("import os; print(os.getpgid(0)); input()")
        .stdin(Stdio.piped())
        .stdout(Stdio.piped())
        .process_group(0)
        .spawn() as leader
    ):
        assert int(await leader.stdout.read()) == leader.id != os.getpgid(0)
        member = python("import os; print(os.getpgid(0))").process_group(leader.id)
        assert int(await text(member)) == leader.id
        os.killpg(leader.id, signal.SIGTERM)
        assert (await leader.wait()).signal == signal.SIGTERM


@every_flavor
async def test_descriptors() -> None:
    """None but those that were asked for, and no pipe of another child's."""
    reading, writing = os.pipe()
    open_now = "os.path.exists(f'/proc/self/fd/{fd}')"  # unlike the one that lists them
    show = f"import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if {open_now}))"
    async with Command("cat").stdin(Stdio.piped()).stdout(Stdio.piped()).spawn():
        assert await text(python(show)) == "[0, 1, 2]\n"
        assert await text(python(show).pass_fds(writing)) == str([0, 1, 2, writing]) + "\n"
    assert await python("import os, sys; os.write(int(sys.argv[1]), b'x')", str(writing)).pass_fds(writing).status()
    assert os.read(reading, 10) == b"x"
    os.close(reading)
    os.close(writing)


@every_flavor
async def test_signals_are_not_blocked() -> None:
    mask = await text(Command("grep").args(["^SigBlk:", "/proc/self/status"]))
    assert int(mask.split()[1], 16) == 0
    ignored = await text(Command("grep").args(["^SigIgn:", "/proc/self/status"]))
    assert not int(ignored.split()[1], 16) >> (signal.SIGPIPE - 1) & 1


SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; print('ready', flush=True); time.sleep(3600)"]


def terminated() -> int:
    """What a child of `subprocess`, started on this thread, ends with when it is told to."""
    with subprocess.Popen(SLEEPER, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline() == b"ready\n"
        child.terminate()
        try:
            return child.wait(PATIENCE)
        finally:
            child.kill()


@every_flavor
async def test_a_child_of_subprocess_can_be_terminated(flavor: Flavor) -> None:
    """It inherits what its starter blocks: nothing, be that a worker, a thread of the pool or a stand-in."""

    async def in_a_task() -> int:
        return terminated()

    async def in_place() -> int:
        return freerun.task.block_in_place(terminated)

    assert await freerun.spawn(in_a_task) == -signal.SIGTERM
    assert await freerun.spawn_blocking(terminated) == -signal.SIGTERM
    if not flavor.current_thread:
        assert await freerun.spawn(in_place) == -signal.SIGTERM
    if flavor.workers > 1:
        release = await occupy(flavor.workers - 1)
        stuck = freerun.spawn(in_a_task)
        terminated()  # every worker is stuck
        release()
        assert await stuck == -signal.SIGTERM


@every_flavor
async def test_streams_are_blocking_for_the_child() -> None:
    show = "import os; print(*(os.get_blocking(fd) for fd in (0, 1, 2)))"
    command = python(show).stdin(Stdio.piped())
    assert await text(command) == "True True True\n"


@every_flavor
async def test_files_and_constants(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        assert (await Command("cat").stdin(source).stdout(sink).status()).success
        assert (await Command("cat").stdin(Stdio.null()).stdout(sink.fileno()).status()).success
        sink.write(b", and more")  # it is still open
    assert (tmp_path / "out").read_bytes() == b"from a file, and more"
    both = await shell("echo out; echo err >&2").stdout(subprocess.PIPE).stderr(subprocess.STDOUT).output()
    assert both == Output(ExitStatus(0), b"out\nerr\n", b"")
    quiet = await shell("echo out; echo err >&2").stderr(subprocess.DEVNULL).output()
    assert (quiet.stdout, quiet.stderr) == (b"out\n", b"")
    assert (await Command("cat").stdin(subprocess.DEVNULL).output()).stdout == b""
    assert (await Command("cat").output()).stdout == b""  # nobody's input is taken


@every_flavor
async def test_inherited() -> None:
    """With `status()` and `spawn()` the streams are this program's."""
    source = """
import freerun
from freerun.process import Command, Stdio
async def main():
    print("before", flush=True)
    assert (await Command("cat").status()).success
    assert (await Command("cat").stdin(None).stdout(Stdio.inherit()).status()).success
freerun.run(main, flavor="current_thread")
"""
    command = Command(sys.executable, "-c", source).stdin(Stdio.piped()).stdout(Stdio.piped())
    async with command.env("PYTHONSAFEPATH", "1").spawn() as child:
        await child.stdin.write_all(b"typed\n")
        assert await child.wait_with_output() == Output(ExitStatus(0), b"before\ntyped\n", b"")


@every_flavor
async def test_pipelines() -> None:
    """A child's output is given to another one, which finds it blocking."""
    before = children()
    one = await python("print('x' * 300_000)").stdout(Stdio.piped()).spawn()
    pipe = one.stdout
    two = await Command("cat").stdin(pipe).stdout(Stdio.piped()).spawn()
    assert pipe.closed
    three = await Command("wc", "-c").stdin(two.stdout).output()
    assert three.stdout.strip() == b"300001"
    assert (await one.wait()).success
    assert (await two.wait()).success
    with pytest.raises(OSError, match="cannot start a process"):
        await Command("cat").stdin(pipe).output()
    await until(lambda: children() <= before)


@every_flavor
async def test_a_socket_as_a_stream() -> None:
    ours, theirs = UnixStream.pair()
    async with ours:
        child = await Command("cat").stdin(theirs).stdout(Stdio.piped()).spawn()
        assert theirs.closed
        await ours.write_all(b"through a socket")
        await ours.shutdown()
        assert (await child.wait_with_output()).stdout == b"through a socket"


@every_flavor
async def test_a_command_starts_any_number_of_processes() -> None:
    command = shell("echo $$")
    assert len({await text(command) for _ in range(5)}) == 5


@every_flavor
async def test_what_cannot_be_started(tmp_path: Path) -> None:
    plain, broken, folder = tmp_path / "plain", tmp_path / "broken", tmp_path / "folder"
    plain.write_text("no program")
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x00\x01\x02")
    binary.chmod(0o755)
    folder.mkdir()
    before, pipes = children(), own_pipes()
    for kind, program, message in [
        (FileNotFoundError, "fr-no-such-program", "no such program in PATH: 'fr-no-such-program'"),
        (FileNotFoundError, tmp_path / "nothing", f"no such file: '{tmp_path}/nothing'"),
        (NotADirectoryError, plain / "x", f"Not a directory: '{plain}/x'"),
        (PermissionError, plain, f"it is not executable.*: '{plain}'"),
        (PermissionError, folder, f"it is not executable.*: '{folder}'"),
        (FileNotFoundError, broken, f"it is there, but not what it needs to run.*: '{broken}'"),
        (OSError, binary, f"it is no program of this system.*: '{binary}'"),
    ]:
        with pytest.raises(kind, match=message) as info:
            await Command(program).stdin(Stdio.piped()).output()
        assert info.value.filename == str(program)
    with pytest.raises(FileNotFoundError, match=f"working directory of 'ls': No such.*: '{tmp_path}/nowhere'"):
        await Command("ls").current_dir(tmp_path / "nowhere").output()
    with pytest.raises(NotADirectoryError, match=f"the working directory of 'ls': Not a directory: '{plain}'"):
        await Command("ls").current_dir(plain).status()
    with pytest.raises(OSError, match="its arguments and environment are too long") as too_long:
        await Command("true").arg("x" * 10_000_000).status()
    assert too_long.value.errno == errno.E2BIG
    assert own_pipes() <= pipes
    assert children() <= before


def test_too_many_descriptors(rt: freerun.Runtime) -> None:
    async def main() -> int:
        used = len(open_fds())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        failed = 0
        for room in range(12):
            top = max(open_fds())
            blockers = [os.open("/dev/null", os.O_RDONLY) for _ in range(top + 20 - used)]
            highest = max(blockers)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            for fd in blockers[len(blockers) - room :]:
                os.close(fd)
            try:
                await Command("cat").stdin(Stdio.null()).output()
            except OSError as error:
                assert error.errno == errno.EMFILE
                assert "too many files are open in this process" in str(error) or "Too many open files" in str(error)
                failed += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in blockers[: len(blockers) - room]:
                    os.close(fd)
        return failed

    with no_child_left():
        assert 0 < rt.block_on(main) < 12


@pytest.mark.parametrize(("number", "kind"), [(errno.EAGAIN, BlockingIOError), (errno.ENOMEM, OSError)])
def test_too_many_processes(
    rt: freerun.Runtime, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[OSError]
) -> None:
    """Simulated: limits do not hold for root."""

    def refuse(*_args: Any) -> int:
        raise OSError(number, os.strerror(number))

    rt.block_on(Command("true").status())  # the runtime has a pipe of its own
    monkeypatch.setattr(subprocess, "_fork_exec", refuse)
    before = own_pipes()
    with pytest.raises(kind, match="cannot start a process: .* (limit of processes|not enough memory)") as info:
        rt.block_on(Command("cat").output())
    assert info.value.errno == number
    assert info.value.filename == "cat"
    assert own_pipes() <= before


@every_flavor
async def test_users_and_groups() -> None:
    if os.geteuid() != 0:
        with pytest.raises(PermissionError, match="is not allowed"):
            await Command("id").uid(0).output()
        return
    assert await text(Command("id", "-u").uid(65534)) == "65534\n"
    assert await text(Command("id", "-g").gid(65534)) == "65534\n"
    assert await text(Command("id", "-G").uid(65534).gid(65534)) == "65534\n"


def test_bad_arguments() -> None:
    command = Command("true")
    for call, kind, message in [
        (lambda: Command(""), ValueError, "argument 'program' must not be empty"),
        (lambda: Command(None), TypeError, "argument 'program' must be str, bytes or a path, not NoneType"),  # type: ignore[arg-type]
        (lambda: command.arg("a\0b"), ValueError, "argument 'arg' must not contain a null character"),
        (lambda: command.arg(1), TypeError, "argument 'arg' must be str, bytes or a path, not int"),  # type: ignore[arg-type]
        (lambda: command.args("-l"), TypeError, "argument 'args' must be several arguments, not one string"),
        (lambda: command.env("a=b", "c"), ValueError, "argument 'name' must be the name of a variable"),
        (lambda: command.env("", "c"), ValueError, "argument 'name' must be the name of a variable"),
        (lambda: command.env("a", "\0"), ValueError, "argument 'value' must not contain a null"),
        (lambda: command.env_remove("="), ValueError, "argument 'name'"),
        (lambda: command.current_dir(3), TypeError, "argument 'path' must be str"),  # type: ignore[arg-type]
        (lambda: command.stdin("file"), TypeError, "argument 'stdin' must be a Stdio, a descriptor"),
        (lambda: command.stdin(subprocess.STDOUT), ValueError, "argument 'stdin' must be a descriptor"),
        (lambda: command.stdout(-7), ValueError, "argument 'stdout' must be a descriptor"),
        (lambda: command.stdout(True), TypeError, "argument 'stdout'"),
        (lambda: command.kill_on_drop(1), TypeError, "argument 'kill' must be True or False"),  # type: ignore[arg-type]
        (lambda: command.process_group(-1), ValueError, "argument 'pgid' must be at least 0"),
        (lambda: command.pass_fds("3"), TypeError, "argument 'fds'"),  # type: ignore[arg-type]
        (lambda: command.uid("root"), TypeError, "argument 'uid'"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(kind, match=message):
            call()
    assert repr(command) == "<Command 'true'>"
    assert repr(Stdio.piped()) == "<Stdio piped>"


@every_flavor
async def test_a_closed_descriptor() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await Command("cat").stdin(reading).output()


def test_outside_a_runtime() -> None:
    opening = Command("true").spawn()
    with pytest.raises(RuntimeError):
        opening.send(None)


def test_a_runtime_without_io() -> None:
    rt = freerun.Builder.new_current_thread().enable_time().build()
    with rt, no_child_left():
        assert rt.block_on(Command("sleep", "0.05").status()).success
        with pytest.raises(RuntimeError, match="without I/O"):
            rt.block_on(Command("true").output())


def test_sub_interpreters() -> None:
    source = """
import _interpreters
sub = _interpreters.create()
failed = _interpreters.exec(sub, '''if True:
    import freerun
    from freerun.process import Command
    async def main():
        assert (await Command("echo", "one").output()).stdout == b"one\\\\n"
        async with Command("sleep", "3600").kill_on_drop(True).spawn() as child:
            pass
        await Command("true").status()
    freerun.run(main, flavor="current_thread")
''')
assert failed is None, failed
_interpreters.destroy(sub)
"""
    check_program(source)


def test_names() -> None:
    assert Child.__module__ == "freerun.process.child"
    assert freerun.process.Command is Command


@every_flavor
async def test_exit_status() -> None:
    assert str(ExitStatus(3)) == "exit code 3"
    assert str(ExitStatus(-9)) == "ended by SIGKILL"
    assert str(ExitStatus(-40)) == "ended by signal 40"
    assert (ExitStatus(3).code, ExitStatus(3).signal, ExitStatus(3).success) == (3, None, False)
    assert (ExitStatus(-15).code, ExitStatus(-15).signal) == (None, signal.SIGTERM)
    assert ExitStatus(-40).signal == 40
    assert await Command("false").status() == ExitStatus(1)
    assert (await shell("kill -TERM $$").status()).signal is signal.SIGTERM
