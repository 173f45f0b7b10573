"""What is lost when clients vanish?

10,000 clients end their connection by FIN, by RST or by half-closing it, at a random byte of their request or of
the answer: producers, consumers with leases and their acknowledgements, consumers at most once, waiting or not,
singly and in batches, by the hot path and by the long way, in memory and with `--durable`. Well-behaved ones
work beside them. Of what was accepted, nothing may be lost from the queue of leases, and no acknowledged message
be given again. At most once means that none is delivered twice, and that there is a client for each that is
missing: one that had sent its whole request and did not read its answer to the end. Whether that was
`delivery_uncertain`, only the kernel knew: it takes a small answer whole. So 200 more clients ask for messages
no kernel takes whole, and of those no more may be missing than the server has counted. In the end nothing is
left of anybody: no descriptor, no task.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import Literal

import trio

from bench.torture.report import Report
from bench.torture.server import Server, running
from tests.support.wire import Answer

CLIENTS = 10_000
LARGE_CLIENTS = 200
AT_ONCE = 50
LARGE = 12 * 2**20
"""Bytes of a message no kernel takes whole from one who does not read: Linux buffers up to 4 MiB for a sender."""
LEASE = 0.5
"""Seconds of a lease that may end in a cut."""

End = Literal["fin", "rst", "half"]
GONE = (OSError, trio.BrokenResourceError)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that was read to its end."""

    status: int
    head: bytes
    body: bytes

    def field(self, name: bytes) -> str:
        """Return a field of the head."""
        match = re.search(rb"\r\n%b: ([^\r]*)" % name, self.head)
        assert match is not None, self.head
        return match[1].decode()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a client came."""

    asked: bool
    """Whether it had sent its whole request."""
    left: bool
    """Whether it left before the server had said its last word."""
    reply: Reply | None


def request(method: str, target: str, body: bytes = b"", fields: str = "") -> bytes:
    """Return the bytes of a request."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n".encode() + body


def chunked(method: str, target: str, body: bytes) -> bytes:
    """Return the bytes of a request with a body in two chunks, which only the long way understands."""
    half = len(body) // 2
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]) if piece)
    return request(method, target, fields="Transfer-Encoding: chunked\r\n") + pieces + b"0\r\n\r\n"


def size_of(data: bytes) -> float:
    """Return how long the answer is that `data` begins: for ever, as long as its head is not complete."""
    head, end, _ = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
    return len(head) + len(end) + (int(length[1]) if length is not None else 0) if end else inf


def whole(data: bytes) -> Reply | None:
    """Return the answer `data` is, unless some of it is missing."""
    if len(data) < size_of(data):
        return None
    head, _, body = data.partition(b"\r\n\r\n")
    return Reply(int(head[9:12]), head, body)


async def converse(
    port: int, data: bytes, *, sends: int, reads: int | None, end: End, window: int | None = None
) -> Outcome:
    """Send the first `sends` bytes, read as many as `reads` (None: all) of the answer, and end the connection so.

    Who half-closes reads on to the end.
    """
    sock = trio.socket.socket()
    answer = bytearray()
    asked = False
    left = True
    try:
        with suppress(*GONE):
            if window is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            await sock.connect(("127.0.0.1", port))
            sent = 0
            while sent < sends:
                sent += await sock.send(data[sent:sends])
            asked = sent == len(data)
            if end == "half":
                sock.shutdown(socket.SHUT_WR)
            size = inf
            while (asked or end == "half") and len(answer) < (size if reads is None else min(size, reads)):
                more = await sock.recv(65536 if reads is None else min(65536, reads - len(answer)))
                left = bool(more)
                if not more:
                    break
                answer += more
                if size == inf:
                    size = size_of(bytes(answer))
    finally:
        if end == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    return Outcome(asked, left, whole(bytes(answer)))


@dataclass
class Ledger:
    """What clients were told about the messages of one queue, by body."""

    accepted: set[bytes] = field(default_factory=set)
    unfinished: set[bytes] = field(default_factory=set)
    """Of which not all was sent: there must be none of them."""
    delivered: Counter[bytes] = field(default_factory=Counter)
    """How often each was read to its end."""
    acknowledged: dict[bytes, float] = field(default_factory=dict)
    """Since when."""
    perhaps: set[bytes] = field(default_factory=set)
    """Whose acknowledgement was sent, but its answer not read."""
    unread: int = 0
    """Messages that may have been in answers nobody has read to the end."""
    given_again: set[bytes] = field(default_factory=set)
    """Although they had been acknowledged."""

    def note_received(self, body: bytes, since: float) -> None:
        """Note that a message was read by somebody who had asked for it at the time `since`."""
        self.delivered[body] += 1
        if self.acknowledged.get(body, since) < since:
            self.given_again.add(body)


