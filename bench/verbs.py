"""What does each operation cost the server?

    scripts/bench verbs
    scripts/bench verbs --tls
    scripts/bench verbs --against ../another-checkout --only put --only receive

Starts zapq on one core and loads it from the other with every request of the message API in turn, refusals
included, on 32 keep-alive connections, and a queue on Go's net/http (where `go` is installed) with enqueue and
dequeue. Prints the microseconds of the server's CPU for each request, and ratios: to a plain enqueue, with
`--tls` of TLS to plain, with `--against` of this checkout to another. All servers take turns at each request, in
another order in each round; a figure is the median of the rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench import rig
from bench.prepared import SPARE, Client, Load, Site, request, run

Q = "/queues/bench"
BODY = b"x" * rig.MESSAGE
MANY = 100_000
"""Messages, receipts or keys a run may use up; their number bounds the server's memory."""
LISTED = 10
"""Queues there are when they are listed."""
SETTLED = 100
"""Receipts in a settle, and messages in a batch."""
BASE = "enqueue"
CLOSING = 5_000
"""Connections a run may open and close, where each answer ends its own: ports are left for the others."""

Prepare = Callable[[Client, int], Load]
"""Prepares the server, for so many messages, and returns what to send."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A request, and what it needs to be there."""

    prepare: Prepare
    durable: bool = False
    """Asked of a server that keeps its queues on the disk."""


def fill(client: Client, messages: int, queue: str = Q) -> None:
    """Put so many messages into a queue."""
    client.must("POST", f"{queue}/messages", BODY)
    for at in range(1, messages, 1000):
        batch = msgspec.msgpack.encode([BODY] * min(1000, messages - at))
        client.must("POST", f"{queue}/messages/batch", batch, Content_Type="application/msgpack")


def lease(client: Client, messages: int, visibility: float = 3600) -> list[str]:
    """Put so many messages into the queue, receive them, and return the receipts."""
    fill(client, messages)
    receipts: list[str] = []
    while len(receipts) < messages:
        target = f"{Q}/receive/batch?max=1000&visibility={visibility}"
        leases = msgspec.msgpack.decode(client.must("POST", target, Accept="application/msgpack"))
        if not leases:
            raise RuntimeError(f"{len(receipts)} of {messages} messages could be received")
        receipts += [each["receipt"] for each in leases]
    return receipts


def always(one: bytes, status: int, *, limit: int = 10**9, messages: int = 0) -> Prepare:
    """Send the same request again and again, to a queue of so many messages, if any."""

    def prepare(client: Client, many: int) -> Load:
        if messages:
            fill(client, messages)
        return Load([one], status, limit)

    return prepare


def taking(one: bytes, queue: str = Q) -> Prepare:
    """Send a request that takes a message."""

    def prepare(client: Client, many: int) -> Load:
        fill(client, many + 2 * SPARE, queue)
        return Load([one], 200, many)

    return prepare


def settling(method: str, ending: str, *, again: bool = False) -> Prepare:
    """Send a request about a receipt: another one each time, or the same thousand, if that may be done again."""

    def prepare(client: Client, many: int) -> Load:
        receipts = lease(client, 1000 if again else many + SPARE)
        requests = [request(method, f"{Q}/receipts/{receipt}{ending}") for receipt in receipts]
        return Load(requests, 204, 10**9 if again else many)

    return prepare


