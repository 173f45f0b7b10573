"""One server of the engine, from its socket: what a batch comes to if calls, answers or the socket are bad."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from zapq.engine.valkey.asked import Asked, may_repeat
from zapq.engine.valkey.batch import Key
from zapq.engine.valkey.call import AGAIN, Call
from zapq.engine.valkey.connection import Connection, Server
from zapq.engine.valkey.counts import Counts
from zapq.engine.valkey.master import Master
from zapq.engine.valkey.poller import Poller
from zapq.errors import OutcomeUnknown, StorageUnavailable
from zapq.service.operations import Accepted, Enqueue, Operation, Settlement, SettleOne, Take
from zapq.service.waiting import ONE

PUT: Key = ("jobs", "put")


class Owner:
    """An engine with one server, whose calls have these outcomes."""

    def __init__(self, outcomes: Callable[[Sequence[Asked]], list[Any]]) -> None:
        self.routed: list[Asked] = []
        self.uncertain = self.empty = self.lost = 0
        self.counts = Counts()
        self._outcomes = outcomes
        self.poller = Poller()
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.master = Master(Server(path="m"), self, self.poller, "memory", self.note_trouble)
        self.connection = Connection(ours, self.master.server)
        self.poller.watch(self.connection, self.master.receive)
        self.master.use(self.connection, b"epoch")

    def calls(self, key: Key, asked: Sequence[Asked]) -> list[tuple[Call, Sequence[Asked]]]:
        outcomes = self._outcomes(asked)
        made = Call(b"any", shard=0, keys=(), time=b"", outcomes=lambda reply, now: outcomes, queue="jobs")
        return [(made, asked)]

    def route(self, key: Key, asked: Sequence[Asked], *, first: bool = False) -> None:
        self.routed += asked

    def redirect(self, slot: int, server: Server, *, for_good: bool) -> Master:
        return self.master

    def note_trouble(self) -> None:
        self.lost += 1

    def note_reply(self, call: Call, reply: Any) -> None: ...

    def note_empty(self) -> None:
        self.empty += 1

    def note_uncertain(self, number: int) -> None:
        self.uncertain += number

    def ask(self, *operations: Operation) -> list[Asked]:
        """Have operations done, as one batch."""
        now = trio.current_time()
        asked = [Asked(each, 0, 1, now, repeatable=may_repeat(each)) for each in operations]
        for each in asked:
            self.master.gathering.add(PUT, each)
        self.master.flush()
        return asked

    def answer(self, data: bytes = b"*2\r\n:1\r\n:0\r\n") -> None:
        self.theirs.send(data)
        self.poller.poll()

    def close(self) -> None:
        self.master.lose("it is over")
        self.poller.close()
        self.theirs.close()


def owner(outcomes: Callable[[Sequence[Asked]], list[Any]] = lambda asked: [Accepted(1)] * len(asked)) -> Owner:
    return Owner(outcomes)


async def test_what_cannot_be_said_to_a_server_fails_alone() -> None:
    def refuse(asked: Sequence[Asked]) -> list[Any]:
        if asked[0].operation.body == b"bad":
            raise ValueError("it is no call")
        return [Accepted(1)]

    mine = owner(refuse)
    [bad] = mine.ask(Enqueue("jobs", b"bad"))
    assert not mine.master.busy
    [good] = mine.ask(Enqueue("jobs", b"good"))
    mine.answer()
    assert good.result() == Accepted(1)
    with pytest.raises(OutcomeUnknown, match="could not be read"):
        bad.result()
    mine.close()


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_more_or_fewer_outcomes_than_operations_are_none(number: int) -> None:
    mine = owner(lambda asked: [Accepted(1)] * number)
    asked = mine.ask(Enqueue("jobs", b"a"), Enqueue("jobs", b"b"))
    mine.answer()
    for each in asked:
        with pytest.raises(OutcomeUnknown, match="could not be read"):
            each.result()
    assert mine.lost == 0  # the connection is well
    mine.close()


async def test_what_was_cut_short_is_first_in_the_next_batch() -> None:
    outcomes: list[list[object]] = [[Accepted(1), AGAIN, AGAIN], [Accepted(2), Accepted(3), Accepted(4)]]
    mine = owner(lambda asked: outcomes.pop(0)[: len(asked)])
    first, second, third = mine.ask(*[Enqueue("jobs", b"")] * 3)
    [late] = mine.ask(Enqueue("jobs", b"late"))
    mine.answer()
    assert (first.result(), second.done, third.done) == (Accepted(1), False, False)
    mine.master.flush()
    mine.answer()
    assert [each.result() for each in (second, third, late)] == [Accepted(2), Accepted(3), Accepted(4)]
    mine.close()


async def test_a_server_that_is_gone_when_a_batch_is_sent_leaves_nothing_waiting() -> None:
    mine = owner()
    mine.theirs.close()
    sent, settled, taken = mine.ask(
        Enqueue("jobs", b""), SettleOne("jobs", Settlement(receipt="r")), Take("jobs", ONE)
    )
    assert mine.connection.fileno() == -1
    for each in (sent, taken):
        with pytest.raises(OutcomeUnknown, match="Broken pipe"):
            each.result()
    assert mine.routed == [settled]  # it may be done twice
    assert settled.maybe_done
    assert (mine.uncertain, mine.lost) == (1, 2)
    mine.master.receive()
    mine.master.lose("again is harmless")
    assert mine.lost == 2
    mine.close()


async def test_nothing_arrives_in_a_call_without_a_batch() -> None:
    mine = owner()
    mine.answer(b"*2\r\n:1")  # a part of something that was not asked for
    assert mine.lost == 0
    mine.answer(b"\r\n:0\r\n")
    assert mine.connection.fileno() == -1
    [late] = mine.ask(Enqueue("jobs", b""))
    mine.master.look(late.until + 1)
    with pytest.raises(StorageUnavailable, match="more than it was asked"):
        late.result()
    mine.close()
