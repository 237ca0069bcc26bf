"""`RemoteTraceback`: where an exception was raised, in words, since a traceback cannot leave its interpreter."""

from __future__ import annotations

__all__ = ["RemoteTraceback"]


class RemoteTraceback(Exception):
    """The cause of an exception that came from an isolated task: the traceback as it stood over there, as text.

    `str()` gives the text. It is the `__cause__`, so that Python prints it above the traceback of the `await`, on every
    build, whatever the workers are.

    Example::

        import freerun
        from freerun.interp import RemoteTraceback, spawn_isolated

        async def main() -> str:
            try:
                await spawn_isolated(int, "seven")
            except ValueError as error:
                assert isinstance(error.__cause__, RemoteTraceback)
                return str(error.__cause__)
            return ""

        assert "invalid literal" in freerun.run(main)
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


RemoteTraceback.__module__ = "freerun.interp"  # where users know it from
