"""`spawn_isolated`: what crosses, how it ends, how it is aborted. The same on interpreters and on threads."""

from __future__ import annotations

import contextvars
import gc
import math
import threading
from pathlib import Path
from typing import Any

import isolated_support as there
import pytest
from support import PATIENCE, seeded, until, wait_until

import freerun
from freerun.interp import RemoteTraceback, spawn_isolated


def run(rt: freerun.Runtime, fn: Any, *args: Any) -> Any:
    """The result of one isolated call."""

    async def main() -> Any:
        return await spawn_isolated(fn, *args)

    return rt.block_on(main)


def read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# ---- values ----


@pytest.mark.parametrize("value", [
    None, True, 7, -(1 << 100), 1.5, float("inf"), "text", "", "\ud800 surrogate", b"bytes", b"", b"x" * 100_000,
    (), (1, ("nested", None, b"y" * 20_000)), [1, [2]], {"a": {1, 2}}, 1j, range(3), Path("x"),
    bytearray(b"z" * 50_000),
], ids=lambda value: repr(value)[:20])  # fmt: skip
@pytest.mark.parametrize("fn", [there.echo, there.async_echo], ids=["sync", "async"])
def test_values_come_back_equal(shared: freerun.Runtime, fn: Any, value: Any) -> None:
    (result,) = run(shared, fn, value)
    assert result == value
    assert type(result) is type(value)


def test_arguments_are_copies(shared: freerun.Runtime) -> None:
    inner = [1]
    first, second = run(shared, there.echo, inner, inner)
    assert first == inner
    assert first is not inner
    assert first is second  # one argument list, pickled as one


def test_callables(shared: freerun.Runtime) -> None:
    assert run(shared, math.factorial, 5) == 120
    assert run(shared, "abc".upper) == "ABC"
    assert run(shared, Path, "a") == Path("a")
    assert run(shared, there.a_bit_of_everything) == ([0, 1, 2, 3, 4], 6, b"hello")


def test_many_at_once(shared: freerun.Runtime) -> None:
    async def main() -> list[Any]:
        handles = [spawn_isolated(there.async_echo, n) for n in range(300)]
        return [await handle for handle in handles]

    assert shared.block_on(main) == [(n,) for n in range(300)]


@pytest.mark.parametrize(("args", "message"), [
    ((lambda: 1,), r"argument 'fn' \(.*<lambda>\) cannot cross.*can be imported"),
    ((there.echo, 1, threading.Lock()), r"argument 2 \(lock\) cannot cross.*pickle"),
    ((there.echo, [lambda: 1]), r"argument 1 \(list\) cannot cross"),
    ((there.echo, memoryview(b"abc")[::2], {1: threading.Lock()}), r"argument 2 \(dict\) cannot cross"),
    ((3,), r"argument 'fn' must be a function.*int"),
], ids=["lambda", "lock", "inside", "dict", "no function"])  # fmt: skip
def test_what_cannot_cross(shared: freerun.Runtime, args: Any, message: str) -> None:
    with shared.handle().enter(), pytest.raises(TypeError, match=message):
        spawn_isolated(*args)


def test_a_coroutine_is_refused_and_closed(shared: freerun.Runtime) -> None:
    with shared.handle().enter(), pytest.raises(TypeError, match="argument 'fn' must be a function.*coroutine"):
        spawn_isolated(there.async_echo(1))


def test_result_that_cannot_cross(shared: freerun.Runtime) -> None:
    with pytest.raises(TypeError, match=r"the result \(lock\) cannot cross"):
        run(shared, there.lock)


def test_outside_a_runtime_and_after_shutdown() -> None:
    with pytest.raises(RuntimeError, match="no freerun runtime"):
        spawn_isolated(math.sqrt, 1.0)
    rt = freerun.Runtime()
    with rt.handle().enter():
        rt.shutdown()
        with pytest.raises(freerun.RuntimeShutdown):
            spawn_isolated(math.sqrt, 1.0)


