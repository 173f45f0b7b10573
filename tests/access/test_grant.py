"""What a credential is good for, and how people write that."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

import pytest

from zapq.access.grant import Grant, Role, check_name, check_pattern, parse_expiry, parse_roles


@pytest.mark.parametrize(
    ("roles", "asked", "has"),
    [
        ({"producer"}, "producer", True),
        ({"producer"}, "consumer", False),
        ({"producer"}, "admin", False),
        ({"producer", "metrics"}, "metrics", True),
        ({"admin"}, "producer", True),
        ({"admin"}, "metrics", True),
    ],
)
def test_an_administrator_has_every_role_and_others_their_own(roles: set[Role], asked: Role, has: bool) -> None:
    assert Grant("x", frozenset(roles)).has_role(asked) is has


@pytest.mark.parametrize(
    ("pattern", "queue", "covered"),
    [
        ("*", "emails", True),
        ("*", None, True),
        ("emails", "emails", True),
        ("emails", "emails2", False),
        ("emails", "Emails", False),
        ("emails", None, False),
        ("emails*", "emails", True),
        ("emails*", "emails.eu", True),
        ("emails*", None, False),
        ("*.eu", "emails.eu", True),
        ("*.eu", "emailsXeu", False),
        ("e?", "ee", True),
        ("e?", "e", False),
        ("**", None, False),
    ],
)
def test_a_pattern_covers_the_queues_it_names(pattern: str, queue: str | None, covered: bool) -> None:
    assert Grant("x", frozenset({"producer"}), pattern).covers(queue) is covered


def test_roles_are_listed_with_commas() -> None:
    assert parse_roles("consumer,producer") == {"consumer", "producer"}
    for text in ("", "producer,", "Producer", "producer,producer", "root", "producer consumer", "*"):
        with pytest.raises(ValueError, match="producer, consumer, metrics, admin"):
            parse_roles(text)


def test_a_day_lasts_until_its_end() -> None:
    assert parse_expiry("2027-01-31") == datetime(2027, 2, 1, tzinfo=UTC).timestamp()
    assert parse_expiry("2027-01-31T12:00:00Z") == datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()
    assert Grant("x", frozenset()).expires == inf


@pytest.mark.parametrize(
    "text",
    ["", "x", "2027-02-30", "2027-01-31T12:00:00", "2027-01-31 12:00:00Z", "9999-12-31", "٢٠٢٧-01-31", "90d"],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give a date"):
        parse_expiry(text)


def test_names_and_patterns_are_plain() -> None:
    assert check_name("billing-2.eu") == "billing-2.eu"
    for text in ("emails*.eu", "-jobs", "_*"):
        assert check_pattern(text) == text
    for text in ("", "-x", "a b", "a\n", "é", "x" * 81):
        with pytest.raises(ValueError, match="a name must be"):
            check_name(text)
    for text in ("", "a b", "[a]", "a/b", "*\n", "x" * 81):
        with pytest.raises(ValueError, match="queues must be"):
            check_pattern(text)


def test_a_date_is_not_taken_for_a_pattern() -> None:
    with pytest.raises(ValueError, match="the date must come after the queues"):
        check_pattern("2027-01-31")
