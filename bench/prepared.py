"""Load of requests that are made beforehand, each with its own bytes: other receipts, other keys.

wrk sends them where it can be had. Else a loop over epoll in this program does, which needs more CPU for a request
than zapq: the server waits now and then, and its CPU a request is higher than under wrk.
"""

from __future__ import annotations

import functools
import http.client
import itertools
import re
import selectors
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench import rig

SPARE = 128
"""Requests wrk may send beyond a load's limit: it stops at the end of a turn of its loop."""
LUA = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } bench_time; int clock_gettime(int, bench_time *);")
local now, requests, at, sent = ffi.new("bench_time"), {}, 0, 0
local function used()
    ffi.C.clock_gettime(%(clock)d, now)
    return tonumber(now.s) + tonumber(now.ns) / 1e9
end
local loading
setup = function(thread) loading = thread end
init = function()
    local file = assert(io.open("%(file)s", "rb"))
    for length in function() return file:read(8) end do
        requests[#requests + 1] = file:read(tonumber(length))
    end
    file:close()
end
request = function()
    if at == 0 then  -- wrk looks at the first one itself and does not send it
        at = 1
        return "GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
    end
    if sent == %(limit)d then wrk.thread:stop() end
    if sent == %(begin)d then first_sent, first_used = sent, used() end
    if sent > %(begin)d and sent %% 4 == 0 then last_sent, last_used = sent, used() end
    sent = sent + 1
    local one = requests[at]
    at = at %% #requests + 1
    return one
end
done = function()
    if loading:get("last_sent") then
        print("measured", loading:get("last_sent") - loading:get("first_sent"),
            string.format("%%.9f", loading:get("last_used") - loading:get("first_used")))
    end
end
"""
"""Sends the requests and reads the server's CPU clock, first when all connections are open."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to be sent one after the other, and again from the first."""

    requests: Sequence[bytes]
    status: int
    """What each of them is to be answered with."""
    limit: int = 10**9
    """How many to send at most, where each uses up a message or a receipt."""


@dataclass(frozen=True, slots=True)
class Site:
    """A server that runs, and how to reach it."""

    pid: int
    port: int
    tls: bool = False

    def connect(self, context: ssl.SSLContext | None = None) -> socket.socket:
        """Return a new connection; over TLS the certificate is not checked: it is one of ours, on this machine."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.tls:
            return connection
        return (context or trusting()).wrap_socket(connection, server_hostname="localhost")


def trusting() -> ssl.SSLContext:
    """Return what a client speaks that checks no certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def request(method: str, target: str, body: bytes = b"", *fields: str) -> bytes:
    """Return the bytes of a request, as plainly as clients write it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """One client that prepares a server for a load, and asks what came of it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._connection = (
            http.client.HTTPSConnection("127.0.0.1", site.port, timeout=60, context=trusting())
            if site.tls
            else http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
        )

    def ask(self, method: str, target: str, body: bytes = b"", **fields: str) -> tuple[int, bytes]:
        """Send a request and return the answer's status and body; `Content_Type` stands for Content-Type."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        self._connection.request(method, target, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def must(self, method: str, target: str, body: bytes = b"", **fields: str) -> bytes:
        """Send a request and return the body; raise RuntimeError if it is refused."""
        status, answer = self.ask(method, target, body, **fields)
        if status >= 300:
            raise RuntimeError(f"{method} {target}: {status} {answer[:300]!r}")
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@functools.cache
def wrk_is_there() -> bool:
    """Whether wrk loads the servers; says so if not."""
    try:
        rig.install("wrk", "wrk")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no wrk ({error}): loading from Python, which keeps the server less busy: figures are higher")
        return False
    return True


def status_of(site: Site, one: bytes) -> int:
    """Send one request on a connection of its own and return the status of its answer."""
    with site.connect() as connection:
        connection.sendall(one)
        return int(connection.recv(65536)[9:12] or b"0")


def run(site: Site, load: Load, connections: int, seconds: int, *, wrk: bool | None = None) -> tuple[int, float]:
    """Load the server; return a number of requests and the CPU seconds it used for these, connecting left out.

    Raises RuntimeError if an answer has not the status it is to have.
    """
    first = status_of(site, load.requests[-1])  # the last one is beyond the limit, where there is one
    if first != load.status:
        raise RuntimeError(f"answered {first} and not {load.status}")
    drive = _drive_by_wrk if (wrk_is_there() if wrk is None else wrk) else _drive_from_here
    return drive(site, load, connections, seconds)


def _drive_by_wrk(site: Site, load: Load, connections: int, seconds: int) -> tuple[int, float]:
    with tempfile.NamedTemporaryFile() as requests, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        for one in load.requests:
            requests.write(b"%08d" % len(one) + one)
        requests.flush()
        clock = rig.cpu_clock(site.pid)
        begin = 2 * connections
        script.write(LUA % {"clock": clock, "file": requests.name, "limit": load.limit, "begin": begin})
        script.flush()
        url = f"{'https' if site.tls else 'http'}://127.0.0.1:{site.port}/"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url]
        out = subprocess.run([*rig.cores()[1], *command], check=True, capture_output=True, text=True).stdout
    answered = int(re.findall(r"(\d+) requests in", out)[0])
    refused = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", out)))
    failed = re.findall(r"Socket errors: (.*)", out)
    if failed or answered == 0 or refused != (answered if load.status >= 400 else 0):
        raise RuntimeError(f"of {answered} requests {refused} were refused; {' '.join(failed) or 'none failed'}")
    measured = re.findall(r"measured\s+(\d+)\s+([\d.]+)", out)
    if not measured:
        raise RuntimeError(f"{answered} requests are too few: take more --seconds")
    return int(measured[0][0]), float(measured[0][1])


def _drive_from_here(site: Site, load: Load, connections: int, seconds: int) -> tuple[int, float]:
    context = trusting()
    requests = itertools.islice(itertools.cycle(load.requests), load.limit)
    answered = 0
    good = b"HTTP/1.1 %d" % load.status
    with rig.on_the_other_core(), selectors.DefaultSelector() as selector, ExitStack() as stack:
        opened = [stack.enter_context(site.connect(context)) for _ in range(connections)]
        before = rig.cpu_seconds(site.pid)
        ends = time.perf_counter() + seconds
        for each in opened:
            _begin(selector, each, requests)
        while selector.get_map():
            for key, _ in selector.select(1):
                connection, answer = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                if not read_into(connection, answer):
                    continue
                if not answer.startswith(good):
                    raise RuntimeError(f"answered {bytes(answer[:300])!r} and not {load.status}")
                answered += 1
                selector.unregister(connection)
                if b"\r\nConnection: close" in answer[:1024]:
                    connection.close()
                    connection = stack.enter_context(site.connect(context))
                _begin(selector, connection, requests if time.perf_counter() < ends else iter(()))
        return answered, rig.cpu_seconds(site.pid) - before


def _begin(selector: selectors.BaseSelector, connection: socket.socket, requests: Iterator[bytes]) -> None:
    one = next(requests, None)
    if one is None:
        return
    connection.setblocking(True)
    connection.sendall(one)
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ, bytearray())


class TlsOverBytes:
    """A client's side of one TLS connection, over bytes: its user decides when they are sent and received."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.shaken = False
        """Whether the handshake is over: from then on, `write` may be called."""
        self._shake()

    def to_send(self) -> bytes:
        """Return what is to be sent next."""
        return self._outgoing.read()

    def write(self, data: bytes) -> None:
        """Encrypt what is to be sent."""
        self._tls.write(data)

    def receive(self, data: bytes) -> bytes:
        """Take what came and return what it says."""
        if not data:
            raise ConnectionError("closed")
        self._incoming.write(data)
        said = b""
        if self.shaken or self._shake():
            try:
                while True:
                    said += self._tls.read(65536)
            except ssl.SSLWantReadError:
                pass
        return said

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.shaken = True
        return True


def read_into(connection: socket.socket, answer: bytearray) -> bool:
    """Read what there is and return whether the answer is complete; raise ConnectionError if it never will be."""
    try:
        while True:
            piece = connection.recv(1 << 20)
            if not piece:
                raise ConnectionError(f"closed after {bytes(answer[:300])!r}")
            answer += piece
            if not isinstance(connection, ssl.SSLSocket):
                break
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    return is_complete(answer)


def is_complete(answer: bytearray) -> bool:
    """Whether these bytes are a whole answer."""
    head, found, _ = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return len(answer) >= len(head) + 4 + (int(length[1]) if length else 0)
