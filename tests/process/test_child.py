"""`Child`: pipes, waiting, killing; no zombie, whatever becomes of it."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest
from engine_support import check_program, drive, each_flavor_name, expect_line, finish, process
from process_support import children, is_collected, no_child_left, own_pipes, python, shell, state
from support import (
    CURRENT,
    FLAVORS_AND_DRIVERS,
    Flavor,
    every_flavor,
    in_threads,
    is_parked,
    only,
    seeded,
    until,
    wait_until,
)

import freerun
from freerun.io import BufReader, copy
from freerun.process import Child, Command, ExitStatus, Output, Stdio

FLAVORS = each_flavor_name()

all_ways = pytest.mark.parametrize("flavor", FLAVORS_AND_DRIVERS, indirect=True, ids=str)


@pytest.fixture(params=["pidfd", "no pidfd"])
def pidfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With pidfds, and where the system refuses them."""

    def refuse(_pid: int, _flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if request.param == "no pidfd":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    return str(request.param)


def waiting_child(command: Command | None = None) -> Command:
    """It ends when its standard input does, with code 5."""
    return (command or shell("cat; exit 5")).stdin(Stdio.piped()).stdout(Stdio.piped())


@all_ways
def test_wait(rt: freerun.Runtime, flavor: Flavor, pidfd: str) -> None:
    async def main() -> None:
        child = await waiting_child().spawn()
        stdin = child.take_stdin()
        with pytest.raises(freerun.WouldBlock, match=f"process {child.id} has not ended"):
            child.try_wait()
        waiters = [freerun.spawn(child.wait) for _ in range(3)]
        for waiter in waiters:
            await until(lambda waiter=waiter: is_parked(waiter))
        assert repr(child) == f"<Child {child.id}, running>"
        stdin.close()
        assert [await waiter for waiter in waiters] == [ExitStatus(5)] * 3
        assert await child.wait() == child.try_wait() == ExitStatus(5)
        assert repr(child) == f"<Child {child.id}, exit code 5>"
        assert is_collected(child.id)
        child.send_signal(signal.SIGTERM)  # nothing, and nobody
        child.start_kill()
        assert await child.kill() == ExitStatus(5)

    rt.block_on(main)


@every_flavor
async def test_a_child_that_has_ended_before_anybody_looks() -> None:
    child = await Command("true").spawn()
    await until(lambda: state(child.id) == "Z")
    assert (await child.wait()).success
    other = await Command("false").spawn()
    await until(lambda: state(other.id) == "Z")
    assert other.try_wait() == ExitStatus(1)


@every_flavor
async def test_a_cancelled_wait_can_be_repeated(pidfd: str) -> None:
    async with waiting_child().spawn() as child:
        stdin = child.take_stdin()
        for _ in range(10):
            waiter = freerun.spawn(child.wait)
            await until(lambda: is_parked(waiter))
            waiter.abort()
            with pytest.raises(freerun.JoinError):
                await waiter
        stdin.close()
        assert (await child.wait()).code == 5


@every_flavor
async def test_who_waits_in_line_goes_on_when_the_first_is_cancelled() -> None:
    async with waiting_child().spawn() as child:
        stdin = child.take_stdin()
        first, second = freerun.spawn(child.wait), freerun.spawn(child.wait)
        await until(lambda: is_parked(first) and is_parked(second))
        first.abort()
        await until(first.is_finished)
        stdin.close()
        assert (await second).code == 5


@all_ways
def test_talking(rt: freerun.Runtime, flavor: Flavor) -> None:
    async def main() -> None:
        async with waiting_child(Command("cat")).spawn() as child:
            lines = BufReader(child.stdout).lines()
            for i in range(50):
                await child.stdin.write_all(b"line %d\n" % i)
                assert await anext(lines) == f"line {i}"
            await child.stdin.shutdown()
            assert [line async for line in lines] == []
            assert (await child.wait()).success

    rt.block_on(main)


@every_flavor
async def test_streams_of_freerun_io() -> None:
    """Copied from one child to the other, while we are in between."""
    source = await python("import sys; sys.stdout.write('0123456789' * 50_000)").stdout(Stdio.piped()).spawn()
    async with Command("wc", "-c").stdin(Stdio.piped()).stdout(Stdio.piped()).spawn() as sink:
        assert await copy(source.stdout, sink.stdin) == 500_000
        assert (await sink.wait_with_output()).stdout.strip() == b"500000"
    assert (await source.wait()).success


@every_flavor
async def test_a_child_that_fills_both_pipes() -> None:
    """It would wait for us for ever, if we read one after the other."""
    source = """
import sys
for i in range(200):
    sys.stdout.write("o" * 10_000)
    sys.stderr.write("e" * 10_000)
"""
    output = await python(source).output()
    assert output == Output(ExitStatus(0), b"o" * 2_000_000, b"e" * 2_000_000)


@every_flavor
async def test_only_one_pipe() -> None:
    child = await shell("echo out; echo err >&2").stderr(Stdio.piped()).stdout(Stdio.null()).spawn()
    with pytest.raises(RuntimeError, match=r"the child's stdout is no pipe: .*Command.stdout\(Stdio.piped\(\)\)"):
        _ = child.stdout
    with pytest.raises(RuntimeError, match="the child's stdin is no pipe"):
        child.take_stdin()
    assert await child.wait_with_output() == Output(ExitStatus(0), b"", b"err\n")


@every_flavor
async def test_a_child_that_never_reads() -> None:
    child = await Command("sleep", "3600").stdin(Stdio.piped()).spawn()
    writer = freerun.spawn(child.stdin.write_all, b"x" * 1_000_000)
    await until(lambda: is_parked(writer))
    waiter = freerun.spawn(child.wait)  # leaves the pipe to the writer
    await until(lambda: is_parked(waiter))
    child.start_kill()
    assert (await waiter).signal == signal.SIGKILL
    with pytest.raises(BrokenPipeError):
        await writer


@every_flavor
async def test_wait_ends_the_childs_input() -> None:
    async with waiting_child().spawn() as child:
        await child.stdin.write_all(b"abc")
        assert (await child.wait()).code == 5
        assert child.stdin.closed
        assert await child.stdout.read_to_end() == b"abc"
        with pytest.raises(OSError, match="Bad file descriptor|closed"):
            await child.stdin.write(b"x")


@every_flavor
async def test_pipes_at_their_ends() -> None:
    child = await shell("exec <&-; echo closed; exec sleep 3600").stdin(Stdio.piped()).stdout(Stdio.piped()).spawn()
    async with child:
        assert await child.stdout.read() == b"closed\n"
        with pytest.raises(BrokenPipeError):
            await child.stdin.write_all(b"x")
        with pytest.raises(OSError, match="one cannot look into"):
            await child.stdout.peek()
        reader = freerun.spawn(child.stdout.read)
        await until(lambda: is_parked(reader))
        with pytest.raises(RuntimeError, match="already reading"):
            await child.stdout.read()
        assert repr(child.stdout) == "<ChildStdout>"
        await child.kill()
        assert await reader == b""
    assert repr(child.stdout) == "<ChildStdout closed>"


@every_flavor
async def test_signals() -> None:
    async with (
        python("import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('ready', flush=True); input()")
        .stdin(Stdio.piped())
        .stdout(Stdio.piped())
        .spawn() as child
    ):
        stdin = child.take_stdin()
        assert await child.stdout.read() == b"ready\n"
        child.send_signal(signal.SIGTERM)
        assert (await child.wait()).code == 7
        assert not stdin.closed
        for bad, kind in [(0, ValueError), (99, ValueError), ("TERM", TypeError), (True, TypeError)]:
            with pytest.raises(kind, match="argument 'signum'"):
                child.send_signal(bad)  # type: ignore[arg-type]


@every_flavor
async def test_stopped_is_not_ended() -> None:
    async with waiting_child().spawn() as child:
        stdin = child.take_stdin()
        child.send_signal(signal.SIGSTOP)
        await until(lambda: state(child.id) == "T")
        waiter = freerun.spawn(child.wait)
        await until(lambda: is_parked(waiter))
        child.send_signal(signal.SIGCONT)
        await until(lambda: state(child.id) != "T")
        assert not waiter.is_finished()
        stdin.close()
        assert (await waiter).code == 5


# ---- dropped children ----


@every_flavor
async def test_a_dropped_child_lives_on_and_is_collected(pidfd: str) -> None:
    reading, writing = os.pipe()
    child = await Command("cat").stdin(reading).spawn()
    pid = child.id
    del child
    os.close(reading)
    assert state(pid) in {"R", "S", "D"}
    os.close(writing)
    await until(lambda: is_collected(pid))


@every_flavor
async def test_closed_with_its_pipes() -> None:
    before = own_pipes()
    async with waiting_child().spawn() as child:
        pid = child.id
    await until(lambda: is_collected(pid))
    child.close()
    assert own_pipes() <= before


@every_flavor
async def test_a_pipe_outlives_its_child_object() -> None:
    pipe = (await shell("sleep 0.05; echo late").stdout(Stdio.piped()).spawn()).stdout
    assert await pipe.read_to_end() == b"late\n"


@every_flavor
async def test_kill_on_drop(pidfd: str) -> None:
    for how in ("close", "del", "with", "abort", "timeout"):
        command = Command("sleep", "3600").kill_on_drop(True)
        if how == "timeout":
            before = children()
            with pytest.raises(TimeoutError):
                await freerun.time.timeout(0.05, command.status())
            await until(lambda before=before: children() <= before)
            continue
        child: Any = await command.spawn()
        pid = child.id
        if how == "close":
            child.close()
        elif how == "with":
            async with child:
                pass
        elif how == "abort":
            waiter = freerun.spawn(Child.wait, child)
            await until(lambda waiter=waiter: is_parked(waiter))
            waiter.abort()
            del child
            with pytest.raises(freerun.JoinError):
                await waiter
        child = waiter = None
        await until(lambda pid=pid: is_collected(pid))


@every_flavor
async def test_many_orphans(pidfd: str) -> None:
    before = children()
    for _ in range(60 if pidfd == "pidfd" else 20):
        await Command("sleep", "0.05").spawn()
    await until(lambda: children() <= before)


@every_flavor
async def test_an_aborted_spawn_leaves_nothing() -> None:
    random = seeded()
    before, pipes = children(), own_pipes()

    async def start() -> None:
        async with Command("cat").stdin(Stdio.piped()).stdout(Stdio.piped()).kill_on_drop(True).spawn():
            await freerun.time.sleep(3600)

    starting = [freerun.spawn(start) for _ in range(40)]
    for each in starting:
        if random.random() < 0.5:
            await freerun.time.sleep(random.random() * 0.004)
        each.abort()
    for each in starting:
        with pytest.raises(freerun.JoinError):
            await each
    await until(lambda: children() <= before)
    await until(lambda: own_pipes() <= pipes)


def test_a_thousand_at_once(rt: freerun.Runtime) -> None:
    async def one(i: int) -> int:
        return (await Command("sh", "-c", f"exit {i % 100}").status()).returncode

    async def main() -> None:
        handles = [freerun.spawn(one, i) for i in range(1000)]
        assert [await handle for handle in handles] == [i % 100 for i in range(1000)]

    with no_child_left():
        rt.block_on(main)
    assert rt.metrics().num_blocking_threads <= 24  # some while others are still on their way back


def test_many_outputs_at_once(rt: freerun.Runtime) -> None:
    async def one(i: int) -> bytes:
        return (await shell(f"echo {i}; echo $0$1 >&2", "x").output()).stdout

    async def main() -> None:
        handles = [freerun.spawn(one, i) for i in range(100)]
        assert [await handle for handle in handles] == [b"%d\n" % i for i in range(100)]

    rt.block_on(one, 0)  # the runtime has a pipe of its own
    before = own_pipes()
    with no_child_left():
        rt.block_on(main)
    assert own_pipes() <= before


# ---- runtimes, exit, fork ----


def test_it_outlives_its_runtime(flavor: Flavor) -> None:
    reading, writing = os.pipe()

    async def main() -> Child:
        freerun.spawn(hold)
        return await waiting_child().spawn()

    async def hold() -> None:
        async with Command("cat").stdin(reading).spawn() as child:
            pids.append(child.id)
            await child.wait()

    pids: list[int] = []
    with no_child_left():
        with flavor.builder().build() as rt:
            child = rt.block_on(main)
            stdin = child.take_stdin()
            drive(rt, lambda: pids)
            waiter = rt.spawn(child.wait)
            drive(rt, lambda: is_parked(waiter))
        os.close(reading)
        assert state(child.id) != ""
        assert state(pids[0]) != ""
        os.close(writing)
        wait_until(lambda: is_collected(pids[0]))  # nobody has it any more
        with flavor.builder().build() as other:
            waiter = other.spawn(child.wait)
            drive(other, lambda: is_parked(waiter))
            stdin.close()
            assert other.block_on(child.wait) == ExitStatus(5)


def test_kill_on_drop_at_shutdown(flavor: Flavor) -> None:
    async def main() -> int:
        freerun.spawn(hold)
        await until(lambda: pids)
        return pids[0]

    async def hold() -> None:
        child = await Command("sleep", "3600").kill_on_drop(True).spawn()
        pids.append(child.id)
        await child.wait()

    pids: list[int] = []
    with no_child_left(), flavor.builder().build() as rt:
        rt.block_on(main)


def test_a_runtime_that_is_not_on_the_main_thread(flavor: Flavor) -> None:
    async def main() -> None:
        assert (await Command("echo", "x").output()).stdout == b"x\n"
        assert (await (await Command("sleep", "3600").spawn()).kill()).signal == 9

    def run(_: int) -> None:
        with flavor.builder().build() as rt:
            rt.block_on(main)

    with no_child_left(), in_threads(2, run):
        pass


@only(CURRENT)
def test_somebody_else_collects_it(rt: freerun.Runtime) -> None:
    async def main() -> None:
        child = await Command("true").spawn()
        os.waitpid(child.id, 0)  # noqa: ASYNC222
        for _ in range(2):
            with pytest.raises(ChildProcessError, match=f"the exit status of process {child.id} is lost"):
                await child.wait()
        child.start_kill()
        assert "is lost" in repr(child)
        other = await Command("sleep", "3600").spawn()
        waiter = freerun.spawn(other.wait)
        await until(lambda: is_parked(waiter))
        os.kill(other.id, signal.SIGKILL)
        assert (await waiter).signal == 9
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            ignored = await Command("true").spawn()
            with pytest.raises(ChildProcessError, match="SIGCHLD is ignored"):
                await ignored.wait()
        finally:
            signal.signal(signal.SIGCHLD, before)

    rt.block_on(main)


@pytest.mark.parametrize("flavor_name", FLAVORS)
@pytest.mark.parametrize("kill", [True, False])
def test_interpreter_exit(flavor_name: str, kill: bool) -> None:
    """What is still referenced at the end is killed, or lives on."""
    source = """
import sys, freerun
from freerun.process import Command
async def main():
    global child
    child = await Command("sleep", "3600").stdin(-3).stdout(-3).stderr(-3).kill_on_drop(sys.argv[2] == "True").spawn()
    print(child.id)
freerun.run(main, flavor=sys.argv[1])
"""
    pid = int(check_program(source, flavor_name, str(kill)))
    if kill:
        wait_until(lambda: state(pid) in {"", "Z"})
    else:
        assert state(pid) in {"S", "R", "D"}
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_ctrl_c_ends_it_in_order(flavor_name: str) -> None:
    source = """
import sys, freerun
from freerun.process import Command
async def main():
    child = await Command("sleep", "3600").process_group(0).kill_on_drop(True).spawn()
    print(child.id)
    print("ready")
    await child.wait()
try:
    freerun.run(main, flavor=sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
"""
    with process(source, flavor_name) as child:
        assert child.stdout
        pid = int(child.stdout.readline())
        expect_line(child, "ready")
        child.send_signal(signal.SIGINT)
        assert finish(child) == (0, "interrupted\n", "")
    wait_until(lambda: state(pid) in {"", "Z"})


def test_fork() -> None:
    """The copy in the child is no child of the child's: dropping it kills nobody."""
    source = """
import os, warnings, freerun
from freerun.process import Command
warnings.simplefilter("ignore", DeprecationWarning)   # fork() in a process with threads
async def main():
    return await Command("sleep", "3600").kill_on_drop(True).spawn()
rt = freerun.Builder.new_current_thread().build()
child = rt.block_on(main)
pid = os.fork()
if pid == 0:
    try:
        child.try_wait()
    except RuntimeError as error:
        assert "wait for it there" in str(error)
        child.start_kill()
        child.close()
        async def again():
            assert (await Command("echo", "x").output()).stdout == b"x\\n"
        freerun.run(again, flavor="current_thread")
        os._exit(0)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
try:
    child.try_wait()
except freerun.WouldBlock:
    print("alive")
async def end():
    assert (await child.kill()).signal == 9
rt.block_on(end)
rt.shutdown()
"""
    assert check_program(source) == "alive\n"


@every_flavor
async def test_no_worker_is_stalled() -> None:
    """Others run on while processes are started."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await freerun.time.sleep(0.001)
            ticks += 1

    ticker = freerun.spawn(tick)
    for _ in range(10):
        assert (await Command("true").status()).success
    await until(lambda: ticks > 3)
    ticker.abort()


@pytest.mark.parametrize("flavor_name", FLAVORS)
def test_example(flavor_name: str) -> None:
    from pathlib import Path

    example = Path(__file__).parents[2] / "examples" / "run_program.py"
    done = check_program(example.read_text(), flavor_name)
    assert "sorted: apple, banana, cherry" in done
