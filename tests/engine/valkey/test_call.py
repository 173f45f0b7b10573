"""Calls as they are sent; no server."""

from __future__ import annotations

import pytest

from zapq.engine.valkey import keys
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.resp import pack


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
