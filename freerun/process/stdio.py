"""`Stdio`: what a child's standard stream is connected to."""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from freerun._core._native import IoSource

__all__ = ["Stdio", "as_stdio"]

_PIPE, _STDOUT, _DEVNULL = -1, -2, -3  # of `subprocess`, which is imported when the first process is started


@final
class Stdio:
    """Where a child's standard input, output or error goes. Also made of other things where one is wanted:

    * `Stdio.piped()`, `subprocess.PIPE`: a pipe to this program, `Child.stdin`, `Child.stdout`, `Child.stderr`.
    * `Stdio.null()`, `subprocess.DEVNULL`: `/dev/null`.
    * `Stdio.inherit()`, `None`: this program's own.
    * `subprocess.STDOUT`, for the error stream only: where the output goes.
    * A descriptor, or anything with `fileno()`: a file, a socket. It stays open here.
    * A stream of freerun's, `Child.stdout` of another process for one: it is given away when the process is started,
      and closed here.

    Tokio: `std::process::Stdio`.

    Example::

        import freerun
        from freerun.process import Command, Stdio

        async def main() -> bytes:
            echo = await Command("echo").arg("one two").stdout(Stdio.piped()).spawn()
            words = await Command("wc").arg("-w").stdin(echo.stdout).output()
            await echo.wait()
            return words.stdout.strip()

        assert freerun.run(main) == b"2"
    """

    __slots__ = ("kind", "value")

    PIPED: ClassVar[Final] = "piped"
    NULL: ClassVar[Final] = "null"
    INHERIT: ClassVar[Final] = "inherit"
    STDOUT: ClassVar[Final] = "stdout"
    FD: ClassVar[Final] = "fd"

    def __init__(self, kind: str, value: Any = None) -> None:
        self.kind = kind
        self.value = value

    @classmethod
    def piped(cls) -> Stdio:
        """A pipe to this program. Tokio: `Stdio::piped`."""
        return cls(cls.PIPED)

    @classmethod
    def null(cls) -> Stdio:
        """`/dev/null`. Tokio: `Stdio::null`."""
        return cls(cls.NULL)

    @classmethod
    def inherit(cls) -> Stdio:
        """What this program has. Tokio: `Stdio::inherit`."""
        return cls(cls.INHERIT)

    def __repr__(self) -> str:
        return f"<Stdio {self.kind if self.kind != self.FD else repr(self.value)}>"


_CONSTANTS = {_PIPE: Stdio.PIPED, _DEVNULL: Stdio.NULL, _STDOUT: Stdio.STDOUT}


def as_stdio(value: Any, argument: str) -> Stdio:
    """What `Command.stdin()` and its like take."""
    if isinstance(value, Stdio):
        return value
    if value is None:
        return Stdio.inherit()
    if isinstance(value, int) and not isinstance(value, bool):
        if value in _CONSTANTS and (value != _STDOUT or argument == "stderr"):
            return Stdio(_CONSTANTS[value])
        if value < 0:
            raise ValueError(f"argument '{argument}' must be a descriptor, or a constant of subprocess: {value}")
        return Stdio(Stdio.FD, value)
    if isinstance(value, IoSource) or hasattr(value, "fileno"):
        return Stdio(Stdio.FD, value)
    kind = type(value).__name__
    raise TypeError(f"argument '{argument}' must be a Stdio, a descriptor, or have fileno(), not {kind}: {value!r}")
