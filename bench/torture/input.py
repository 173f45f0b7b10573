"""What do bytes do that are no request, or nearly one?

The wire table, row by row, with the hot path and without. Then 200,000 streams of bytes: requests to all
endpoints, alone and pipelined, with bodies and parameters that were tampered with, framed rightly or not, and
damaged at random after that, sent in pieces, and ended in order or not. The servers are in memory, a fresh one
every 10,000 streams and every second one without the hot path; in this process and behind a unix socket, unless
they have workers or an engine. None may end, fail on a connection, log an error, answer 500 (except where a
snapshot cannot be read: there it is the answer), write an answer that is not whole, or keep anything of a
connection that is over; and then it serves.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import re
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import h11
import trio
from trio.testing import wait_all_tasks_blocked

import zapq
from bench.torture import server
from bench.torture.report import Report
from tests.server.wire_table import ANSWERED, REFUSED, ROWS, UPGRADES
from tests.support.wire import ask, connect, open_client
from zapq.settings import Settings

STREAMS = 200_000
ROUND = 10_000
"""Streams to each server."""
AT_ONCE = 32
PATIENCE = 1.0
"""Seconds a client waits for the end of its connection: whoever has pipelined something behind a long poll is not
seen to leave before that is answered."""
SETTINGS = Settings(
    max_msgs=2000,
    max_bytes=4 * 2**20,
    max_message_bytes=16 * 1024,
    max_queues=30,
    keep_alive=5.0,
    head_timeout=0.5,
    body_timeout=0.5,
    send_timeout=0.5,
    grace=1.0,
)
LIMITS = (
    *("max_msgs", "max_bytes", "max_message_bytes", "max_queues"),
    *("keep_alive", "head_timeout", "body_timeout", "send_timeout", "grace"),
)
"""Which of these are limits."""
RECEIPT = b"1f2e3d-1-9"
"""Stands for the receipt that was given last, whatever that was."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request before anything is done to it."""

    method: bytes
    target: bytes
    body: bytes = b""
    fields: bytes = b""


