"""One connection to a server, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from zapq.limits import CLIENT_TIMEOUT, QUEUE_NAME, TOKEN_VARIABLE, URL_VARIABLE

STRANGE = "The answer did not come from zapq. Check that the URL is right."

_PROBLEM = "application/problem+json"
"""The Content-Type of a refusal."""
_CREDENTIAL = f"This command takes it from the environment variable {TOKEN_VARIABLE}."
"""What a refusal of the server cannot say: where the token comes from here."""
_TLS_RECORDS = ("\x15\x03", "\x16\x03")
"""How an answer in TLS begins: with an alert or a handshake, and the version."""
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}
"""What OpenSSL says if the server's first bytes are no TLS; its versions do not agree."""


_NOBODY_THERE = (ConnectionRefusedError, FileNotFoundError, socket.gaierror)
"""What comes of a port without a server, of the path of a socket without one, and of an unknown name."""
_WHICH = f"Is a server running there? --url or {URL_VARIABLE} say which one."
_NO_QUEUE = "There is no queue of this name."
_TRUST = "The variable SSL_CERT_FILE names a file with the authorities to trust."
_AS_COMMANDS = (
    (re.compile(r"\bPUT /queues/([^\s/]+?)(?=[.,;]?(?:\s|$))"), r"`zapq queue set \1`"),
    (re.compile(r"\bGET /queues/([^\s/]+)/messages\b"), r"`zapq queue peek \1`"),
    (re.compile(r"\bGET /snapshots\b"), "`zapq snapshot ls`"),
    (re.compile(r"\bGET it:"), "`zapq message show` prints it:"),
)
"""What details tell clients of HTTP to send, and the commands that do it."""


class Failed(Exception):
    """A request failed; the message is the one line to say about it."""

    status: int | None = None
    """What was answered, where that is an HTTP status; 503 and 504 stand for no server, and for no answer."""
    retry_after = 0
    """Seconds the server asks clients to stay away."""


class NotFound(Failed):
    """There is no such queue."""


class MessageNotFound(Failed):
    """There is no such message in the queue."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered, if it is not a refusal."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """What the body says; raises `Failed` if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Failed(STRANGE) from None

    def field(self, name: str) -> str:
        """Return a header field; raises `Failed` if it is not there."""
        text = self.headers.get(name)
        if text is None:
            raise Failed(STRANGE)
        return str(text)


def parse_url(text: str) -> SplitResult:
    """Return the parts of `http://host:port`, `https://host:port` or `unix:/path`; else ValueError."""
    parts = urlsplit(text)
    if parts.scheme == "unix" and parts.path:
        return parts
    if parts.scheme not in {"http", "https"} or not parts.hostname or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError
    if parts.port == 0:  # which also raises ValueError for what is no port
        raise ValueError
    return parts


def queue_path(queue: str, *parts: str) -> str:
    """Return the path of what belongs to a queue."""
    return "/".join(["/queues", quote(os.fsencode(queue), safe=""), *parts])


_MISSING = {"/problems/queue-not-found": NotFound, "/problems/message-not-found": MessageNotFound}


