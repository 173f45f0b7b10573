"""The servers that other tests use are what they say."""

from __future__ import annotations

import pytest

from tests.engine.valkey.servers import Server
from zapq.engine.valkey import library


@pytest.mark.parametrize("name", ["valkey", "redis_server"])
def test_the_library_is_there(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    with server.connect() as connection:
        assert connection.call("FCALL_RO", "zapq_1_version", 0) == library.VERSION


def test_a_cluster_has_three_masters_and_their_replicas(cluster: list[Server]) -> None:
    roles = []
    for server in cluster:
        with server.connect() as connection:
            roles.append(connection.call("ROLE")[0])
    assert roles == [b"master"] * 3 + [b"slave"] * 3
