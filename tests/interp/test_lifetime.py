"""Interpreters start when they are needed, live as long as the runtime, and end with it, whatever they are doing."""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import isolated_support as there
import pytest
from support import (
    CURRENT,
    FREE_THREADED,
    MULTI,
    PATIENCE,
    open_fds,
    run_script,
    seeded,
    stress_seconds,
    thread_count,
    until,
    wait_until,
)

import freerun
from freerun.interp import spawn_isolated


def workers() -> int:
    return sum(thread.name.startswith("freerun-i") for thread in threading.enumerate())


def build(flavor: Any = CURRENT, count: int = 2) -> freerun.Runtime:
    return flavor.builder().worker_threads(count).workers("interpreters").build()


def test_they_start_when_needed() -> None:
    before = workers()
    with build(count=3) as rt:
        assert workers() == before

        async def main() -> None:
            for _ in range(5):  # one after the other: one is enough
                await spawn_isolated(there.echo)
            assert workers() == before + 1
            for handle in [spawn_isolated(there.async_sleep, 0.01) for _ in range(20)]:
                await handle
            assert workers() == before + 3

        rt.block_on(main)
    assert workers() == before


def test_each_runs_in_its_own_interpreter_on_its_own_thread() -> None:
    with build() as rt:

        async def main() -> set[tuple[int, int]]:
            seen: set[tuple[int, int]] = set()
            while len(seen) < 2:
                handles = [spawn_isolated(there.where) for _ in range(8)]
                seen |= {await handle for handle in handles}
            return seen

        seen = rt.block_on(main)
    assert len({interpreter for interpreter, _ in seen} - {there.interpreter()}) == 2
    assert len({thread for _, thread in seen} - {threading.get_ident()}) == 2


