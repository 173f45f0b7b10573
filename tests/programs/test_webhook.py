"""Webhooks by Standard Webhooks, judged by its own library; and what answers mean."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from zapq.core.headers import FIELD
from zapq.programs.receiver import Target, parse_target
from zapq.programs.webhook import Verdict, fields_of, parse_secrets, verdict, webhook_id

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()


@dataclass
class Message:
    id: int = 7
    queue: str = "emails"
    receipt: str = "9b0205-2-1f"
    receive_count: int = 3
    content_type: str = "application/json"
    headers: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))
    group: str = ""
    body: bytes = b'{"a":1}'


def test_the_official_library_finds_it_genuine() -> None:
    fields = fields_of(Message(), parse_secrets(SECRET), time.time())
    assert Webhook(SECRET).verify(Message.body, fields) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(Message.body, fields)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b'{"a":2}', fields)


def test_with_two_secrets_a_receiver_can_know_either() -> None:
    fields = fields_of(Message(), parse_secrets(f"{SECRET}\n{OTHER}\n"), time.time())
    for secret in (SECRET, OTHER):
        Webhook(secret).verify(Message.body, fields)


def test_it_says_what_is_known_of_the_message() -> None:
    headers = MappingProxyType({"order": "7", "traceparent": "00-1-2-01", "ce-type": "t"})
    fields = fields_of(Message(headers=headers, group="g"), [], 1000.9)
    assert fields["webhook-timestamp"] == "1000"
    assert fields["Content-Type"] == "application/json"
    assert (fields["Zapq-Queue"], fields["Zapq-Message-Id"], fields["Zapq-Receive-Count"]) == ("emails", "7", "3")
    assert (fields[f"{FIELD}order"], fields["traceparent"], fields["ce-type"]) == ("7", "00-1-2-01", "t")
    assert fields["Zapq-Group"] == "g"
    assert "webhook-signature" not in fields


def test_each_attempt_has_the_same_id_and_each_run_of_a_server_others() -> None:
    assert webhook_id(Message()) == webhook_id(Message(receipt="9b0205-2-ff", receive_count=4)) == "9b0205-2-7"
    assert webhook_id(Message(receipt="aaaaaa-2-1f")) != webhook_id(Message())
    named = Message(headers=MappingProxyType({"webhook-id": "order-4711"}))
    assert webhook_id(named) == fields_of(named, [], 0)["webhook-id"] == "order-4711"


def test_no_id_has_a_dot_which_parts_it_from_the_time_in_what_is_signed() -> None:
    ids = ["a.b", "a%2Eb", "a%252Eb", "a-b", f"a.{int(time.time()) + 300}.b"]
    shown = [webhook_id(Message(headers=MappingProxyType({"webhook-id": id}))) for id in ids]
    assert shown[:4] == ["a%2Eb", "a%252Eb", "a%25252Eb", "a-b"]
    assert not any("." in id for id in shown)
    fields = fields_of(
        Message(headers=MappingProxyType({"webhook-id": ids[4]})), parse_secrets(SECRET), time.time()
    )
    assert Webhook(SECRET).verify(Message.body, fields) == {"a": 1}
    # An attacker cannot pass the same bytes off as another id with a later time and another body.
    id, later, rest = ids[4].split(".")
    forged = fields | {"webhook-id": id, "webhook-timestamp": later}
    body = b"%b.%b.%b" % (rest.encode(), fields["webhook-timestamp"].encode(), Message.body)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, forged)
    # The name of a queue, which may have dots, is no part of it.
    assert webhook_id(Message(queue="a.b")) == webhook_id(Message())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no secret"),
        ("hunter2", "begin with whsec_"),
        ("whsec_!", "base64"),
        ("whsec_YWJj", "24 to 64 bytes; this one has 3"),
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        parse_secrets(text)
    assert not text or text.removeprefix("whsec_") not in str(refused.value)


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("status", "retry_after", "expected"),
    [
        (200, "", Verdict("ack")),
        (204, "60", Verdict("ack")),
        (301, "", Verdict("release")),
        (404, "", Verdict("release")),
        (410, "", Verdict("stop")),
        (429, "60", Verdict("release", 60.0)),
        (503, " 1 ", Verdict("release", 1.0)),
        (503, "999999999", Verdict("release", 3600.0)),
        (503, "Fri, 15 Jan 2027 08:00:30 GMT", Verdict("release", 30.0)),
        (503, "Fri, 15 Jan 2027 08:00:30 -0000", Verdict("release", 30.0)),
        (503, "Fri, 15 Jan 2027 07:00:00 GMT", Verdict("release")),
        (503, "soon", Verdict("release")),
        (503, "Fri, 15 Jan 99999999999 08:00:30 GMT", Verdict("release")),
        (503, "Fri, 15 Jan 2027 08:00:30 +9999999999999999999999", Verdict("release")),
        (503, "-1", Verdict("release")),
        (500, "\u0664", Verdict("release")),
    ],
)
def test_what_an_answer_means(status: int, retry_after: str, expected: Verdict) -> None:
    assert verdict(status, retry_after, NOW) == expected


def test_targets() -> None:
    assert parse_target("https://example.com") == Target(True, "example.com", 443, "/")
    assert parse_target("http://[::1]:81/a?b=c") == Target(False, "::1", 81, "/a?b=c")
    for wrong in ("example.com", "ftp://example.com", "http://", "http://a b/", "http://h:x/"):
        with pytest.raises(ValueError, match=r"give http|port|Port"):
            parse_target(wrong)
    with pytest.raises(ValueError, match="no password"):
        parse_target("https://me:secret@example.com/")
