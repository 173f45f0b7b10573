"""What webhooks are sent to: one URL, by the standard library's HTTP in threads.

No redirect is followed and no proxy of the environment is used: requests go where the operator said.
"""

from __future__ import annotations

import http
import http.client
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import trio

from zapq.client.network import is_readable
from zapq.limits import FORWARD_ANSWER_BYTES


class Target(NamedTuple):
    """A URL, taken apart."""

    tls: bool
    host: str
    port: int
    path: str
    """With the query."""


class Answer(NamedTuple):
    """What came of a request."""

    status: int
    retry_after: str


class NotDelivered(Exception):
    """No answer came; the message says why."""


def parse_target(url: str) -> Target:
    """Return the parts of `http://host:port/path?query` or `https://...`; ValueError otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError("give http://host/path or https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL on the command line must have no password: sign instead")
    port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "https", parts.hostname, port, path)


class _Response(http.client.HTTPResponse):
    """An answer: the last one, for others may come before it, such as 103. What it leaves of those is not read as
    the answer to the next request."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed leaves it out
            if not http.HTTPStatus.SWITCHING_PROTOCOLS < status < http.HTTPStatus.OK:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Plain(http.client.HTTPConnection):
    response_class = _Response


class _Secure(http.client.HTTPSConnection):
    response_class = _Response


class Receiver:
    """Posts requests to a target, several at once; connections are kept for the next ones."""

    def __init__(self, target: Target, concurrency: int, timeout: float) -> None:
        """Each request may take `timeout` seconds in all."""
        self._target = target
        self._timeout = timeout
        self._tls = ssl.create_default_context() if target.tls else None
        self._limiter = trio.CapacityLimiter(concurrency)
        self._idle: list[http.client.HTTPConnection] = []

    async def post(self, body: bytes, fields: Mapping[str, str]) -> Answer:
        """Send a request and return the answer; raises `NotDelivered`, after which it may have arrived or not."""
        kept = self._kept()
        connection = kept or self._connection()
        with trio.move_on_after(self._timeout):
            try:
                try:
                    return await self._post(connection, body, fields)
                except (ConnectionError, http.client.BadStatusLine):
                    if kept is None:
                        raise
                    # The receiver closes what was idle for long.
                    connection = self._connection()
                    return await self._post(connection, body, fields)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise NotDelivered(_reason(error)) from error
        raise NotDelivered(f"no answer within {self._timeout:g} s")

    async def _post(
        self, connection: http.client.HTTPConnection, body: bytes, fields: Mapping[str, str]
    ) -> Answer:
        def talk() -> tuple[Answer, bool]:
            try:
                connection.request("POST", self._target.path, body, dict(fields))
                answer = connection.getresponse()
                # Not by `read`: it goes on to the end for a chunk of less than nothing.
                answer.readinto(bytearray(FORWARD_ANSWER_BYTES))
            finally:
                if given_up:
                    # It had no socket yet.
                    connection.close()
            found = Answer(answer.status, answer.headers.get("Retry-After", ""))
            return found, answer.isclosed() and not answer.will_close

        kept = given_up = False
        try:
            found, kept = await trio.to_thread.run_sync(talk, abandon_on_cancel=True, limiter=self._limiter)
            return found
        finally:
            if kept:
                self._idle.append(connection)
            else:
                given_up = True
                _end(connection)

    def _kept(self) -> http.client.HTTPConnection | None:
        """Return a connection on which nothing came since its last answer; None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.sock is not None and not is_readable(connection.sock.fileno()):
                return connection
            # Its end; or something that would be taken for the answer to the next request.
            connection.close()
        return None

    def _connection(self) -> http.client.HTTPConnection:
        target = self._target
        if self._tls is not None:
            return _Secure(target.host, target.port, timeout=self._timeout, context=self._tls)
        return _Plain(target.host, target.port, timeout=self._timeout)

    def close(self) -> None:
        """Close the connections that are kept."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _reason(error: Exception) -> str:
    """Return why there is no answer, without numbers of errors and lines of OpenSSL."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
        case ssl.SSLError():
            reason = getattr(error, "reason", None) or "unknown"
            return f"TLS failed ({reason}). Does the receiver speak https on this port?"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case _:
            return str(error) or type(error).__name__


def _end(connection: http.client.HTTPConnection) -> None:
    """Close a connection, also under the feet of the thread that talks over it."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    connection.close()
