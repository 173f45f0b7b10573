"""What front ends and the process with the queues say of a message is all that is known of it."""

from __future__ import annotations

from math import inf

import msgspec
import pytest

from zapq.core.message import DEFAULTS, Lease, Message, Origin, Properties
from zapq.engine import wire


@pytest.mark.parametrize(
    "properties",
    [
        DEFAULTS,
        Properties("a/b", 3, 70.5, 2, 1, "failed"),
        Properties(headers=(("a", "1"), ("b", ""))),
        Properties(group="g"),
        Properties(unique="u"),
        Properties(arrived=12.5),
        Properties(origin=Origin("work", 7, 3)),
    ],
)
def test_everything_that_is_known_of_a_message_comes_over(properties: Properties) -> None:
    message = Message(5, b"body", properties)
    packed = msgspec.msgpack.decode(wire.encode(wire.pack_message(message)))
    assert wire.unpack_message(packed) == message
    lease = Lease(message, 9, 2, inf, "tag", 30.0, "work")
    packed = msgspec.msgpack.decode(wire.encode(wire.pack_lease(lease)))
    unpacked = wire.unpack_lease(packed, ("work", "tag", 30.0))
    assert (unpacked, unpacked.receive_count, unpacked.origin) == (lease, lease.receive_count, lease.origin)