JSON = b"Content-Type: application/json\r\n"
MSGPACK = b"Content-Type: application/msgpack\r\n"
NDJSON = b"Content-Type: application/x-ndjson\r\n"
REQUESTS = [
    Request(b"POST", b"/enqueue", b"a message"),
    Request(b"POST", b"/enqueue", b"x" * 300, b"X-Trace-Id: order-4711\r\nContent-Type: text/plain\r\n"),
    Request(b"GET", b"/dequeue"),
    Request(b"POST", b"/dequeue?wait=0.01"),
    Request(b"POST", b"/clear"),
    Request(b"POST", b"/queues/jobs/messages", b"work"),
    Request(b"POST", b"/queues/jobs/messages?delay=0.5&ttl=9&priority=3", b"later"),
    Request(b"POST", b"/queues/jobs/messages", b"once", b"Idempotency-Key: key-1\r\n"),
    Request(b"POST", b"/queues/jobs/messages/batch", b'["d29ybGQ=","aGVsbG8="]', JSON),
    Request(b"POST", b"/queues/jobs/messages/batch", b"\x93\xc4\x02ab\xc4\x00\x81\xa4body\xc4\x03xyz", MSGPACK),
    Request(b"POST", b"/queues/jobs/messages/batch", b'{"body":"aGk=","priority":9}\n{"body":"eQ=="}\n', NDJSON),
    Request(b"POST", b"/queues/jobs/messages/batch", b"\xdc\x00\x20" + b"\xc4\x04mass" * 32, MSGPACK),
    Request(b"POST", b"/queues/jobs/receive?visibility=0.5&wait=0.01"),
    Request(b"POST", b"/queues/jobs/receive?ack=auto"),
    Request(b"POST", b"/queues/jobs/receive/batch?max=3&visibility=1", fields=b"Accept: application/msgpack\r\n"),
    Request(b"POST", b"/queues/jobs/receive/batch?max=3&ack=auto", fields=b"Accept: application/json\r\n"),
    Request(b"DELETE", b"/queues/jobs/receipts/" + RECEIPT),
    Request(b"POST", b"/queues/jobs/receipts/" + RECEIPT + b"/release?delay=0.1"),
    Request(b"POST", b"/queues/jobs/receipts/" + RECEIPT + b"/extend?visibility=3"),
    Request(
        b"POST",
        b"/queues/jobs/settle",
        b'[{"receipt":"%b"},{"receipt":"%b","action":"extend","visibility":3}]' % (RECEIPT, RECEIPT),
        JSON,
    ),
    Request(b"GET", b"/queues/jobs/messages?state=ready&limit=3"),
    Request(b"GET", b"/queues/jobs/messages/2"),
    Request(b"GET", b"/queues"),
    Request(b"GET", b"/queues/jobs"),
    Request(b"PUT", b"/queues/jobs", b'{"visibility":5,"max_receives":3,"dead_letter":"dead"}', JSON),
    Request(b"PUT", b"/queues/side", b'{"max_messages":9,"max_bytes":900,"ttl":60}', JSON),
    Request(b"DELETE", b"/queues/side"),
    Request(b"POST", b"/queues/jobs/purge"),
    Request(b"POST", b"/queues/side/pause"),
    Request(b"POST", b"/queues/side/resume"),
    Request(b"POST", b"/queues/dead/redrive?limit=3"),
    Request(b"POST", b"/persist?file=saved.json"),
    Request(b"POST", b"/persist?file=saved.msgpack"),
    Request(b"POST", b"/load?file=saved.msgpack"),
    Request(b"GET", b"/snapshots"),
    Request(b"GET", b"/metrics"),
    Request(b"GET", b"/health"),
    Request(b"GET", b"/livez"),
    Request(b"GET", b"/readyz"),
    Request(b"HEAD", b"/health"),
    Request(b"OPTIONS", b"/dequeue"),
]
DRAIN = Request(b"POST", b"/drain")
"""After this a server takes nothing new, so it has a round of its own."""
# fmt: off
NUMBERS = [
    b"-1", b"0", b"00", b"1e9", b"1e400", b"nan", b"inf", b"1_0", b"+3", b"0x10", b"9" * 30, b"\xd9\xa3", b"1.5",
]
TOKENS = [
    *NUMBERS,
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"\x1b[31m", b"\x7f", b"\xff", b"\xc3\xa9",
    b"%00", b"%2e%2e%2f", b"%", b"%zz", b"+", b"?", b"&", b"#", b"//", b"/../", b"=", b'"', b"\xed\xa0\x80",
    b"null", b"true", b"[", b"]", b"{", b"}", b"[" * 2000, b'{"a":' * 1000, b"\xdd\xff\xff\xff\xff", b"\xc1",
    b"GET", b"HEAD", b"BREW", b" HTTP/1.0\r\n", b" HTTP/1.1\r\n", b" HTTP/2.0\r\n", b"Host: localhost\r\n",
    b"Host: y:99\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 99999999\r\n",
    b"Connection: close\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n", b"TE: trailers\r\n", b"Trailer: x\r\n", b"X-Trace-Id: \xe9\r\n",
    b"Content-Encoding: gzip\r\n", b"Accept: application/msgpack\r\n", b"Content-Type: a/b; charset=utf-7\r\n",
    *UPGRADES.values(),
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"ffffffffffffffff\r\n", b"5;x=y\r\nhello\r\n",
    b"-5\r\n", b"A: b\r\n" * 120, b"x" * 3000, b"x" * 20_000,
]
# fmt: on
NUMBER = re.compile(rb"[0-9]+")
DAMAGED = [data for _, data in REFUSED.values()]
Damage = Callable[[Random, bytes], bytes]


def _flip(random: Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    flipped[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data))
    return start, start + random.choice([1, 1, 2, 5, 20, 100])