def settle(client: Client, many: int) -> Load:
    """Acknowledge a hundred receipts with each request."""
    number = max(1, many // 50)
    receipts = lease(client, SETTLED * (number + SPARE))
    bodies = [
        msgspec.json.encode([{"receipt": receipt} for receipt in receipts[at : at + SETTLED]])
        for at in range(0, len(receipts), SETTLED)
    ]
    requests = [request("POST", f"{Q}/settle", body, "Content-Type: application/json") for body in bodies]
    return Load(requests, 200, number)


def keyed(client: Client, many: int) -> Load:
    """Put each message with a key of its own."""
    return Load([_keyed(number) for number in range(many + SPARE)], 202, many)


def replay(client: Client, many: int) -> Load:
    """Put a thousand messages with their keys, again and again."""
    for number in range(1000):
        client.must("POST", f"{Q}/messages", BODY, Idempotency_Key=f"key-{number}")
    return Load([_keyed(number) for number in range(1000)], 202)


def reused(client: Client, many: int) -> Load:
    """Put another message with a key that is used."""
    client.must("POST", f"{Q}/messages", b"another", Idempotency_Key="key-0")
    return Load([_keyed(0)], 422)


def _keyed(number: int) -> bytes:
    return request("POST", f"{Q}/messages", BODY, f"Idempotency-Key: key-{number}")


def batch(media_type: str, body: bytes) -> Prepare:
    """Put a hundred messages with each request."""
    one = request("POST", f"{Q}/messages/batch", body, f"Content-Type: {media_type}")
    return lambda client, many: Load([one], 202, max(1, many // 20))


def find(client: Client, many: int) -> Load:
    """Look at a thousand messages one by one."""
    fill(client, 1000)
    seen = msgspec.json.decode(client.must("GET", f"{Q}/messages?limit=1000"))
    return Load([request("GET", f"{Q}/messages/{message['id']}") for message in seen], 200)


def listing(target: str) -> Prepare:
    """Ask for something about all queues; the ones made here are removed by `tidy`."""

    def prepare(client: Client, many: int) -> Load:
        there = len(msgspec.json.decode(client.must("GET", "/queues")))
        for number in range(LISTED - there):
            client.must("PUT", f"/queues/listed.{number}", b"{}")
        return Load([request("GET", target)], 200)

    return prepare


def empty(client: Client, many: int) -> Load:
    """Receive from a queue that has nothing."""
    client.must("PUT", Q, b"{}")
    return Load([request("POST", f"{Q}/receive")], 204)


def full(client: Client, many: int) -> Load:
    """Put into a full queue."""
    client.must("PUT", Q, b'{"max_messages": 1}')
    client.must("POST", f"{Q}/messages", BODY)
    return Load([request("POST", f"{Q}/messages", BODY)], 429)


def expired(client: Client, many: int) -> Load:
    """Acknowledge with a receipt that was given back."""
    [receipt] = lease(client, 1)
    client.must("POST", f"{Q}/receipts/{receipt}/release")
    return Load([request("DELETE", f"{Q}/receipts/{receipt}")], 409)


def draining(client: Client, many: int) -> Load:
    """Put while the server drains; it cannot be asked for anything else afterwards."""
    client.must("POST", "/drain")
    return Load([request("POST", f"{Q}/messages", BODY)], 503)


def put(parameters: str = "", *, queue: str = Q) -> Prepare:
    """Put a message."""
    one = request("POST", f"{queue}/messages{parameters}", BODY)
    return lambda client, many: Load([one], 202, 10 * many)


def get(target: str, status: int = 200, messages: int = 0) -> Prepare:
    """Ask for something that changes nothing."""
    return always(request("GET", target), status, messages=messages)


_JSON_MESSAGES = msgspec.json.encode([BODY] * SETTLED)
_MSGPACK_MESSAGES = msgspec.msgpack.encode([BODY] * SETTLED)
_LINES = (b'"' + BODY[2:] + b'"\n') * SETTLED
_TOO_LARGE = request("POST", f"{Q}/messages", b"", "Content-Length: 200000").replace(b"Content-Length: 0\r\n", b"")

VERBS = {
    BASE: Verb(lambda client, many: Load([request("POST", "/enqueue", BODY)], 202, 10 * many)),
    "dequeue": Verb(taking(request("GET", "/dequeue"), "/queues/default")),
    "put to a named queue": Verb(put()),
    "put, priority=5": Verb(put("?priority=5")),
    "put, delay=60": Verb(put("?delay=60")),
    "put, ttl=600": Verb(put("?ttl=600")),
    "put, priority=5&delay=60&ttl=600": Verb(put("?priority=5&delay=60&ttl=600")),
    "put, Idempotency-Key": Verb(keyed),
    "put, Idempotency-Key, replayed": Verb(replay),
    "put 100, msgpack": Verb(batch("application/msgpack", _MSGPACK_MESSAGES)),
    "put 100, JSON": Verb(batch("application/json", _JSON_MESSAGES)),
    "put 100, NDJSON": Verb(batch("application/x-ndjson", _LINES)),
    "receive": Verb(taking(request("POST", f"{Q}/receive"))),
    "receive, visibility=60": Verb(taking(request("POST", f"{Q}/receive?visibility=60"))),
    "receive, wait=20": Verb(taking(request("POST", f"{Q}/receive?wait=20"))),
    "receive, ack=auto": Verb(taking(request("POST", f"{Q}/receive?ack=auto"))),
    "receive, nothing there: 204": Verb(empty),
    "receive, no such queue: 404": Verb(always(request("POST", f"{Q}/receive"), 404)),
    "ack": Verb(settling("DELETE", "")),
    "release": Verb(settling("POST", "/release")),
    "release, delay=60": Verb(settling("POST", "/release?delay=60")),
    "extend, visibility=60": Verb(settling("POST", "/extend?visibility=60", again=True)),
    "settle 100": Verb(settle),
    "peek at 10": Verb(get(f"{Q}/messages?limit=10", messages=1000)),
    "find one message": Verb(find),
    "describe a queue": Verb(get(Q, messages=1)),
    f"list {LISTED} queues": Verb(listing("/queues")),
    f"scrape {LISTED} queues": Verb(listing("/metrics/prometheus")),
    "/metrics": Verb(get("/metrics")),
    "/health": Verb(get("/health")),
    "/livez": Verb(get("/livez")),
    "/readyz": Verb(get("/readyz")),
    "refused: describe, 404": Verb(get(Q, 404)),
    "refused: ack, 409": Verb(expired),
    "refused: put, priority=99, 400": Verb(always(request("POST", f"{Q}/messages?priority=99", BODY), 400)),
    "refused: put, 413, a connection each": Verb(always(_TOO_LARGE, 413, limit=CLOSING)),
    "refused: batch, 415": Verb(
        always(request("POST", f"{Q}/messages/batch", b"[]", "Content-Type: text/plain"), 415)
    ),
    "refused: key reused, 422": Verb(reused),
    "refused: full, 429": Verb(full),
    "durable: put": Verb(put(), durable=True),
    "durable: put, durability=memory": Verb(put("?durability=memory"), durable=True),
    "refused: draining, 503": Verb(draining),  # last: the server takes nothing after it
}
PAIR = ("receive", "ack")


def tidy(client: Client) -> None:
    """Leave the server as it was: no messages, and the queue `default` only."""
    client.must("POST", "/clear")
    for queue in msgspec.json.decode(client.must("GET", "/queues")):
        if queue["name"] != "default":
            client.must("DELETE", f"/queues/{queue['name']}")


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, how it is started (`{port}` and `{dir}` stand for its port and directory), and what it can do."""

    name: str
    command: list[str]
    tls: bool = False
    zapq: bool = True


Results = dict[str, dict[str, list[float]]]
"""Microseconds in each round, by request and by contender."""


@contextmanager
def contenders(tls: bool, against: str | None) -> Iterator[list[Contender]]:
    """Yield all there are, for the length of the block."""
    with tempfile.TemporaryDirectory() as directory:
        cert, key = rig.certificate(directory)
        secure = ["--tls-cert", cert, "--tls-key", key]
        found = []
        for name, tree in (("zapq", None), ("other", against)):
            if tree is None and name == "other":
                continue
            # -P: what is called zapq in the caller's directory is not the one meant.
            zapq = [] if tree is None else ["env", f"PYTHONPATH={Path(tree).resolve()}"]
            zapq += [sys.executable, "-P", "-m", "zapq", "--addr", "127.0.0.1:{port}"]
            zapq += ["--max-msgs", "100000000", "--max-bytes", "64G", "--data-dir", "{dir}"]
            found.append(Contender(name, zapq))
            if tls:
                found.append(Contender(f"{name}, TLS", [*zapq, *secure], tls=True))
        go = rig.go_queue(directory)
        if go is not None:
            found.append(Contender("Go", go, zapq=False))
            if tls:
                found.append(Contender("Go, TLS", [*go, cert, key], tls=True, zapq=False))
        yield found


class Started:
    """The servers of one contender: in memory, and, for zapq, durable; each is started when it is first asked."""

    def __init__(self, contender: Contender, stack: ExitStack, options: Options) -> None:
        self.contender = contender
        self._stack = stack
        self._options = options
        self._sites: dict[bool, Site] = {}

    def measure(self, name: str, verb: Verb) -> float | None:
        """Return the microseconds of one request; None, having said why, if the answers are wrong."""
        site = self.site(verb.durable)
        try:
            load = self._prepared(site, name, verb)
            requests, used = self._run(site, load)
        except RuntimeError as error:
            print(f"{self.contender.name}: {name}: {error}", file=sys.stderr, flush=True)
            return None
        finally:
            if self.contender.zapq and verb is not VERBS["refused: draining, 503"]:
                client = Client(site)
                tidy(client)
                client.close()
        return used / requests * 1e6

    def site(self, durable: bool) -> Site:
        """Return the server, started and warm."""
        if durable not in self._sites:
            port = rig.free_port()
            directory = self._stack.enter_context(tempfile.TemporaryDirectory())
            command = [
                word.replace("{port}", str(port)).replace("{dir}", directory) for word in self.contender.command
            ]
            pid = self._stack.enter_context(rig.running([*command, *["--durable"] * durable], port))
            self._sites[durable] = Site(pid, port, self.contender.tls)
            self._run(self._sites[durable], Load([request("POST", "/enqueue", BODY)], 202, self._options.many))
        return self._sites[durable]

    def _prepared(self, site: Site, name: str, verb: Verb) -> Load:
        client = Client(site)
        try:
            if self.contender.zapq:
                return verb.prepare(client, self._options.many)
            if name == "dequeue":  # it knows no batches: what the last enqueues have left
                there, _ = self._run(site, Load([request("POST", "/enqueue", BODY)], 202, self._options.many))
                return Load([request("GET", "/dequeue")], 200, max(1, there - 2 * SPARE))
            return Load([request("POST", "/enqueue", BODY)], 202, 10 * self._options.many)
        finally:
            client.close()

    def _run(self, site: Site, load: Load) -> tuple[int, float]:
        return run(site, load, self._options.connections, self._options.seconds, wrk=self._options.wrk)


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure."""

    connections: int = 32
    seconds: int = 1
    rounds: int = 3
    many: int = MANY
    wrk: bool | None = None
    """Whether wrk sends the load; None: if it is there."""


def measure(found: Sequence[Contender], verbs: dict[str, Verb], options: Options) -> Results:
    """Let all contenders take turns at each request and return what it took."""
    results: Results = {name: {} for name in verbs}
    for number in range(options.rounds):
        with ExitStack() as stack:
            servers = [Started(contender, stack, options) for contender in found]
            if number % 2:
                servers.reverse()
            for name, verb in verbs.items():
                for server in servers:
                    if not server.contender.zapq and name not in {"enqueue", "dequeue"}:
                        continue
                    cost = server.measure(name, verb)
                    if cost is not None:
                        results[name].setdefault(server.contender.name, []).append(cost)
        print(f"round {number + 1} done", file=sys.stderr, flush=True)
    return results


def medians(results: Results) -> dict[str, dict[str, float]]:
    """Return the median of the rounds, with a row for a receive and its ack behind that of the ack."""
    rows: dict[str, dict[str, float]] = {}
    for name, runs in results.items():
        rows[name] = {contender: statistics.median(each) for contender, each in runs.items()}
        if name == PAIR[1] and PAIR[0] in rows:
            first, second = (rows[each] for each in PAIR)
            rows[" + ".join(PAIR)] = {each: first[each] + second[each] for each in first if each in second}
    return rows


def table(rows: dict[str, dict[str, float]], names: Sequence[str]) -> str:
    """Return the microseconds and the ratios as a Markdown table."""
    ratios = [
        (f"{one} / {other}", one, other)
        for one, other in (("zapq", "other"), ("zapq, TLS", "zapq"), ("zapq, TLS", "other, TLS"))
        if one in names and other in names
    ]
    ratios += [(f"{go} / {one}", go, one) for go, one in (("Go", "zapq"), ("Go, TLS", "zapq, TLS")) if go in names]
    columns = ["request", *names, f"zapq / {BASE}", *[title for title, _, _ in ratios]]
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " --: |" * (len(columns) - 1)]
    base = rows.get(BASE, {}).get("zapq")
    for name, row in rows.items():
        cells = [f"{row[each]:,.1f}" if each in row else "" for each in names]
        cells.append(_ratio(row.get("zapq"), base))
        cells += [_ratio(row.get(one), row.get(other)) for _, one, other in ratios]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(one: float | None, other: float | None) -> str:
    return "" if one is None or not other else f"{one / other:.2f}"


@click.command(help=__doc__)
@click.option("--tls", is_flag=True, help="Measure each server over TLS as well.")
@click.option("--against", metavar="PATH", type=click.Path(exists=True), help="Another checkout to compare with.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only requests with this in their name.")
@click.option("--connections", default=32, show_default=True)
@click.option("--seconds", default=1, show_default=True, help="Length of each run.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--python-load", is_flag=True, help="Send the load from Python, although wrk is there.")
@click.option("--json", "json_file", metavar="FILE", help="Write the figures of all rounds here.")
def main(
    tls: bool,
    against: str | None,
    only: tuple[str, ...],
    connections: int,
    seconds: int,
    rounds: int,
    python_load: bool,
    json_file: str | None,
) -> None:
    """Measure, print, write."""
    verbs = {
        name: verb
        for name, verb in VERBS.items()
        if not only or name == BASE or any(text in name for text in only)
    }
    options = Options(connections, seconds, rounds, wrk=False if python_load else None)
    with contenders(tls, against) as found:
        results = measure(found, verbs, options)
        names = [each.name for each in found]
    title = f"{datetime.now(UTC):%Y-%m-%d}, {connections} connections, {rig.machine()}"
    print(f"{title}; microseconds of the server's CPU for each request\n\n{table(medians(results), names)}")
    if json_file:
        document = {"title": title, "connections": connections, "rounds": results}
        Path(json_file).write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")


if __name__ == "__main__":
    main()