def test_what_waits_behind_a_busy_worker_goes_to_another(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with build() as rt:

        async def main() -> None:
            for handle in [spawn_isolated(there.async_sleep, 0.01) for _ in range(4)]:
                await handle
            long = spawn_isolated(there.block_until, str(gate))
            for _ in range(20):
                await spawn_isolated(there.echo)
            assert not long.is_finished()
            gate.touch()
            await long

        rt.block_on(main)


def test_idle_interpreters_cost_nothing() -> None:
    """Nor after brief calls, for which both ends spin."""
    with build() as rt:

        async def main() -> None:
            for n in range(500):
                assert await spawn_isolated(there.echo, n) == (n,)
            for handle in [spawn_isolated(there.async_sleep, 0.01) for _ in range(8)]:
                await handle

        rt.block_on(main)
        least = 1.0
        for _ in range(20):
            start = time.process_time()
            time.sleep(0.2)
            least = min(least, time.process_time() - start)
            if least < 0.004:
                break
        assert least < 0.004  # 2 %; polling every 10 ms would be more


def test_a_worker_that_shuts_its_runtime_down_is_replaced() -> None:
    with build(count=1) as rt:

        async def main() -> None:
            with pytest.raises(freerun.JoinError):
                await spawn_isolated(there.shut_down_here)
            assert await spawn_isolated(there.echo, 1) == (1,)

        rt.block_on(main)


def test_a_task_over_there_that_exits_harms_nobody() -> None:
    with build(count=1) as rt:

        async def main() -> None:
            bystander = spawn_isolated(there.async_sleep, 0.2)
            with pytest.raises(freerun.JoinError, match="sys.exit"):
                await spawn_isolated(there.leave_in_a_task)
            assert await bystander == 0.2

        rt.block_on(main)


def test_a_paused_clock_stands_still_meanwhile() -> None:
    builder = freerun.Builder.new_current_thread().worker_threads(1).workers("interpreters").start_paused()
    with builder.build() as rt:

        async def main() -> None:
            start = freerun.time.Instant.now()
            handle = spawn_isolated(there.block, 0.05)
            timer = freerun.spawn(freerun.time.sleep, 3600)
            await handle
            assert start.elapsed() < 3600
            await timer
            assert start.elapsed() >= 3600

        rt.block_on(main)


def test_shutdown_cancels_and_waits(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    rt = build(MULTI[1])

    async def main() -> list[freerun.JoinHandle[Any]]:
        handles = [spawn_isolated(there.wait_and_clean, str(path), str(n), 0.02) for n in range(6)]
        await until(lambda: path.exists() and len(path.read_text().splitlines()) == 6)
        return handles

    handles = rt.block_on(main)
    rt.shutdown()
    assert len(path.read_text().splitlines()) == 12
    for handle in handles:
        with pytest.raises(freerun.JoinError):
            handle.blocking_result()


def test_shutdown_with_a_deadline(reports: Any) -> None:
    before = workers()
    rt = build()

    async def main() -> freerun.JoinHandle[Any]:
        await spawn_isolated(there.echo)
        handle = spawn_isolated(there.kernel, 1 << 40)
        await freerun.time.sleep(0.2)
        return handle

    handle = rt.block_on(main)
    rt.shutdown(0.1)
    assert handle.is_finished()
    assert "kernel" in "".join(reports.messages)
    wait_until(lambda: workers() <= before)  # it was interrupted: it is Python code


ROUNDS = int(os.environ.get("FREERUN_ROUNDS") or 0)
"""That many, however long it takes: ./dev rounds sets it to 1000. Without it, as many as fit into a few seconds."""


@pytest.mark.timeout(0 if ROUNDS else 300 + 2 * stress_seconds(2))
def test_nothing_is_left_after_many_rounds() -> None:
    """Short form of the 1,000 rounds."""
    rng = seeded()

    def one(rt: freerun.Runtime, end: Callable[[], Any]) -> None:
        async def main() -> None:
            handles = [spawn_isolated(there.async_sleep, rng.random() * 0.01) for _ in range(rng.randrange(4))]
            if handles and rng.random() < 0.7:
                await handles[0]

        rt.block_on(main)
        end()

    started = 0

    def round_() -> None:
        nonlocal started
        rt = build(rng.choice([CURRENT, MULTI[1]]), rng.randrange(1, 3))
        end = rng.choice([rt.shutdown, rt.shutdown, rt.shutdown, functools.partial(rt.shutdown, 0.01)])
        one(rt, lambda: None)
        started += workers()
        end()

    for _ in range(3):
        round_()
    gc.collect()
    wait_until(lambda: workers() == 0)
    fds, threads, memory, objects = len(open_fds()), thread_count(), resident(), len(gc.get_objects())
    interpreters = there.interpreters()
    started = rounds = 0
    deadline = time.monotonic() + stress_seconds(2)
    while rounds < (ROUNDS or 1000) and (ROUNDS or time.monotonic() < deadline or rounds < 5):
        round_()
        rounds += 1
    wait_until(lambda: thread_count() <= threads)
    wait_until(lambda: there.interpreters() <= interpreters)
    gc.collect()
    assert len(open_fds()) <= fds
    assert len(gc.get_objects()) <= objects + 1000
    kept = (resident() - memory) / max(1, started)
    print(f"{rounds} rounds, {started} workers, {kept:.0f} KiB for each")
    if rounds >= 100:
        assert kept < ours_at_most()


@pytest.mark.skipif(FREE_THREADED, reason="types are immortal there, so an interpreter's memory is never given back")
def test_an_interpreter_gives_its_memory_back() -> None:
    """As far as CPython does: one object that survives its interpreter keeps all of that one's memory."""

    def once() -> None:
        with build(count=1) as rt:

            async def main() -> None:
                await spawn_isolated(there.a_bit_of_everything)

            rt.block_on(main)

    once()
    once()
    before = resident()
    for _ in range(8):
        once()
    gc.collect()
    kept = (resident() - before) / 8
    assert kept < ours_at_most(), f"{kept:.0f} KiB, CPython itself keeps {bare_interpreter():.0f}"


def ours_at_most() -> float:
    """KiB that may stay of an interpreter: what CPython keeps, a tenth more, and a good third of what ours would be."""
    return 1.1 * bare_interpreter() + 3072


def bare_interpreter() -> float:
    """KiB that CPython keeps of an interpreter that imported about what freerun imports (3.13: megabytes; 3.14: none).
    On free-threaded builds, where freerun's types are immortal, with freerun."""
    from freerun.interp import _subinterpreter

    source = "import freerun" if FREE_THREADED else "import asyncio, dataclasses, logging, pickle, socket, traceback"
    _subinterpreter.run(source)
    before = resident()
    for _ in range(6):
        _subinterpreter.run(source)
    return (resident() - before) / 6


def resident() -> int:
    """KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


# ---- in processes of their own ----


def script(tmp_path: Path, body: str, *arguments: str) -> tuple[int, str, str]:
    """Run a script file, of which functions of `__main__` can be found elsewhere."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    return done.returncode, done.stdout, done.stderr


MAIN = """
    import os, sys, time
    import freerun

    class Point:
        def __init__(self, x):
            self.x = x

    def double(point):
        return Point(2 * point.x)

    def forever():
        while True:
            pass

    async def asleep():
        await freerun.time.sleep(3600)

    def runtime():
        return freerun.Builder.new_current_thread().worker_threads(2).workers("interpreters").build()
"""


def test_functions_and_classes_of_the_script(tmp_path: Path) -> None:
    status, out, err = script(tmp_path, MAIN + """
    print("imported as", __name__, flush=True)

    async def main():
        result = await freerun.spawn_isolated(double, Point(21))
        assert type(result) is Point
        return result.x

    if __name__ == "__main__":
        with runtime() as rt:
            print(rt.block_on(main))
    """)  # fmt: skip
    assert (status, err) == (0, "")
    assert out.split("\n") == ["imported as __main__", "imported as __mp_main__", "42", ""]


def test_a_script_that_does_not_guard_its_main_part(tmp_path: Path) -> None:
    status, out, err = script(tmp_path, MAIN + """
    async def main():
        try:
            await freerun.spawn_isolated(double, Point(21))
        except ImportError as error:
            return str(error)

    with runtime() as rt:
        print(rt.block_on(main))
    """)  # fmt: skip
    assert (status, err) == (0, "")
    assert 'if __name__ == "__main__"' in out


def test_a_function_of_python_c() -> None:
    done = run_script("""
        import freerun
        def mine(): pass
        with freerun.Builder().workers("interpreters").build():
            try:
                freerun.spawn_isolated(mine)
            except TypeError as error:
                print(error)
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert "argument 'fn' (mine) cannot cross" in done.stdout
    assert "__main__, which has no file" in done.stdout


APPLICATION = """
    import freerun

    class Point:
        def __init__(self, x):
            self.x = x

    def double(point):
        return Point(2 * point.x)

    async def main():
        return (await freerun.spawn_isolated(double, Point(21))).x

    if __name__ == "__main__":
        builder = freerun.Builder.new_current_thread().worker_threads(1).workers("interpreters")
        with builder.build() as rt:
            try:
                print(rt.block_on(main))
            except TypeError as error:
                print(error)
"""


@pytest.mark.parametrize("how", ["-m package", "-m module", "folder", "zip", "pipe"])
def test_functions_of_main_however_it_is_started(tmp_path: Path, how: str) -> None:
    import zipfile

    package = tmp_path / "application"
    package.mkdir()
    for path in (package / "__init__.py", package / "__main__.py", package / "module.py"):
        path.write_text("" if path.stem == "__init__" else textwrap.dedent(APPLICATION))
    archive = tmp_path / "application.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(package / "__main__.py", "__main__.py")
    commands = {
        "-m package": ["-m", "application"],
        "-m module": ["-m", "application.module"],
        "folder": [str(package)],
        "zip": [str(archive)],
        "pipe": ["-"],
    }
    done = subprocess.run(
        [sys.executable, *commands[how]],
        input=textwrap.dedent(APPLICATION) if how == "pipe" else "",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    if how == "pipe":
        assert "argument 'fn' (double) cannot cross" in done.stdout
        assert "__main__, which has no file" in done.stdout
    else:
        assert done.stdout == "42\n"


def test_what_only_the_guarded_part_defines(tmp_path: Path) -> None:
    status, out, err = script(tmp_path, MAIN + """
    if __name__ == "__main__":
        def late():
            pass

        async def main():
            try:
                await freerun.spawn_isolated(late)
            except AttributeError as error:
                return error.__notes__[0]

        with runtime() as rt:
            print(rt.block_on(main))
    """)  # fmt: skip
    assert (status, err) == (0, "")
    assert "define it above" in out


def test_ctrl_c_with_work_in_flight(tmp_path: Path) -> None:
    """The work is cancelled, its cleanup runs over there, and the process ends as by Ctrl-C."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(MAIN + """
    def say(line):  # in one write: unbuffered, print() makes two, and another interpreter's may come between
        os.write(1, f"{line}\\n".encode())

    async def clean():
        say("began")
        try:
            await freerun.time.sleep(3600)
        finally:
            await freerun.time.sleep(0.01)
            say("cleaned")

    async def main():
        for handle in [freerun.spawn_isolated(clean) for _ in range(3)]:
            await handle

    if __name__ == "__main__":
        with runtime() as rt:
            rt.block_on(main)
    """))  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    with process:
        try:
            assert process.stdout
            for _ in range(3):
                assert process.stdout.readline() == "began\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert out == 3 * "cleaned\n"
    assert err.endswith("KeyboardInterrupt\n")
    assert "freerun/interp" not in err
    assert err.count("Traceback") == 1


@pytest.mark.parametrize("what", ["asleep", "forever", "time.sleep, 3600", "double, Point(1)"])
def test_exit_with_work_in_flight(tmp_path: Path, what: str) -> None:
    """The interpreter exits with its own status and without a crash, and does not wait for ever."""
    status, out, err = script(tmp_path, MAIN + f"""
    async def main():
        await freerun.spawn_isolated(abs, -1)
        for _ in range(3):
            freerun.spawn_isolated({what}).detach()
        await freerun.time.sleep(0.2)

    if __name__ == "__main__":
        rt = runtime()
        rt.block_on(main)
        print("leaving", flush=True)
        sys.exit(7)
    """)  # fmt: skip
    assert (status, out) == (7, "leaving\n"), err
    assert "Fatal" not in err


def test_fork(tmp_path: Path) -> None:
    """In the child the runtime says what is wrong, a new one works, and Python comes to its end."""
    status, out, err = script(tmp_path, MAIN + """
    async def main():
        return (await freerun.spawn_isolated(double, Point(2))).x

    if __name__ == "__main__":
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        rt = runtime()
        print(rt.block_on(main), flush=True)
        pid = os.fork()
        if pid == 0:
            try:
                rt.block_on(main)
            except RuntimeError as error:
                print(error, flush=True)
            with runtime() as mine:
                print(mine.block_on(main), flush=True)
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        print(rt.block_on(main))
        rt.shutdown()
    """)  # fmt: skip
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert "was made before fork()" in lines[1]
    assert [lines[0], *lines[2:]] == ["4", "4", "3", "4"]
