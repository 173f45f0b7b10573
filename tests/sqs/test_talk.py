"""An action while outcomes are to come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zapq.core.message import Message
from zapq.service.operations import Delivery, Find, Look
from zapq.service.pending import Later
from zapq.service.waiting import Deliveries
from zapq.sqs import model
from zapq.sqs.steps import Steps
from zapq.sqs.talk import Talk, converse


def begun(steps: Steps, pending: Later[Any], *, patient: bool = False) -> Talk:
    how: dict[type[Any], Callable[[Any, float], Any]] = {
        Look: lambda asked, now: pending,
        Find: lambda asked, now: asked.id,
    }
    talk = converse(steps, how, lambda: 0.0, 0.0, patient=patient)
    assert isinstance(talk, Talk)
    return talk


def test_what_fails_of_itself_ends_its_own_request_and_not_what_brought_the_news() -> None:
    def steps() -> Steps:
        yield Look("jobs")
        raise RuntimeError("a mistake")

    pending: Later[Any] = Later()
    talk = begun(steps(), pending)
    told: list[str] = []
    talk.when_done(lambda: told.append("done"))
    pending.complete("settings")
    assert told == ["done"]
    with pytest.raises(RuntimeError, match="a mistake"):
        talk.result()


def test_one_that_may_wait_is_known_for_it_from_the_beginning() -> None:
    def steps() -> Steps:
        yield Look("jobs")
        return model.NOTHING

    class Quick(Later[Any]):
        patient = False

    assert not begun(steps(), Quick()).patient
    assert begun(steps(), Quick(), patient=True).patient


def test_a_list_goes_on_when_all_of_it_is_known() -> None:
    seen: list[object] = []

    def steps() -> Steps:
        seen.extend((yield [Find("jobs", 1), Look("jobs"), Find("jobs", 3)]))
        return model.NOTHING

    pending: Later[Any] = Later()
    talk = begun(steps(), pending)
    assert not talk.done
    pending.complete("two")
    assert seen == [1, "two", 3]
    assert talk.result().result is model.NOTHING


class Lender:
    """A queue that counts what comes back."""

    name = "jobs"

    def __init__(self) -> None:
        self.returned: list[Deliveries] = []

    def return_undelivered(self, given: Deliveries) -> None:
        self.returned.append(given)

    def note_uncertain_delivery(self, number: int) -> None:
        raise AssertionError


def test_messages_in_its_hands_go_back_if_it_is_given_up() -> None:
    def steps() -> Steps:
        yield Look("jobs")
        yield Look("jobs")
        return model.NOTHING

    pending, lender, given = [Later[Any](), Later[Any]()], Lender(), [Message(1, b"x")]
    waited_for = iter(pending)
    talk = converse(steps(), {Look: lambda asked, now: next(waited_for)}, lambda: 0.0, 0.0)
    assert isinstance(talk, Talk)
    pending[0].complete(Delivery(lender, given))
    assert not talk.done
    talk.abandon()
    assert lender.returned == [given]


@pytest.mark.parametrize("late", ["nothing", "the messages", "what comes then", "a list"])
def test_messages_in_its_hands_go_back_once_if_it_fails(late: str) -> None:
    def steps() -> Steps:
        yield Look("jobs")
        if late != "nothing":
            yield [Find("jobs", 1)] if late == "a list" else Find("jobs", 1)
        raise RuntimeError("a mistake")

    lender, given = Lender(), [Message(1, b"x")]
    delivery = Delivery(lender, given)
    first, second = Later[Any](), Later[Any]()
    how: dict[type[Any], Callable[[Any, float], Any]] = {
        Look: lambda asked, now: first if late == "the messages" else delivery,
        Find: lambda asked, now: second,
    }

    def ask() -> None:
        talk = converse(steps(), how, lambda: 0.0, 0.0)
        assert isinstance(talk, Talk)
        first.complete(delivery)
        second.complete(None)
        assert lender.returned == [given]
        talk.abandon()
        talk.result()

    with pytest.raises(RuntimeError, match="a mistake"):
        ask()
    assert lender.returned == [given]
