"""Every member of every action with every kind of bad value, on every road: an answer, or one of Amazon's errors.

Never a 500, and what is refused has changed nothing. Batches say what is wrong with an entry in their answer.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote_from_bytes
from xml.etree import ElementTree

import msgspec
import pytest

from tests.http.asking import FORM
from tests.sqs.clients import JSON
from tests.support.serving import serving
from tests.support.wire import Answer, ask
from zapq.core.queue_settings import QueueSettings
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.sqs import query_protocol
from zapq.sqs.actions import ACTIONS
from zapq.sqs.query_protocol import _ENTRY, _KEYS

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

NAMES = {"default", "jobs", "jobs.fifo", "dead"}
ARN = "arn:aws:sqs:us-east-1:000000000000:"
LONG = "x" * 100_000
SURROGATE = "a lone surrogate"
"""This and the next are written as what they say where a request is encoded."""
HUGE = "a number of 5000 digits"
MISSING = object()
WRONG: tuple[Any, ...] = (
    MISSING,
    None,
    "",
    "x",
    " ",
    "\0",
    SURROGATE,
    LONG,
    "../../etc",
    True,
    -1,
    0,
    1.5,
    2**31,
    2**63,
    10**400,
    HUGE,
    [],
    [1],
    [None],
    ["x"] * 5000,
    {},
    {"": ""},
    {"x": None},
    {"x": {"x": []}},
    {LONG: LONG},
)
PART: tuple[Any, ...] = (MISSING, None, "\0", SURROGATE, LONG, 2**63, HUGE, {}, [None])
"""Those that the other road, which reads requests as this one does, is tried with."""
TEXTS: tuple[Any, ...] = (MISSING, "", "x", "\0", SURROGATE, LONG, -1, 1.5, 2**63, HUGE)
"""Those that the older protocol can say."""
HOT = frozenset({
    *("SendMessage", "SendMessageBatch", "ReceiveMessage", "DeleteMessage", "DeleteMessageBatch"),
    *("ChangeMessageVisibility", "ChangeMessageVisibilityBatch"),
})


def requests(queue: str, handle: str) -> dict[str, dict[str, Any]]:
    """Return a request for each action, with all its members, that is done."""
    fifo = queue.endswith(".fifo")
    text = {"DataType": "String", "StringValue": "v"}
    sent: dict[str, Any] = {
        "MessageBody": "x",
        "DelaySeconds": 0,
        "MessageAttributes": {"a": text, "b": {"DataType": "Binary", "BinaryValue": "AAE="}},
        "MessageSystemAttributes": {"AWSTraceHeader": text},
        "MessageGroupId": "g",
        **({"MessageDeduplicationId": "new"} if fifo else {}),
    }
    url = {"QueueUrl": f"http://localhost/000000000000/{queue}"}
    receipt = {"ReceiptHandle": handle}
    return {
        "AddPermission": {**url, "Label": "l", "AWSAccountIds": ["111111111111"], "Actions": ["SendMessage"]},
        "CancelMessageMoveTask": {"TaskHandle": "x"},
        "ChangeMessageVisibility": {**url, **receipt, "VisibilityTimeout": 9},
        "ChangeMessageVisibilityBatch": {**url, "Entries": [{"Id": "i", **receipt, "VisibilityTimeout": 9}]},
        "CreateQueue": {
            "QueueName": "other",
            "Attributes": {
                "VisibilityTimeout": "5",
                "Policy": "{}",
                "RedriveAllowPolicy": '{"redrivePermission":"denyAll"}',
                "RedrivePolicy": f'{{"deadLetterTargetArn":"{ARN}dead","maxReceiveCount":2}}',
            },
            "tags": {"a": "b"},
        },
        "DeleteMessage": {**url, **receipt},
        "DeleteMessageBatch": {**url, "Entries": [{"Id": "i", **receipt}]},
        "DeleteQueue": url,
        "GetQueueAttributes": {**url, "AttributeNames": ["All"]},
        "GetQueueUrl": {"QueueName": queue, "QueueOwnerAWSAccountId": "000000000000"},
        "ListDeadLetterSourceQueues": {"QueueUrl": "dead", "NextToken": "YQ==", "MaxResults": 5},
        "ListMessageMoveTasks": {"SourceArn": f"{ARN}dead", "MaxResults": 5},
        "ListQueueTags": url,
        "ListQueues": {"QueueNamePrefix": "j", "NextToken": "YQ==", "MaxResults": 5},
        "PurgeQueue": url,
        "ReceiveMessage": {
            **url,
            "AttributeNames": ["All"],
            "MessageSystemAttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
            "MaxNumberOfMessages": 1,
            "VisibilityTimeout": 0,  # so that the queues are as they were, and need not be made anew
            "WaitTimeSeconds": 0,
            **({"ReceiveRequestAttemptId": "r"} if fifo else {}),
        },
        "RemovePermission": {**url, "Label": "l"},
        "SendMessage": {**url, **sent},
        "SendMessageBatch": {**url, "Entries": [{"Id": "i", **sent}]},
        "SetQueueAttributes": {**url, "Attributes": {"VisibilityTimeout": "5", "Policy": "{}"}},
        "StartMessageMoveTask": {
            "SourceArn": f"{ARN}dead",
            "DestinationArn": f"{ARN}jobs",
            "MaxNumberOfMessagesPerSecond": 5,
        },
        "TagQueue": {**url, "Tags": {"a": "b"}},
        "UntagQueue": {**url, "TagKeys": ["a"]},
    }


def test_the_table_has_every_member_of_every_action() -> None:
    given: dict[str, set[str]] = {}
    for queue in ("jobs", "jobs.fifo"):
        for name, members in requests(queue, "h").items():
            given.setdefault(name, set()).update(members)
    assert given == {name: set(each.request.__struct_encode_fields__) for name, each in ACTIONS.items()}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where something could be wrong in a request: every member, entry and value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*at, key)
        yield from places(each, (*at, key))


def with_wrong(members: dict[str, Any], place: tuple[Any, ...], wrong: Any) -> dict[str, Any]:
    changed = copy.deepcopy(members)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    if wrong is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = wrong
    return changed


def as_json(members: dict[str, Any]) -> bytes:
    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{written(key)}:{written(each)}" for key, each in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(written, value)) + "]"
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value == HUGE:
            return "9" * 5000
        return '"\\ud800"' if value == SURROGATE else msgspec.json.encode(value).decode()

    return written(members).encode()


def as_form(action: str, members: dict[str, Any]) -> bytes:
    """Write a request as the older protocol has it; what it cannot say is written as text."""
    pairs: list[tuple[str, bytes]] = [("Action", action.encode()), ("Version", b"2012-11-05")]

    def write(name: str, value: Any, member: str) -> None:
        entry = _ENTRY.get(member, f"{action}RequestEntry")
        start = name.removesuffix(member)
        if isinstance(value, dict) and member in _ENTRY:
            key, content = _KEYS.get(entry, ("Name", "Value"))
            for number, (each, inner) in enumerate(value.items(), 1):
                write(f"{start}{entry}.{number}.{key}", each, "")
                write(f"{start}{entry}.{number}.{content}", inner, "")
        elif isinstance(value, dict):
            for each, inner in value.items():
                write(f"{name}.{each}" if name else each, inner, each)
        elif isinstance(value, list):
            for number, inner in enumerate(value, 1):
                write(f"{start}{entry}.{number}", inner, "")
        else:
            text = str("" if value is None else value).encode()
            text = {SURROGATE: b"\xed\xa0\x80", HUGE: b"9" * 5000}.get(value, text)
            pairs.append((name, text))

    write("", members, "")
    return b"&".join(
        f"{quote_from_bytes(name.encode())}={quote_from_bytes(text)}".encode() for name, text in pairs
    )


@dataclass
class Road:
    """A server whose queues are made anew whenever a request was done."""

    url: str
    service: QueueService
    query: bool
    handles: dict[str, str]

    async def prepare(self) -> None:
        for queue in self.service.queues():
            if queue.name not in {"default", "dead"}:
                await self.service.delete(queue.name)
        await self.service.configure("dead", QueueSettings())
        await self.service.default.clear()
        notes = {"sqs:ContentBasedDeduplication": "true", "sqs:created": "1795948376772"}
        # Leases that end by themselves, on a slow machine, would look like a change.
        settings = QueueSettings(visibility=43200, max_receives=5, dead_letter="dead", notes=notes)
        for name in ("jobs", "jobs.fifo"):
            await self.service.configure(name, settings)
            for body in ("1", "2"):
                group = {"MessageGroupId": body} if name.endswith(".fifo") else {}
                await self.tell("SendMessage", {"QueueUrl": name, "MessageBody": body, **group})
            given = (await self.tell("ReceiveMessage", {"QueueUrl": name})).json["Messages"]
            self.handles[name] = given[0]["ReceiptHandle"]

    def state(self) -> object:
        """Return all a request could change; what a poll counts aside."""
        state = {}
        for queue in self.service.queues():
            info = queue.info()
            leases = [(each.id, each.due) for each in self.service.find_state(queue.name).peek("leased", 10)]
            state[queue.name] = (info.settings, info.stats.messages, info.stats.enqueued, info.paused, leases)
        return state

    async def tell(self, action: str, members: dict[str, Any]) -> Answer:
        fields = {"Content-Type": JSON, "X-Amz-Target": f"AmazonSQS.{action}"}
        return await ask(self.url, "POST", "/", as_json(members), fields)

    async def try_(self, action: str, body: bytes) -> Answer:
        """Send a request; its answer must be one of Amazon's, and a refusal must have changed nothing."""
        before = self.state()
        if self.query:
            answer = await ask(self.url, "POST", "/", body, FORM)
        else:
            fields = {"Content-Type": JSON, "X-Amz-Target": f"AmazonSQS.{action}"}
            answer = await ask(self.url, "POST", "/", body, fields)
        shown = (action, body[:300], answer.status, answer.body[:300])
        assert answer.status in {200, 400, 403, 404}, shown
        assert answer.headers["x-amzn-requestid"], shown
        if self.query:
            root = ElementTree.fromstring(answer.body)
            if answer.status != 200:
                assert [each.tag.rpartition("}")[2] for each in root.iter()][:5] == [
                    "ErrorResponse",
                    "Error",
                    "Type",
                    "Code",
                    "Message",
                ], shown
        elif answer.status != 200:
            assert answer.json["__type"].startswith(("com.amazonaws.sqs#", "com.amazon.coral.service#")), shown
            assert answer.json["message"], shown
            assert answer.headers["x-amzn-query-error"].endswith(";Sender"), shown
        else:
            assert isinstance(answer.json, dict), shown
        if answer.status != 200:
            assert self.state() == before, shown
            assert len(answer.body) < 4096, shown
        elif action == "CreateQueue":
            for queue in self.service.queues():
                if queue.name not in NAMES:
                    await self.service.delete(queue.name)
        elif not action.startswith("SendMessage") and self.state() != before:
            await self.prepare()
        return answer