def _leases(answer: Answer) -> list[dict[str, str]]:
    leases: list[dict[str, str]] = answer.json if answer.status == 200 else []
    return leases


@dataclass
class Clients:
    """Everybody who uses one server."""

    server: Server
    seed: str
    jobs: Ledger = field(default_factory=Ledger)
    fifo: Ledger = field(default_factory=Ledger)
    cuts: Counter[str] = field(default_factory=Counter)
    over: bool = False

    async def cut(self, random: Random, data: bytes) -> Outcome:
        """Be a client that leaves somewhere."""
        end: End = random.choice(["fin", "rst", "half"])
        in_request = random.random() < 0.4
        sends = random.randrange(len(data)) if in_request else len(data)
        reads = 0 if in_request else random.choice([0, 1, random.randrange(400), random.randrange(400), None])
        outcome = await converse(
            self.server.port, data, sends=sends, reads=None if end == "half" else reads, end=end
        )
        self.cuts[f"{end}_{'request' if in_request else 'answer'}"] += 1
        return outcome

    async def be_cut(self, number: int) -> None:
        """Be client `number`, whatever kind that is."""
        random = Random(f"{self.seed}-{number}")
        kind = random.choice([self.produce, self.lease, self.lease, self.take, self.take])
        await kind(random, b"cut-%d" % number)

    async def produce(self, random: Random, name: bytes) -> None:
        """Send a message."""
        ledger, target = random.choice([
            (self.jobs, "/queues/jobs/messages"),
            (self.fifo, "/queues/default/messages"),
            (self.fifo, "/enqueue"),
        ])
        body = name.ljust(random.choice([0, 0, 1000, 100_000]), b".")
        data = (chunked if random.random() < 0.3 else request)("POST", target, body)
        outcome = await self.cut(random, data)
        if not outcome.asked:
            ledger.unfinished.add(body)
        if outcome.reply is not None and outcome.reply.status == 202:
            ledger.accepted.add(body)

    async def lease(self, random: Random, name: bytes) -> None:
        """Receive a message, and perhaps acknowledge it: each may be cut."""
        wait = random.choice(["", "", "&wait=0.2"])
        long_way = random.choice(["", "TE: trailers\r\n"])
        since = trio.current_time()
        data = request("POST", f"/queues/jobs/receive?visibility={LEASE}{wait}", fields=long_way)
        reply = (await self.cut(random, data)).reply
        if reply is None or reply.status != 200:
            return
        self.jobs.note_received(reply.body, since)
        if random.random() < 0.7:
            target = f"/queues/jobs/receipts/{reply.field(b'Zapq-Receipt')}"
            self.note_ack(reply.body, await self.cut(random, request("DELETE", target, fields=long_way)))

    def note_ack(self, body: bytes, outcome: Outcome) -> None:
        """Note what an acknowledgement has come to."""
        if outcome.reply is not None and outcome.reply.status == 204:
            self.jobs.acknowledged.setdefault(body, trio.current_time())
        elif outcome.asked and outcome.reply is None:
            self.jobs.perhaps.add(body)

    async def take(self, random: Random, name: bytes) -> None:
        """Take a message or more, at most once."""
        most, target = random.choice([
            (1, "/dequeue"),
            (1, "/dequeue?wait=0.2"),
            (1, "/queues/default/receive?ack=auto"),
            (5, "/queues/default/receive/batch?ack=auto&max=5"),
        ])
        long_way = random.choice(["", "TE: trailers\r\n"])
        self.note_taken(most, await self.cut(random, request("POST", target, fields=long_way)))

    def note_taken(self, most: int, outcome: Outcome) -> None:
        """Note what asking for at most so many messages has come to."""
        reply = outcome.reply
        if reply is None:
            self.fifo.unread += most if outcome.asked and outcome.left else 0
        elif reply.status == 200:
            bodies = [reply.body]
            if most > 1:
                bodies = [base64.b64decode(each["body"]) for each in json.loads(reply.body)]
            for body in bodies:
                self.fifo.delivered[body] += 1

    async def ask(self, data: bytes) -> Outcome:
        """Be a client that stays."""
        return await converse(self.server.port, data, sends=len(data), reads=None, end="fin")

    async def stock(self, number: int) -> None:
        """Have so many messages in each queue to begin with."""
        for start in range(0, number, 1000):
            bodies = [b"stock-%d" % each for each in range(start, min(start + 1000, number))]
            data = json.dumps([base64.b64encode(body).decode() for body in bodies]).encode()
            for ledger, queue in ((self.jobs, "jobs"), (self.fifo, "default")):
                fields = {"Content-Type": "application/json"}
                answer = await self.server.ask("POST", f"/queues/{queue}/messages/batch", data, fields)
                assert answer.status == 202, answer
                ledger.accepted.update(bodies)

    async def produce_well(self, name: str) -> None:
        """Send messages for as long as there are others."""
        number = 0
        while not self.over:
            number += 1
            body = f"well-{name}-{number}".encode()
            for ledger, queue in ((self.jobs, "jobs"), (self.fifo, "default")):
                reply = (await self.ask(request("POST", f"/queues/{queue}/messages", body))).reply
                if reply is not None and reply.status == 202:
                    ledger.accepted.add(body)
            await trio.sleep(0.005)

    async def consume_well(self) -> None:
        """Receive and acknowledge for as long as there are others."""
        while not self.over:
            await self.handle_one("&wait=0.2")
            await trio.sleep(0.005)

    async def handle_one(self, wait: str) -> None:
        """Receive a message and acknowledge it."""
        since = trio.current_time()
        reply = (await self.ask(request("POST", f"/queues/jobs/receive?visibility=30{wait}"))).reply
        if reply is not None and reply.status == 200:
            self.jobs.note_received(reply.body, since)
            target = f"/queues/jobs/receipts/{reply.field(b'Zapq-Receipt')}"
            self.note_ack(reply.body, await self.ask(request("DELETE", target)))

    async def drain(self) -> None:
        """Take and acknowledge all there is, also what leases hold yet."""
        with trio.fail_after(120):
            while (await self.server.ask("GET", "/queues/jobs")).json["messages"]:
                since = trio.current_time()
                target = "/queues/jobs/receive/batch?visibility=60&wait=0.2"
                leases = _leases(await self.server.ask("POST", target))
                for lease in leases:
                    self.jobs.note_received(base64.b64decode(lease["body"]), since)
                if leases:
                    data = json.dumps([{"receipt": lease["receipt"]} for lease in leases]).encode()
                    fields = {"Content-Type": "application/json"}
                    settled = await self.server.ask("POST", "/queues/jobs/settle", data, fields)
                    assert settled.status == 200, settled
                    assert all(each["result"] == "ok" for each in settled.json), settled
                    for lease in leases:
                        self.jobs.acknowledged.setdefault(base64.b64decode(lease["body"]), trio.current_time())
            while (await self.server.metrics())["queue_length"]:
                self.note_taken(1000, await self.ask(request("POST", "/queues/default/receive/batch?ack=auto")))

    def audit(self, report: Report, mode: str) -> dict[str, int]:
        """Compare what was sent with what was received, and return how much was lost."""
        jobs, fifo = self.jobs, self.fifo
        lost = jobs.accepted - jobs.acknowledged.keys() - jobs.perhaps
        missing = fifo.accepted - fifo.delivered.keys()
        twice = [body for body, times in fifo.delivered.items() if times > 1]
        appeared = (jobs.unfinished & jobs.delivered.keys()) | (fifo.unfinished & fifo.delivered.keys())
        report.expect(
            not lost, f"{mode}: lost despite leases: {len(lost)}, such as {min(lost, default=b'')[:40]!r}"
        )
        report.expect(not jobs.given_again, f"{mode}: {len(jobs.given_again)} given again though acknowledged")
        report.expect(not twice, f"{mode}: {len(twice)} delivered twice at most once")
        report.expect(not appeared, f"{mode}: {len(appeared)} stored though never sent whole")
        report.expect(
            len(missing) <= fifo.unread,
            f"{mode}: {len(missing)} missing though only {fifo.unread} may have been in answers nobody read",
        )
        return {
            "leased": len(jobs.accepted),
            "lost_despite_leases": len(lost),
            "fifo": len(fifo.accepted),
            "duplicates": len(twice),
            "missing_at_most_once": len(missing),
            "perhaps_unread": fifo.unread,
        }


