"""What does SQS cost the server, as boto3 writes it?

    scripts/bench sqs

Starts zapq on one core, in memory, and loads it from the other by wrk, on 32 keep-alive connections, with what
boto3 sends for the actions on messages. Each request is recorded from boto3 itself once, and repeated with another
signature, number and receipt handle, as boto3 would write it: boto3 needs a millisecond of CPU for a call, so its
clients on one core could not keep a server busy. `moto_server`, which many test suites use in place of Amazon, is
asked for the same in the same run, one request after the other. Prints the microseconds of the server's CPU for
each request and for each message; the median of the rounds counts. FIFO: in a queue of that kind, each message in
a group of its own. The machine may be twice as fast in one hour as in the next, so a plain `POST /enqueue` of the
native dialect is measured in the same run: compare how many times that each request is.

What each action costs in the process, without sockets, is measured by `scripts/bench actions`.

What groups cost in the core, and how many there may be, is measured by `scripts/bench groups`.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import click
import msgspec

from bench import rig
from bench.prepared import SPARE, Load, Site, request, run

BODY = "x" * rig.MESSAGE
TEN = 10
VARIANTS = 1000
"""How many requests differ in what boto3 writes anew, where nothing else does."""
NEVER = "43200"
"""Seconds a message stays with its consumer: it does not come back while we measure."""
_LENGTH = re.compile(rb"(?i)(\r\ncontent-length: )[0-9]+")
_SIGNATURE = re.compile(rb"Signature=[0-9a-f]+")
_NUMBER = re.compile(rb"(\r\namz-sdk-invocation-id: )[0-9a-f-]+")

Members = dict[str, Any]


def client_of(url: str) -> Any:
    """Return a client of boto3 that asks once."""
    config = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=60)
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
        config=config,
    )


class Recorder:
    """Listens on a port of its own, and has every byte boto3 sends there."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._heard = b""
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # it was closed
            with connection:
                heard = b""
                while not is_whole(heard):
                    heard += connection.recv(65536)
                self._heard = heard
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")

    def record(self, action: str, members: Members) -> bytes:
        """Return the request boto3 makes of this call."""
        self._heard = b""
        getattr(client_of(f"http://127.0.0.1:{self.port}"), action)(**members)
        return self._heard

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()


