"""Webhooks to a queue: the sender gets 202 once its event is stored, and a worker has all the time it needs.

Senders repeat what was not answered in time. Their id of a delivery is the Idempotency-Key: it is there once.

    python examples/webhook.py http://127.0.0.1:8080 9000
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from zapq.client.sync import Client, open_client
from zapq.errors import ZapqError


def receiver(client: Client, port: int) -> ThreadingHTTPServer:
    """Return a server whose threads share the client."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                client.put("webhooks", body, headers={"path": self.path}, key=self.headers["X-Delivery-Id"])
            except ZapqError:  # full, or away: the sender is to come again
                self.send_response(503)
            else:
                self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    with open_client(sys.argv[1]) as shared:
        receiver(shared, int(sys.argv[2])).serve_forever()