@dataclass(frozen=True, slots=True)
class Rest:
    """What a server has open when nobody but us is there."""

    descriptors: int
    tasks: float


async def at_rest(server: Server, most: Rest | None = None) -> Rest:
    """Wait until nobody else is there, for half a minute at most, and return what is open then.

    If that is more than `most`, wait for it to go, too.
    """
    rest = Rest(0, 0)
    with trio.move_on_after(30):
        while True:
            metrics = await server.metrics()
            rest = Rest(server.descriptors(), metrics["goroutines"])
            alone = metrics["connections"] == 1 and metrics["waiting"] == 0
            if alone and (most is None or (rest.descriptors <= most.descriptors and rest.tasks <= most.tasks)):
                return rest
            await trio.sleep(0.05)
    raise RuntimeError(f"left behind: {rest}, {metrics} where {most} was before")


async def end_well(server: Server, before: Rest, report: Report, mode: str) -> dict[str, float]:
    """See that nothing is left and nothing went wrong, and return the server's counts."""
    try:
        await at_rest(server, before)
    except RuntimeError as error:
        report.failures.append(f"{mode}: {error}")
    metrics = await server.metrics()
    report.expect(metrics["connection_errors"] == 0, f"{mode}: connection_errors: {metrics['connection_errors']}")
    report.expect(not server.complaints(), f"{mode}: logged: {server.complaints()[:3]}")
    report.expect(await server.stop() == 0, f"{mode}: ended with {server.process.returncode}")
    return metrics