def test_context_variables_do_not_cross(shared: freerun.Runtime) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    with shared.handle().enter(), pytest.raises(TypeError, match=r"argument 1 \((_contextvars\.)?ContextVar\)"):
        spawn_isolated(there.context, variable)


# ---- views ----


def test_a_view_is_the_same_memory(shared: freerun.Runtime) -> None:
    data = bytearray(100_000)
    run(shared, there.set_first, memoryview(data), 7)
    assert data[0] == 7
    wait_until(lambda: grows(data))  # nothing holds it any more


def grows(data: bytearray) -> bool:
    gc.collect()  # on free-threaded builds what another thread dropped may wait for this one
    try:
        data += b"grows"
    except BufferError:
        return False
    return True


def test_a_view_keeps_its_shape(shared: freerun.Runtime) -> None:
    import array

    numbers = memoryview(array.array("i", range(6))).cast("B").cast("i", (2, 3))
    assert run(shared, there.describe_view, numbers) == ("i", (2, 3), False, [[0, 1, 2], [3, 4, 5]])
    assert run(shared, there.describe_view, memoryview(b"abcd")[::2]) == ("B", (2,), True, [97, 99])
    assert run(shared, there.describe_view, memoryview(b"")) == ("B", (0,), True, [])


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("make", [bytes, bytearray])
def test_views_in_every_direction(shared: freerun.Runtime, make: Any, size: int) -> None:
    """As an argument, as a result, through a channel: a memoryview with the same bytes, writable if it was."""
    data = make(b"abcde" * (size // 5))

    async def main() -> None:
        tx, rx = freerun.interp.channel(1)
        (result,) = await spawn_isolated(there.echo, memoryview(data))
        await tx.send(memoryview(data))
        for view in (result, await rx.recv()):
            assert (type(view), view.readonly) == (memoryview, make is bytes)
            assert view == data
        if make is bytearray:
            result[0] = 0  # a copy, and nobody else's
            assert data[0] == ord("a")

    shared.block_on(main)
    wait_until(lambda: make is bytes or grows(data))


def test_large_bytes_are_not_copied_within_an_interpreter() -> None:
    data, inner = b"x" * 100_000, b"y" * 100_000
    with freerun.Builder().worker_threads(2).workers("threads").build() as rt:
        first, (second, text) = run(rt, there.echo, data, (inner, "text"))
        assert first is data
        assert second is inner
        assert text == "text"
        changed = bytearray(data)
        (copy,) = run(rt, there.echo, changed)
        assert copy == changed
        assert copy is not changed  # it can be changed, so it goes by value


def test_a_view_ends_with_its_block(shared: freerun.Runtime) -> None:
    """`with memoryview(...)` around the call: nobody holds it any more when the call is over."""
    data = bytearray(100_000)

    async def main() -> None:
        for n in range(50):
            with memoryview(data) as view:
                handle = spawn_isolated(there.async_echo if n % 2 else there.describe_first, view)
                if n % 5 == 0:
                    handle.abort()
                try:
                    await handle
                except freerun.JoinError:
                    assert n % 5 == 0
                del handle
                await until(lambda view=view: can_be_released(view))

    shared.block_on(main)


def can_be_released(view: memoryview) -> bool:
    try:
        view.release()
    except BufferError:
        gc.collect()  # on free-threaded builds, as in grows()
        return False
    return True


def test_a_view_is_given_back_by_an_abort(shared: freerun.Runtime, tmp_path: Path) -> None:
    data = bytearray(b"x" * 50_000)

    async def main() -> None:
        handle = spawn_isolated(there.keep_and_wait, memoryview(data), str(tmp_path / "notes"))
        await until(lambda: read(tmp_path / "notes"))
        assert not grows(data)
        handle.abort()
        with pytest.raises(freerun.JoinError):
            await handle

    shared.block_on(main)
    wait_until(lambda: grows(data))
    assert data[0] == ord("x")


def test_a_view_is_given_back_by_an_interpreter_that_ends() -> None:
    data = bytearray(b"x" * 50_000)
    with freerun.Builder.new_current_thread().worker_threads(1).workers("interpreters").build() as rt:
        run(rt, there.keep, memoryview(data))
        assert not grows(data)
    assert grows(data)


def test_a_view_outlives_the_interpreter_that_lent_it(interpreters: freerun.Runtime) -> None:
    async def main() -> list[bytes]:
        for handle in [spawn_isolated(there.async_sleep, 0.01) for _ in range(8)]:  # both start
            await handle
        with pytest.raises(freerun.JoinError):
            await spawn_isolated(there.lend_and_end)
        found: list[bytes] = []
        while len(found) < 2:  # there are two workers again, and one has them
            handles = [spawn_isolated(there.kept) for _ in range(8)]
            found = max([await handle for handle in handles], key=len)
        return found

    assert interpreters.block_on(main) == [b"lent" * 25, b"lent" * 25_000]


def test_a_view_as_a_result_is_a_copy(shared: freerun.Runtime) -> None:
    view = run(shared, there.view_of, b"q" * 50_000)
    assert view == b"q" * 50_000


def test_what_is_lent_is_released_once_nobody_looks(shared: freerun.Runtime) -> None:
    data = bytearray(b"x" * 50_000)

    async def main() -> None:
        await spawn_isolated(there.keep, memoryview(data))
        with pytest.raises(BufferError):
            data.extend(b"y")
        while True:  # there are two workers, and one has it
            for handle in [spawn_isolated(there.let_go) for _ in range(8)]:
                await handle
            try:
                data.extend(b"y")
            except BufferError:
                continue
            break

    shared.block_on(main)
    assert len(data) == 50_001


# ---- errors ----


@pytest.mark.parametrize("fn", [there.fail, there.async_fail], ids=["sync", "async"])
def test_exceptions_cross_with_their_traceback(shared: freerun.Runtime, fn: Any) -> None:
    with pytest.raises(ValueError, match="^oh no$") as caught:
        run(shared, fn, "oh no")
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert fn.__name__ in str(caught.value.__cause__)
    assert "raise ValueError(message)" in str(caught.value.__cause__)


def test_exceptions_that_cannot_be_rebuilt(shared: freerun.Runtime) -> None:
    with pytest.raises((RuntimeError, there.OddError), match="1 and 2"):
        run(shared, there.fail_with, there.OddError, 1, 2)
    with pytest.raises((RuntimeError, there.LocalStateError), match="it has a lock"):
        run(shared, there.fail_with, there.LocalStateError)


def test_exceptions_with_an_init_of_their_own(shared: freerun.Runtime) -> None:
    with pytest.raises(there.Refused, match="^it refused with 7$") as caught:
        run(shared, there.refuse)
    assert caught.value.code == 7
    with pytest.raises(ExceptionGroup) as group:
        run(shared, there.refuse_in_a_group)
    assert group.value.subgroup(there.Refused) is not None
    assert "refuse_in_a_group" in str(group.value.__cause__)
    (error,) = run(shared, there.echo, there.Refused("an argument", code=3))
    assert (str(error), error.code) == ("an argument refused with 3", 3)


def test_a_hostile_exception(shared: freerun.Runtime) -> None:
    with pytest.raises(RuntimeError, match="Hostile"):
        run(shared, there.fail_with, there.Hostile)
    assert run(shared, there.echo, 1) == (1,)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_an_exception_that_means_the_end_is_no_result(shared: freerun.Runtime, kind: type[Exception]) -> None:
    with pytest.raises((RuntimeError, StopAsyncIteration)):
        run(shared, there.fail_with, kind, 4)


def test_sys_exit_and_keyboard_interrupt_end_the_task_only(shared: freerun.Runtime) -> None:
    for fn, args, words in [
        (there.leave, (3,), r"called sys.exit\(\): SystemExit\(3\)"),
        (there.fail_with, (KeyboardInterrupt,), "raised KeyboardInterrupt"),
    ]:
        with pytest.raises(freerun.JoinError, match=words) as caught:
            run(shared, fn, *args)
        assert caught.value.is_panic()
        assert not caught.value.is_cancelled()
    assert run(shared, there.echo, 1) == (1,)


def test_recursion_to_the_limit(shared: freerun.Runtime) -> None:
    with pytest.raises(RecursionError):
        run(shared, there.recurse)
    assert run(shared, there.echo, 1) == (1,)


def test_an_import_that_fails(shared: freerun.Runtime) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        run(shared, there.import_module, "no_such_module_at_all")
    assert run(shared, there.import_module, "json") == "json"


def test_a_module_that_refuses_interpreters(interpreters: freerun.Runtime) -> None:
    with pytest.raises(ImportError, match="psutil.* does not support loading in subinterpreters") as caught:
        run(interpreters, there.import_module, "psutil")
    assert "spawn_blocking" in caught.value.__notes__[0]
    assert run(interpreters, there.echo, 1) == (1,)


def test_a_failure_that_nobody_awaits_is_reported(shared: freerun.Runtime, reports: Any) -> None:
    async def main() -> None:
        spawn_isolated(there.fail, "unheard")
        await until(lambda: "failed, and nobody took its result" in "".join(reports.messages))

    shared.block_on(main)


# ---- the handle ----


def test_handle(shared: freerun.Runtime) -> None:
    async def main() -> None:
        handle = spawn_isolated(there.async_sleep, 0.01)
        assert not handle.is_finished()
        assert handle.name == "async_sleep"
        assert await handle == 0.01
        assert handle.is_finished()
        assert not handle.abort()
        assert await handle == 0.01  # as of spawn(): kept for as long as the handle is

    shared.block_on(main)


def test_awaited_by_two(shared: freerun.Runtime) -> None:
    async def main() -> None:
        handle = spawn_isolated(there.async_sleep, 0.01)

        async def take() -> float:
            return await handle

        assert [await each for each in [freerun.spawn(take), freerun.spawn(take)]] == [0.01, 0.01]

    shared.block_on(main)


def test_of_a_runtime_and_of_a_handle(shared: freerun.Runtime) -> None:
    async def main() -> Any:
        return await shared.spawn_isolated(there.echo, 1), await freerun.Handle.current().spawn_isolated(there.echo, 2)

    assert shared.block_on(main) == ((1,), (2,))


def test_from_a_plain_thread(kind: str) -> None:
    with freerun.Builder().worker_threads(2).workers(kind).build() as rt, rt.handle().enter():
        assert spawn_isolated(there.echo, 1).blocking_result(PATIENCE) == (1,)


def test_a_dropped_handle_lets_it_run(shared: freerun.Runtime, tmp_path: Path) -> None:
    path = tmp_path / "notes"

    async def main() -> None:
        spawn_isolated(there.note, str(path), "ran")
        await until(lambda: read(path) == ["ran"])

    shared.block_on(main)


def test_isolated_work_out_of_isolated_work(shared: freerun.Runtime) -> None:
    assert run(shared, there.nested, 6) == sum(there.kernel(n) for n in range(6))


# ---- aborting ----


def test_abort_runs_the_cleanup_and_waits_for_it(shared: freerun.Runtime, tmp_path: Path) -> None:
    path = tmp_path / "notes"

    async def main() -> None:
        handle = spawn_isolated(there.wait_and_clean, str(path), "it", 0.02)
        await until(lambda: read(path))
        assert handle.abort()
        with pytest.raises(freerun.JoinError) as caught:
            await handle
        assert caught.value.is_cancelled()
        assert read(path) == ["it began", "it cleaned"]

    shared.block_on(main)


def test_an_abort_that_is_swallowed(shared: freerun.Runtime, tmp_path: Path) -> None:
    path = tmp_path / "notes"

    async def main() -> str:
        handle = spawn_isolated(there.stubborn, str(path))
        await until(lambda: read(path))
        handle.abort()
        return await handle

    assert shared.block_on(main) == "no"


def test_abort_before_it_began(interpreters: freerun.Runtime, tmp_path: Path) -> None:
    path = tmp_path / "notes"

    async def main() -> None:
        blocked = [spawn_isolated(there.block_until, str(tmp_path / "gate")) for _ in range(2)]
        queued = spawn_isolated(there.note, str(path), "ran")
        await freerun.time.sleep(0.01)
        queued.abort()
        with pytest.raises(freerun.JoinError):
            await queued
        (tmp_path / "gate").touch()
        for each in blocked:
            await each
        await spawn_isolated(there.echo)

    interpreters.block_on(main)
    assert read(path) == []


def test_abort_of_a_sync_function_waits_for_its_end(interpreters: freerun.Runtime) -> None:
    async def main() -> Any:
        await spawn_isolated(there.echo)
        handle = spawn_isolated(there.kernel, 1_000_000)
        await freerun.time.sleep(0.005)
        handle.abort()
        try:
            return await handle
        except freerun.JoinError as error:
            return error.is_cancelled()

    assert interpreters.block_on(main) in {there.kernel(1_000_000), True}


def test_aborts_at_every_moment(shared: freerun.Runtime, tmp_path: Path) -> None:
    """Whenever an abort comes: the task ends once, and what began has ended before its handle is finished."""
    rng = seeded()
    path = tmp_path / "notes"

    async def one(name: str) -> str:
        handle = spawn_isolated(there.sleep_steps, str(path), name, rng.randrange(4))
        for _ in range(rng.randrange(3)):
            await freerun.yield_now()
        await freerun.time.sleep(rng.random() * 0.006)
        handle.abort()
        try:
            await handle
        except freerun.JoinError as error:
            assert error.is_cancelled()
            outcome = "cancelled"
        else:
            outcome = "returned"
        notes = read(path)
        assert notes.count(f"{name} began") == notes.count(f"{name} ended"), outcome
        return outcome

    async def main() -> list[str]:
        outcomes = []
        for batch in range(20):
            handles = [freerun.spawn(one, f"{batch}.{n}") for n in range(10)]
            outcomes += [await handle for handle in handles]
        return outcomes

    assert len(shared.block_on(main)) == 200


# ---- sockets ----


def test_a_listener_serves_from_several_workers(interpreters: freerun.Runtime) -> None:
    from freerun.net import TcpListener, TcpStream

    async def ask(address: Any) -> int:
        async with TcpStream.connect(address) as stream:
            return int(await stream.read())

    async def main() -> None:
        tx, rx = freerun.interp.channel(1)
        async with TcpListener.bind("127.0.0.1:0") as listener:
            address = listener.local_addr
            servers = [spawn_isolated(there.serve, listener, rx) for _ in range(2)]
            listener.close()  # theirs are their own
            seen: set[int] = set()
            asked = 0
            while len(seen) < 2:  # one in each: the second was kept for the worker that was starting
                handles = [freerun.spawn(ask, address) for _ in range(10)]
                seen |= {await handle for handle in handles}
                asked += 10
            tx.close()
            assert sum([await server for server in servers]) == asked
            assert 0 not in seen

    interpreters.block_on(main)


def test_a_closed_listener_cannot_cross(shared: freerun.Runtime) -> None:
    from freerun.net import TcpListener

    async def main() -> None:
        async with TcpListener.bind("127.0.0.1:0") as listener:
            listener.close()
            with pytest.raises(TypeError, match=r"argument 1 \(TcpListener\) cannot cross.*closed"):
                spawn_isolated(there.echo, listener)

    shared.block_on(main)
