"""TLS on a socket that never blocks, used as that socket would be: `recv`, `send`, `shutdown`, `close`.

Python's own `SSLSocket` does not say how much of a record the kernel took before it failed, and may keep decrypted
bytes that no selector sees. Here OpenSSL reads and writes memory, and only this file the socket. So it is known to
the byte what is unsent, and after `recv` nothing is left that could be decrypted: if more comes, the socket is
readable.

The memory that OpenSSL reads and writes is the server's and not the connection's: it never shrinks, and each step
leaves it empty.
"""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import suppress

from zapq.access.certificate import NOBODY, Identities, identities
from zapq.limits import KIB, RECEIVE_BYTES, SEND_PIECE_BYTES

_RECORD_BYTES = 16 * KIB
"""What one record carries at most."""


class PlainHTTP(Exception):
    """The client speaks HTTP without TLS; `start` is how it began."""

    def __init__(self, start: bytes) -> None:
        super().__init__(start)
        self.start = start


class Buffers:
    """The memory that passes ciphertext between the sockets and OpenSSL, for all connections of one thread."""

    __slots__ = ("incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()


class TlsSocket:
    """A client's connection: `sock`, and the TLS session on it once `handshake` has returned True."""

    __slots__ = ("_buffers", "_context", "_ended", "_owed", "_plain", "_session", "_unsent", "identities", "sock")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, buffers: Buffers) -> None:
        self.sock = sock
        self.identities: Identities = NOBODY
        """What the client's certificate says."""
        self._buffers = buffers
        self._context: ssl.SSLContext | None = context
        """What the handshake is to begin with; None once it is complete."""
        self._session: ssl.SSLObject | None = None
        """Made when the client has sent something: until then a connection costs no more than a plain one."""
        self._plain = b""
        self._unsent = b""
        """Ciphertext that the kernel has not taken yet."""
        self._owed = 0
        """How many bytes given to `send` that stands for, beside those counted as written already."""
        self._ended = False

    @property
    def established(self) -> bool:
        """Whether the handshake is complete."""
        return self._context is None

    @property
    def begun(self) -> bool:
        """Whether the handshake has begun."""
        return self._session is not None

    @property
    def has_unsent(self) -> bool:
        """Whether the kernel has not taken everything yet."""
        return bool(self._unsent)

    @property
    def http2(self) -> bool:
        """Whether HTTP/2 was chosen in the handshake."""
        return self._session is not None and self._session.selected_alpn_protocol() == "h2"

    def handshake(self) -> bytes | None:
        """Take one step, which may cost a millisecond of CPU; None if the client has to say more.

        At the end, return what the client has sent behind the handshake, decrypted. Raises `PlainHTTP`, and
        `OSError` if the handshake failed or the client left.
        """
        assert self._context is not None
        if self._plain:
            raise PlainHTTP(self._plain)
        try:
            self._flush()
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError("the client left during the handshake")
        if self._session is None:
            if data[:1].isalpha():  # TLS begins with the byte 22, a request with its method
                self._plain = data
                raise PlainHTTP(data)
            self._session = self._context.wrap_bio(
                self._buffers.incoming, self._buffers.outgoing, server_side=True
            )
        self._buffers.incoming.write(data)
        received: bytes | None = None
        try:
            self._session.do_handshake()
            self.identities = identities(self._session.getpeercert())
            self._context = None
            received = self._decrypt(self._session)
        except ssl.SSLWantReadError:
            pass
        finally:
            self._tidy()
            with suppress(OSError):
                self._flush()
        return received

    def recv(self, size: int) -> bytes:
        """Return what has arrived of the client's data; nothing once the client has ended its half.

        May return somewhat more than `size` bytes. Raises `BlockingIOError` if no whole record has arrived, and
        another `OSError` if the connection is broken.
        """
        if self._ended:
            return b""
        data = self.sock.recv(size)
        if self._session is None or not data:
            return data
        incoming = self._buffers.incoming
        incoming.write(data)
        try:
            received = self._decrypt(self._session)
        finally:
            if incoming.pending or self._buffers.outgoing.pending:
                self._tidy()
        if not received and not self._ended:
            raise BlockingIOError
        return received

    def send(self, data: bytes | memoryview) -> int:
        """Write what the kernel takes of `data`, and return how much of it the client can have read, at most.

        If that is not all, the rest must be sent next, for some of it may be encrypted already. Raises
        `BlockingIOError` if it is nothing, and another `OSError` if the connection is broken.
        """
        if self._session is None:
            raise BrokenPipeError(errno.EPIPE, "our half has ended")
        written = 0
        size = len(data)
        while written < size:
            if not self._owed:
                # In pieces, for a connection keeps what the kernel does not take.
                small = not written and size <= SEND_PIECE_BYTES
                piece = data if small else data[written : written + SEND_PIECE_BYTES]
                try:
                    self._session.write(piece)
                finally:
                    self._unsent += self._buffers.outgoing.read()
                self._owed = len(piece)
            try:
                sent = self.sock.send(self._unsent)
            except OSError:
                if written:
                    return written
                raise
            if sent < len(self._unsent):
                self._unsent = self._unsent[sent:]
                # A record can be read only when it is whole, so the last byte has not been.
                counted = min(sent, self._owed - 1)
                self._owed -= counted
                if not written + counted:
                    raise BlockingIOError
                return written + counted
            self._unsent = b""
            written += self._owed
            self._owed = 0
        return written

    def shutdown(self, how: int) -> None:
        """End our half (`socket.SHUT_WR`), with a goodbye if that can be sent at once; `OSError` if it cannot.

        What `recv` returns from now on is of no meaning, and only to be discarded.
        """
        self._say_goodbye()
        self._session = None
        if self._unsent:
            raise BlockingIOError
        self.sock.shutdown(how)

    def close(self) -> None:
        """Close the connection, with a goodbye if that can be sent at once."""
        try:
            self._say_goodbye()
        except OSError:
            pass
        finally:
            self._session = None
            self.sock.close()

    def _say_goodbye(self) -> None:
        if self.established and self._session is not None and not self._owed:
            try:
                # This would go on to wait for the client's own goodbye.
                with suppress(ssl.SSLError):
                    self._session.unwrap()
            finally:
                self._tidy()
            self._flush()

    def _decrypt(self, session: ssl.SSLObject) -> bytes:
        """Return all that the incoming bytes give."""
        incoming = self._buffers.incoming
        parts: list[bytes] = []
        try:
            while incoming.pending:
                part = session.read(_RECORD_BYTES)
                if not part:
                    self._ended = True
                    # To a selector, the client's goodbye is to be what the end of a plain connection is.
                    with suppress(OSError):
                        self.sock.shutdown(socket.SHUT_RD)
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _tidy(self) -> None:
        """Leave the buffers empty: they are for the next connection."""
        if self._buffers.incoming.pending:
            self._buffers.incoming.read()
        if self._buffers.outgoing.pending:
            self._unsent += self._buffers.outgoing.read()

    def _flush(self) -> None:
        """Have the kernel take what it has not, as far as it does without waiting."""
        if self._unsent:
            with suppress(BlockingIOError):
                self._unsent = self._unsent[self.sock.send(self._unsent) :]


Wire = socket.socket | TlsSocket
"""What is read from and written to, without blocking."""


def socket_of(wire: Wire) -> socket.socket:
    """Return the socket below: to be waited for, and asked for its addresses."""
    return wire.sock if isinstance(wire, TlsSocket) else wire
