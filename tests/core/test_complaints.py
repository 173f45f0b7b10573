"""msgspec's own complaints, as it makes them of our types, in plain English."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zapq.core.complaints import plainly, written
from zapq.core.message import Draft
from zapq.core.queue_settings import QueueSettings
from zapq.service.operations import Settlement

Batch = list[Draft]


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ({"visibility": "5m"}, QueueSettings, "visibility must be a number of seconds, not text"),
        ({"visibilty": 1}, QueueSettings, "`visibilty` is not known"),
        ({"visibility": -1}, QueueSettings, "visibility must be at least 0 seconds"),
        ({"rate": 0}, QueueSettings, "rate must be at least 0.00001"),
        ({"ttl": 0}, QueueSettings, "ttl must be more than 0 seconds"),
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
        (
            [{"receipt": "x", "action": "nack"}],
            list[Settlement],
            "action of entry 1 cannot be 'nack'; give ack, release or extend",
        ),
        ([{"body": b"", "on": "drop"}], Batch, "on of entry 1 cannot be 'drop'; give keep or replace"),
    ],
)
def test_a_complaint_names_the_place_and_what_belongs_there(value: object, kind: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as complaint:
        msgspec.convert(value, kind)
    assert plainly(str(complaint.value)) == said


def test_a_name_that_is_not_known_is_told_the_nearest_one() -> None:
    with pytest.raises(msgspec.ValidationError) as complaint:
        msgspec.convert([{"body": b"", "prio": 1}], Batch)
    said = plainly(str(complaint.value), Draft.__struct_fields__)
    assert said == "`prio` is not known in entry 1; perhaps you mean `priority`"
    assert plainly(str(complaint.value), ["ttl"]) == "`prio` is not known in entry 1"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (31_536_000.0, "31536000"),
        (0.5, "0.5"),
        (1e-5, "0.00001"),
        (7, "7"),
        (float("nan"), "nan"),
        (1e30, "1e+30"),
    ],
)
def test_numbers_are_written_without_an_exponent(number: float, said: str) -> None:
    assert written(number) == said


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
