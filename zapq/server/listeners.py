"""Sockets to listen on, made before anything is served.

All that the operator got wrong is found here and said in one line.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from zapq.addresses import Address
from zapq.errors import CannotStart
from zapq.limits import ACCEPTS, BACKLOG
from zapq.server.certificates import Certificates
from zapq.server.tls import Buffers, TlsSocket, Wire
from zapq.settings import Settings

OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""Why accepting can fail for a while."""
CHANGED_THEIR_MIND = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM}
"""Why accepting can fail for one client: it left, or a firewall turned it away."""
_REMEDIES = {
    errno.EADDRINUSE: " A server may run already; --addr gives this one another address.",
    errno.EADDRNOTAVAIL: " This machine does not have that address; --addr :8080 listens on all that it has.",
    errno.EACCES: " Only root may use ports below 1024; give another port, or let systemd bind it.",
    errno.ENOENT: " Make the directory of this path first.",
    errno.EBADF: " The program that started zapq gave it no socket of this number.",
    errno.ENOTSOCK: " The program that started zapq gave it no socket of this number.",
}
"""What the operator can do about an address that cannot be bound."""
_FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}


class ReserveDescriptor:
    """A descriptor for when there are no others: with it, a client can be let in to be turned away.

    Left in the backlog, new clients would look connected, and wait for an answer until another client leaves.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._renew()

    def turn_away(self, door: socket.socket) -> int | None:
        """Accept waiting clients, close them at once, and return their number; None if that is impossible."""
        if self._descriptor is None:
            self._renew()
            return None
        self.close()
        try:
            for turned_away in range(ACCEPTS):
                try:
                    door.accept()[0].close()
                except BlockingIOError:
                    return turned_away
        except OSError:
            return None
        finally:
            self._renew()
        return ACCEPTS

    def close(self) -> None:
        """Give it up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _renew(self) -> None:
        with suppress(OSError):
            self._descriptor = os.open(os.devnull, os.O_RDONLY)


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A bound socket: where clients come in."""

    sock: socket.socket
    """Listening, and not blocking."""
    tls: Certificates | None
    url: str
    """With the real port."""
    reserve_descriptor: ReserveDescriptor
    buffers: Buffers

    @property
    def bound(self) -> str | None:
        """The IP address clients connect to, unspecified if it is all of them; None for a unix socket."""
        return None if self.sock.family == socket.AF_UNIX else str(self.sock.getsockname()[0])

    def guard(self, sock: socket.socket) -> Wire:
        """Return what is spoken over `sock`: TLS, if there are certificates, as they are now."""
        return sock if self.tls is None else TlsSocket(sock, self.tls.context, self.buffers)


@contextmanager
def open_listening_socket(settings: Settings) -> Iterator[ListeningSocket]:
    """Bind `settings.addr` for the length of the block.

    Raises `InvalidSetting` for certificates that cannot be used (nothing is bound then) and `CannotStart`
    for an address that cannot. On the way out the socket is closed, and a unix socket's file removed; one that was
    inherited stays open wherever else it is, and its file stays too.
    """
    certificates = Certificates(settings) if settings.tls else None
    address = settings.address
    try:
        sock = _bind(address)
        if sock.family != socket.AF_UNIX:
            # Those accepted inherit it: an answer is one write, and waiting for more to send with it is in vain.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        # create_server adds the address, which the line below names anyway.
        reason = (error.strerror or str(error)).partition(" (while attempting")[0]
        remedy = _REMEDIES.get(error.errno or 0, "")
        if address.path and error.errno == errno.EACCES:
            remedy = " Let zapq write to the directory of this path, or give another path."
        raise CannotStart(f"--addr {settings.addr!r}: {reason}.{remedy}", setting="addr") from None
    with sock:
        identity = _identity(address.path) if address.path else None
        sock.setblocking(False)
        reserve_descriptor = ReserveDescriptor()
        try:
            url = _url(sock, tls=certificates is not None)
            yield ListeningSocket(sock, certificates, url, reserve_descriptor, Buffers())
        finally:
            reserve_descriptor.close()
            if identity is not None and _identity(address.path) == identity:
                os.unlink(address.path)


def _bind(address: Address) -> socket.socket:
    if address.path:
        return _bind_unix(address.path)
    if address.descriptor >= 0:
        return _inherit(address.descriptor)
    if address.host:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", address.port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    return socket.create_server(("", address.port), backlog=BACKLOG)


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file a server that is no more left behind; a living server's is in use."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _inherit(descriptor: int) -> socket.socket:
    """Take over a listening socket of the program that started us; how many clients it lets wait is its choice."""
    sock = socket.socket(fileno=descriptor)
    try:
        if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
            raise OSError(errno.ESOCKTNOSUPPORT, "not a TCP or unix stream socket")
        if not _listens(sock):
            raise OSError(errno.EINVAL, "not a listening socket")
        os.set_inheritable(descriptor, False)
    except BaseException:
        sock.detach()  # not ours to close
        raise
    return sock


def _listens(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return True  # macOS cannot tell


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _url(sock: socket.socket, *, tls: bool) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        # One that has no file has a name that begins with a NUL byte, which people write as @.
        return f"unix:{name}" if isinstance(name, str) else f"unix:@{os.fsdecode(name[1:])}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"
