"""Groups against a plain list, and what they mean for consumers: strict order within one, turns between them."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zapq.core.broker import Broker
from zapq.core.groups import Groups
from zapq.core.image import QueueImage
from zapq.core.message import Draft, Lease, Message, Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["add", "pop held", "let go"] * 3 + ["pop", "come back", "delay", "remove", "hold", "switch"]
        ),
        st.sampled_from("abc"),
        st.integers(0, 9),
    ),
    max_size=60,
)


class Model:
    """The groups as lists. `turns` says when each open group is next, in a fair queue."""

    def __init__(self, *, fair: bool) -> None:
        self.ready: dict[int, str] = {}
        self.out: dict[int, str] = {}
        self.fair = fair
        self.turns: dict[str, int] = {}
        self.turn = 0

    def heads(self) -> dict[str, int]:
        """The first ready message of each group that can give it."""
        heads: dict[str, int] = {}
        for id, group in sorted(self.ready.items()):
            if min((each for each in self.out if self.out[each] == group), default=inf) > id:
                heads.setdefault(group, id)
        return heads

    def next(self) -> int:
        heads = self.heads()
        return heads[min(heads, key=lambda group: self.turns[group])] if self.fair else min(heads.values())

    def note_turns(self, served: str = "") -> None:
        """Let groups that can give a message again, or were served, be next after the others."""
        heads = self.heads()
        for group in {served, *self.turns} - (heads.keys() - {served}):
            self.turns.pop(group, None)
        for group in heads.keys() - self.turns.keys():
            self.turn += 1
            self.turns[group] = self.turn


@given(STEPS, st.booleans())
def test_they_agree_with_a_list(steps: list[tuple[str, str, int]], fair: bool) -> None:
    groups, model, messages, newest = Groups(fair=fair), Model(fair=fair), dict[int, Message](), 0
    for verb, group, number in steps:
        served = ""
        chosen = {at: sorted(ids)[number % len(ids)] for at, ids in (("r", model.ready), ("o", model.out)) if ids}
        match verb:
            case "add" | "delay":
                newest += 1
                messages[newest] = message = Message(newest, b"", Properties(group=group))
                if verb == "delay":
                    groups.hold(message)
                    model.out[newest] = group
                elif number % 2:
                    groups.enter(message)
                    model.ready[newest] = group
                else:
                    assert groups.add(newest, b"", message.properties) == message
                    model.ready[newest] = group
            case "pop" | "pop held" if groups.open:
                expected = model.next()
                message = groups.pop() if verb == "pop" else groups.pop_held()
                assert message is messages[expected] or message == messages[expected]
                served = model.ready.pop(expected)
                if verb == "pop held":
                    model.out[expected] = served
            case "let go" if model.out:
                groups.let_go(messages[chosen["o"]])
                del model.out[chosen["o"]]
            case "hold" if model.out:
                groups.hold(messages[chosen["o"]])  # it is out already
            case "come back" if model.out:
                groups.come_back(messages[chosen["o"]])
                model.ready[chosen["o"]] = model.out.pop(chosen["o"])
            case "remove" if model.ready:
                assert groups.remove(chosen["r"]) == messages[chosen["r"]]
                del model.ready[chosen["r"]]
            case "switch":
                groups.fair = model.fair = not model.fair
                model.turns = {}
                for opened in sorted(model.heads(), key=lambda each: model.heads()[each]):
                    model.turn += 1
                    model.turns[opened] = model.turn
        model.note_turns(served)
        assert [each.id for each in groups] == sorted(model.ready)
        assert sorted(groups.messages) == sorted(model.ready)
        assert len(groups.open) == len(model.heads())
        assert groups.blocked == bool(set(model.ready.values()) - model.heads().keys())
        assert bool(groups) == bool(model.ready or model.out)
        for id in model.out:
            first = min(each for each in model.out if model.out[each] == model.out[id])
            assert groups.is_first_out(messages[id]) == (id == first)
    while groups.open:
        expected = model.next()
        assert groups.pop() == messages[expected]
        model.note_turns(model.ready.pop(expected))


def test_what_is_gone_does_not_stay_for_long() -> None:
    groups = Groups()
    for id in range(1, 5001):
        groups.add(id, b"", Properties(group="one"))
    for id in range(5000, 2, -1):
        groups.remove(id)
    assert len(groups._groups["one"].ready or []) < 100
    out = [Message(id, b"", Properties(group="other")) for id in range(6000, 9000)]
    for each in out:
        groups.hold(each)
    for each in out[1:]:
        groups.let_go(each)
    assert len(groups._groups["other"].also_out or []) < 100
    for id in range(10_000, 15_000):
        message = groups.add(id, b"", Properties(group="last"))
        groups.remove(message.id)
    assert len(groups._places) < 100
    for _ in range(2):
        groups.pop()
    groups.let_go(out[0])
    assert not groups
    assert not groups._also_out


def test_messages_of_a_group_share_what_they_have_in_common() -> None:
    queue = make_queue()
    sent = [queue.enqueue(b"", Properties("text/plain", group="a"), delay=delay) for delay in (0, 0, 3)]
    assert sent[0].properties is sent[1].properties
    again = made_again(queue)
    properties = {id(each.message.properties) for state in ("ready", "delayed") for each in again.peek(state, 9)}
    assert len(properties) == 1


# What it means for consumers


def make_queue(**settings: object) -> Queue:
    broker = Broker(max_messages=200_000, max_bytes=10**8, max_queues=9)
    broker.configure("jobs", QueueSettings(visibility=10.0, **settings), 0.0)  # type: ignore[arg-type]  # some
    return broker.find("jobs")


def made_again(queue: Queue, now: float = 0.0) -> Queue:
    """A queue made of what is kept of this one."""
    again = make_queue()
    again.fill(queue.image(), now)
    return again


def send(queue: Queue, *messages: str, delay: float = 0.0, now: float = 0.0) -> None:
    """Send messages whose groups are the letters they begin with; `-` stands for none."""
    for text in messages:
        queue.enqueue(text.encode(), Properties(group=text[0].strip("-")), delay=delay, now=now)


def texts(given: list[Lease] | list[Message]) -> list[str]:
    return [each.body.decode() for each in given]


def receive(queue: Queue, limit: int = 1, now: float = 0.0) -> list[str]:
    return texts(queue.receive_many(limit, None, now))


def test_a_group_gives_nothing_while_an_earlier_message_of_it_is_leased() -> None:
    queue = make_queue()
    send(queue, "a1", "a2", "b1", "-1")
    first = queue.receive()
    assert first is not None
    assert first.body == b"a1"
    assert receive(queue, 9) == ["b1", "-1"]
    assert (queue.receive(), queue.why_empty(), queue.available) == (None, "blocked", False)
    queue.ack(first.receipt, 0.0)
    assert queue.available
    assert receive(queue) == ["a2"]
    assert queue.why_empty() == "leased"


def test_a_batch_takes_several_of_one_group_in_order_and_then_the_group_waits_for_all_of_them() -> None:
    queue = make_queue()
    send(queue, "a1", "b1", "a2", "a3", "a4")
    batch = queue.receive_many(4, None, 0.0)
    assert texts(batch) == ["a1", "b1", "a2", "a3"]
    for lease in (batch[2], batch[0]):
        queue.ack(lease.receipt, 0.0)
        assert not queue.available
    queue.ack(batch[3].receipt, 0.0)
    assert receive(queue, 9) == ["a4"]


def test_consumers_that_ask_at_once_get_one_message_of_a_group_together() -> None:
    queue = make_queue()
    send(queue, "a1", "a2", "b1", "b2", "-1", "-2")
    assert texts(queue.receive_many(9, None, 0.0, together=False)) == ["a1", "b1", "-1", "-2"]
    assert queue.why_empty() == "blocked"


def test_a_message_that_rests_holds_up_its_group_and_is_the_next_of_it() -> None:
    queue = make_queue()
    send(queue, "a1", "a2")
    [lease] = queue.receive_many(1, None, 0.0)
    queue.release(lease.receipt, 5.0, 1.0)
    assert (queue.receive(None, 2.0), queue.why_empty(), queue.next_visible()) == (None, "blocked", 6.0)
    assert receive(queue, 9, 6.0) == ["a1", "a2"]


def test_a_message_that_its_producer_delays_holds_up_those_behind_it_and_not_those_before() -> None:
    queue = make_queue()
    send(queue, "a1")
    send(queue, "a2", delay=5.0)
    send(queue, "a3")
    assert receive(queue, 9) == ["a1"]
    queue.ack(queue._leases.first(1)[0].receipt, 0.0)
    assert (queue.why_empty(), queue.next_visible()) == ("blocked", 5.0)
    assert receive(queue, 9, 5.0) == ["a2", "a3"]


def test_a_consumer_is_told_when_the_message_that_holds_up_its_group_is_back() -> None:
    queue = make_queue()
    send(queue, "a1")
    send(queue, "a2", delay=5.0)
    send(queue, "a3")
    lease = queue.receive(20.0, 0.0)
    assert lease is not None
    # When the delay is over, the message will be held up itself.
    assert (queue.why_empty(), queue.next_visible()) == ("blocked", 20.0)
    queue.tick(5.0, 9)
    assert queue.next_visible() == 20.0
    queue.ack(lease.receipt, 6.0)
    assert receive(queue, 9, 6.0) == ["a2", "a3"]


@pytest.mark.parametrize("how", ["expired", "dead-lettered", "expired while delayed", "expired at the head"])
def test_a_message_that_is_gone_holds_up_nothing(how: str) -> None:
    broker = Broker(max_messages=99, max_bytes=999, max_queues=9)
    broker.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead", visibility=3.0), 0.0)
    if how == "expired":
        broker.configure("jobs", QueueSettings(visibility=3.0), 0.0)
    queue = broker.find("jobs")
    ttl = 2.0 if how.startswith("expired") else inf
    delay = 9.0 if how == "expired while delayed" else 0.0
    queue.enqueue(b"a1", Properties(expires=ttl, group="a"), delay=delay)
    send(queue, "a2")
    if how in {"expired", "dead-lettered"}:
        assert receive(queue) == ["a1"]
        assert not queue.available
        queue.tick(3.0, 9)
    assert receive(queue, 9, 3.0) == ["a2"]
    assert len(broker.find("dead")) == (how == "dead-lettered")


def test_what_is_given_for_good_holds_up_nothing() -> None:
    queue = make_queue()
    send(queue, "a1", "a2", "a3")
    assert [each.body for each in [queue.dequeue(), *queue.dequeue_many(9)] if each] == [b"a1", b"a2", b"a3"]


def test_a_late_ack_of_the_first_message_lets_the_next_one_go_on() -> None:
    queue = make_queue()
    send(queue, "a1", "a2")
    lease = queue.receive(1.0, 0.0)
    assert lease is not None
    queue.tick(2.0, 9)
    queue.ack(lease.receipt, 2.0)
    assert receive(queue, 9, 2.0) == ["a2"]


def test_messages_without_a_group_keep_the_short_way_while_groups_are_blocked() -> None:
    queue = make_queue()
    send(queue, "a1", "a2", "-1", "-2")
    assert receive(queue, 2) == ["a1", "a2"]
    send(queue, "a3")
    assert receive(queue) == ["-1"]
    assert queue.receive() is not None
    assert queue.receive() is None
    assert queue._ready.simple


def test_a_queue_made_again_is_held_up_as_before_by_what_rests() -> None:
    queue = make_queue()
    send(queue, "a1", "b1", delay=5.0)
    send(queue, "a2", "a3", "b2", "c1", "c2")
    assert receive(queue) == ["c1"]
    again = made_again(queue)
    # Leases end with the process.
    assert receive(again, 9) == ["c1", "c2"]
    assert again.why_empty() == "blocked"
    assert receive(again, 9, 5.0) == ["a1", "b1", "a2", "a3", "b2"]


def test_messages_of_groups_are_kept_apart_from_those_that_are_kept_in_order() -> None:
    held: deque[Message] = deque([Message(1, b"a1", Properties(group="a")), Message(2, b"-1")])
    queue = make_queue()
    queue.fill(QueueImage(name="jobs", settings=QueueSettings(), next_id=3, in_order=held, others=()), 0.0)  # type: ignore[arg-type]  # no runs
    assert (len(queue), receive(queue, 9)) == (2, ["a1", "-1"])


def test_dead_letters_keep_their_group_and_hold_up_nothing() -> None:
    broker = Broker(max_messages=99, max_bytes=999, max_queues=9)
    broker.configure("jobs", QueueSettings(max_receives=1, dead_letter="dead", visibility=3.0), 0.0)
    queue, dead = broker.find("jobs"), broker.find("dead")
    send(queue, "a1", "a2", "a3")
    batch = queue.receive_many(3, None, 0.0)
    for lease in (batch[1], batch[0], batch[2]):
        queue.release(lease.receipt, 0.0, 0.0)
    # In the order in which they failed.
    assert texts([each.message for each in dead.peek("ready", 9)]) == ["a2", "a1", "a3"]
    looked_at = dead.receive()
    assert looked_at is not None
    assert receive(dead) == ["a1"]
    dead.release(looked_at.receipt, 0.0, 0.0)
    dead.release(dead._leases.first(1)[0].receipt, 0.0, 0.0)
    send(queue, "a4")
    assert broker.redrive("dead", 99, 0.0).moved == 3
    assert {each.message.properties.group for each in queue.peek("ready", 9)} == {"a"}
    assert receive(queue) == ["a4"]
    queue.ack(queue._leases.first(1)[0].receipt, 0.0)
    assert receive(queue, 9) == ["a2", "a1", "a3"]


def test_letters_behind_one_that_has_no_room_do_not_overtake_it_within_their_group() -> None:
    broker = Broker(max_messages=99, max_bytes=999, max_queues=9)
    settings = QueueSettings(max_receives=1, dead_letter="dead", max_bytes=12)
    broker.configure("jobs", settings, 0.0)
    queue = broker.find("jobs")
    send(queue, "a-larger", "a2", "b1")
    for lease in queue.receive_many(3, None, 0.0):
        queue.release(lease.receipt, 0.0, 0.0)
    send(queue, "-----")
    assert broker.redrive("dead", 99, 0.0).moved == 1
    assert texts([each.message for each in queue.peek("ready", 9)]) == ["-----", "b1"]


# Turns


def test_a_tenant_with_very_many_messages_delays_that_of_another_by_one_delivery() -> None:
    queue = make_queue(fair=True)
    queue.enqueue_drafts([Draft(body=b"a", group="a")] * 50_000, now=0.0)
    assert texts(list(queue.dequeue_many(3))) == ["a"] * 3
    send(queue, "b1", "b2")
    assert texts(list(queue.dequeue_many(5))) == ["a", "b1", "a", "b2", "a"]


def test_without_turns_the_message_that_came_first_is_first() -> None:
    queue = make_queue()
    send(queue, *["a"] * 4, "b1", "a")
    assert texts(list(queue.dequeue_many(9))) == ["a"] * 4 + ["b1", "a"]


def test_messages_without_a_group_are_one_group_more() -> None:
    queue = make_queue(fair=True)
    send(queue, "-1", "-2", "-3", "a1", "a2", "b1", "-4")
    queue.enqueue(b"urgent", Properties(priority=5))
    taken = [queue.dequeue() for _ in range(8)]
    assert [each.body for each in taken if each] == [
        b"urgent",
        b"a1",
        b"b1",
        b"-1",
        b"a2",
        b"-2",
        b"-3",
        b"-4",
    ]


def test_turns_do_not_break_the_order_within_a_group() -> None:
    queue = make_queue(fair=True)
    send(queue, "a1", "a2", "b1", "a3", "c1")
    assert [receive(queue) for _ in range(4)] == [["a1"], ["b1"], ["c1"], []]
    assert queue.why_empty() == "blocked"


def test_a_group_that_comes_back_is_behind_the_others() -> None:
    queue = make_queue(fair=True)
    send(queue, "a1", "a2", "b1", "b2", "c1")
    first = queue.receive()
    assert first is not None
    queue.ack(first.receipt, 0.0)
    assert receive(queue, 9) == ["b1", "c1", "a2", "b2"]


def test_turns_can_be_switched_on_and_off_while_messages_are_there() -> None:
    queue = make_queue()
    send(queue, *["a"] * 3, "b", "b", "-", "a", "b")
    queue.configure(QueueSettings(fair=True))
    assert texts(list(queue.dequeue_many(4))) == ["-", "a", "b", "a"]
    queue.configure(QueueSettings())
    assert texts(list(queue.dequeue_many(9))) == ["a", "b", "a", "b"]
    send(queue, "a", "a", "b")
    queue.configure(QueueSettings(fair=True))
    queue.clear()
    send(queue, "a", "a", "b")
    assert texts(list(queue.dequeue_many(9))) == ["a", "b", "a"]


def test_every_group_is_served_as_often_while_all_have_messages() -> None:
    queue = make_queue(fair=True)
    for group in "abcde":
        send(queue, *[group] * 20)
    assert Counter(texts(list(islice(queue.dequeue_many(52), 50)))) == dict.fromkeys("abcde", 10)


def test_what_waits_for_a_lease_that_never_ends_is_visible_at_no_time() -> None:
    queue = Broker(max_messages=9, max_bytes=99, max_queues=1).default
    queue.enqueue(b"1", Properties(group="g"), now=1.0)
    queue.enqueue(b"2", Properties(group="g"), delay=2.0, now=1.0)
    assert queue.receive(inf, 1.0) is not None
    assert queue.next_visible() == inf
