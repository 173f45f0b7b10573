"""What systemd hands to a service, and what the service tells it: sockets, a watchdog, notifications (sd_notify).

Only the command line uses this, where the process is ours. Nothing here fails the service or makes it wait: what
systemd cannot be told at once it is not told.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from zapq import logs
from zapq.errors import CannotStart
from zapq.limits import SIGNS_OF_LIFE
from zapq.settings import Settings

FIRST_DESCRIPTOR = 3
"""Inherited sockets are here and in the places that follow: behind standard input, output and error."""
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Handover:
    """What systemd handed to this process: nothing, if something else started it."""

    notify_socket: str = ""
    """Where it listens to us: a path, or a name in Linux's abstract namespace behind an @."""
    watchdog: float | None = None
    """Seconds without a sign of life after which it ends the process and starts another."""
    descriptors: range | None = None
    """Where the sockets are that it opened for us; None where systemd did not say."""

    def check(self, settings: Settings) -> None:
        """Raise `CannotStart` if `settings.addr` is a descriptor not handed over; log a socket left over."""
        if self.descriptors is None:
            return
        handed, chosen = _spelled(self.descriptors), settings.address.descriptor
        if chosen >= 0 and chosen not in self.descriptors:
            raise CannotStart(
                f"--addr {settings.addr!r} is not a socket of systemd's, which handed over {handed}.",
                setting="addr",
            )
        if len(self.descriptors) > (1 if chosen >= 0 else 0):
            # Systemd listens there all the same, and clients would wait in vain.
            logs.say(logging.WARNING, "not every inherited socket is served", handed=handed, addr=settings.addr)


def _spelled(descriptors: range) -> str:
    match len(descriptors):
        case 0:
            return "no socket"
        case 1:
            return f"fd://{descriptors[0]}"
        case _:
            return f"fd://{descriptors[0]} to fd://{descriptors[-1]}"


def take(environ: MutableMapping[str, str], process: int) -> Handover:
    """Return what systemd handed to `process`, and remove it from `environ`: it is not for children."""
    told = {name: environ.pop(name, "") for name in _VARIABLES}
    microseconds = _number(told["WATCHDOG_USEC"]) if told["WATCHDOG_PID"] in {"", str(process)} else None
    sockets = _number(told["LISTEN_FDS"]) if told["LISTEN_PID"] == str(process) else None
    return Handover(
        notify_socket=told["NOTIFY_SOCKET"],
        watchdog=microseconds / 1e6 if microseconds else None,
        descriptors=None if sockets is None else range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + sockets),
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


@contextmanager
def open_notifier(address: str) -> Iterator[Notifier]:
    """Give what tells systemd, at the `address` it gave, how the service is doing; nothing if that is empty."""
    if not address:
        yield Notifier(None, b"")
        return
    # One for all the time: a process that has no descriptors left for a while must still be able to give a sign of
    # life.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        yield Notifier(sock, os.fsencode(f"\0{address[1:]}" if address.startswith("@") else address))


class Notifier:
    """Tells systemd how the service is doing. Made by `open_notifier`."""

    def __init__(self, sock: socket.socket | None, address: bytes) -> None:
        self._sock = sock
        self._address = address
        self._complained = False

    def tell(self, state: str, status: str = "") -> None:
        """Send a state such as READY=1, with a `status` for people, or drop it if that cannot be done at once.

        What is dropped first is logged.
        """
        if self._sock is None:
            return
        lines = [state, *([f"STATUS={' '.join(status.splitlines())}"] if status else [])]
        try:
            self._sock.sendto("\n".join(lines).encode(errors="backslashreplace"), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                reason = error.strerror or str(error)
                logs.say(logging.WARNING, "cannot notify systemd", state=state, reason=reason)

    async def give_signs_of_life(self, watchdog: float) -> None:
        """Tell systemd, as often as a `watchdog` of that many seconds wants it, that the event loop turns."""
        while True:
            self.tell("WATCHDOG=1")
            await trio.sleep(watchdog / SIGNS_OF_LIFE)
