"""`Command`: what to start, and how."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from freerun._arguments import flag, integer
from freerun.net._opening import Opening

from ._spawning import Plan, start
from .child import Child
from .exit_status import ExitStatus, Output
from .stdio import Stdio, as_stdio

__all__ = ["Command"]

type Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What a program, an argument, a path may be."""


class Command:
    """A program to start: its arguments, environment, directory, standard streams. No shell is involved.

    Methods that set something return the command, to be chained. It may be started any number of times. A program
    without a `/` is looked for in `PATH`, the child's if its environment is changed.

    Nothing is inherited but what `stdin`, `stdout`, `stderr` and `pass_fds` say. The child begins with every signal
    unblocked, and with the usual handlers.

    Thread safety: one thread at a time sets; starting is for tasks. Tokio: `tokio::process::Command`.

    Example::

        import freerun
        from freerun.process import Command

        async def main() -> str:
            output = await Command("sh").args(["-c", "echo $GREETING"]).env("GREETING", "hello").output()
            assert output.status.success
            return output.stdout.decode()

        assert freerun.run(main) == "hello\\n"
    """

    __slots__ = ("_arg0", "_args", "_changes", "_clear", "_cwd", "_kill_on_drop", "_options", "_program", "_stdio")

    def __init__(self, program: Text, /, *args: Text) -> None:
        self._program = _text(program, "program")
        if not self._program:
            raise ValueError("argument 'program' must not be empty")
        self._args = [_text(each, "args") for each in args]
        self._arg0: str | bytes | None = None
        self._clear = False
        self._changes: dict[str, str | None] = {}
        self._cwd: str | bytes | None = None
        self._kill_on_drop = False
        self._stdio: dict[str, Stdio] = {}
        self._options: dict[str, Any] = {}

    def arg(self, arg: Text, /) -> Self:
        """Add an argument. Errors: `TypeError`; `ValueError` for a null character. Tokio: `Command::arg`."""
        self._args.append(_text(arg, "arg"))
        return self

    def args(self, args: Iterable[Text], /) -> Self:
        """Add several. Errors: as for `arg`. Tokio: `Command::args`."""
        if isinstance(args, str | bytes):
            raise TypeError(f"argument 'args' must be several arguments, not one string: {args!r}; that is arg()")
        self._args.extend([_text(each, "args") for each in args])
        return self

    def arg0(self, arg: Text, /) -> Self:
        """What the program sees as its own name, instead of what it was started as. Tokio: `Command::arg0`."""
        self._arg0 = _text(arg, "arg")
        return self

    def env(self, name: str, value: Text, /) -> Self:
        """Set an environment variable. Errors: `ValueError` for a bad name. Tokio: `Command::env`."""
        self._changes[_name(name)] = os.fsdecode(_text(value, "value"))
        return self

    def envs(self, variables: Mapping[str, Text] | Iterable[tuple[str, Text]], /) -> Self:
        """Set several, from a mapping or from pairs. Tokio: `Command::envs`."""
        pairs = variables.items() if isinstance(variables, Mapping) else variables
        for name, value in pairs:
            self.env(name, value)
        return self

    def env_remove(self, name: str, /) -> Self:
        """Do not pass a variable on. Tokio: `Command::env_remove`."""
        self._changes[_name(name)] = None
        return self

    def env_clear(self) -> Self:
        """Pass nothing on but what `env` sets from here on. Tokio: `Command::env_clear`."""
        self._clear = True
        self._changes.clear()
        return self

    def current_dir(self, path: Text, /) -> Self:
        """Where it is to run. A relative program is looked for from there. Tokio: `Command::current_dir`."""
        self._cwd = _text(path, "path")
        return self

    def stdin(self, stdio: Any, /) -> Self:
        """Its standard input: see `Stdio`. Default: this program's; for `output()` `/dev/null`.

        Tokio: `Command::stdin`.
        """
        self._stdio["stdin"] = as_stdio(stdio, "stdin")
        return self

    def stdout(self, stdio: Any, /) -> Self:
        """Its standard output: see `Stdio`. Default: this program's; for `output()` a pipe.

        Tokio: `Command::stdout`.
        """
        self._stdio["stdout"] = as_stdio(stdio, "stdout")
        return self

    def stderr(self, stdio: Any, /) -> Self:
        """Its error stream: see `Stdio`. Default: this program's; for `output()` a pipe.

        Tokio: `Command::stderr`.
        """
        self._stdio["stderr"] = as_stdio(stdio, "stderr")
        return self

    def kill_on_drop(self, kill: bool, /) -> Self:
        """Whether the child is killed when its `Child` is dropped, or this program ends in order. Default: it lives on.

        Tokio: `Command::kill_on_drop`.

        Example::

            import freerun
            from freerun.process import Command
            from freerun.time import timeout

            async def main() -> str:
                try:
                    await timeout(0.05, Command("sleep").arg("3600").kill_on_drop(True).status())
                except TimeoutError:
                    return "and it sleeps no more"
                return ""

            assert freerun.run(main) == "and it sleeps no more"
        """
        self._kill_on_drop = flag(kill, "kill")
        return self

    def process_group(self, pgid: int, /) -> Self:
        """Put it into a process group; 0: into one of its own, so that Ctrl-C at the terminal does not reach it.

        Tokio: `Command::process_group`.
        """
        self._options["process_group"] = integer(pgid, "pgid", least=0)
        return self

    def uid(self, uid: int, /) -> Self:
        """Run it as this user. Errors, when started: `PermissionError`. Tokio: `Command::uid`."""
        self._options["user"] = integer(uid, "uid", least=0)
        return self

    def gid(self, gid: int, /) -> Self:
        """Run it as this group. Errors, when started: `PermissionError`. Tokio: `Command::gid`."""
        self._options["group"] = integer(gid, "gid", least=0)
        return self

    def pass_fds(self, *fds: int) -> Self:
        """Descriptors that it gets under the same numbers; all others but the standard ones are closed in it.

        They must be open when it is started. Tokio has none; as `subprocess.Popen`'s `pass_fds`.
        """
        self._options["pass_fds"] = tuple(integer(fd, "fds", least=0) for fd in fds)
        return self

    def spawn(self) -> Opening[Child]:
        """Start it: `child = await command.spawn()`, or `async with command.spawn() as child:`.

        It is started on the blocking pool, a few processes at a time.

        Errors: `OSError` that names the program and the reason: `FileNotFoundError` and `NotADirectoryError` (the
        program, or the working directory), `PermissionError`, `EMFILE` (too many files are open), `EAGAIN` (too many
        processes), and so on. `RuntimeError` outside a runtime. Cancel safety: it is not started, or dropped at once,
        which kills it with `kill_on_drop` only. Thread safety: for tasks. Tokio: `Command::spawn`.

        Example::

            import freerun
            from freerun.process import Command

            async def main() -> str:
                try:
                    await Command("no-such-program").spawn()
                except FileNotFoundError as error:
                    return str(error)
                return ""

            assert "no such program in PATH: 'no-such-program'" in freerun.run(main)
        """
        return Opening(self._spawn(self._plan({})))

    async def status(self) -> ExitStatus:
        """Start it and wait until it has ended.

        Errors and cancel safety: as for `spawn()`. Tokio: `Command::status`.
        """
        child = await self._spawn(self._plan({}))
        async with child:
            return await child.wait()

    async def output(self) -> Output:
        """Start it, read what it writes to its output and error stream, and wait until it has ended.

        Errors and cancel safety: as for `spawn()`. Tokio: `Command::output`.
        """
        defaults = {"stdin": Stdio.null(), "stdout": Stdio.piped(), "stderr": Stdio.piped()}
        child = await self._spawn(self._plan(defaults))
        async with child:
            return await child.wait_with_output()

    async def _spawn(self, plan: Plan) -> Child:
        spawned = await start(plan)
        try:
            return Child(spawned)
        except BaseException:
            spawned.drop(kill=True)  # nobody has seen it
            raise

    def _plan(self, defaults: dict[str, Stdio]) -> Plan:
        streams = [self._stdio.get(name, defaults.get(name) or Stdio.inherit()) for name in _STREAMS]
        return Plan(
            program=os.fsdecode(self._program),
            args=[self._program if self._arg0 is None else self._arg0, *self._args],
            executable=self._program,
            env=self._environment(),
            cwd=self._cwd,
            stdio=(streams[0], streams[1], streams[2]),
            kill_on_drop=self._kill_on_drop,
            options=self._popen_options(),
        )

    def _popen_options(self) -> dict[str, Any]:
        # Whoever gives up being root does not want to keep root's groups.
        if "user" in self._options and os.geteuid() == 0:
            return {"extra_groups": [], **self._options}
        return dict(self._options)

    def _environment(self) -> dict[str, str] | None:
        if not self._clear and not self._changes:
            return None
        variables = {} if self._clear else dict(os.environ)
        for name, value in self._changes.items():
            variables.pop(name, None)
            if value is not None:
                variables[name] = value
        return variables

    def __repr__(self) -> str:
        return f"<Command {' '.join(repr(os.fsdecode(each)) for each in (self._program, *self._args))}>"


_STREAMS = ("stdin", "stdout", "stderr")


def _text(value: Any, argument: str) -> str | bytes:
    """A string for the system."""
    try:
        text: str | bytes = os.fspath(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"argument '{argument}' must be str, bytes or a path, not {kind}: {value!r}") from None
    if (b"\0" if isinstance(text, bytes) else "\0") in text:  # type: ignore[operator]
        raise ValueError(f"argument '{argument}' must not contain a null character: {value!r}")
    os.fsencode(text)  # UnicodeEncodeError, a ValueError, here rather than later
    return text


def _name(name: Any) -> str:
    text = os.fsdecode(_text(name, "name"))
    if not text or "=" in text:
        raise ValueError(f"argument 'name' must be the name of a variable, without '=': {name!r}")
    return text