def is_whole(request: bytes) -> bool:
    """Whether these bytes are a whole request."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
    return bool(end) and length is not None and len(body) == int(length[1])


def another(recorded: bytes, members: Members, host: str) -> bytes:
    """Return a recorded request as boto3 would write it to another host, with other members."""
    head, _, _ = recorded.partition(b"\r\n\r\n")
    body = json.dumps(members).encode()
    head = _LENGTH.sub(rb"\g<1>%d" % len(body), head)
    head = _SIGNATURE.sub(b"Signature=" + secrets.token_hex(32).encode(), head)
    head = _NUMBER.sub(rb"\g<1>" + str(uuid.uuid4()).encode(), head)
    head = re.sub(rb"\r\nHost: [^\r]*", b"\r\nHost: " + host.encode(), head)
    return b"%b\r\n\r\n%b" % (head, body)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and what is asked of it."""

    site: Site
    recorder: Recorder
    boto: Any
    many: int
    """Messages that a run may use up."""
    spare: int
    """Requests that may be sent beyond that."""

    def make(self, kind: str) -> str:
        """Make a queue that has nothing, and return its URL."""
        attributes = {"VisibilityTimeout": NEVER}
        if kind:
            attributes |= {"FifoQueue": "true"}
        made: str = self.boto.create_queue(QueueName=f"bench-{secrets.token_hex(4)}{kind}", Attributes=attributes)[
            "QueueUrl"
        ]
        return made

    def requests(self, action: str, all_members: Sequence[Members]) -> list[bytes]:
        """Return a request for each of these."""
        recorded = self.recorder.record(action, all_members[0])
        host = f"127.0.0.1:{self.site.port}"
        return [another(recorded, members, host) for members in all_members]

    def fill(self, url: str, number: int) -> None:
        """Put so many messages into a queue."""
        batches = [entries_of(url, at, min(TEN, number - at)) for at in range(0, number, TEN)]
        self.say_all(self.requests("send_message_batch", batches))

    def receive(self, url: str, number: int) -> list[str]:
        """Receive so many messages, and return their handles."""
        ask = {"QueueUrl": url, "MaxNumberOfMessages": TEN}
        handles: list[str] = []
        while len(handles) < number:
            missing = -(-(number - len(handles)) // TEN)
            for answer in self.say_all(self.requests("receive_message", [ask] * missing)):
                messages = answer.get("Messages")
                if not messages:
                    raise RuntimeError(f"{len(handles)} of {number} messages could be received")
                handles += [each["ReceiptHandle"] for each in messages]
        return handles[:number]

    def say_all(self, requests: Sequence[bytes]) -> list[Any]:
        """Send requests one after the other, and return what is answered."""
        answers = []
        connection: socket.socket | None = None
        for each in requests:
            if connection is None:
                connection = self.site.connect()
            connection.sendall(each)
            heard = b""
            while not is_whole(heard):
                piece = connection.recv(1 << 20)
                if not piece:
                    raise RuntimeError(f"closed after {heard[:300]!r}")
                heard += piece
            head, _, body = heard.partition(b"\r\n\r\n")
            if b" 200 " not in head[:13]:
                raise RuntimeError(f"refused: {heard[:500]!r}")
            answers.append(msgspec.json.decode(body))
            if b"connection: close" in head.lower() or head.startswith(b"HTTP/1.0"):
                connection.close()
                connection = None
        if connection is not None:
            connection.close()
        return answers


def entry(url: str, number: int) -> Members:
    """Return a message to send: in a FIFO queue in a group of its own."""
    members: Members = {"MessageBody": BODY}
    if url.endswith(".fifo"):
        members |= {"MessageGroupId": f"group-{number}", "MessageDeduplicationId": secrets.token_hex(8)}
    return members


def entries_of(url: str, first: int, number: int) -> Members:
    """Return a batch of such messages."""
    return {"QueueUrl": url, "Entries": [{"Id": str(at), **entry(url, first + at)} for at in range(number)]}


Prepare = Callable[[Server, str], Load]
"""Prepares a queue, and returns what to send."""


def enqueue(server: Server, url: str) -> Load:
    """Send them in the native dialect, as the measure of the others."""
    return Load([request("POST", "/enqueue", BODY.encode())], 202, server.many)


def send(server: Server, url: str) -> Load:
    """Send messages one by one."""
    number = server.many + server.spare if url.endswith(".fifo") else min(VARIANTS, server.many)
    members = [{"QueueUrl": url, **entry(url, at)} for at in range(number)]
    return Load(server.requests("send_message", members), 200, server.many)


def send_ten(server: Server, url: str) -> Load:
    """Send them ten by ten."""
    members = [entries_of(url, TEN * at, TEN) for at in range(min(VARIANTS, server.many))]
    return Load(server.requests("send_message_batch", members), 200, server.many // 4)


def receive(server: Server, url: str) -> Load:
    """Receive messages one by one."""
    server.fill(url, server.many + 2 * server.spare)
    return Load(server.requests("receive_message", [{"QueueUrl": url}] * VARIANTS), 200, server.many)


def receive_ten(server: Server, url: str) -> Load:
    """Receive them ten by ten."""
    server.fill(url, server.many + 2 * server.spare * TEN)
    members = [{"QueueUrl": url, "MaxNumberOfMessages": TEN}] * VARIANTS
    return Load(server.requests("receive_message", members), 200, server.many // TEN)


def delete(server: Server, url: str) -> Load:
    """Delete messages one by one."""
    number = server.many + server.spare
    server.fill(url, number)
    members = [{"QueueUrl": url, "ReceiptHandle": each} for each in server.receive(url, number)]
    return Load(server.requests("delete_message", members), 200, server.many)


def delete_ten(server: Server, url: str) -> Load:
    """Delete them ten by ten."""
    number = server.many + server.spare * TEN
    server.fill(url, number)
    handles = iter(server.receive(url, number))
    members = [
        {"QueueUrl": url, "Entries": [{"Id": str(at), "ReceiptHandle": next(handles)} for at in range(TEN)]}
        for _ in range(number // TEN)
    ]
    return Load(server.requests("delete_message_batch", members), 200, server.many // TEN)


@dataclass(frozen=True, slots=True)
class Row:
    """One action: how it is prepared, the kind of queue, and how many messages a request is about."""

    prepare: Prepare
    kind: str = ""
    messages: int = 1


BASE = "POST /enqueue"
ROWS = {
    BASE: Row(enqueue),
    "SendMessage": Row(send),
    "ReceiveMessage": Row(receive),
    "DeleteMessage": Row(delete),
    "SendMessageBatch of 10": Row(send_ten, messages=TEN),
    "ReceiveMessage of 10": Row(receive_ten, messages=TEN),
    "DeleteMessageBatch of 10": Row(delete_ten, messages=TEN),
    "SendMessage, FIFO": Row(send, ".fifo"),
    "ReceiveMessage, FIFO": Row(receive, ".fifo"),
    "DeleteMessage, FIFO": Row(delete, ".fifo"),
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, how it is started (`{port}` stands for its port), and how many messages a run may use up."""

    name: str
    command: list[str]
    many: int
    slow: bool = False
    """Whether it is asked for one thing after the other: under a load it would not answer in time."""


def contenders(against: str | None, options: Sequence[str], many: int) -> list[Contender]:
    """Return what is measured, each with `many` messages if it can."""
    zapq = [sys.executable, "-P", "-m", "zapq", "--addr", "127.0.0.1:{port}", "--max-msgs", "100000000"]
    zapq += ["--max-bytes", "64G", *options]
    found = [Contender("zapq", zapq, many)]
    if against is not None:
        found.append(Contender("other", ["env", f"PYTHONPATH={Path(against).resolve()}", *zapq], many))
    moto = Path(sys.executable).parent / "moto_server"
    if moto.exists():
        # It looks through all messages each time.
        found.append(Contender("moto_server", [str(moto), "-H", "127.0.0.1", "-p", "{port}"], 100, slow=True))
    else:
        print("no moto_server here: leaving it out", file=sys.stderr)
    return found


def measure(contender: Contender, row: Row, connections: int, seconds: int) -> float:
    """Return the microseconds of one request to a server that has just been started."""
    port = rig.free_port()
    recorder = Recorder()
    with ExitStack() as stack:
        stack.callback(recorder.close)
        command = [word.replace("{port}", str(port)) for word in contender.command]
        pid = stack.enter_context(rig.running(command, port))
        spare = 0 if contender.slow else SPARE
        server = Server(Site(pid, port), recorder, client_of(f"http://127.0.0.1:{port}"), contender.many, spare)
        with rig.on_the_other_core():
            load = row.prepare(server, server.make(row.kind))
        time.sleep(0.2)  # what was set off by that is over then
        if not contender.slow:
            requests, used = run(server.site, load, connections, seconds)
            return used / requests * 1e6
        before = rig.cpu_seconds(pid)
        with rig.on_the_other_core():
            requests = len(server.say_all(load.requests[: load.limit]))
        return (rig.cpu_seconds(pid) - before) / requests * 1e6


def table(results: dict[str, dict[str, float]], names: Sequence[str]) -> str:
    """Return the microseconds as a Markdown table."""
    columns = ["request", *names, *[f"{each}, a message" for each in names], "times an enqueue"]
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " --: |" * (len(columns) - 1)]
    for name, costs in results.items():
        each = ROWS[name].messages
        cells = [f"{costs[one]:,.1f}" if one in costs else "" for one in names]
        cells += [f"{costs[one] / each:,.1f}" if one in costs else "" for one in names]
        cells.append(f"{costs['zapq'] / results[BASE]['zapq']:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--against", metavar="PATH", type=click.Path(exists=True), help="Another checkout to compare with.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only requests with this in their name.")
@click.option("--connections", default=32, show_default=True)
@click.option("--seconds", default=2, show_default=True, help="Length of each run, at most.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--many", default=20_000, show_default=True, help="Messages of each run, at most.")
@click.option("--without-moto", is_flag=True, help="Leave moto_server out.")
@click.argument("options", nargs=-1)
def main(
    against: str | None,
    only: tuple[str, ...],
    connections: int,
    seconds: int,
    rounds: int,
    many: int,
    without_moto: bool,
    options: tuple[str, ...],
) -> None:
    """Measure and print; what is behind `--` are further options of zapq."""
    found = contenders(against, options, many)
    found = [each for each in found if not (without_moto and each.name == "moto_server")]
    rows = {
        name: row for name, row in ROWS.items() if not only or name == BASE or any(map(name.__contains__, only))
    }
    costs: dict[str, dict[str, list[float]]] = {name: {} for name in rows}
    for number in range(rounds):
        for name, row in rows.items():
            for contender in found:
                if name == BASE and contender.slow:
                    continue  # it has no such thing
                costs[name].setdefault(contender.name, []).append(measure(contender, row, connections, seconds))
        print(f"round {number + 1} done", file=sys.stderr, flush=True)
    results = {
        name: {one: statistics.median(each) for one, each in measured.items()} for name, measured in costs.items()
    }
    title = f"{datetime.now(UTC):%Y-%m-%d}, {connections} connections, {rig.machine()}"
    names = [each.name for each in found]
    print(f"{title}; microseconds of the server's CPU for each request\n\n{table(results, names)}")


if __name__ == "__main__":
    main()
