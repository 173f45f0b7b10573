"""Crash points: the process is killed as it is about to make the k-th call of a kind on its files, by strace."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.durable.audit import Ledger, Sent
from tests.durable.load import LOST, look
from tests.durable.process import Link, Reply, Server

CALLS = ("pwrite64", "fdatasync", "fsync", "rename,renameat,renameat2", "unlink,unlinkat", "ftruncate")
"""What changes files, or makes a change last."""
LARGE = 100_000
"""Bytes of a message of which 50 fill the log, so that it is emptied into the database."""


def possible() -> bool:
    """Whether strace is here, and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


def make(directory: Path) -> Path:
    """Make a database without messages there."""
    server = Server(directory)
    assert server.start()
    assert server.stop() == 0
    return directory


@dataclass
class Script:
    """A fixed sequence of requests, and what came of each."""

    ledger: Ledger = field(default_factory=Ledger)

    def play(self, port: int) -> None:
        """Send them until one is not answered."""
        self._link = Link(port)
        try:
            self._play()
        finally:
            self._link.close()

    def _ask(self, method: str, target: str, body: bytes = b"") -> Reply:
        reply = self._link.ask(method, target, body, {"Content-Type": "application/json"})
        assert reply.status < 300, reply
        self.ledger.answered += 1
        return reply

    def _send(self, queue: str, name: str) -> None:
        sent = Sent(queue, name.encode(), content_type="application/json")
        self.ledger.sent[sent.body] = sent
        reply = self._ask("POST", f"/queues/{queue}/messages", sent.body)
        sent.id, sent.answered = int(reply.headers["zapq-message-id"]), True

    def _send_many(self, queue: str, bodies: list[bytes]) -> None:
        batch = [Sent(queue, body, group=bodies[0][:20].decode()) for body in bodies]
        self.ledger.sent.update(zip(bodies, batch, strict=True))
        data = json.dumps([base64.b64encode(body).decode() for body in bodies]).encode()
        first = self._ask("POST", f"/queues/{queue}/messages/batch", data).json["first_id"]
        for number, sent in enumerate(batch):
            sent.id, sent.answered = first + number, True

    def _receive(self, queue: str) -> tuple[Sent, str]:
        self.ledger.unknown_receives += 1
        reply = self._ask("POST", f"/queues/{queue}/receive?visibility=1000")
        self.ledger.unknown_receives -= 1
        sent = self.ledger.sent[reply.body]
        sent.receives += 1
        return sent, reply.headers["zapq-receipt"]

    def _play(self) -> None:
        for number in range(4):
            self._send("jobs", f"job-{number}")
            self._send("default", f"plain-{number}")
        sent, receipt = self._receive("jobs")
        sent.maybe_gone = True
        self._ask("DELETE", f"/queues/jobs/receipts/{receipt}")
        sent.gone = True
        sent, receipt = self._receive("jobs")
        self._ask("POST", f"/queues/jobs/receipts/{receipt}/release")
        self._send_many("jobs", [b"batch-%d" % number for number in range(20)])
        self._ask("POST", "/persist?file=saved.json")
        for sent in self.ledger.sent.values():
            if sent.queue == "default":
                # The same messages, as bytes without a type, under new ids.
                sent.id = None
        self._ask("POST", "/load?file=saved.json")
        for number in range(3):
            self._send_many("large", [b"%d-%d-" % (number, each) + bytes(LARGE) for each in range(20)])
        self._send("jobs", "last")


@dataclass
class Point:
    """One kind of call, and which of them is the last thing the process tries to do."""

    calls: str
    number: int
    """strace counts in each thread by itself."""
    fresh: bool = False
    """Whether the database is made in this very run."""

    def run(self, directory: Path, made: Path) -> bool:
        """Play the script, let the process die, start it again, and raise AssertionError if it is not all right.

        Returns whether it died: if not, there are fewer such calls. `made` is what `make` has made.
        """
        if not self.fresh:
            shutil.copytree(made, directory, dirs_exist_ok=True)
        # Nothing else in the process makes such calls, but Python when it writes bytecode.
        wrapper = ["env", "PYTHONDONTWRITEBYTECODE=1", "strace", "-f", "-qq", "-o", "/dev/null"]
        inject = f"inject={self.calls}:signal=SIGKILL:when={self.number}"
        wrapper += ["-e", f"trace={self.calls}", "-e", inject]
        server, script = Server(directory, wrapper), Script()
        died = True
        if server.start():
            try:
                script.play(server.port)
                died = False
            except LOST:
                pass
            if not died:
                server.signal_child(signal.SIGTERM)
        code = server.wait()
        died = died or code != 0
        again = Server(directory)
        assert again.start(), f"{self}: it does not start again: {again.log[-3:]}"
        try:
            seen = look(again.port)
            kinds = {sent.body: sent.content_type for sent in script.ledger.sent.values()}
            # A message of the default queue has lost its type if it was loaded.
            found = [
                held._replace(content_type=kinds.get(held.body, "")) if held.queue == "default" else held
                for held in seen.ready
            ]
            wrong = script.ledger.audit(found, seen.delayed)
            assert not wrong, f"{self}: {len(wrong)} wrong, such as {wrong[:3]}"
        finally:
            again.stop()
        return died
