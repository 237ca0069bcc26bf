"""`TextFile`: a file as text of any encoding."""

from __future__ import annotations

import codecs
import io
import sys
from typing import TYPE_CHECKING, Self, final

from freerun._arguments import integer
from freerun.io._claim import Claim
from freerun.io.errors import EndOfStream, LimitExceeded

if TYPE_CHECKING:
    from types import TracebackType

    from .file import File

__all__ = ["TextFile"]

CHUNK = 65536

_NEWLINES = (None, "\n", "\r\n", "\r")


@final
class TextFile:
    """A file as text. Made by `File.text(encoding, errors, newline)`.

    `encoding` and `errors` are those of `bytes.decode`. Characters may lie across the borders of what is read at once.
    A byte order mark is read and written as the encoding says (`"utf-8-sig"`, `"utf-16"`). `newline`: `None` reads
    `"\\r\\n"` and `"\\r"` as `"\\n"`; any of these three reads lines that end so, unchanged, and writes it for `"\\n"`.

    `close()` and `async with` are the file's. Reading and writing by turns needs a `seek()` in between.

    Errors: `UnicodeDecodeError` for bytes that are no text: what is before them is given first, then every read raises
    it; `LookupError` for an unknown encoding; those of `File`.
    Cancel safety: a read loses nothing; `write` as `File.write_all`. Thread safety: one task at a time, any thread.
    Tokio has none; `tokio_util::codec` comes near.

    Example::

        import freerun
        from freerun import fs

        async def main() -> list[str]:
            async with fs.temp_dir() as folder:
                await fs.write(folder / "latin", "café\\r\\nthé".encode("latin-1"))
                async with (await fs.File.open(folder / "latin")).text("latin-1") as text:
                    return [line async for line in text]

        assert freerun.run(main) == ["café", "thé"]
    """

    __slots__ = ("_at", "_claim", "_decoder", "_encoder", "_ended", "_failed", "_file", "_newline", "_options", "_text")

    def __init__(self, file: File, encoding: str, errors: str, newline: str | None) -> None:
        if newline not in _NEWLINES:
            raise ValueError(f"argument 'newline' must be None, '\\n', '\\r\\n' or '\\r', not {newline!r}")
        codecs.lookup_error(errors)
        self._file = file
        self._newline = newline
        self._options = (encoding, errors)
        self._claim = Claim("using", "this file, which has one position; each task needs its own")
        self._encoder = codecs.getincrementalencoder(encoding)(errors)
        self._reset()

    def _reset(self) -> None:
        encoding, errors = self._options
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._decoder = decoder if self._newline else io.IncrementalNewlineDecoder(decoder, translate=True)
        self._text, self._at = "", 0  # decoded, and how much of it was given out
        self._ended = False
        self._failed: UnicodeDecodeError | None = None

    @property
    def file(self) -> File:
        """The file itself."""
        return self._file

    async def _fill(self) -> bool:
        """Decode some more; `False` at the end."""
        if self._failed is not None:
            raise self._failed
        if self._ended:
            return False
        data = await self._file.read(CHUNK)
        try:
            more = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            good = error.start - (len(error.object) - len(data))  # its object begins with what was kept from before
            more = self._decoder.decode(data[: max(good, 0)])
            self._failed = error
        self._text = self._text[self._at :] + more
        self._at = 0
        self._ended = not data
        return not self._ended or bool(more) or self._failed is not None

    def _take(self, end: int) -> str:
        taken = self._text[self._at : end]
        self._at = end
        return taken

    async def read(self, n: int = CHUNK, /) -> str:
        """Up to `n` characters, `""` at the end of the file. Cancel safe."""
        integer(n, "n")
        with self._claim:
            while self._at == len(self._text) and await self._fill():
                pass
            return self._take(min(self._at + n, len(self._text)))

    async def read_to_end(self) -> str:
        """Read to the end. Cancel safe."""
        with self._claim:
            parts = [self._take(len(self._text))]
            try:
                while await self._fill():
                    parts.append(self._take(len(self._text)))
                return "".join(parts)
            except BaseException:
                self._text, self._at = "".join(parts) + self._text[self._at :], 0
                raise

    async def read_line(self, *, limit: int | None = None) -> str:
        """A line, its end included; the last one may lack it. `""` at the end of the file. Cancel safe.

        `limit` is how many characters it may have. Errors: `LimitExceeded`; the line stays to be read.
        """
        most = sys.maxsize if limit is None else integer(limit, "limit", least=0)
        mark = self._newline or "\n"
        with self._claim:
            searched = self._at
            while (found := self._text.find(mark, searched)) < 0:
                if len(self._text) - self._at > most:
                    raise LimitExceeded(most, "the line")
                searched = max(0, len(self._text) - self._at - len(mark) + 1)
                try:
                    more = await self._fill()
                except UnicodeDecodeError:
                    if self._at == len(self._text):
                        raise
                    more = False
                if not more:
                    return self._take(len(self._text))
            end = found + len(mark)
            if end - self._at > most:
                raise LimitExceeded(most, "the line")
            return self._take(end)

    async def next_line(self) -> str:
        """The next line without its end; `EndOfStream` when there is none. Cancel safe."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise EndOfStream from None

    def lines(self) -> Self:
        """The lines without their ends: `async for line in text`, which is the same."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self.read_line()
        if not line:
            raise StopAsyncIteration
        return line.removesuffix(self._newline or "\n")

    async def write(self, text: str, /) -> None:
        """Write all of `text`, and wait for that; see `File.write_all`.

        Errors: `UnicodeEncodeError`, nothing is written then; `OSError`.
        """
        if not isinstance(text, str):
            raise TypeError(f"argument 'text' must be a str, not {type(text).__name__}; bytes go to File.write_all()")
        with self._claim:
            translated = text.replace("\n", self._newline) if self._newline else text
            before = self._encoder.getstate()
            data = self._encoder.encode(translated)
            try:
                await self._file.write_all(data)
            except BaseException:
                if not self._file._writes:  # cancelled before it began: a byte order mark is still to come
                    self._encoder.setstate(before)
                raise

    async def seek(self, offset: int, /) -> None:
        """Go to a position in bytes, 0 for one; decoding starts anew there. Cancel safe: then nothing has changed."""
        with self._claim:
            await self._file.seek(offset)
            self._reset()
            if offset == 0:
                self._encoder.reset()

    async def flush(self) -> None:
        """See `File.flush`."""
        await self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._file.__aexit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<TextFile {self._options[0]} of {self._file!r}>"
