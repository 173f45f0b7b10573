"""How long does a healthy client wait while others ask for much?

    scripts/bench stalls
    scripts/bench stalls --durable --limit 20

One healthy client puts a message and takes it, over and over, and a second one asks a queue in which there is
nothing, while others do what costs most, one scenario after the other, each on a server of its own: settles of
a thousand receipts, large batches, looking for messages, redrives that move nothing, listings, purges,
leases that all expire at once, TLS handshakes. Prints how long the healthy clients' answers took, until they
reached the kernel. The last column is about the server's own part: it leaves out the time in which the server
waited for a core that another program had (as /proc/PID/schedstat counts it), and with `--durable` the first
client, whose answers wait for the disk. `--limit` is about that one.

The server is on one core, all clients on the other. Every scenario is bounded and asks only its own server.
"""

from __future__ import annotations

import math
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import msgspec

from bench import rig
from bench.prepared import Client, Site, TlsOverBytes, is_complete, read_into, request, trusting
from bench.verbs import Q, fill, lease

QUIET_SECONDS = 0.3
"""How long the healthy client asks before the others begin, and after they have ended."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scenario has to do with: the server, a client that prepares it, and its bounds."""

    site: Site
    client: Client
    scale: float
    patience: float
    """Seconds after which the others are not waited for any more."""

    def scaled(self, number: int) -> int:
        """Return a number of messages, clients or queues as large as this run is to be."""
        return max(2, round(number * self.scale))


Work = Callable[[], "Counter[str]"]
"""What the others do while the healthy client asks; returns their answers by status."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Prepares the server and returns what is done to it."""

    prepare: Callable[[Stage], Work]
    durable: bool = True
    """Whether it is another question on a server that keeps its queues on the disk."""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """How the healthy clients fared."""

    scenario: str
    seconds: float
    """How long the others took."""
    others: Counter[str]
    """Their answers, by status."""
    answers: list[tuple[float, float, bool]]
    """Milliseconds of each answer, those of them spent waiting for a core, and whether it waited for the disk."""

    @property
    def p99(self) -> float:
        """Milliseconds in which 99 of 100 answers came."""
        ordered = sorted(took for took, *_ in self.answers)
        return ordered[math.ceil(len(ordered) * 0.99) - 1]

    @property
    def longest(self) -> float:
        """Milliseconds of the answer that took longest."""
        return max(took for took, *_ in self.answers)

    @property
    def stall(self) -> float:
        """The same, without waiting for a core that another program had, and for the disk."""
        return max(max(0.0, took - waited) for took, waited, disk in self.answers if not disk)


def crowd(stage: Stage, requests: Sequence[bytes], times: int) -> Work:
    """Connect a client for each request; all send theirs at once, wait for all answers, and do so again."""
    clients = [stage.site.connect() for _ in requests]
    for client in clients:
        client.setblocking(False)

    def work() -> Counter[str]:
        ends = time.perf_counter() + stage.patience
        counted: Counter[str] = Counter()
        with selectors.DefaultSelector() as selector:
            for _ in range(times):
                for client, one in zip(clients, requests, strict=True):
                    selector.register(client, selectors.EVENT_WRITE, (memoryview(one), bytearray()))
                while selector.get_map() and time.perf_counter() < ends:
                    for key, _ in selector.select(0.1):
                        _go_on(selector, key, counted)
                if left := len(selector.get_map()):
                    counted["not answered in time"] += left
                    break
        for client in clients:
            client.close()
        return counted

    return work


def _go_on(selector: selectors.BaseSelector, key: selectors.SelectorKey, counted: Counter[str]) -> None:
    client, (left, answer) = key.fileobj, key.data
    assert isinstance(client, socket.socket)
    try:
        if left:
            left = left[client.send(left) :]
            events = selectors.EVENT_READ if not left else selectors.EVENT_WRITE
            selector.modify(client, events, (left, answer))
        elif read_into(client, answer):
            counted[answer[9:12].decode()] += 1
            selector.unregister(client)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    except OSError as error:
        counted[type(error).__name__] += 1
        selector.unregister(client)