@asynccontextmanager
async def on_road(settings: Settings, road: str) -> AsyncGenerator[Road, None]:
    settings = replace(settings, hot_path=road == "hot", max_message_bytes=1_048_576)
    async with open_service(settings) as service, serving(settings, service) as url:
        prepared = Road(url, service, False, {})
        await prepared.prepare()
        prepared.query = road == "query"
        yield prepared


@pytest.mark.parametrize("road", ["hot", "quart", "query"])
@pytest.mark.parametrize("action", ACTIONS)
async def test_no_bad_value_of_a_member_breaks_anything(zapq_settings: Settings, action: str, road: str) -> None:
    if road == "quart" and action not in HOT:
        pytest.skip("it is what answers on the road called hot")
    write: Callable[[dict[str, Any]], bytes] = as_json
    if road == "query":
        write = lambda members: as_form(action, members)  # noqa: E731 - one line says it
    async with on_road(zapq_settings, road) as server:
        for queue in ("jobs", "jobs.fifo"):
            for place in places(requests(queue, "h")[action]):
                for wrong in {"hot": WRONG, "quart": PART, "query": TEXTS}[road]:
                    members = with_wrong(requests(queue, server.handles[queue])[action], place, wrong)
                    answer = await server.try_(action, write(members))
                    required = len(place) == 1 and ACTIONS[action].request.required
                    if wrong is MISSING and required and place[0] in names_of(action):
                        assert answer.status == 400, (action, place)


