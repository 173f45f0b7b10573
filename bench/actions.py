"""What does each SQS action cost in the process, without a socket?

    scripts/bench actions
    scripts/bench actions --only Receive --profile

Gives the fast road what boto3 writes for the actions on messages, one request after the other, and plain requests
of the native dialect beside them. Prints the microseconds of CPU for each request and for each message, the best
of the rounds, and how many times a plain `POST /enqueue` that is. The machine's noise is smaller here than in
`scripts/bench sqs`, which measures a whole server under load.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import re
import secrets
import sys
import time
from collections.abc import Iterator

import click
import msgspec
import trio

from bench import rig
from bench.sqs import TEN, Members, Recorder, another, entries_of, entry
from zapq.access.access import Access
from zapq.core.queue_settings import QueueSettings
from zapq.engine.local import LocalEngine
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.logs import Throttle
from zapq.server.hotpath import HotPath
from zapq.server.sqs_hot import SqsHot
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.sqs.tasks import Tasks

HOST = "127.0.0.1:8080"
NAMES = {
    "SendMessage": "send_message",
    "SendMessageBatch": "send_message_batch",
    "ReceiveMessage": "receive_message",
    "DeleteMessage": "delete_message",
    "DeleteMessageBatch": "delete_message_batch",
}
BASE = "POST /enqueue"
_RECEIPT = re.compile(rb"Zapq-Receipt: ([^\r]+)")


class Road:
    """The fast road of a server that has no sockets, and what its requests have cost."""

    def __init__(self, hot: HotPath, recorder: Recorder, only: str, profile: cProfile.Profile | None) -> None:
        self.costs: dict[str, list[tuple[float, int]]] = {}
        """Seconds of each request, and the messages it was about, by rows and rounds."""
        self._hot = hot
        self._only, self._profile = only, profile
        self._recorded = {action: recorder.record(name, SAMPLES[action]) for action, name in NAMES.items()}

    def requests(self, action: str, all_members: list[Members]) -> list[bytes]:
        """Return a request for each of these."""
        return [another(self._recorded[action], members, HOST) for members in all_members]

    def ask(self, requests: list[bytes]) -> list[bytes]:
        """Return the answers; raises RuntimeError if one is not of the fast road, or a refusal."""
        answers = []
        for each in requests:
            answered = self._hot.respond(each)
            if answered.used != len(each) or not answered.data.startswith(b"HTTP/1.1 2"):
                raise RuntimeError(f"{answered.then}: {answered.data[:300]!r}")
            answers.append(answered.data)
        return answers

    def measure(self, row: str, requests: list[bytes], messages: int = 1) -> list[bytes]:
        """Keep what these cost, and return the answers."""
        gc.collect()
        self._hot.set_time(time.time(), trio.current_time())
        profile = self._profile if self._only in row else None
        if profile is not None:
            profile.enable()
        begun = time.process_time()
        answers = self.ask(requests)
        used = time.process_time() - begun
        if profile is not None:
            profile.disable()
        self.costs.setdefault(row, []).append((used / len(requests), messages))
        return answers


URL = f"http://{HOST}/000000000000/"
SAMPLES: dict[str, Members] = {
    "SendMessage": {"QueueUrl": URL, "MessageBody": "x"},
    "SendMessageBatch": entries_of(URL, 0, 1),
    "ReceiveMessage": {"QueueUrl": URL},
    "DeleteMessage": {"QueueUrl": URL, "ReceiptHandle": "x"},
    "DeleteMessageBatch": {"QueueUrl": URL, "Entries": [{"Id": "0", "ReceiptHandle": "x"}]},
}


def handles_in(answers: list[bytes]) -> Iterator[str]:
    """Return the receipt handles in answers."""
    for each in answers:
        for message in msgspec.json.decode(each.partition(b"\r\n\r\n")[2])["Messages"]:
            yield message["ReceiptHandle"]


async def play(road: Road, service: QueueService, number: int) -> None:
    """Play one round of everything, with so many messages in each row."""
    measure = road.measure
    enqueue = b"POST /enqueue HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        HOST.encode(),
        rig.MESSAGE,
        b"x" * rig.MESSAGE,
    )
    measure(BASE, [enqueue] * number)
    take = b"POST /queues/default/receive?visibility=43200 HTTP/1.1\r\nHost: x\r\n\r\n"
    received = measure("POST .../receive", [take] * number)
    receipts = [match[1] for each in received if (match := _RECEIPT.search(each)) is not None]
    ack = b"DELETE /queues/default/receipts/%b HTTP/1.1\r\nHost: x\r\n\r\n"
    measure("DELETE .../receipts/...", [ack % each for each in receipts])
    for kind in ("", ".fifo"):
        name = f"bench-{secrets.token_hex(4)}{kind}"
        said = f", {kind[1:].upper()}" if kind else ""
        url = URL + name
        sending = [{"QueueUrl": url, **entry(url, at)} for at in range(number)]
        taking: list[Members] = [{"QueueUrl": url}]
        await service.configure(name, QueueSettings(visibility=43_200.0))
        measure(f"SendMessage{said}", road.requests("SendMessage", sending))
        received = measure(f"ReceiveMessage{said}", road.requests("ReceiveMessage", taking * number))
        deleting: list[Members] = [{"QueueUrl": url, "ReceiptHandle": each} for each in handles_in(received)]
        measure(f"DeleteMessage{said}", road.requests("DeleteMessage", deleting))
        if kind:
            continue
        batches = [entries_of(url, at, TEN) for at in range(0, number, TEN)]
        measure("SendMessageBatch of 10", road.requests("SendMessageBatch", batches), TEN)
        taking[0]["MaxNumberOfMessages"] = TEN
        received = measure("ReceiveMessage of 10", road.requests("ReceiveMessage", taking * (number // TEN)), TEN)
        handles = handles_in(received)
        deleting = [
            {"QueueUrl": url, "Entries": [{"Id": str(at), "ReceiptHandle": next(handles)} for at in range(TEN)]}
            for _ in range(number // TEN)
        ]
        measure("DeleteMessageBatch of 10", road.requests("DeleteMessageBatch", deleting), TEN)


async def run(number: int, rounds: int, only: str, profile: cProfile.Profile | None) -> Road:
    """Play some rounds, each with a service of its own, and return what they have cost."""
    recorder = Recorder()
    costs: dict[str, list[tuple[float, int]]] = {}
    for _ in range(rounds):
        settings = Settings(max_msgs=10**9, max_bytes=2**36)
        async with open_service(settings) as service:
            engine, throttle = LocalEngine(service), Throttle()
            guard = Guard(settings, Hosts(settings, "127.0.0.1"), Access(settings))
            sqs = SqsHot(engine, settings, throttle, guard, Tasks(), trio.current_time)
            hot = HotPath(engine, settings, ServerCounts(), TraceIds(), throttle, guard, sqs)
            road = Road(hot, recorder, only, profile)
            road.costs = costs
            await play(road, service, number)
    recorder.close()
    return road


@click.command(help=__doc__)
@click.option("--number", default=20_000, show_default=True, help="Messages of each row.")
@click.option("--rounds", default=5, show_default=True, help="Rounds; the best counts.")
@click.option("--only", default="", metavar="TEXT", help="Profile only rows with this in their name.")
@click.option("--profile", is_flag=True, help="Show which functions take the time, instead.")
def main(number: int, rounds: int, only: str, profile: bool) -> None:
    """Measure and print."""
    profiled = cProfile.Profile() if profile else None
    road = trio.run(run, number, rounds, only, profiled)
    if profiled is not None:
        pstats.Stats(profiled, stream=sys.stdout).sort_stats("tottime").print_stats(40)
        return
    print(rig.machine())
    base = min(cost for cost, _ in road.costs[BASE])
    print("| request | us | a message | times an enqueue |\n| --- | --: | --: | --: |")
    for row, costs in road.costs.items():
        cost, messages = min(costs)
        print(f"| {row} | {cost * 1e6:.1f} | {cost * 1e6 / messages:.1f} | {cost / base:.2f} |")


if __name__ == "__main__":
    main()
