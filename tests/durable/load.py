"""Clients that use a server in every way there is, at random, and write down what they were told."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from urllib.parse import quote

from tests.durable.audit import Held, Ledger, Sent
from tests.durable.process import Link, Reply

LEASED, TAKEN, SIDE = "jobs", "fifo", "side"
"""Messages of the first are received and acknowledged, of the second dequeued, of the third purged."""
LOST = (OSError, http.client.HTTPException)
"""How a request ends whose server is no more."""
DEEP = 400
"""Messages in a queue that are enough: all of them are looked at after each crash."""


Job = Callable[[Link, Random, str], None]
"""One turn of a client: its connection, what it decides by, and a name no other turn has."""


@dataclass
class Crowd(ABC):
    """The clients of one run of the server, each in a thread and on a connection of its own."""

    port: int
    seed: str
    failures: list[BaseException] = field(default_factory=list)
    """What went wrong with clients, other than that the server was no more."""
    _over: threading.Event = field(default_factory=threading.Event)

    @abstractmethod
    def _jobs(self) -> Sequence[Job]:
        """Return what each client does, turn by turn."""

    def start(self) -> None:
        """Begin."""
        self._threads = [
            threading.Thread(target=self._run, args=(job, number)) for number, job in enumerate(self._jobs())
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Wait until all have noticed that the server is gone, or that it is enough."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, job: Job, number: int) -> None:
        random = Random(f"{self.seed}-{number}")
        link = Link(self.port)
        try:
            turn = 0
            while not self._over.is_set():
                turn += 1
                job(link, random, f"{self.seed}-{number}-{turn}")
        except LOST:
            pass
        except Exception as error:
            self.failures.append(error)
        finally:
            link.close()


@dataclass(kw_only=True)
class Clients(Crowd):
    """Everybody who uses the server through its own endpoints."""

    ledger: Ledger
    settings: list[dict[str, float]] = field(default_factory=lambda: [{"visibility": 30.0}])
    """What the queue of leases may be set to: what was answered last, and what was not answered since."""

    def _jobs(self) -> Sequence[Job]:
        return [
            self._produce,
            self._produce,
            self._batch,
            self._consume,
            self._consume,
            self._dequeue,
            self._admin,
        ]

    def _noted(self, reply: Reply, *fine: int) -> Reply:
        assert reply.status in fine, (reply.status, reply.body)
        self.ledger.answered += 1
        return reply

    def _produce(self, link: Link, random: Random, name: str) -> None:
        queue = random.choice([LEASED, LEASED, TAKEN])
        sent = Sent(queue, name.encode(), random.choice([0, 0, 0, 1, 9]))
        headers = {}
        if random.random() < 0.3:
            sent.content_type = headers["Content-Type"] = "text/plain"
        if random.random() < 0.3:
            headers["Idempotency-Key"] = name
        self.ledger.add(sent)
        target = f"/queues/{queue}/messages?priority={sent.priority}"
        # A consumer may know of it before we do.
        reply = self._noted(link.ask("POST", target, sent.body, headers), 202, 429)
        if reply.status == 429:
            self.ledger.forget(sent)
            return
        sent.id, sent.answered = int(reply.headers["zapq-message-id"]), True

    def _batch(self, link: Link, random: Random, name: str) -> None:
        queue = random.choice([LEASED, TAKEN])
        bodies = [f"{name}-{number}".encode() for number in range(random.choice([2, 3, 5, 9, 20]))]
        batch = [Sent(queue, body, group=name) for body in bodies]
        self.ledger.add(*batch)
        data = json.dumps([base64.b64encode(body).decode() for body in bodies]).encode()
        target = f"/queues/{queue}/messages/batch"
        reply = self._noted(link.ask("POST", target, data, {"Content-Type": "application/json"}), 202, 429)
        if reply.status == 429:
            self.ledger.forget(*batch)
            return
        for number, sent in enumerate(batch):
            sent.id, sent.answered = reply.json["first_id"] + number, True

    def _consume(self, link: Link, random: Random, name: str) -> None:
        many = random.random() < 0.2
        limit = 5 if many else 1
        target = f"/queues/{LEASED}/receive" + ("/batch?max=5" if many else "?visibility=0.2")
        with self.ledger.lock:
            self.ledger.unknown_receives += limit
        reply = self._noted(link.ask("POST", target), 200, 204, 404)
        with self.ledger.lock:
            self.ledger.unknown_receives -= limit
        if reply.status != 200:
            return
        if many:
            leases = [(base64.b64decode(each["body"]), each["receipt"]) for each in reply.json]
        else:
            leases = [(reply.body, reply.headers["zapq-receipt"])]
        for body, _ in leases:
            with self.ledger.lock:
                self.ledger.sent[body].receives += 1
        if many:
            self._settle(link, leases)
            return
        [(body, receipt)] = leases
        sent = self.ledger.sent[body]
        match random.choice(["ack", "ack", "ack", "release", "later", "leave"]):
            case "ack":
                sent.maybe_gone = True
                reply = self._noted(link.ask("DELETE", f"/queues/{LEASED}/receipts/{quote(receipt)}"), 204, 409)
                sent.gone |= reply.status == 204
                sent.maybe_gone = sent.gone
            case "release":
                self._noted(link.ask("POST", f"/queues/{LEASED}/receipts/{quote(receipt)}/release"), 204, 409)
            case "later":
                target = f"/queues/{LEASED}/receipts/{quote(receipt)}/release?delay=0.05"
                self._noted(link.ask("POST", target), 204, 409)

    def _settle(self, link: Link, leases: list[tuple[bytes, str]]) -> None:
        body = json.dumps([{"receipt": receipt} for _, receipt in leases]).encode()
        for name, _ in leases:
            self.ledger.sent[name].maybe_gone = True
        target = f"/queues/{LEASED}/settle"
        reply = self._noted(link.ask("POST", target, body, {"Content-Type": "application/json"}), 200)
        for (name, _), result in zip(leases, reply.json, strict=True):
            sent = self.ledger.sent[name]
            sent.gone |= result["result"] == "ok"
            sent.maybe_gone = sent.gone

    def _dequeue(self, link: Link, random: Random, name: str) -> None:
        many = random.random() < 0.3
        limit = 4 if many else 1
        target = f"/queues/{TAKEN}/receive" + ("/batch?max=4&ack=auto" if many else "?ack=auto")
        with self.ledger.lock:
            self.ledger.unknown_takes[TAKEN] += limit
        reply = self._noted(link.ask("POST", target), 200, 204, 404)
        with self.ledger.lock:
            self.ledger.unknown_takes[TAKEN] -= limit
        if reply.status == 200:
            for body in [base64.b64decode(each["body"]) for each in reply.json] if many else [reply.body]:
                self.ledger.sent[body].gone = True

    def _admin(self, link: Link, random: Random, name: str) -> None:
        match random.choice(["send", "send", "send", "purge", "set"]):
            case "send":
                sent = Sent(SIDE, name.encode())
                self.ledger.add(sent)
                reply = self._noted(link.ask("POST", f"/queues/{SIDE}/messages", sent.body), 202, 429)
                if reply.status == 429:
                    self.ledger.forget(sent)
                    return
                sent.id, sent.answered = int(reply.headers["zapq-message-id"]), True
            case "purge":
                self.ledger.purged.add(SIDE)
                self._noted(link.ask("POST", f"/queues/{SIDE}/purge"), 200, 404)
                self.ledger.purged.discard(SIDE)
                with self.ledger.lock:
                    for sent in self.ledger.sent.values():
                        # Only this client sends there, one request at a time.
                        sent.gone |= sent.queue == SIDE and sent.answered
            case "set":
                wanted = {"visibility": float(random.randint(1, 1000)), "max_messages": DEEP}
                self.settings.append(wanted)
                target = f"/queues/{LEASED}"
                data = json.dumps(wanted).encode()
                self._noted(link.ask("PUT", target, data, {"Content-Type": "application/json"}), 200, 201)
                self.settings[:] = [wanted]


@dataclass
class Seen:
    """Everything a server holds."""

    ready: list[Held] = field(default_factory=list)
    """In their order, queue by queue."""
    delayed: list[Held] = field(default_factory=list)
    settings: dict[str, float] = field(default_factory=dict)
    """What the queue of leases is set to."""


def look(port: int) -> Seen:
    """Return everything the server holds, and change nothing."""
    link = Link(port)
    seen = Seen()
    for queue in link.ask("GET", "/queues").json:
        name = queue["name"]
        if name == LEASED:
            seen.settings = queue["settings"]
        for state, held in (("ready", seen.ready), ("delayed", seen.delayed)):
            shown = link.ask("GET", f"/queues/{name}/messages?state={state}&limit=1000").json
            assert len(shown) < 1000, "too many to look at"
            for each in shown:
                body, kind = base64.b64decode(each["body"]), each["content_type"]
                held.append(Held(name, each["id"], body, each["priority"], kind, each["receive_count"]))
    link.close()
    return seen
