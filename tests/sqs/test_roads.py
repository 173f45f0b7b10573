"""SQS requests on the fast road and on Quart's: the same answers, and the same care for messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

from tests.sqs.clients import JSON, Boto, tell
from tests.support.serving import serving, with_tls
from tests.support.waiting import eventually
from tests.support.wire import Answer, ask, connect, connection, metrics, vanish
from zapq.access.access import Access
from zapq.access.certificate import NOBODY
from zapq.core.queue_settings import QueueSettings
from zapq.engine.local import LocalEngine
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.limits import HEADS_REMEMBERED, LENGTHS_REMEMBERED
from zapq.logs import Throttle
from zapq.server.hot_head import Head
from zapq.server.sqs_hot import SqsHot, cut
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings
from zapq.sqs.tasks import Tasks
from zapq.testing import ZapqServer

COLD = {"TE": "trailers"}
HANDLE = re.compile(rb'"ReceiptHandle":"[^"]*"')
ANEW = re.compile(rb'"(?:ReceiptHandle|MessageId)":"[^"]*"|Value [0-9a-f]{8}\.[0-9a-f.-]+')
"""With all that differs between two queues of one name."""
WAIT = {"ReceiveMessageWaitTimeSeconds": "20"}
BOTO = (
    b"POST / HTTP/1.1\r\nHost: localhost:1\r\nX-Amz-Target: AmazonSQS.SendMessage\r\n"
    b"X-Amz-Date: 20261129T103256Z\r\nAuthorization: AWS4-HMAC-SHA256 Credential=x/20261129/r/sqs/aws4_request,"
    b" SignedHeaders=host, Signature=0123456789abcdef\r\namz-sdk-invocation-id: 1-2-3\r\n"
    b"amz-sdk-request: attempt=1\r\nContent-Length: 7\r\n\r\n"
)
REST = (
    b"POST / HTTP/1.1\r\nHost: localhost:1\r\nX-Amz-Target: AmazonSQS.SendMessage\r\n"
    b"Authorization: AWS4-HMAC-SHA256 Credential=x/20261129/r/sqs/aws4_request,"
    b" SignedHeaders=host\r\namz-sdk-request: attempt=1\r\n\r\n"
)
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("SendMessage", {"MessageBody": "x"}),
    ("SendMessage", {"MessageBody": "é", "MessageAttributes": {"a": {"DataType": "String", "StringValue": "v"}}}),
    ("SendMessage", {}),
    ("SendMessage", {"MessageBody": "\x01"}),
    ("SendMessageBatch", {"Entries": [{"Id": "a", "MessageBody": "1"}, {"Id": "b"}]}),
    ("SendMessageBatch", {"Entries": []}),
    ("ReceiveMessage", {"MessageAttributeNames": ["All"], "AttributeNames": ["ApproximateReceiveCount"]}),
    ("ReceiveMessage", {"MaxNumberOfMessages": 10}),
    ("ReceiveMessage", {}),
    ("ReceiveMessage", {"MaxNumberOfMessages": 0}),
    ("DeleteMessage", {"ReceiptHandle": "?"}),
    ("DeleteMessageBatch", {"Entries": [{"Id": "a", "ReceiptHandle": "?"}]}),
    ("ChangeMessageVisibility", {"ReceiptHandle": "?", "VisibilityTimeout": 1}),
    ("ReceiveMessage", {"QueueUrl": "none"}),
    ("GetQueueUrl", {"QueueName": "jobs"}),
]


def plain(answer: Answer, anew: re.Pattern[bytes] = HANDLE) -> tuple[int, dict[str, str], bytes]:
    """Return an answer without what differs each time."""
    varying = {"x-amzn-requestid", "x-trace-id", "date", "content-length"}
    fields = {name: value for name, value in answer.headers.items() if name not in varying}
    return answer.status, fields, anew.sub(b"", answer.body)


async def test_both_roads_give_the_same_answers(zapq_settings: Settings) -> None:
    given: list[list[tuple[int, dict[str, str], bytes]]] = []
    for extra, hot in (({}, True), (COLD, False)):
        async with open_service(zapq_settings) as service, serving(zapq_settings, service) as url:
            await service.configure("jobs", QueueSettings(notes={"sqs:created": "1795948376772"}))
            answers = []
            for action, members in REQUESTS:
                body = msgspec.json.encode({"QueueUrl": "http://x/000000000000/jobs", **members})
                fields = {"Content-Type": JSON, "X-Amz-Target": f"AmazonSQS.{action}", **extra}
                answers.append(plain(await ask(url, "POST", "/", body, fields)))
            given.append(answers)
            metrics = (await ask(url, "GET", "/metrics")).json
            assert bool(metrics["hot_requests"] > len(REQUESTS) / 2) == hot
    assert given[0] == given[1]


async def scenario(url: str, fields: Mapping[str, str]) -> list[tuple[int, dict[str, str], bytes]]:
    """Return what a server says to requests one after the other, without what differs each time."""

    async def say(action: str, **members: Any) -> Answer:
        answer = await tell(url, action, {"QueueUrl": "http://x/000000000000/jobs", **members}, headers=fields)
        answers.append(plain(answer, ANEW))
        return answer

    async def take(**members: Any) -> list[dict[str, Any]]:
        return (await say("ReceiveMessage", **members)).json.get("Messages", [])  # type: ignore[no-any-return]

    answers: list[tuple[int, dict[str, str], bytes]] = []
    await tell(url, "CreateQueue", {"QueueName": "jobs"})
    for action, members in REQUESTS:
        await say(action, **members)
    await say("PurgeQueue")
    attribute = {"a": {"DataType": "Number", "StringValue": "1"}, "b": {"DataType": "String", "StringValue": "x"}}
    await say("SendMessage", MessageBody="first", MessageAttributes=attribute)
    await say("SendMessageBatch", Entries=[{"Id": each, "MessageBody": each} for each in "abcdefghi"])
    [first] = await take(MessageAttributeNames=["a"], AttributeNames=["SenderId"], VisibilityTimeout=0)
    [again] = await take(WaitTimeSeconds=5)
    for each in (again, first, again):
        await say("DeleteMessage", ReceiptHandle=each["ReceiptHandle"])
    some = await take(MaxNumberOfMessages=5, WaitTimeSeconds=0)
    handle = some[0]["ReceiptHandle"]
    await say("ChangeMessageVisibility", ReceiptHandle=handle, VisibilityTimeout=0)
    await say("ChangeMessageVisibility", ReceiptHandle=some[1]["ReceiptHandle"], VisibilityTimeout=100)
    entries = [{"Id": str(at), "ReceiptHandle": each["ReceiptHandle"]} for at, each in enumerate(some[1:])]
    await say("DeleteMessageBatch", Entries=[*entries, {"Id": "bad", "ReceiptHandle": "?"}])
    await say("ChangeMessageVisibilityBatch", Entries=[{**each, "VisibilityTimeout": 1} for each in entries])
    rest = await take(MaxNumberOfMessages=10)
    assert [each["Body"] for each in rest] == ["a", "f", "g", "h", "i"]
    assert await take(WaitTimeSeconds=1) == []
    return answers


async def check_that_roads_are_alike(settings: Settings) -> None:
    """Have a server answer on both roads; raises AssertionError if the answers differ."""
    async with serving(settings) as url:
        given = []
        for extra, hot in (({}, True), (COLD, False)):
            before = (await metrics(url))["hot_requests"]
            given.append(await scenario(url, {"Content-Type": JSON, **extra}))
            assert ((await metrics(url))["hot_requests"] - before >= len(given[0]) - 5) == hot
            await tell(url, "DeleteQueue", {"QueueUrl": "jobs"})
    assert given[0] == given[1]


@pytest.mark.parametrize("options", [{}, {"durable": True}, {"workers": 2}, {"workers": 2, "durable": True}])
async def test_both_roads_are_alike_wherever_the_queues_are(
    zapq_settings: Settings, options: dict[str, Any]
) -> None:
    await check_that_roads_are_alike(replace(zapq_settings, **options))


async def test_a_poll_of_a_worker_leaves_the_line_with_its_client(zapq_settings: Settings) -> None:
    async with serving(replace(zapq_settings, workers=2)) as url:
        boto = Boto(url)
        await boto.make()
        body = b'{"QueueUrl":"jobs"}'
        await tell(url, "SetQueueAttributes", {"QueueUrl": "jobs", "Attributes": WAIT})
        head = BOTO.replace(b"SendMessage", b"ReceiveMessage").replace(b"h: 7", b"h: %d" % len(body))

        async def waiting(number: int) -> bool:
            return bool((await metrics(url))["waiting"] == number)

        async with connection(url) as stream:
            await stream.send_all(head.replace(b"localhost:1", b"localhost") + body)
            await eventually(lambda: waiting(1), "the poll to wait")
            assert (await metrics(url))["hot_requests"] > 0
            vanish(stream)
        await eventually(lambda: waiting(0), "it to leave")
        await boto("send_message", QueueUrl="jobs", MessageBody="x")
        message = await boto.one("jobs", AttributeNames=["ApproximateReceiveCount"])
        assert message["Attributes"] == {"ApproximateReceiveCount": "1"}


def test_what_an_sdk_writes_anew_is_cut_out_and_the_rest_is_the_same() -> None:
    assert cut(BOTO) == (REST, 7, b"")
    other = BOTO.replace(b"Content-Length", b"content-length").replace(b"X-Amz-D", b"x-amz-d")
    assert cut(other) == (REST, 7, b"")
    trace = b"0af7651916cd43dd8448eb211c80319c"
    traced = BOTO.replace(b"Content-L", b"traceparent: 00-%b-b7ad6b7169203331-01\r\nContent-L" % trace)
    assert cut(traced) == (REST, 7, trace)


@pytest.mark.parametrize(
    "head",
    [
        BOTO.replace(b"Content-Length: 7\r\n", b""),
        BOTO.replace(b"Content-Length: 7\r\n", b"content-length: 7\r\ncontent-length: 7\r\n"),
        BOTO.replace(b"Content-Length: 7", b"Content-Length: +7"),
        BOTO.replace(b"Content-Length: 7", b"Content-Length: 7 "),
    ],
)
def test_a_length_that_is_not_plain_is_for_the_other_road(head: bytes) -> None:
    assert cut(head)[1] == -1


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 0",
        b"content-length: 9",
        b"Transfer-Encoding: chunked",
        b"X-Amz-Target: AmazonSQS.ListQueues",
    ],
)
async def test_two_lengths_are_never_one(zapq_server: ZapqServer, field: bytes) -> None:
    head = BOTO.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n\r\n").replace(b"localhost:1", b"localhost")
    async with connection(zapq_server.url) as stream:
        await stream.send_all(head + b'{"a":1}')
        answer = bytes(await stream.receive_some())
    assert answer.startswith(b"HTTP/1.1 400")
    assert zapq_server.service.stats().queue.enqueued == 0


@pytest.mark.parametrize("hot_path", [True, False])
@pytest.mark.parametrize("note", ["9" * 400, "99999", "٣", "x"])
async def test_notes_of_the_other_dialect_that_mean_nothing_are_not_there(
    zapq_settings: Settings, hot_path: bool, note: str
) -> None:
    settings = replace(zapq_settings, hot_path=hot_path)
    async with open_service(settings) as service, serving(settings, service) as url:
        boto = Boto(url)
        names = ("DelaySeconds", "ReceiveMessageWaitTimeSeconds", "MaximumMessageSize", "RedriveAllowPolicy")
        await service.configure("jobs", QueueSettings(notes={f"sqs:{name}": note for name in names}))
        await boto("send_message", QueueUrl=f"{url}/000000000000/jobs", MessageBody="x")
        assert (await boto.one("jobs"))["Body"] == "x"
        assert (await boto.attributes("jobs"))["DelaySeconds"] == "0"
        target = "arn:aws:sqs:us-east-1:000000000000:jobs"
        policy = msgspec.json.encode({"deadLetterTargetArn": target, "maxReceiveCount": 3}).decode()
        await boto.make("more", RedrivePolicy=policy)


@pytest.mark.parametrize("place", [b"20261129T103256Z", b"0123456789abcdef", b"1-2-3"])
@pytest.mark.parametrize("more", [b"\nTransfer-Encoding: chunked", b"\0", b"\r"])
async def test_what_is_cut_out_hides_nothing(zapq_server: ZapqServer, place: bytes, more: bytes) -> None:
    body = b'{"QueueUrl":"jobs","MessageBody":"x"}'
    await Boto(zapq_server.url).make()
    head = BOTO.replace(b"h: 7", b"h: %d" % len(body)).replace(b"localhost:1", b"localhost")
    async with connection(zapq_server.url) as stream:
        await stream.send_all(head.replace(place + b"\r\n", place + more + b"\r\n") + body)
        answer = bytes(await stream.receive_some())
    assert answer.startswith(b"HTTP/1.1 400")
    assert zapq_server.service.stats().queue.enqueued == 0


@pytest.fixture
async def sqs(zapq_service: QueueService, zapq_settings: Settings) -> Callable[[], SqsHot]:
    """Return what makes a fast road that has seen no head."""

    def make() -> SqsHot:
        guard = Guard(zapq_settings, Hosts(zapq_settings, "127.0.0.1"), Access(zapq_settings))
        engine = LocalEngine(zapq_service)
        return SqsHot(engine, zapq_settings, Throttle(), guard, Tasks(), trio.current_time)

    return make


def said_by(head: Head | None) -> object:
    """Return what a head was read as."""
    return None if head is None else (head.length, head.last, head.plan)


LOCAL = BOTO.replace(b"localhost:1", b"localhost")


@pytest.mark.parametrize(
    "like",
    [
        LOCAL,
        LOCAL.replace(b"h: 7", b"h: 8"),
        LOCAL.replace(b"h: 7", b"h: +"),
        LOCAL.replace(b"h: 7", b"h:77"),
        LOCAL.replace(b"20261129T103256Z", b"20261129T103257Z"),
        LOCAL.replace(b"20261129T103256Z", b"20261129T10325\nZ"),
        LOCAL.replace(b"20261129T103256Z", b"20261129T1032\r\nZ"),
        LOCAL.replace(b"0123456789abcdef", b"0123456789abcde-"),
        LOCAL.replace(b"0123456789abcdef", b"0123456789abcd\r\n"),
        LOCAL.replace(b"id: 1-2-3", b"id: 1\r\nTE"),
        LOCAL.replace(b"id: 1-2-3", b"id:  -2-3"),
        LOCAL.replace(b"SendMessage", b"SendMassage"),
        LOCAL.replace(b"attempt=1", b"attempt=2"),
        LOCAL.replace(b"Credential=x", b"Credential=y"),
        LOCAL.replace(b"SignedHeaders=host", b"SignedHeaders=hose"),
        LOCAL.replace(b"X-Amz-Target", b"X-Amz-Torget"),
        LOCAL.replace(b"localhost", b"localhos!"),
    ],
)
async def test_a_head_like_the_one_before_means_what_it_would_mean_alone(
    sqs: Callable[[], SqsHot], like: bytes
) -> None:
    assert len(like) == len(LOCAL)
    alone, after = sqs(), sqs()
    for _ in range(2):
        assert said_by(after.find(LOCAL, NOBODY)) == said_by(alone.find(LOCAL, NOBODY))
        expected = said_by(sqs().find(like, NOBODY))
        assert said_by(after.find(like, NOBODY)) == expected
    _, first, second = (after.find(LOCAL, NOBODY) for _ in range(3))
    assert first is second is not None
    after.forget()
    assert after.find(LOCAL, NOBODY) is not first


async def test_lengths_and_layouts_are_remembered_up_to_a_limit(sqs: Callable[[], SqsHot]) -> None:
    hot = sqs()
    for length in range(10, 10 + 2 * LENGTHS_REMEMBERED):
        head = hot.find(LOCAL.replace(b"h: 7", b"h: %d" % length), NOBODY)
        assert head is not None
        assert head.length == length
    for number in range(1000, 1000 + HEADS_REMEMBERED + 1):
        assert hot.find(LOCAL.replace(b"Credential=x", b"Credential=%d" % number), NOBODY) is not None


@pytest.mark.parametrize("hot_path", [True, False])
async def test_a_message_for_a_client_that_left_goes_back(zapq_settings: Settings, hot_path: bool) -> None:
    settings = replace(zapq_settings, hot_path=hot_path)
    async with open_service(settings) as service, serving(settings, service) as url:
        boto = Boto(url)
        await boto.make()
        body = b'{"QueueUrl":"jobs","WaitTimeSeconds":20}'
        head = BOTO.replace(b"SendMessage", b"ReceiveMessage").replace(b"h: 7", b"h: %d" % len(body))
        async with connection(url) as stream:
            await stream.send_all(head.replace(b"localhost:1", b"localhost") + body)
            while not service.stats().waiting:
                await trio.sleep(0.01)
            vanish(stream)
        while service.stats().waiting:
            await trio.sleep(0.01)
        await boto("send_message", QueueUrl="jobs", MessageBody="x")
        message = await boto.one("jobs", AttributeNames=["ApproximateReceiveCount"])
        assert message["Attributes"] == {"ApproximateReceiveCount": "1"}


@pytest.mark.parametrize("hot_path", [True, False])
async def test_on_disk_all_is_answered_when_it_is_written(zapq_settings: Settings, hot_path: bool) -> None:
    settings = replace(zapq_settings, hot_path=hot_path, durable=True)
    async with serving(settings) as url:
        boto = Boto(url)
        made = await boto.make(VisibilityTimeout="0")
        entries = [{"Id": str(each), "MessageBody": str(each)} for each in range(3)]
        sent = await boto("send_message_batch", QueueUrl=made, Entries=entries)
        assert [each["Id"] for each in sent["Successful"]] == ["0", "1", "2"]
        first = await boto.one(made)
        second = await boto.one(made, VisibilityTimeout=60)
        assert first["MessageId"] == second["MessageId"]
        await boto("delete_message", QueueUrl=made, ReceiptHandle=first["ReceiptHandle"])
        await boto("delete_message", QueueUrl=made, ReceiptHandle=second["ReceiptHandle"])
        assert (await boto.one(made))["Body"] == "1"
    async with serving(settings) as url:
        counts = await Boto(url).attributes("jobs")
        assert counts["ApproximateNumberOfMessages"] == "2"
        assert counts["ApproximateNumberOfMessagesNotVisible"] == "0"


async def test_front_ends_speak_it_as_well(zapq_settings: Settings) -> None:
    async with serving(replace(zapq_settings, workers=2)) as url:
        boto = Boto(url)
        made = await boto.make()
        await boto("send_message", QueueUrl=made, MessageBody="x")
        entries = [{"Id": "a", "MessageBody": "y"}, {"Id": "b", "MessageBody": ""}]
        sent = await boto("send_message_batch", QueueUrl=made, Entries=entries)
        assert [each["Code"] for each in sent["Failed"]] == ["InvalidParameterValue"]
        for expected in ("x", "y"):
            message = await boto.one(made, WaitTimeSeconds=5)
            assert message["Body"] == expected
            for _ in range(2):
                await boto("delete_message", QueueUrl=made, ReceiptHandle=message["ReceiptHandle"])
        assert (await boto.refused("send_message", QueueUrl="none", MessageBody="x")).shape == "QueueDoesNotExist"


async def test_a_body_of_http_2_needs_no_length(zapq_settings: Settings, tmp_path: Path) -> None:
    settings, context = with_tls(zapq_settings, tmp_path)
    context.set_alpn_protocols(["h2"])
    async with serving(replace(settings, http2=True)) as url:
        stream = await connect(url, context)
        connection = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        connection.initiate_connection()
        head = [(":method", "POST"), (":path", "/"), (":scheme", "https"), (":authority", "localhost")]
        connection.send_headers(1, [*head, ("x-amz-target", "AmazonSQS.CreateQueue")])
        connection.send_data(1, b'{"QueueName":"jobs"}', end_stream=True)
        body, ended = b"", False
        while not ended:
            await stream.send_all(connection.data_to_send())
            for event in connection.receive_data(await stream.receive_some()):
                if isinstance(event, DataReceived):
                    body += event.data
                ended |= isinstance(event, StreamEnded)
        assert msgspec.json.decode(body) == {"QueueUrl": "https://localhost/000000000000/jobs"}
        await trio.aclose_forcefully(stream)
