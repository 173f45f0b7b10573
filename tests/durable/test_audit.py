"""The auditor sees what is wrong, or its silence would say nothing."""

from __future__ import annotations

import pytest

from tests.durable.audit import Held, Ledger, Sent


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
