"""Calls as they are sent, and which operations of a batch are one call; no server."""

from __future__ import annotations

import pytest

from zapq.core.message import Draft
from zapq.engine.valkey import keys
from zapq.engine.valkey.bounds import weight_of
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.engine import _are_light
from zapq.engine.valkey.resp import pack
from zapq.service.operations import Enqueue, Operation, Put, Settle, Settlement, SettleOne, Take
from zapq.service.waiting import Want

ACK = Settlement(receipt="0" * 44)


@pytest.mark.parametrize("further", [(), (b"{z0001}:q:a:k:one", b"{z0001}:q:a:k:two")])
@pytest.mark.parametrize("arguments", [(), (b"", b"\r\n$1", bytes(200))])
def test_a_call_is_sent_with_all_that_its_command_has(
    further: tuple[bytes, ...], arguments: tuple[bytes, ...]
) -> None:
    for queue in "ab":
        call = Call(
            b"put",
            shard=keys.shard_of(queue),
            keys=keys.queue_keys(queue),
            further=further,
            time=b"17",
            arguments=arguments,
            outcomes=lambda reply, now: [],
        )
        command = call.command(b"epoch!")
        assert command[2] == b"%d" % len([*keys.queue_keys(queue), *further])
        assert command[3 : -2 - len(arguments)] == [*keys.queue_keys(queue), *further]
        assert call.packed(b"epoch!") == pack(*command)


@pytest.mark.parametrize(
    ("alike", "light"),
    [
        ([Enqueue("q", b"")], True),
        ([SettleOne("q", ACK)], True),
        ([Take("q", Want()), Take("q", Want(9, lease=True))], True),
        ([Take("q", Want()), Take("q", Want(lease=True, visibility=0.0))], False),
        ([Enqueue("q", b""), Put(b"", queue="q")], False),
        ([Put([Draft(body=b""), Draft(body=b"")], queue="q")], False),
        ([SettleOne("q", ACK), Settle("q", [ACK, ACK])], False),
    ],
)
def test_operations_are_light_only_if_each_weighs_one(alike: list[Operation], light: bool) -> None:
    assert _are_light(alike) == light
    if light:
        assert [weight_of(each) for each in alike] == [1] * len(alike)