class Connection:
    """Sends requests one after the other, on one connection as long as the server keeps it open."""

    def __init__(self, url: SplitResult) -> None:
        self._url = url.geturl()
        token = os.environ.get(TOKEN_VARIABLE)
        self._credentials = {"Authorization": f"Bearer {token}"} if token else {}
        self._prefix = "" if url.scheme == "unix" else url.path.rstrip("/")
        self._http = _open(url)

    def __enter__(self) -> Self:
        """Return the connection, to be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        values: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = CLIENT_TIMEOUT,
    ) -> Answer:
        """Send a request and return the answer; raises `Failed` for a refusal, or if there is no answer.

        `values` are its parameters, `timeout` the seconds each step may take. The token in the environment
        (ZAPQ_TOKEN), if there is one, goes with it.
        """
        for field in self._credentials.values():
            # The library would tell all of it in its error.
            if not re.fullmatch(r"[\x21-\x7e]+(?: +[\x21-\x7e]+)*", field):
                raise Failed(f"{TOKEN_VARIABLE} must be visible ASCII characters, with spaces only between them.")
        target = f"{self._prefix}{path}" + (f"?{urlencode(values)}" if values else "")
        used = self._http.sock is not None
        try:
            try:
                answer, content = self._send(method, target, body, headers or {}, timeout)
            except (ConnectionError, http.client.BadStatusLine):
                if not used:
                    raise
                # The server closes what was idle for long. What we send is harmless to repeat: messages have keys,
                # a lease runs out, and to take a message without one is to risk it anyway.
                answer, content = self._send(method, target, body, headers or {}, timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failed = Failed(f"{self._url}: {self._explain(error)}")
            if isinstance(error, (ConnectionError, TimeoutError, FileNotFoundError, http.client.HTTPException)):
                failed.status = HTTPStatus.GATEWAY_TIMEOUT
            raise failed from error
        if answer.status == 400 and self._url.startswith("http:") and _says_https(answer, content):
            raise Failed(f"{self._url}: {self._speaks('https')}")
        if not 200 <= answer.status < 300:
            raise _refusal(answer, content)
        return Answer(answer.status, answer.headers, content)

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._http.timeout = timeout
        if self._http.sock is not None:
            self._http.sock.settimeout(timeout)
        try:
            self._http.request(method, target, body, {**self._credentials, **headers})
            answer = self._http.getresponse()
            return answer, answer.read()
        except BaseException:
            # Half a request or answer is left on it.
            self._http.close()
            raise

    def _explain(self, error: Exception) -> str:
        """Return the sentences about a request without an answer; with the cause, where the error hides it."""
        if self._url.startswith("http:"):
            if isinstance(error, http.client.BadStatusLine) and str(error).startswith(_TLS_RECORDS):
                return self._speaks("https")
            if isinstance(error, ConnectionResetError):  # also http.client.RemoteDisconnected
                url = self._with_scheme("https")
                return f"The server closed the connection without an answer. If it speaks https, use --url {url}."
        if getattr(error, "reason", None) in _NO_TLS:
            return self._speaks("http")
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"The server's certificate is not accepted: {error.verify_message.rstrip('.')}. {_TRUST}"
        if isinstance(error, _NOBODY_THERE):
            return f"{_reason(error)}. {_WHICH}"
        return f"{_reason(error)}."

    def _speaks(self, scheme: str) -> str:
        return f"The server speaks {scheme} on this port. Use --url {self._with_scheme(scheme)}."

    def _with_scheme(self, scheme: str) -> str:
        return f"{scheme}:{self._url.partition(':')[2]}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _open(url: SplitResult) -> http.client.HTTPConnection:
    if url.scheme == "unix":
        return _UnixConnection(url.path)
    assert url.hostname is not None
    if url.scheme == "http":
        return http.client.HTTPConnection(url.hostname, url.port)
    return http.client.HTTPSConnection(url.hostname, url.port)


def _refusal(answer: http.client.HTTPResponse, content: bytes) -> Failed:
    if answer.headers.get("Content-Type") == _PROBLEM:
        with suppress(ValueError, LookupError, TypeError):
            problem = json.loads(content)
            kind = _MISSING.get(problem["type"], Failed)
            more = f" {_CREDENTIAL}" if answer.status == 401 else ""
            detail = _named(as_command(problem["detail"], _retry_after(answer)), problem.get("queue"))
            return _with_status(kind(detail + more), answer)
    return _with_status(Failed(f"The server answered {answer.status} {answer.reason}."), answer)


def _named(detail: str, queue: object) -> str:
    """Return what is said of a queue that is not there, with its name: it may be the name that is wrong."""
    # Another server could answer with a name that acts on the terminal.
    if not isinstance(queue, str) or not detail.startswith(_NO_QUEUE) or not re.fullmatch(QUEUE_NAME, queue):
        return detail
    more = detail.removeprefix(_NO_QUEUE).replace("queue set NAME`", f"queue set {queue}`")
    return f"There is no queue {queue!r}; `zapq queue ls` lists those there are.{more}"


def _with_status(failed: Failed, answer: http.client.HTTPResponse) -> Failed:
    failed.status = answer.status
    failed.retry_after = _retry_after(answer)
    return failed


def _retry_after(answer: http.client.HTTPResponse) -> int:
    seconds = answer.headers.get("Retry-After", "")
    return int(seconds) if re.fullmatch("[0-9]{1,9}", seconds, re.ASCII) else 0


def as_command(detail: str, retry_after: int) -> str:
    """Return what a refusal says, in terms of commands: clients of HTTP are told of requests and header fields."""
    for request, command in _AS_COMMANDS:
        detail = request.sub(command, detail)
    return detail.replace("after Retry-After seconds", f"in {retry_after} s")


def _says_https(answer: http.client.HTTPResponse, content: bytes) -> bool:
    """Whether a proxy's TLS port, such as nginx's, answers plain HTTP like this. zapq answers with a problem."""
    return answer.headers.get("Content-Type") != _PROBLEM and b"https" in content.lower()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