async def vanish(flags: tuple[str, ...], seed: int, number: int, report: Report) -> dict[str, object]:
    """Have so many clients vanish from one server."""
    mode = " ".join(flags) or "in memory"
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory), *flags) as server:
            clients = Clients(server, f"{seed}-{mode}")
            await clients.stock(number // 2)
            before = await at_rest(server)
            numbers = iter(range(number))

            async def be_cut() -> None:
                for each in numbers:
                    await clients.be_cut(each)

            async with trio.open_nursery() as staying:
                for name in "ab":
                    staying.start_soon(clients.produce_well, name)
                staying.start_soon(clients.consume_well)
                async with trio.open_nursery() as leaving:
                    for _ in range(AT_ONCE):
                        leaving.start_soon(be_cut)
                clients.over = True
            await clients.drain()
            figures: dict[str, object] = {**clients.audit(report, mode)}
            metrics = await end_well(server, before, report, mode)
            for name in ("delivery_uncertain", "dequeues_returned", "hot_requests", "cold_requests"):
                figures[name] = metrics[name]
            return {**figures, "cuts": dict(sorted(clients.cuts.items()))}


async def vanish_from_large(seed: int, number: int, report: Report) -> dict[str, object]:
    """Have so many clients vanish while they read messages that no kernel takes whole."""
    random = Random(f"{seed}-large")
    with tempfile.TemporaryDirectory() as directory:
        async with running(Path(directory), "--max-message-bytes", "16M") as server:
            before = await at_rest(server)
            for _ in range(number):
                if (await server.metrics())["queue_length"] == 0:
                    assert (await server.ask("POST", "/enqueue", bytes(LARGE))).status == 202
                long_way = random.choice(["", "TE: trailers\r\n"])
                data = request("POST", random.choice(["/dequeue", "/dequeue?wait=1"]), fields=long_way)
                await converse(
                    server.port,
                    data,
                    sends=len(data),
                    reads=random.choice([0, 0, 1, 200, random.randrange(1000), random.randrange(100_000)]),
                    end=random.choice(["fin", "rst"]),
                    window=4096,
                )
            metrics = await end_well(server, before, report, "large")
            missing = metrics["enqueues"] - metrics["queue_length"]
            uncertain = metrics["delivery_uncertain"]
            report.expect(missing <= uncertain, f"large: {missing} missing, but only {uncertain} counted")
    return {"clients": number, "missing": missing, "delivery_uncertain": uncertain}


async def run(seed: int, scale: float) -> Report:
    """Have all of them vanish, and look what is missing."""
    report = Report()
    each = int(CLIENTS * scale) // 2
    report.figures["in_memory"] = await vanish((), seed, each, report)
    report.figures["durable"] = await vanish(("--durable",), seed, each, report)
    report.figures["large"] = await vanish_from_large(seed, int(LARGE_CLIENTS * scale), report)
    return report
