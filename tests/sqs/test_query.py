"""The older protocol: a form in, XML out."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode
from xml.etree import ElementTree

from tests.http.asking import FORM
from tests.sqs.clients import Boto
from tests.support.wire import Answer, ask
from zapq.testing import ZapqServer

SPACE = "{http://queue.amazonaws.com/doc/2012-11-05/}"


async def call(
    server: ZapqServer, action: str, parameters: Mapping[str, str] | None = None, path: str = "/"
) -> tuple[Answer, ElementTree.Element]:
    form = urlencode({"Action": action, "Version": "2012-11-05", **(parameters or {})})
    answer = await ask(server.url, "POST", path, form.encode(), FORM)
    assert answer.headers["content-type"] == "text/xml"
    return answer, ElementTree.fromstring(answer.body)


def texts(root: ElementTree.Element, name: str) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SPACE}{name}")]


def pairs(root: ElementTree.Element, tag: str, key: str = "Name") -> dict[str, str]:
    return {
        each.findtext(f"{SPACE}{key}", ""): each.findtext(f"{SPACE}Value", "") for each in root.iter(SPACE + tag)
    }


async def test_a_message_goes_there_and_back(zapq_server: ZapqServer, boto: Boto) -> None:
    made = {"QueueName": "jobs", "Attribute.1.Name": "VisibilityTimeout", "Attribute.1.Value": "7"}
    answer, root = await call(zapq_server, "CreateQueue", {**made, "Tag.1.Key": "team", "Tag.1.Value": "a"})
    [url] = texts(root, "QueueUrl")
    assert (answer.status, url) == (200, "http://localhost/000000000000/jobs")
    assert texts(root, "RequestId") == [answer.headers["x-amzn-requestid"]]
    body = "<&>\r\n é"
    attribute = {
        "MessageAttribute.1.Name": "a",
        "MessageAttribute.1.Value.DataType": "Binary",
        "MessageAttribute.1.Value.BinaryValue": "AAE=",
        "MessageAttribute.2.Name": "b",
        "MessageAttribute.2.Value.DataType": "String",
        "MessageAttribute.2.Value.StringValue": "v",
    }
    # To the queue's own path, as older SDKs do.
    _, sent = await call(zapq_server, "SendMessage", {"MessageBody": body, **attribute}, "/000000000000/jobs")
    names = {"MessageAttributeName.1": "All", "AttributeName.1": "SentTimestamp"}
    _, got = await call(zapq_server, "ReceiveMessage", {"QueueUrl": url, **names})
    assert texts(got, "Body") == [body]
    assert texts(got, "MD5OfMessageAttributes") == texts(sent, "MD5OfMessageAttributes")
    assert texts(got, "MessageId") == texts(sent, "MessageId")
    assert pairs(got, "Attribute").keys() == {"SentTimestamp"}
    assert texts(got, "BinaryValue") == ["AAE="]
    [handle] = texts(got, "ReceiptHandle")
    deleted, root = await call(zapq_server, "DeleteMessage", {"ReceiptHandle": handle}, "/queue/jobs")
    assert (deleted.status, root.tag) == (200, f"{SPACE}DeleteMessageResponse")
    _, none = await call(zapq_server, "ReceiveMessage", {"QueueUrl": url})
    assert texts(none, "Message") == []
    assert (await boto.attributes("jobs"))["VisibilityTimeout"] == "7"


async def test_batches_name_their_entries(zapq_server: ZapqServer, boto: Boto) -> None:
    await boto.make()
    entries = {
        f"SendMessageBatchRequestEntry.{n}.{name}": value
        for n, (id, body) in enumerate((("a", "1"), ("b", "\0")), 1)
        for name, value in (("Id", id), ("MessageBody", body))
    }
    _, sent = await call(zapq_server, "SendMessageBatch", {"QueueUrl": "jobs", **entries})
    [done] = sent.iter(f"{SPACE}SendMessageBatchResultEntry")
    [failed] = sent.iter(f"{SPACE}BatchResultErrorEntry")
    assert (done.findtext(f"{SPACE}Id"), failed.findtext(f"{SPACE}Id")) == ("a", "b")
    assert failed.findtext(f"{SPACE}SenderFault") == "true"
    handle = (await boto.one("jobs"))["ReceiptHandle"]
    change = {"Id": "a", "ReceiptHandle": handle, "VisibilityTimeout": "60"}
    for action in ("ChangeMessageVisibilityBatch", "DeleteMessageBatch"):
        form = {f"{action}RequestEntry.1.{name}": value for name, value in change.items()}
        _, root = await call(zapq_server, action, {"QueueUrl": "jobs", **form})
        [entry] = root.iter(f"{SPACE}{action}ResultEntry")
        assert entry.findtext(f"{SPACE}Id") == "a"


async def test_lists_and_maps_are_repeated_elements(zapq_server: ZapqServer, boto: Boto) -> None:
    for name in ("a", "b"):
        await boto.make(name)
    _, root = await call(zapq_server, "ListQueues")
    assert [each.rpartition("/")[2] for each in texts(root, "QueueUrl")] == ["a", "b"]
    await boto("tag_queue", QueueUrl="a", Tags={"x": "1", "y": "2"})
    _, root = await call(zapq_server, "ListQueueTags", {"QueueUrl": "a"})
    assert pairs(root, "Tag", "Key") == {"x": "1", "y": "2"}
    await call(zapq_server, "UntagQueue", {"QueueUrl": "a", "TagKey.1": "x", "TagKey.2": "y"})
    assert await boto("list_queue_tags", QueueUrl="a") == {}
    _, root = await call(zapq_server, "GetQueueAttributes", {"QueueUrl": "a", "AttributeName.1": "All"})
    shown = await boto.attributes("a")
    # Such a request does not say its region.
    assert pairs(root, "Attribute") == {**shown, "QueueArn": shown["QueueArn"].replace("eu-west-1", "us-east-1")}


async def test_a_refusal_has_the_older_code_and_text(zapq_server: ZapqServer) -> None:
    answer, root = await call(zapq_server, "SendMessage", {"QueueUrl": "none", "MessageBody": "x"})
    assert answer.status == 400
    assert texts(root, "Code") == ["AWS.SimpleQueueService.NonExistentQueue"]
    assert texts(root, "Message") == ["The specified queue does not exist for this wsdl version."]
    assert texts(root, "Type") == ["Sender"]
    answer, root = await call(zapq_server, "Fly")
    assert (answer.status, texts(root, "Code")) == (400, ["InvalidAction"])
    answer, root = await call(
        zapq_server, "SendMessage", {"QueueUrl": "none", "MessageBody": "x", "DelaySeconds": "y"}
    )
    assert (answer.status, texts(root, "Code")) == (400, ["MalformedInput"])
    answer, root = await call(zapq_server, "CreateQueue", {"QueueName": "\0<a>"})
    assert (answer.status, texts(root, "Code")) == (400, ["InvalidParameterValue"])


async def test_a_url_alone_will_do(zapq_server: ZapqServer, boto: Boto) -> None:
    await boto.make()
    answer = await ask(zapq_server.url, "GET", "/queue/jobs?Action=SendMessage&MessageBody=hi")
    assert answer.status == 200
    assert (await boto.one("jobs"))["Body"] == "hi"
    page = {"Sec-Fetch-Site": "cross-site"}
    answer = await ask(zapq_server.url, "GET", "/queue/jobs?Action=SendMessage&MessageBody=hi", b"", page)
    assert answer.status == 403