def names_of(action: str) -> set[str]:
    """Return what a request must have, as it is called on the wire."""
    request = ACTIONS[action].request
    names = dict(zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True))
    return {names[each] for each in request.required}


def entries(number: int) -> dict[str, Any]:
    text = {"DataType": "String", "StringValue": "v"}
    return {f"a{each}": text for each in range(number)}


@pytest.mark.parametrize("road", ["hot", "quart", "workers", "query"])
async def test_very_deep_very_many_and_very_long_are_refused_at_once(zapq_settings: Settings, road: str) -> None:
    settings = replace(zapq_settings, hot_path=road != "quart", workers=2 if road == "workers" else 1)
    send = {"QueueUrl": "jobs", "MessageBody": "x"}
    bodies = [
        as_json({**send, "MessageAttributes": entries(10_000)}),
        as_json({**send, "MessageSystemAttributes": entries(10_000)}),
        as_json({"QueueUrl": "jobs", "Entries": [{"Id": str(each), **send} for each in range(10_000)]}),
        as_json({**send, "MessageBody": "\u00e9" * (3 << 19)}),
        as_json({**send, "MessageBody": SURROGATE}),
        as_json({**send, "MessageAttributes": {"a": {"DataType": "String", "StringValue": SURROGATE}}}),
        as_json({**send, SURROGATE: 1}),
        *(b'{"QueueUrl": "jobs", "MessageBody": "x", "y": ' + each * 10_000 for each in (b"[", b'{"a":')),
        b"[" * 10_000 + b"]" * 10_000,
        b'{"QueueUrl": "jobs", "MessageBody": "x", "y": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ]
    fields = {"Content-Type": JSON, "X-Amz-Target": "AmazonSQS.SendMessage"}
    if road == "query":
        start = b"Action=SendMessageBatch&QueueUrl=jobs&"
        entry = b"SendMessageBatchRequestEntry.%d.MessageAttribute.1.Name=a"
        bodies = [
            as_form("SendMessage", {**send, "MessageAttributes": entries(10_000)}),
            as_form("SendMessage", {**send, "MessageAttributes": entries(3_000)}),
            as_form("SendMessage", {**send, "MessageBody": "x" * (3 << 20)}),
            as_form("SendMessage", {**send, "MessageBody": SURROGATE}),
            start + b"&".join(entry % each for each in range(9_900)),
            start + b"&".join(entry % 1 + b".%d" % each for each in range(9_900)),
            start + b"SendMessageBatchRequestEntry.1" + b".1" * 10_000 + b"=x",
        ]
        fields = FORM
    async with serving(settings) as url:
        await ask(url, "PUT", "/queues/jobs", b"{}", {"Content-Type": "application/json"})
        for body in bodies:
            answer = await ask(url, "POST", "/", body, fields)
            assert answer.status == 400, (body[:100], answer)
        assert (await ask(url, "GET", "/metrics")).json["enqueues"] == 0


def test_thousands_of_parameters_are_read_in_a_few_steps_each() -> None:
    action, looked_at = ACTIONS["SendMessageBatch"], 0

    class Counted(UserDict[str, str]):
        def __iter__(self) -> Iterator[str]:
            nonlocal looked_at
            looked_at += len(self)
            return super().__iter__()

    entry = "SendMessageBatchRequestEntry.{}.MessageAttribute.1.Name"
    given = Counted({"QueueUrl": "jobs", **{entry.format(each): "a" for each in range(1, 1000)}})
    asked = query_protocol.read(action, given)
    assert len(asked.entries) == 999  # type: ignore[attr-defined]  # it is that action's
    assert looked_at == len(given)
