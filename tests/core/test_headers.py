"""Headers of messages: what may be one, and that they count and stay wherever the message goes."""

from __future__ import annotations

import pytest

from zapq.core.broker import Broker
from zapq.core.headers import checked_headers, field_of, header_in, size_of
from zapq.core.message import Draft, Message, Origin, Properties
from zapq.core.queue import Queue
from zapq.core.queue_settings import QueueSettings
from zapq.errors import InvalidParameter, QueueFull
from zapq.limits import MAX_BATCH_BYTES, MAX_HEADER_NAME, MAX_MESSAGE_HEADERS, MAX_MESSAGE_HEADERS_BYTES

HEADERS = (("order", "17"), ("tenant", "acme"))
HEADED = Properties(headers=HEADERS)
SIZE = len("order17tenantacme")


@pytest.fixture
def broker() -> Broker:
    return Broker(max_messages=100, max_bytes=100, max_queues=9)


@pytest.fixture
def queue(broker: Broker) -> Queue:
    return broker.default


# What may be one


def test_names_are_kept_in_lower_case_and_in_the_order_given() -> None:
    given = {"B": "1", "a.B_c-d": "two\twords", "Empty": "", "!#$%&'*+.^_`|~": "~"}
    assert checked_headers(given.items()) == (
        ("b", "1"),
        ("a.b_c-d", "two\twords"),
        ("empty", ""),
        ("!#$%&'*+.^_`|~", "~"),
    )
    assert checked_headers([("A", "1")]) == (("a", "1"),)
    assert checked_headers([]) == ()


@pytest.mark.parametrize(
    ("given", "parameter", "complaint"),
    [
        ([("", "x")], "", "name of a header"),
        ([("a b", "x")], "a b", "name of a header"),
        ([("a:", "x")], "a:", "name of a header"),
        ([("\u00fc", "x")], "\u00fc", "name of a header"),
        ([("\u212a", "x")], "\u212a", "name of a header"),  # its lower case is in ASCII
        ([("a\n", "x")], "a\n", "name of a header"),
        ([("n" * (MAX_HEADER_NAME + 1), "x")], "n" * 100, "name of a header"),
        ([("a", "\u00fc")], "a", "value of the header a must be visible ASCII"),
        ([("a", " x")], "a", "value of the header a"),
        ([("a", "x\t")], "a", "value of the header a"),
        ([("a", "x\n")], "a", "value of the header a"),
        ([("a", "x\r\nInjected: y")], "a", "value of the header a"),
        ([("a", "\0")], "a", "value of the header a"),
        ([("a", "\x7f")], "a", "value of the header a"),
        ([("a", "1"), ("A", "2")], "A", "given more than once"),
        ([(str(each), "") for each in range(MAX_MESSAGE_HEADERS + 1)], "headers", "This one has 17"),
        ([("a", "x" * MAX_MESSAGE_HEADERS_BYTES)], "headers", "8 KiB together"),
    ],
)
def test_what_cannot_be_one_is_refused_and_named(
    given: list[tuple[str, str]], parameter: str, complaint: str
) -> None:
    with pytest.raises(InvalidParameter, match=complaint) as refusal:
        checked_headers(given)
    assert refusal.value.members == {"parameter": parameter}


def test_as_many_and_as_long_as_may_be_are_taken() -> None:
    name = "n" * MAX_HEADER_NAME
    most = {name: "x" * (MAX_MESSAGE_HEADERS_BYTES - MAX_HEADER_NAME - 15 * 2)}
    most |= {f"{each:x}": "y" for each in range(15)}
    assert size_of(checked_headers(most.items())) == MAX_MESSAGE_HEADERS_BYTES


def test_headers_for_tracing_and_events_are_fields_by_their_own_names() -> None:
    for name in ("traceparent", "tracestate", "baggage", "ce-id", "ce-"):
        assert field_of(name) == name
        assert header_in(name) == name
    for name in ("order", "zapq-header-x", "trace-parent", "ce"):
        assert field_of(name) == f"zapq-header-{name}"
        assert header_in(f"zapq-header-{name}") == name
    assert header_in("content-type") is None


# What they count


def test_a_message_counts_with_its_headers_until_it_has_left(queue: Queue, broker: Broker) -> None:
    first = queue.enqueue(b"abc", HEADED)
    assert (first.size, queue.bytes, broker.bytes) == (3 + SIZE, 3 + SIZE, 3 + SIZE)
    assert queue.dequeue() == first
    assert (queue.bytes, broker.bytes) == (0, 0)
    queue.put_back(first)
    assert queue.bytes == 3 + SIZE
    lease = queue.receive(30.0, 1.0)
    assert lease is not None
    assert (lease.headers, lease.message.headers) == (dict(HEADERS), dict(HEADERS))
    queue.ack(lease.receipt, 1.0)
    assert (queue.bytes, broker.bytes) == (0, 0)
    queue.enqueue_drafts([Draft(body=b"d", headers={"A": "1"}), Draft(body=b"e")], now=1.0)
    assert queue.bytes == 4
    assert [message.headers for message in queue.dequeue_many(9, 1.0)] == [{"a": "1"}, {}]
    assert (queue.bytes, broker.bytes) == (0, 0)


