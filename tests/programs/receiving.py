"""A web server that programs deliver to, in threads: it keeps what came, and answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.waiting import PATIENCE


@dataclass
class Got:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]
    say: Callable[[bytes], object]
    """Sends something on its connection."""


@dataclass
class Web:
    """The server: where it is, what came, and how it answers."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answer: Callable[[Got], tuple[int, dict[str, str]]] = lambda got: (200, {})
    released: threading.Event = field(default_factory=threading.Event)
    """What answers wait for that wait."""

    def held(self, got: Got) -> tuple[int, dict[str, str]]:
        """Answer once `released` is set."""
        assert self.released.wait(PATIENCE)
        return 200, {}


@contextmanager
def web() -> Iterator[Web]:
    """Serve for the length of the block."""
    found = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got = Got(self.path, dict(self.headers.items()), body, self.client_address, self.wfile.write)
            found.got.append(got)
            status, fields = found.answer(got)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | fields).items():
                self.send_header(name, value)
            self.end_headers()
            if fields.get("Connection") == "close":
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing: clients may leave as they like."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield found
    finally:
        found.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
