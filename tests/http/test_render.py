"""What answers say, to the byte."""

from __future__ import annotations

from math import inf

import pytest

from zapq.http import render
from zapq.service.operations import Nothing


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, b"0.0"), (0.01, b"0.1"), (3.2, b"3.2"), (3.21, b"3.3"), (59.99, b"60.0")]
)
def test_who_waits_as_long_as_told_finds_something(seconds: float, shown: bytes) -> None:
    answer = render.nothing(Nothing("leased", seconds), b"")
    assert b"Zapq-Next-Visible-In: " + shown + b"\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_where_nothing_will_come_by_itself_no_time_is_named() -> None:
    assert render.nothing(Nothing("empty", inf), b"") == (
        b"HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nZapq-Empty: empty\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, b"1970-01-01T00:00:00.000Z"),
        (1_800_000_000.5, b"2027-01-15T08:00:00.500Z"),
        (1_800_000_000.9999, b"2027-01-15T08:00:00.999Z"),
    ],
)
def test_times_are_those_of_rfc_3339(seconds: float, shown: bytes) -> None:
    assert render.rfc3339(seconds) == shown