def quiet(stage: Stage) -> Work:
    """Do nothing: what remains is the noise of this machine."""

    def work() -> Counter[str]:
        time.sleep(2 * stage.scale)
        return Counter()

    return work


def settle_unknown(stage: Stage) -> Work:
    """Fifty clients settle a thousand unknown receipts each."""
    [receipt] = lease(stage.client, 1)
    tag = receipt.rpartition("-")[0]
    settlements = [{"receipt": f"{tag}-{2**24 + number:x}"} for number in range(stage.scaled(1000))]
    one = request("POST", f"{Q}/settle", msgspec.json.encode(settlements), "Content-Type: application/json")
    return crowd(stage, [one] * stage.scaled(50), times=3)


def large_batches(stage: Stage) -> Work:
    """Fifty clients put 4 MB each, as JSON."""
    messages = [b64encode(b"x" * 3000).decode()] * stage.scaled(1000)
    one = request("POST", f"{Q}/messages/batch", msgspec.json.encode(messages), "Content-Type: application/json")
    return crowd(stage, [one] * stage.scaled(50), times=1)


def largest_batches(content_type: str) -> Callable[[Stage], Work]:
    """Fifty clients put 8 MB each, all of them with an Idempotency-Key."""
    json = content_type == "application/json"

    def prepare(stage: Stage) -> Work:
        body = b"x" * (6000 if json else 8000)
        messages = [b64encode(body).decode() if json else body] * stage.scaled(1000)
        batch = msgspec.json.encode(messages) if json else msgspec.msgpack.encode(messages)
        ask = partial(request, "POST", f"{Q}/messages/batch", batch, f"Content-Type: {content_type}")
        return crowd(stage, [ask(f"Idempotency-Key: {key}") for key in range(stage.scaled(50))], times=1)

    return prepare


