"""`Session`: the state machine of one TLS connection. It does no I/O.

Ciphertext goes in by `feed()` and comes out by `output()`; plaintext goes in by `encrypt()` and comes out by
`decrypt()`. Reading and writing share OpenSSL's state, which two threads must not touch at once, so each step takes a
lock; no step waits for anything, and nothing is awaited under it.
"""

from __future__ import annotations

import ssl
import threading

__all__ = ["CHUNK", "Session"]

RECORD = 16384
"""Plaintext in a record, at most."""

CHUNK = 8 * RECORD
"""Plaintext that is encrypted at once, at most: what a stream that nobody reads from holds."""


class Session:
    """One end of a connection. Every method may be called from any thread."""

    __slots__ = (
        "_ended",
        "_eof",
        "_failed",
        "_incoming",
        "_lock",
        "_outgoing",
        "_over",
        "_ready",
        "_unsent",
        "fed",
        "has_input",
        "ssl",
    )

    def __init__(self, context: ssl.SSLContext, server_side: bool, server_name: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        self._lock = threading.Lock()
        self._ready = bytearray()  # plaintext that was taken out of OpenSSL before somebody asked for it
        self._unsent: bytes | memoryview = b""  # ciphertext that is being written
        self._failed: ssl.SSLError | None = None  # met behind data that had to be handed out first
        self._ended = False
        self._over = False  # the peer has ended its output
        self._eof = False  # kept from OpenSSL until it has read everything: after write_eof() nothing can be put back
        self.fed = 0  # how often feed() was called
        self.has_input = False  # whether decrypt() may give something; looked at without the lock by the one reader

    def handshake(self) -> bool:
        """Go on with the handshake: whether it is over; if not, it wants more input."""
        with self._lock:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                if not self._eof:
                    return False
                self._incoming.write_eof()
                self.ssl.do_handshake()
            self.has_input = True
            return True

    def feed(self, data: bytes) -> None:
        """Give it what the peer sent; `b""` at the end."""
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._eof = True
            self.has_input = True
            self.fed += 1

    # ---- plaintext in and out ----

    def decrypt(self, n: int) -> bytes | None:
        """Up to `n` bytes; `b""` once the peer has ended its output; `None`: it wants more input.

        `ssl.SSLEOFError`: the peer is gone without having ended it.
        """
        with self._lock:
            if self._ready:
                data = bytes(self._ready[:n])
                del self._ready[:n]
                return data
            if self._failed is not None:
                raise self._failed
            first = self._record(n)
            self.has_input = self._may_hold_a_record()
            if not first or len(first) == n or not self.has_input:
                return first
            return self._more(first, n)

    def _more(self, first: bytes, n: int) -> bytes:
        """As many records as there are."""
        parts = bytearray(first)
        try:
            while len(parts) < n and self._may_hold_a_record() and (part := self._record(n - len(parts))):
                parts += part
        except ssl.SSLError as error:
            self._failed = error
        self.has_input = self._failed is not None or self._may_hold_a_record()
        return bytes(parts)

    def _may_hold_a_record(self) -> bool:
        """Looked at first, for an exception is dearer than a record."""
        return self._incoming.pending > 0 or self._eof or self._over or self.ssl.pending() > 0

    def _record(self, n: int) -> bytes | None:
        """What is asked for is allocated, and a record is never longer than its ciphertext."""
        most = min(n, RECORD, max(self._incoming.pending, self.ssl.pending(), 1))
        try:
            try:
                data = self.ssl.read(most)
            except ssl.SSLWantReadError:
                if not self._eof:
                    return None
                self._incoming.write_eof()
                data = self.ssl.read(most)
        except ssl.SSLZeroReturnError:
            data = b""
        self._over = not data
        return data

    def encrypt(self, data: bytes | memoryview) -> int:
        """Take some of `data`: how many bytes; 0: it wants more input first (a renegotiation)."""
        with self._lock:
            try:
                return self.ssl.write(data if len(data) <= CHUNK else data[:CHUNK])
            except ssl.SSLWantReadError:
                if self._eof:
                    raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer is gone in the middle of a handshake") from None
                return 0

    # ---- the end ----

    @property
    def ended(self) -> bool:
        """Whether `end()` was called."""
        return self._ended

    def end(self) -> None:
        """Tell the peer that nothing more comes (close_notify); reading goes on.

        OpenSSL looks for the peer's own close_notify at once, and takes data for an error. So it is shown an empty
        input meanwhile.
        """
        with self._lock:
            if self._ended:
                return
            self._ended = True
            while (pending := self.ssl.pending()) > 0:
                self._ready += self.ssl.read(pending)
            incoming = self._incoming.read()
            try:
                self.ssl.unwrap()
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
                pass
            finally:
                if incoming:
                    self._incoming.write(incoming)
                self.has_input = True
            self.fed += 1

    # ---- ciphertext out ----

    @property
    def has_output(self) -> bool:
        """Whether `output()` would give something."""
        return self._outgoing.pending > 0 or len(self._unsent) > 0

    def output(self) -> bytes | memoryview:
        """The ciphertext that the peer has to get next; empty if there is none."""
        return self.sent(0)

    def sent(self, n: int) -> bytes | memoryview:
        """So much of `output()` is on its way; what comes next."""
        with self._lock:
            if n < len(self._unsent):
                self._unsent = memoryview(self._unsent)[n:]
            else:
                self._unsent = self._outgoing.read() if self._outgoing.pending else b""
            return self._unsent