def _delete(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _duplicate(random: Random, data: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:end] + data[start:end] * random.choice([1, 1, 3]) + data[end:]


def _splice(random: Random, data: bytes) -> bytes:
    other = random.choice(DAMAGED) if random.random() < 0.3 else plain(random.choice(REQUESTS))
    start, end = _span(random, other)
    place = random.randrange(len(data) + 1)
    return data[:place] + other[start:end] + data[place:]


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _insert(random: Random, data: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + random.choice(TOKENS) + data[place:]


def _insert_line(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(random.randrange(1, len(lines) + 1), random.choice(TOKENS).removesuffix(b"\r\n"))
    return b"\r\n".join(lines)


def _renumber(random: Random, data: bytes) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    number = random.choice(found)
    other = random.choice([*NUMBERS, b"%d" % random.randrange(2000), b"%d" % 2 ** random.randrange(70)])
    return data[: number.start()] + other + data[number.end() :]


def _swap_lines(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


DAMAGES: list[Damage] = [
    *(_flip, _delete, _duplicate, _splice, _truncate, _insert, _insert, _insert_line, _renumber, _swap_lines)
]


def plain(request: Request) -> bytes:
    """Return the bytes of `request`, as it should be."""
    length = b"Content-Length: %d\r\n" % len(request.body) if request.body else b""
    return b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b%b\r\n%b" % (
        request.method,
        request.target,
        request.fields,
        length,
        request.body,
    )


def chunked(random: Random, request: Request) -> bytes:
    """Return the bytes of `request` with its body in chunks of any size."""
    head = b"%b %b HTTP/1.1\r\nHost: localhost\r\n%bTransfer-Encoding: chunked\r\n\r\n"
    data = bytearray(head % (request.method, request.target, request.fields))
    rest = request.body
    while rest:
        size = random.choice([1, 2, 7, 100, 5000])
        data += b"%x\r\n%b\r\n" % (len(rest[:size]), rest[:size])
        rest = rest[size:]
    return bytes(data) + b"0\r\n\r\n"


def tampered(random: Random, request: Request) -> bytes:
    """Return the bytes of `request` after its body and its target were tampered with, well framed."""
    if request.body and random.random() < 0.5:
        request = replace(request, body=random.choice(DAMAGES)(random, request.body))
    if random.random() < 0.4:
        path, mark, query = request.target.partition(b"?")
        if mark and query and random.random() < 0.7:
            query = random.choice([_renumber, _flip, _delete, _duplicate, _insert])(random, query)
        else:
            path = random.choice([_renumber, _delete, _duplicate, _insert])(random, path)
        request = replace(request, target=path + mark + query)
    return chunked(random, request) if random.random() < 0.25 else plain(request)


def stream_of(random: Random, requests: list[Request]) -> list[bytes]:
    """Return what one client sends, in pieces."""
    data = b"".join(tampered(random, random.choice(requests)) for _ in range(random.choice([1, 1, 1, 1, 2, 3, 8])))
    for _ in range(random.choice([0, 0, 1, 1, 1, 2, 3, 6])):
        if data:
            data = random.choice(DAMAGES)(random, data)
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice([0, 0, 0, 1, 2, 5])))
    return [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]


class Complaints(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, unless it is about a 500 whose answer is looked at anyway."""
        fields = getattr(record, "fields", {})
        if record.getMessage() != "refused":
            self.said.append(f"logged: {record.getMessage()} {fields} {record.exc_info}")


@contextmanager
def listening_to_complaints() -> Iterator[list[str]]:
    """Yield the list to which what is logged as an error is added during the block."""
    handler = Complaints()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler.said
    finally:
        root.removeHandler(handler)


@dataclass
class Target:
    """A server in this process."""

    url: str
    report: Report
    statuses: Counter[int] = field(default_factory=Counter)
    receipt: bytes = RECEIPT
    unended: int = 0
    """Connections the client had to end."""

    async def speak(self, number: int, pieces: list[bytes], *, politely: bool) -> None:
        """Send `pieces`, and read what comes if that is polite."""
        answer = bytearray()
        ended = False
        stream = await connect(self.url)
        try:
            with trio.move_on_after(PATIENCE):
                try:
                    for piece in pieces:
                        await stream.send_all(piece.replace(RECEIPT, self.receipt))
                        await trio.lowlevel.checkpoint()
                    if not politely:
                        return
                    assert isinstance(stream, trio.SocketStream)
                    await stream.send_eof()
                except trio.BrokenResourceError:
                    pass  # refused already
                with suppress(trio.BrokenResourceError):
                    while data := await stream.receive_some():
                        answer += data
                    ended = True
        finally:
            await trio.aclose_forcefully(stream)
        self.unended += not ended
        if not ended:
            return  # and not all of the last answer may be here
        for status, body in self._read(number, bytes(answer), pieces):
            self.statuses[status] += 1
            fine = status != 500 or b'"/problems/snapshot-failed"' in body
            self.report.expect(fine, f"stream {number}: {status} {body!r} to {pieces!r}")

    def _read(self, number: int, answer: bytes, pieces: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yield status and body of each answer; those to HEAD have none, though they have its length."""
        rest = answer
        while rest:
            head, _, behind = rest.partition(b"\r\n\r\n")
            status = re.match(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Za-z' -]*\r\n", head + b"\r\n")
            length = re.search(rb"\r\nContent-Length: ([0-9]+)(?:\r\n|$)", head)
            receipt = re.search(rb"\r\nZapq-Receipt: ([0-9a-f-]+)", head)
            if status is None:
                self.report.failures.append(f"stream {number}: {rest[:200]!r} is no answer to {pieces!r}")
                return
            if receipt is not None:
                self.receipt = receipt[1]
            size = int(length[1]) if length is not None else 0
            if not behind or behind.startswith(b"HTTP/1.1 "):
                size = 0
            yield int(status[1]), behind[:size]
            rest = behind[size:]

    async def metrics(self) -> dict[str, int]:
        """Return what the server says of itself."""
        metrics: dict[str, int] = (await ask(self.url, "GET", "/metrics")).json
        return metrics

    async def is_well(self, tasks: int) -> None:
        """Wait until nobody is connected, and see that nothing is left and that it serves."""
        expect = self.report.expect
        living, metrics = 0, dict[str, int]()
        with trio.move_on_after(20):
            while True:
                metrics = await self.metrics()
                living = metrics["goroutines"]
                if metrics["connections"] == 1 and metrics["waiting"] == 0 and living <= tasks:
                    break
                await trio.sleep(0.02)
        left = metrics["connections"] - 1, metrics["waiting"], max(0, living - tasks)
        expect(left == (0, 0, 0), f"left behind: connections, waiting, tasks: {left}")
        expect(metrics["connection_errors"] == 0, f"connection_errors: {metrics['connection_errors']}")
        expect((await ask(self.url, "GET", "/health")).body == b"ok", "no longer healthy")
        await ask(self.url, "POST", "/queues/default/resume")
        await ask(self.url, "POST", "/clear")
        if (await ask(self.url, "GET", "/readyz")).status == 200:
            expect((await ask(self.url, "POST", "/enqueue", b"well?")).status == 202, "no longer takes a message")
            expect((await ask(self.url, "POST", "/dequeue")).body == b"well?", "no longer gives it back")


@asynccontextmanager
async def serving(settings: Settings, report: Report) -> AsyncGenerator[Target, None]:
    """Run a server for the length of the block, of the kind that `server` has."""
    if not server.KIND.is_plain:
        async with server.running(Path(settings.data_dir).parent, *_flags(settings)) as other:
            yield Target(other.url, report)
            report.expect(await other.stop() == 0, f"ended with {other.process.returncode}")
            report.failures += [line for line in other.complaints() if "'msg': 'refused'" not in line]
        return
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(zapq.serve, settings)
        yield Target(url, report)
        nursery.cancel_scope.cancel()


def _flags(settings: Settings) -> list[str]:
    """Return what tells a server in a process of its own what differs from the defaults."""
    flags = [] if settings.hot_path else ["--no-hot-path"]
    for name in LIMITS:
        flags += [f"--{name.replace('_', '-')}", f"{getattr(settings, name)}"]
    return flags


async def table(settings: Settings, report: Report) -> int:
    """Compare each row with what it gets, and return how many there are."""
    async with serving(settings, report) as target:
        for name, (status, data) in {**ROWS, **ANSWERED}.items():
            row = f"{name}, hot path {settings.hot_path}"
            async with open_client(target.url) as client:
                await client.stream.send_all(data)
                method = "HEAD" if data.startswith(b"HEAD ") else "GET"
                client.connection.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
                client.connection.send(h11.EndOfMessage())
                answer = await client.answer(method)
                report.expect(answer.status == status, f"{row}: {answer.status} and not {status}")
                if name in ROWS:
                    kind = answer.headers["content-type"]
                    report.expect(kind == "application/problem+json", f"{row}: {kind}")
                    report.expect(answer.headers["connection"] == "close", f"{row}: does not announce its end")
                    report.expect(await client.reads_eof(), f"{row}: the connection goes on")
        accepted = sum(status == 202 for status, _ in ANSWERED.values())
        counts = await target.metrics()
        stored = counts["enqueues"], counts["queue_length"]
        report.expect(stored == (accepted, accepted), f"{stored} and not {accepted} messages")
    return len(ROWS) + len(ANSWERED)


@dataclass(frozen=True, slots=True)
class Round:
    """What one server has to take."""

    seed: int
    numbers: range
    hot_path: bool
    drains: bool
    kind: server.Kind


@dataclass(slots=True)
class Findings:
    """What came of that; figures add up."""

    failures: list[str]
    statuses: Counter[int]
    unended: int


async def attack(this: Round) -> Findings:
    """Send the streams of one round to a server of its own."""
    report = Report()
    waiting = iter(this.numbers)
    requests = [*REQUESTS, DRAIN] if this.drains else REQUESTS

    async def client(target: Target) -> None:
        for number in waiting:
            random = Random(f"{this.seed}-{number}")
            pieces = stream_of(random, requests)
            await target.speak(number, pieces, politely=random.random() < 0.85)

    with listening_to_complaints() as complaints, in_a_directory(hot_path=this.hot_path) as settings:
        async with serving(settings, report) as target:
            await ask(target.url, "GET", "/health")
            await wait_all_tasks_blocked(0.05)
            tasks = (await target.metrics())["goroutines"]
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(client, target)
            await target.is_well(tasks + 3)
        return Findings(report.failures + complaints, target.statuses, target.unended)


def attack_apart(this: Round) -> Findings:
    """Do that in a process of its own."""
    server.KIND.workers, server.KIND.engine = this.kind.workers, this.kind.engine
    return trio.run(attack, this)


@contextmanager
def in_a_directory(*, hot_path: bool) -> Iterator[Settings]:
    """Yield settings for a server behind a unix socket, with a data directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        yield replace(SETTINGS, addr=f"unix:{place / 'socket'}", data_dir=str(place / "data"), hot_path=hot_path)


async def run(seed: int, scale: float) -> Report:
    """Send everything and look at what became of it."""
    report = Report()
    streams = int(STREAMS * scale)
    step = min(ROUND, max(1, streams // 2))
    rounds = [
        Round(seed, range(start, min(start + step, streams)), turn % 2 == 0, turn % 10 == 9, server.KIND)
        for turn, start in enumerate(range(0, streams, step))
    ]
    rows = 0
    with listening_to_complaints() as complaints:
        for hot_path in (True, False):
            with in_a_directory(hot_path=hot_path) as settings:
                # Patient: every row is whole, and a machine may be busy for longer than the floods' half second.
                patient = replace(settings, head_timeout=30.0, body_timeout=30.0, send_timeout=30.0)
                rows += await table(patient, report)
    report.failures += complaints
    found: list[Findings] = []
    if scale < 0.1:
        found += [await attack(each) for each in rounds]
    else:
        # One process a core, started afresh: a fork would have the streams of its parent open.
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            working = [pool.submit(attack_apart, each) for each in rounds]
            found += [await trio.to_thread.run_sync(each.result) for each in working]
    statuses = sum((each.statuses for each in found), Counter[int]())
    for each in found:
        report.failures += each.failures
    report.figures |= {
        "rows": rows,
        "streams": streams,
        "answers": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "not_ended_by_the_server": sum(each.unended for each in found),
    }
    return report
