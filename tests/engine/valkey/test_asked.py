"""What becomes of an operation that travels: its outcome is told once, and messages no asker gets go back."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest

from zapq.core.message import Draft, Message
from zapq.engine.valkey.asked import Asked, may_repeat, size_of
from zapq.errors import OutcomeUnknown, ReceiptExpired, StorageUnavailable
from zapq.limits import ENGINE_OPERATION_BYTES, ENGINE_REPEAT_SECONDS, ENGINE_RETRY_SECONDS
from zapq.service.operations import (
    Delivery,
    Enqueue,
    Nothing,
    Operation,
    Peek,
    Purge,
    Put,
    Settle,
    Settlement,
    SettleOne,
    Take,
)
from zapq.service.waiting import ONE, Deliveries

RELEASE, ACK = Settlement(receipt="r", action="release"), Settlement(receipt="r")


@dataclass
class Queue:
    name: str = "jobs"
    back: list[int] = field(default_factory=list)

    def return_undelivered(self, given: Deliveries) -> None:
        self.back += [each.id for each in given]

    def note_uncertain_delivery(self, number: int) -> None: ...


@pytest.fixture
def queue() -> Queue:
    return Queue()


def asked(operation: Operation) -> Asked:
    return Asked(operation, 0, size_of(operation), 100.0, repeatable=may_repeat(operation))


def test_messages_for_a_consumer_that_has_left_go_back_whenever_they_come(queue: Queue) -> None:
    for place in (1, 2):
        taken = asked(Take("jobs", ONE))
        delivery = Delivery(queue, (Message(place, b""),))
        if place == 1:
            assert taken.withdraw()  # it knows already that nothing happens
            taken.complete(delivery)
        else:
            taken.complete(delivery)
            taken.abandon()
    assert queue.back == [1, 2]


def test_what_changes_something_cannot_be_withdrawn() -> None:
    for operation in (Enqueue("jobs", b""), SettleOne("jobs", ACK), Purge("jobs")):
        assert not asked(operation).withdraw()


def test_a_refusal_for_an_asker_that_has_left_is_for_nobody_and_done() -> None:
    sent = asked(Enqueue("jobs", b""))
    sent.abandon()
    sent.fail(StorageUnavailable())
    assert sent.done
    assert sent.result() is None


def test_an_error_is_raised_once() -> None:
    sent = asked(Enqueue("jobs", b""))
    sent.fail(StorageUnavailable())
    with pytest.raises(StorageUnavailable):
        sent.result()
    assert sent.result() is None


def test_what_was_never_sent_has_not_happened_and_what_was_may_have() -> None:
    for maybe_done, kind, seconds in (
        (False, StorageUnavailable, ENGINE_RETRY_SECONDS),
        (True, OutcomeUnknown, ENGINE_REPEAT_SECONDS),
    ):
        sent = asked(Enqueue("jobs", b""))
        sent.maybe_done = maybe_done
        assert sent.until == 100.0 + seconds
        sent.give_up("it is gone")
        with pytest.raises(kind, match="it is gone"):
            sent.result()


def test_a_release_that_is_over_when_it_is_repeated_was_the_first_one() -> None:
    one = asked(SettleOne("jobs", RELEASE))
    one.maybe_done = True
    one.settle(ReceiptExpired("it is over"))
    assert one.result() is None
    many = asked(Settle("jobs", (RELEASE, ACK, RELEASE)))
    many.maybe_done = True
    expired = ReceiptExpired("it is over")
    many.settle([expired, expired, None])
    assert many.result() == [None, expired, None]


def test_a_release_that_is_over_at_the_first_time_was_too_late() -> None:
    one = asked(SettleOne("jobs", RELEASE))
    one.settle(ReceiptExpired("it is over"))
    with pytest.raises(ReceiptExpired):
        one.result()


def test_other_outcomes_are_the_same_when_they_are_repeated() -> None:
    for outcome in (Nothing("empty", inf), [1]):
        looked = asked(Peek("jobs", "ready", 1))
        looked.maybe_done = True
        looked.settle(outcome)
        assert looked.result() == outcome


def test_only_what_does_no_harm_is_repeated() -> None:
    assert may_repeat(Put(b"", key="k", queue="jobs"))
    assert may_repeat(SettleOne("jobs", ACK))
    for operation in (Put(b"", queue="jobs"), Enqueue("jobs", b""), Take("jobs", ONE), Purge("jobs")):
        assert not may_repeat(operation)


def test_the_bodies_of_a_batch_and_what_they_cost_beside_them_are_counted() -> None:
    one = size_of(Put(b"x" * 1000, queue="jobs"))
    batch = size_of(Put((b"x" * 500, Draft(body=b"x" * 500)), queue="jobs"))
    assert ENGINE_OPERATION_BYTES + 1000 == one < batch < 2 * one
    assert size_of(Settle("jobs", (ACK,) * 100)) > size_of(SettleOne("jobs", ACK))
