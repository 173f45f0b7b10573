"""msgspec's own complaints, as it makes them of our types, in plain English."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zapq.core.complaints import plainly
from zapq.core.message import Draft
from zapq.core.queue_settings import QueueSettings
from zapq.service.operations import Settlement

Batch = list[Draft]


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ({"visibility": "5m"}, QueueSettings, "visibility must be a number, not text"),
        ({"visibilty": 1}, QueueSettings, "`visibilty` is not known"),
        ({"visibility": -1}, QueueSettings, "visibility must be at least 0"),
        ({"ttl": 0}, QueueSettings, "ttl must be more than 0"),
        (
            {"max_messages": 1.5},
            QueueSettings,
            "max_messages must be a whole number or null, not a number with a fraction",
        ),
        (
            {"dead_letter": "a b"},
            QueueSettings,
            "dead_letter must be a queue's name: 1 to 80 letters, digits, dots, dashes and underscores; the first"
            " is no dot",
        ),
        ({}, Batch, "it must be a list, not an object"),
        ([{"body": b"", "priority": 10}], Batch, "priority of entry 1 must be at most 9"),
        ([{"body": b""}, {"delay": 1}], Batch, "`body` is missing in entry 2"),
        ([{"body": "??"}], Batch, "body of entry 1 must be base64"),
        (
            [{"body": b"", "headers": {"a": 5}}],
            Batch,
            "value of headers of entry 1 must be text, not a whole number",
        ),
        ([{"body": b"", "headers": []}], Batch, "headers of entry 1 must be an object or null, not a list"),
        (
            [{"body": b"", "content_type": "\n"}],
            Batch,
            "content_type of entry 1 must be 1 to 255 visible ASCII characters and spaces",
        ),
        ([{"receipt": "x", "action": "nack"}], list[Settlement], "action of entry 1 cannot be 'nack'"),
    ],
)
def test_a_complaint_names_the_place_and_what_belongs_there(value: object, kind: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as complaint:
        msgspec.convert(value, kind)
    assert plainly(str(complaint.value)) == said


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("Expected `array` of length >= 1", "it must have at least 1 entry"),
        ("JSON is malformed: trailing characters (byte 10)", "JSON is malformed: trailing characters (byte 10)"),
        ("Expected `int`, got `str` - at `$[...]`", "Expected `int`, got `str` - at `$[...]`"),
    ],
)
def test_a_complaint_that_is_not_known_stays_as_it_is(complaint: str, said: str) -> None:
    assert plainly(complaint) == said