def cold(stage: Stage) -> Work:
    """Five hundred clients each put a message in chunks, which has Quart answer."""
    chunked = request("POST", "/enqueue", b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    return crowd(stage, [chunked + b"1\r\nx\r\n0\r\n\r\n"] * stage.scaled(500), times=3)


def sqs_batches(stage: Stage) -> Work:
    """Fifty clients send 1 MB each in the dialect of SQS."""
    entries = [{"Id": str(number), "MessageBody": "x" * 100_000} for number in range(10)]
    url = f"http://127.0.0.1:{stage.site.port}/000000000000/default"
    body = msgspec.json.encode({"QueueUrl": url, "Entries": entries})
    fields = ("Content-Type: application/x-amz-json-1.0", "X-Amz-Target: AmazonSQS.SendMessageBatch")
    return crowd(stage, [request("POST", "/", body, *fields)] * stage.scaled(50), times=1)


def settle_leased(stage: Stage) -> Work:
    """A hundred clients acknowledge a thousand messages each."""
    receipts = lease(stage.client, stage.scaled(100_000))
    at_once = stage.scaled(1000)
    requests = [
        request("POST", f"{Q}/settle", msgspec.json.encode(part), "Content-Type: application/json")
        for at in range(0, len(receipts), at_once)
        if (part := [{"receipt": each} for each in receipts[at : at + at_once]])
    ]
    return crowd(stage, requests, times=1)


def find_leased(stage: Stage) -> Work:
    """Twenty clients look for messages that are leased."""
    there = stage.scaled(40_000)
    lease(stage.client, there)
    clients = stage.scaled(20)
    ids = [1 + number * (there - 1) // (clients - 1) for number in range(clients)]
    return crowd(stage, [request("GET", f"{Q}/messages/{id}") for id in ids], times=5)


def give_back(client: Client, receipts: Sequence[str]) -> None:
    """Release leases, so that their messages are back at their places, or dead letters."""
    for at in range(0, len(receipts), 1000):
        settlements = [{"receipt": each, "action": "release"} for each in receipts[at : at + 1000]]
        body = msgspec.json.encode(settlements)
        client.must("POST", f"{Q}/settle", body, Content_Type="application/json")


def find_returned(stage: Stage) -> Work:
    """Twenty clients look for a message that is not there, among many that were returned."""
    receipts = lease(stage.client, stage.scaled(300_000))
    gone = len(receipts) // 2
    stage.client.must("DELETE", f"{Q}/receipts/{receipts.pop(gone)}")
    give_back(stage.client, receipts)
    return crowd(stage, [request("GET", f"{Q}/messages/{gone + 1}")] * stage.scaled(20), times=3)


def redrive_nothing(stage: Stage) -> Work:
    """Five clients redrive dead letters for which there is no room."""
    stage.client.must("PUT", Q, b'{"max_receives": 1, "dead_letter": "dead"}')
    give_back(stage.client, lease(stage.client, stage.scaled(300_000)))
    stage.client.must("PATCH", Q, b'{"max_bytes": %d}' % (rig.MESSAGE - 1))
    return crowd(stage, [request("POST", "/queues/dead/redrive")] * 5, times=3)


def listing(target: str) -> Callable[[Stage], Work]:
    """Twenty clients ask for something that is about all of 1,024 queues."""

    def prepare(stage: Stage) -> Work:
        for number in range(stage.scaled(1024) - 2):  # beside `default` and `idle`
            stage.client.must("PUT", f"/queues/listed.{number}", b"{}")
        return crowd(stage, [request("GET", target)] * stage.scaled(20), times=10)

    return prepare


def peek(stage: Stage) -> Work:
    """Twenty clients look at a thousand messages each."""
    fill(stage.client, stage.scaled(10_000))
    return crowd(stage, [request("GET", f"{Q}/messages?limit=1000")] * stage.scaled(20), times=10)


def receive_batches(stage: Stage) -> Work:
    """Fifty clients receive a thousand messages each."""
    fill(stage.client, stage.scaled(150_000))
    one = request("POST", f"{Q}/receive/batch?max=1000", b"", "Accept: application/json")
    return crowd(stage, [one] * stage.scaled(50), times=3)


def purge_ready(stage: Stage) -> Work:
    """Purge a queue whose messages were never taken."""
    fill(stage.client, stage.scaled(300_000))
    return crowd(stage, [request("POST", f"{Q}/purge")], times=1)


def purge_leased(stage: Stage) -> Work:
    """Purge a queue whose messages are leased or were returned."""
    give_back(stage.client, lease(stage.client, stage.scaled(150_000)))
    lease(stage.client, stage.scaled(150_000))
    return crowd(stage, [request("POST", f"{Q}/purge")], times=1)


def expiry(stage: Stage) -> Work:
    """Let many leases end at the same moment."""
    messages = stage.scaled(100_000)
    fill(stage.client, messages)
    seconds = 0.5 + 4.5 * stage.scale
    while (end := _lease_until(stage, messages, time.perf_counter() + seconds)) is None:
        seconds *= 2  # the machine is busy; those that were leased have expired meanwhile

    def work() -> Counter[str]:
        ends = time.perf_counter() + stage.patience
        while time.perf_counter() < ends:
            time.sleep(0.1)
            if time.perf_counter() > end:
                about = msgspec.json.decode(stage.client.must("GET", f"{Q}/messages?state=leased&limit=1"))
                if not about:
                    return Counter(expired=messages)
        return Counter({"not all expired in time": 1})

    return work


def _lease_until(stage: Stage, messages: int, end: float) -> float | None:
    """Lease so many messages until `end`, and return that; None if they could not all be leased before it."""
    left = messages
    while left:
        visibility = end - time.perf_counter()
        if visibility <= 0:
            return None
        target = f"{Q}/receive/batch?max=1000&visibility={visibility:.3f}"
        leases = stage.client.must("POST", target, Accept="application/msgpack")
        left -= len(msgspec.msgpack.decode(leases))
    return end


def handshakes(stage: Stage) -> Work:
    """Five hundred clients connect over TLS at once, and ask for something."""
    context = trusting()
    # Their first words are made beforehand, so that all can be said at once.
    clients = [NewClient(context) for _ in range(stage.scaled(500))]

    def work() -> Counter[str]:
        ends = time.perf_counter() + stage.patience
        counted: Counter[str] = Counter()
        with selectors.DefaultSelector() as selector:
            for client in clients:
                client.connect(stage.site.port)
                selector.register(client.socket, selectors.EVENT_WRITE, client)
            while selector.get_map() and time.perf_counter() < ends:
                for key, events in selector.select(0.1):
                    client = key.data
                    try:
                        if events & selectors.EVENT_WRITE:
                            client.socket.send(client.hello)
                            selector.modify(client.socket, selectors.EVENT_READ, client)
                            continue
                        status = client.go_on()
                    except OSError as error:  # SSLError is one
                        status = type(error).__name__
                    if status:
                        counted[status] += 1
                        selector.unregister(client.socket)
                        client.socket.close()
            if left := len(selector.get_map()):
                counted["not answered in time"] += left
        return counted

    return work


class NewClient:
    """A client that is about to connect over TLS, and asks for one thing."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._tls = TlsOverBytes(context)
        self.hello = self._tls.to_send()
        self.socket = socket.socket()
        self._answer = bytearray()

    def connect(self, port: int) -> None:
        """Begin to connect."""
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))

    def go_on(self) -> str:
        """Take what came, send what follows, and return the answer's status, or "" if it is not there yet."""
        had_shaken = self._tls.shaken
        self._answer += self._tls.receive(self.socket.recv(65536))
        if self._tls.shaken and not had_shaken:
            self._tls.write(request("GET", "/livez"))
        if data := self._tls.to_send():
            self.socket.send(data)
        return self._answer[9:12].decode() if is_complete(self._answer) else ""


SCENARIOS = {
    "nothing": Scenario(quiet),
    "50 x settle 1,000 unknown receipts": Scenario(settle_unknown),
    "50 batches of 4 MB, JSON": Scenario(large_batches),
    "50 batches of 8 MB with a key, JSON": Scenario(largest_batches("application/json")),
    "50 batches of 8 MB with a key, msgpack": Scenario(largest_batches("application/msgpack")),
    "50 batches of 1 MB, SQS": Scenario(sqs_batches),
    "500 x put in chunks": Scenario(cold, durable=False),
    "100 x settle 1,000 leased": Scenario(settle_leased),
    "50 x receive 1,000, JSON": Scenario(receive_batches),
    "20 x find one of 40,000 leased": Scenario(find_leased, durable=False),
    "20 x find none among 300,000 returned": Scenario(find_returned, durable=False),
    "5 x redrive none of 300,000": Scenario(redrive_nothing),
    "20 x list 1,024 queues": Scenario(listing("/queues"), durable=False),
    "20 x /metrics of 1,024 queues": Scenario(listing("/metrics"), durable=False),
    "20 x scrape 1,024 queues": Scenario(listing("/metrics/prometheus"), durable=False),
    "20 x peek at 1,000": Scenario(peek, durable=False),
    "purge 300,000 ready": Scenario(purge_ready),
    "purge 150,000 leased, 150,000 returned": Scenario(purge_leased),
    "100,000 leases expire at once": Scenario(expiry),
    "500 TLS handshakes at once": Scenario(handshakes, durable=False, tls=True),
}


@contextmanager
def server(scenario: Scenario, durable: bool, directory: str) -> Iterator[Site]:
    """Run a server for one scenario, for the length of the block."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        port = rig.free_port()
        command = [sys.executable, "-P", "-m", "zapq", "--addr", f"127.0.0.1:{port}", "--data-dir", place]
        command += ["--max-msgs", "100000000", "--max-bytes", "64G", "--log-level", "error"]
        if scenario.tls:
            cert, key = rig.certificate(place)
            command += ["--tls-cert", cert, "--tls-key", key]
        with rig.running([*command, *["--durable"] * durable], port) as pid:
            yield Site(pid, port, scenario.tls)


def observe(name: str, durable: bool, directory: str, scale: float, patience: float) -> Seen:
    """Run one scenario and return how the healthy client fared."""
    scenario = SCENARIOS[name]
    with server(scenario, durable, directory) as site, rig.on_the_other_core():
        client = Client(site)
        client.must("PUT", "/queues/idle", b"{}")
        work = scenario.prepare(Stage(site, client, scale, patience))
        with ExitStack() as stack:
            healthy = {kind: stack.enter_context(healthy_client(site, kind)) for kind in ("put", "receive")}
            time.sleep(QUIET_SECONDS)
            begun = time.perf_counter()
            others = work()
            seconds = time.perf_counter() - begun
            time.sleep(QUIET_SECONDS)
            answers = [
                (took, waited, durable and kind == "put")
                for kind, process in healthy.items()
                for took, waited in msgspec.json.decode(process.communicate()[0], type=list[tuple[float, float]])
            ]
        client.close()
        return Seen(name + ", durable" * durable, seconds, others, answers)


@contextmanager
def healthy_client(site: Site, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a healthy client, and yield its process once it asks."""
    command = [sys.executable, "-P", "-m", "bench.healthy", str(site.port), str(site.pid), kind]
    command += ["tls"] * site.tls
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    if process.returncode:
        raise RuntimeError(f"the healthy client failed with code {process.returncode}")


def table(seen: Sequence[Seen]) -> str:
    """Return what was seen as a Markdown table; all times but the first are milliseconds."""
    columns = "| the others | took s | their answers | healthy answers | p99 ms | longest ms | the server's part |"
    lines = [columns]
    lines.append("| --- | --: | --- | --: | --: | --: | --: |")
    for one in seen:
        others = ", ".join(f"{number:,} x {status}" for status, number in sorted(one.others.items()))
        figures = f"{len(one.answers):,} | {one.p99:.1f} | {one.longest:.1f} | {one.stall:.1f}"
        lines.append(f"| {one.scenario} | {one.seconds:.1f} | {others} | {figures} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--durable", is_flag=True, help="Keep the queues on the disk, in the scenarios where that matters.")
@click.option("--dir", "directory", default=".", show_default=True, help="Where: the disk that counts.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only scenarios with this in their name.")
@click.option("--limit", type=float, metavar="MS", help="Exit with 1 if an answer took longer than that.")
@click.option(
    "--scale", default=1.0, show_default=True, help="Size of the scenarios: 0.1 is a tenth of each number."
)
@click.option("--patience", default=15.0, show_default=True, help="Seconds the others take at most.")
@click.option("--json", "json_file", metavar="FILE", help="Write the figures here.")
def main(
    durable: bool,
    directory: str,
    only: tuple[str, ...],
    limit: float | None,
    scale: float,
    patience: float,
    json_file: str | None,
) -> None:
    """Run the scenarios, print the table, exit with 1 if a stall was too long."""
    print(rig.machine(), flush=True)
    seen = []
    for name, scenario in SCENARIOS.items():
        if durable > scenario.durable or (only and not any(text in name for text in only)):
            continue
        seen.append(observe(name, durable, directory, scale, patience))
        print(f"{name}: {seen[-1].stall:.1f} ms", file=sys.stderr, flush=True)
    print(f"\n{table(seen)}")
    if json_file:
        figures = {one.scenario: {"p99": one.p99, "longest": one.longest, "stall": one.stall} for one in seen}
        Path(json_file).write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    late = [one for one in seen if limit is not None and one.stall > limit]
    for one in late:
        print(f"{one.scenario}: {one.stall:.1f} ms is over the limit of {limit:g} ms")
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
