"""FIFO queues of SQS over crashes: order within groups, deduplication, and nothing acknowledged lost.

A producer sends the messages of a group one after the other. What was not answered it sends again, under the same
deduplication id, before anything else of that group. So each message is stored once, and at its place.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.durable.crash import Crashing
from tests.durable.load import Crowd, Job
from tests.durable.process import Link

BY_ID, BY_CONTENT = "ids.fifo", "contents.fifo"
"""In the first, messages have deduplication ids; in the second, bodies are told apart, group by group."""
QUEUES = {
    BY_ID: {"FifoQueue": "true"},
    BY_CONTENT: {"FifoQueue": "true", "ContentBasedDeduplication": "true", "DeduplicationScope": "messageGroup"},
}
PRODUCERS, CONSUMERS, GROUPS = 3, 3, 2
"""GROUPS is how many each producer has in each queue."""
DEEP = 300
"""Messages that are enough: then producers wait for consumers."""
REPEATED_SECONDS = 200.0
"""How long after the first time a message is sent again: well within the five minutes."""


def call(link: Link, action: str, **members: object) -> Any:
    """Ask as an SDK does, and return the answer."""
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{action}"}
    reply = link.ask("POST", "/", json.dumps(members).encode(), headers)
    assert reply.status == 200, (action, reply.status, reply.body)
    return reply.json


@dataclass(eq=False)
class Sent:
    """A message of a group; its body is its name."""

    queue: str
    group: str
    number: int
    """Its place in the group."""
    body: str
    begun: float
    id: str | None = None
    """The MessageId that any answer or delivery has told; None: none yet."""
    sequence: str | None = None
    maybe_gone: bool = False
    """A consumer asked for it to be deleted."""
    gone: bool = False
    """A consumer was told that it is deleted."""

    def told(self, id: str, sequence: str) -> None:
        """Check what is said of it against what was said before."""
        if self.id is None:
            self.id, self.sequence = id, sequence
        assert (self.id, self.sequence) == (id, sequence), f"stored twice: {self}, {id}, {sequence}"


@dataclass
class Groups:
    """What was said to and by the clients of one server, over all its runs."""

    sent: dict[tuple[str, str], list[Sent]] = field(default_factory=lambda: defaultdict(list))
    """By queue and group, in their order."""
    named: dict[str, Sent] = field(default_factory=dict)
    """By body."""
    unanswered: dict[int, list[Sent]] = field(default_factory=lambda: defaultdict(list))
    """By producer: what it sends again."""
    first: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """By queue and group: all before this place are gone."""
    live: int = 0
    """Messages that no consumer was told are gone."""
    answered: int = 0
    repeated: int = 0
    """Messages that were sent again after an answer that did not come."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def new(self, producer: int, queue: str, group: str, bodies: Iterable[str]) -> list[Sent]:
        """Take note of messages that are about to be sent."""
        with self.lock:
            whole = self.sent[queue, group]
            batch = [Sent(queue, group, len(whole) + n, body, time.monotonic()) for n, body in enumerate(bodies)]
            whole += batch
            self.named.update((each.body, each) for each in batch)
            self.unanswered[producer] = batch
            self.live += len(batch)
            return batch

    def deleted(self, sent: Sent) -> None:
        """Take note that a consumer was told so, or that a message is not there after a restart."""
        with self.lock:
            sent.gone = True
            self.live -= 1
            place, whole = (sent.queue, sent.group), self.sent[sent.queue, sent.group]
            while self.first[place] < len(whole) and whole[self.first[place]].gone:
                self.first[place] += 1

    def delivered(self, queue: str, messages: Sequence[dict[str, Any]]) -> list[Sent]:
        """Check what a consumer was given in one answer."""
        with self.lock:
            given: list[Sent] = []
            for message in messages:
                sent, system = self.named[message["Body"]], message["Attributes"]
                assert (sent.queue, sent.group) == (queue, system["MessageGroupId"]), f"elsewhere: {message}"
                assert not sent.gone, f"given after it was deleted: {sent}"
                sent.told(message["MessageId"], system["SequenceNumber"])
                for earlier in self.sent[queue, sent.group][self.first[queue, sent.group] : sent.number]:
                    over = earlier.maybe_gone or earlier in given
                    assert over, f"given before {earlier}: {sent}"
                given.append(sent)
            return given

    def audit(self, held: Sequence[tuple[str, str, str]]) -> list[str]:
        """Return what is wrong with what was found: queue, group and body of each message, in their order."""
        wrong = [f"there twice: {each}" for each, number in Counter(held).items() if number > 1]
        last: dict[tuple[str, str], int] = {}
        for queue, group, body in held:
            sent = self.named.get(body)
            if sent is None or (sent.queue, sent.group) != (queue, group):
                wrong.append(f"was not sent: {body} in {group} of {queue}")
                continue
            if sent.gone:
                wrong.append(f"came back: {sent}")
            if sent.number < last.get((queue, group), -1):
                wrong.append(f"is not in order: {sent}")
            last[queue, group] = sent.number
        for whole in self.sent.values():
            told = [each.sequence for each in whole if each.sequence is not None]
            if told != sorted(set(told)):
                wrong.append(f"sequence numbers do not grow: {told}")
        there = {body for _, _, body in held}
        pending = {each.body for batch in self.unanswered.values() for each in batch}
        wrong += [
            f"lost: {sent}"
            for sent in self.named.values()
            # It was delivered, or its sender was told that it is stored.
            if (sent.id is not None or sent.body not in pending)
            and not (sent.gone or sent.maybe_gone or sent.body in there)
        ]
        return wrong

    def settle(self, bodies: set[str]) -> None:
        """Take what was found as known from now on."""
        for sent in self.named.values():
            if sent.maybe_gone and not sent.gone and sent.body not in bodies:
                self.deleted(sent)
            sent.maybe_gone = sent.gone