def test_each_message_of_a_batch_counts_with_its_headers(queue: Queue, broker: Broker) -> None:
    queue.enqueue_bodies([b"a", b"bc", b""], HEADED)
    assert queue.bytes == 3 + 3 * SIZE
    assert [message.size for message in queue.dequeue_many(2)] == [1 + SIZE, 2 + SIZE]
    assert queue.bytes == SIZE
    assert queue.dequeue() == Message(3, b"", HEADED)
    assert (queue.bytes, broker.bytes) == (0, 0)


def test_what_does_not_fit_because_of_its_headers_is_refused_and_changes_nothing(queue: Queue) -> None:
    queue.enqueue(b"x" * (100 - SIZE))
    for put in (
        lambda: queue.enqueue(b"y", HEADED),
        lambda: queue.enqueue_bodies([b"y"], HEADED),
        lambda: queue.enqueue_drafts([Draft(body=b"y", headers=dict(HEADERS))], now=0.0),
    ):
        with pytest.raises(QueueFull) as refusal:
            put()
        assert refusal.value.members["max_bytes"] == 100
        assert (queue.messages, queue.bytes) == (1, 100 - SIZE)
    queue.enqueue(b"", HEADED)
    assert queue.bytes == 100


def test_a_batch_of_deliveries_is_bounded_with_the_headers() -> None:
    queue = Broker(max_messages=5000, max_bytes=2**30, max_queues=9).default
    heavy = Properties(headers=(("h", "x" * 8000),))
    queue.enqueue_bodies([b"x" * 8000] * 1000, heavy)
    for _ in range(1000):
        queue.enqueue(b"x" * 8000, heavy)
    fit = MAX_BATCH_BYTES // 16_001
    taken = queue.dequeue_many(1000)
    assert len(taken) == fit
    queue.put_back(taken[0])
    assert len(queue.receive_many(1000, 30.0)) == fit
    assert len(queue.dequeue_many(1000)) == fit


# Where they stay


def test_a_dead_letter_has_them_and_so_has_what_is_sent_back(broker: Broker) -> None:
    broker.open("dead", 0.0)
    broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead"), 0.0)
    work, dead = broker.find("work"), broker.find("dead")
    work.enqueue(b"abc", Properties("text/plain", headers=HEADERS))
    lease = work.receive(30.0, 1.0)
    assert lease is not None
    work.release(lease.receipt, 0.0, 1.0)
    [seen] = dead.peek("ready", 9)
    origin = Origin("work", 1, 1)
    assert seen.message.properties == Properties("text/plain", failed_in="work", headers=HEADERS, origin=origin)
    assert (work.bytes, dead.bytes, broker.bytes) == (0, 3 + SIZE, 3 + SIZE)
    assert broker.redrive("dead", 9, 2.0).moved == 1
    [seen] = work.peek("ready", 9)
    assert seen.message.properties == Properties("text/plain", headers=HEADERS, origin=origin)
    assert (work.bytes, dead.bytes, broker.bytes) == (3 + SIZE, 0, 3 + SIZE)


def test_a_dead_letter_goes_back_only_if_there_is_room_for_its_headers_as_well(broker: Broker) -> None:
    broker.open("dead", 0.0)
    broker.configure("work", QueueSettings(max_receives=1, dead_letter="dead", max_bytes=2 + SIZE), 0.0)
    work, dead = broker.find("work"), broker.find("dead")
    work.enqueue(b"a", HEADED)
    lease = work.receive(30.0, 1.0)
    assert lease is not None
    work.release(lease.receipt, 0.0, 1.0)
    work.enqueue(b"b")
    work.enqueue(b"c")
    assert broker.redrive("dead", 9, 2.0).moved == 0
    assert work.dequeue(2.0) is not None
    assert broker.redrive("dead", 9, 2.0).moved == 1
    assert dead.messages == 0


def test_what_comes_back_has_them_with_its_deliveries_counted(queue: Queue) -> None:
    queue.enqueue(b"a", HEADED)
    for count in (1, 2):
        lease = queue.receive(30.0, float(count))
        assert lease is not None
        assert (lease.headers, lease.receives) == (dict(HEADERS), count)
        queue.release(lease.receipt, 0.0, float(count))
    assert queue.bytes == 1 + SIZE
