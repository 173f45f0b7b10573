"""The queue against a plain list: whatever is done, in whatever order, both agree."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zapq.core.message import Message
from zapq.core.queue import Queue
from zapq.errors import QueueFull

MAX_MESSAGES = 6
MAX_BYTES = 20
BODIES = st.binary(max_size=8)


class QueueAgainstList(RuleBasedStateMachine):
    """`held` is the model: the messages in the queue, by id. `out` are those taken and not put back."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(max_messages=MAX_MESSAGES, max_bytes=MAX_BYTES)
        self.held: list[Message] = []
        self.out: list[Message] = []
        self.made: list[list[Message]] = []
        self.enqueued = self.dequeued = self.refused = self.returned = self.cleared = 0
        self.newest = self.replacements = 0
        self.returned_before = self.messages_before = self.bytes_before = 0

    @rule(body=BODIES)
    def enqueue(self, body: bytes) -> None:
        fits = len(self.held) < MAX_MESSAGES and self.bytes_held() + len(body) <= MAX_BYTES
        try:
            message = self.queue.enqueue(body)
        except QueueFull:
            assert not fits
            self.refused += 1
        else:
            assert fits
            assert message.body == body
            assert message.id > self.newest
            self.newest = message.id
            self.held.append(message)
            self.enqueued += 1

    @rule()
    def dequeue(self) -> None:
        message = self.queue.dequeue()
        if not self.held:
            assert message is None
            return
        expected = self.held.pop(0)
        assert message is not None
        assert message is expected
        self.out.append(message)
        self.dequeued += 1

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        message = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.queue.put_back(message)
        self.held.append(message)
        self.held.sort(key=lambda held: held.id)
        self.returned += 1

    @rule()
    def clear(self) -> None:
        dropped = self.queue.clear()
        assert sorted(message.id for message in dropped) == [message.id for message in self.held]
        self.cleared += len(self.held)
        self.held = []

    @rule(bodies=st.lists(BODIES, max_size=MAX_MESSAGES + 1))
    def reserve(self, bodies: list[bytes]) -> None:
        """Make messages elsewhere; others may come and go before they replace what is held."""
        first = self.queue.reserve(len(bodies))
        assert first > self.newest
        self.newest = first + len(bodies) - 1
        self.made.append([Message(first + index, body) for index, body in enumerate(bodies)])

    @precondition(lambda self: self.made)
    @rule()
    def replace(self) -> None:
        expected = self.made.pop()
        messages, size = deque(expected), sum(len(message.body) for message in expected)
        fits = len(messages) <= MAX_MESSAGES and size <= MAX_BYTES
        try:
            self.queue.replace(messages, size)
        except QueueFull:
            assert not fits
        else:
            assert fits
            self.cleared += len(self.held)
            self.replacements += len(expected)
            self.held = expected

    @rule()
    def take_everything_and_put_it_back_newest_first(self) -> None:
        """The only way to see, not just count, that each message is in its one place."""
        taken = []
        while (message := self.queue.dequeue()) is not None:
            taken.append(message)
        assert [message.id for message in taken] == [message.id for message in self.held]
        for message in reversed(taken):
            self.queue.put_back(message)
        self.dequeued += len(taken)
        self.returned += len(taken)

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        places = [message.id for message in (*self.held, *self.out)]
        assert len(places) == len(set(places))
        came = self.enqueued + self.replacements + self.returned
        assert came - self.dequeued - self.cleared == len(self.queue)

    @invariant()
    def both_agree(self) -> None:
        assert self.queue.bodies() == [message.body for message in self.held]
        stats = self.queue.stats()
        assert (stats.max_messages, stats.max_bytes) == (MAX_MESSAGES, MAX_BYTES)
        assert (stats.messages, stats.bytes) == (len(self.held), self.bytes_held())
        assert (stats.enqueued, stats.dequeued) == (self.enqueued, self.dequeued)
        assert (stats.refused, stats.returned, stats.cleared) == (self.refused, self.returned, self.cleared)

    @invariant()
    def only_a_message_coming_back_takes_the_queue_beyond_a_cap(self) -> None:
        stats = self.queue.stats()
        if self.returned == self.returned_before:
            assert stats.messages <= max(MAX_MESSAGES, self.messages_before)
            assert stats.bytes <= max(MAX_BYTES, self.bytes_before)
        self.returned_before, self.messages_before, self.bytes_before = stats.returned, stats.messages, stats.bytes

    def bytes_held(self) -> int:
        return sum(len(message.body) for message in self.held)


QueueAgainstList.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_the_queue_agrees_with_a_list = QueueAgainstList.TestCase