@dataclass(kw_only=True)
class Talkers(Crowd):
    """Producers and consumers that speak SQS."""

    groups: Groups

    def _jobs(self) -> Sequence[Job]:
        producers = [self._producer(number) for number in range(PRODUCERS)]
        return [*producers, *[self._consume] * CONSUMERS]

    def _call(self, link: Link, action: str, **members: object) -> Any:
        answer = call(link, action, **members)
        with self.groups.lock:
            self.groups.answered += 1
        return answer

    def _producer(self, number: int) -> Job:
        def produce(link: Link, random: Random, name: str) -> None:
            again = self.groups.unanswered[number]
            if again:
                with self.groups.lock:
                    self.groups.repeated += len(again)
                self._send(link, random, again)
            elif self.groups.live > DEEP:
                time.sleep(0.01)  # consumers make room
            else:
                queue, group = random.choice([*QUEUES]), f"{number}-{random.randrange(GROUPS)}"
                many = random.choice([1, 1, 1, random.randint(2, 10)])
                bodies = [f"{name}-{n}" for n in range(many)]
                self._send(link, random, self.groups.new(number, queue, group, bodies))
            self.groups.unanswered[number] = []
            if random.random() < 0.15:
                self._repeat(link, random, number)

        return produce

    def _repeat(self, link: Link, random: Random, number: int) -> None:
        """Send again what was answered: it is not stored again, even if it was deleted since."""
        mine = [whole for (_, group), whole in self.groups.sent.items() if group.startswith(f"{number}-")]
        known = [
            each for whole in mine for each in whole[-20:] if time.monotonic() - each.begun < REPEATED_SECONDS
        ]
        if known:
            self._send(link, random, [random.choice(known)])

    def _send(self, link: Link, random: Random, batch: Sequence[Sent]) -> None:
        """Send messages of one queue, and check what is answered."""
        asked = [self._asked(each) for each in batch]
        if len(batch) == 1 and random.random() < 0.7:
            told = [self._call(link, "SendMessage", QueueUrl=batch[0].queue, **asked[0])]
        else:
            entries = [{"Id": str(n), **each} for n, each in enumerate(asked)]
            answer = self._call(link, "SendMessageBatch", QueueUrl=batch[0].queue, Entries=entries)
            assert not answer.get("Failed"), answer
            told = sorted(answer["Successful"], key=lambda each: int(each["Id"]))
        with self.groups.lock:
            for sent, each in zip(batch, told, strict=True):
                sent.told(each["MessageId"], each["SequenceNumber"])

    def _asked(self, sent: Sent) -> dict[str, str]:
        asked = {"MessageBody": sent.body, "MessageGroupId": sent.group}
        return asked | ({"MessageDeduplicationId": f"id-{sent.body}"} if sent.queue == BY_ID else {})

    def _consume(self, link: Link, random: Random, name: str) -> None:
        queue = random.choice([*QUEUES])
        plan = random.choice(["delete", "delete", "delete", "delete all", "delete all", "return", "leave"])
        # What is left comes back soon.
        visibility = {"VisibilityTimeout": 1} if plan == "leave" else {}
        answer = self._call(
            link,
            "ReceiveMessage",
            QueueUrl=queue,
            MaxNumberOfMessages=random.randint(1, 10),
            AttributeNames=["All"],
            **visibility,
        )
        messages = answer.get("Messages", [])
        given = self.groups.delivered(queue, messages)
        receipts = [each["ReceiptHandle"] for each in messages]
        if plan == "delete all" and given:
            self._delete_all(link, queue, given, receipts)
        elif plan == "delete":
            for sent, receipt in zip(given, receipts, strict=True):
                sent.maybe_gone = True
                self._call(link, "DeleteMessage", QueueUrl=queue, ReceiptHandle=receipt)
                self.groups.deleted(sent)
        elif plan == "return":
            for receipt in receipts:
                change = {"ReceiptHandle": receipt, "VisibilityTimeout": 0}
                self._call(link, "ChangeMessageVisibility", QueueUrl=queue, **change)

    def _delete_all(self, link: Link, queue: str, given: Sequence[Sent], receipts: Sequence[str]) -> None:
        for sent in given:
            sent.maybe_gone = True
        entries = [{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(receipts)]
        answer = self._call(link, "DeleteMessageBatch", QueueUrl=queue, Entries=entries)
        assert not answer.get("Failed"), answer
        for sent in given:
            self.groups.deleted(sent)


@dataclass
class FifoCrashes(Crashing):
    """Its clients speak SQS, to FIFO queues."""

    groups: Groups = field(default_factory=Groups)

    @property
    def answered(self) -> int:
        return self.groups.answered

    @property
    def messages(self) -> int:
        return len(self.groups.named)

    def _make(self, link: Link) -> None:
        for name, attributes in QUEUES.items():
            call(link, "CreateQueue", QueueName=name, Attributes=attributes)

    def _load(self, port: int, seed: str) -> Talkers:
        return Talkers(port, seed, groups=self.groups)

    def _audit(self, port: int, seed: str) -> None:
        held: list[tuple[str, str, str]] = []
        link = Link(port)
        for queue in QUEUES:
            for state in ("ready", "delayed", "leased"):
                shown = link.ask("GET", f"/queues/{queue}/messages?state={state}&limit=1000").json
                assert len(shown) < 1000, "too many to look at"
                held += [(queue, each["group"], base64.b64decode(each["body"]).decode()) for each in shown]
        link.close()
        wrong = self.groups.audit(held)
        assert not wrong, f"seed {seed}: {len(wrong)} wrong, such as {wrong[:5]}"
        self.groups.settle({body for _, _, body in held})
