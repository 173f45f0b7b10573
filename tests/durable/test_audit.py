"""The auditor sees what is wrong, or its silence would say nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.durable.audit import Held, Ledger, Sent
from tests.durable.fifo import Groups


def ledger() -> Ledger:
    made = Ledger()
    for id, body in enumerate([b"a", b"b", b"c"], 1):
        made.sent[body] = Sent("q", body, id=id, answered=True)
    made.sent[b"gone"] = Sent("q", b"gone", id=4, answered=True, gone=True)
    made.sent[b"x"] = Sent("q", b"x", group="g")
    made.sent[b"y"] = Sent("q", b"y", group="g")
    return made


def held(
    body: bytes, id: int, priority: int = 0, receives: int = 0, kind: str = "application/octet-stream"
) -> Held:
    return Held("q", id, body, priority, kind, receives)


A, B, C = held(b"a", 1), held(b"b", 2), held(b"c", 3)


def test_what_agrees_is_fine() -> None:
    assert not ledger().audit([A, B, C])
    assert not ledger().audit([A, B, C, held(b"x", 5), held(b"y", 6)])
    taken = ledger()
    taken.unknown_takes["q"] = 1
    assert not taken.audit([B, C])
    taken.unknown_receives = 1
    assert not taken.audit([held(b"b", 2, receives=1), C])


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        ([A, B], "lost"),
        ([A, B, C, held(b"gone", 4)], "came back"),
        ([B, A, C], "not in order"),
        ([A, B, held(b"c", 9)], "another id"),
        ([A, B, C, held(b"c", 7)], "there twice"),
        ([A, B, held(b"c", 3, receives=1)], "so often"),
        ([A, B, held(b"c", 3, priority=1)], "not what was sent"),
        ([A, B, held(b"c", 3, kind="text/plain")], "not what was sent"),
        ([A, B, C, held(b"x", 5)], "half of a batch"),
        ([A, B, C, held(b"what", 5)], "nobody sent"),
    ],
)
def test_what_does_not_agree_is_seen(found: list[Held], complaint: str) -> None:
    assert any(complaint in each for each in ledger().audit(found))


def groups() -> Groups:
    """Of one group, the first message was deleted, the two after it were stored, the last was not answered."""
    made = Groups()
    for number, sent in enumerate(made.new(0, "q.fifo", "g", ["gone", "a", "b"])):
        sent.told(f"id-{number}", f"{number:020d}")
    made.deleted(made.named["gone"])
    made.new(0, "q.fifo", "g", ["c"])
    return made


def of_group(*bodies: str) -> list[tuple[str, str, str]]:
    return [("q.fifo", "g", body) for body in bodies]


def given(body: str, id: str, sequence: str) -> dict[str, Any]:
    return {"Body": body, "MessageId": id, "Attributes": {"MessageGroupId": "g", "SequenceNumber": sequence}}


def test_groups_that_agree_are_fine() -> None:
    assert not groups().audit(of_group("a", "b"))
    assert not groups().audit(of_group("a", "b", "c"))
    deleting = groups()
    deleting.named["a"].maybe_gone = True
    assert not deleting.audit(of_group("b"))
    assert not deleting.audit(of_group("a", "b"))
    deleting.settle({"b", "c"})
    assert deleting.named["a"].gone


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (of_group("a"), "lost"),
        (of_group("gone", "a", "b"), "came back"),
        (of_group("b", "a"), "not in order"),
        (of_group("a", "b", "b"), "there twice"),
        (of_group("a", "b", "what"), "was not sent"),
        ([*of_group("a"), ("q.fifo", "h", "b")], "was not sent"),
    ],
)
def test_groups_that_do_not_agree_are_seen(found: list[tuple[str, str, str]], complaint: str) -> None:
    assert any(complaint in each for each in groups().audit(found))


def test_sequence_numbers_that_do_not_grow_are_seen() -> None:
    wrong = groups()
    wrong.named["c"].told("id-3", f"{1:020d}")
    assert any("do not grow" in each for each in wrong.audit(of_group("a", "b", "c")))


@pytest.mark.parametrize(
    ("delivery", "complaint"),
    [
        (given("gone", "id-0", f"{0:020d}"), "after it was deleted"),
        (given("b", "id-2", f"{2:020d}"), "given before"),
        (given("a", "id-9", f"{9:020d}"), "stored twice"),
    ],
)
def test_deliveries_that_must_not_be_are_seen(delivery: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        groups().delivered("q.fifo", [delivery])
