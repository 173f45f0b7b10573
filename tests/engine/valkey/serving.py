"""Front ends over a real server, in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from tests.engine.valkey.servers import Server
from tests.support.serving import serving
from zapq.engine.valkey.master import WAITS
from zapq.limits import REPLICAS_SECONDS
from zapq.settings import Settings


def engine_url(*servers: Server) -> str:
    """Return the URL of an engine with these servers."""
    address = servers[0].address
    if isinstance(address, str):
        return f"valkey+unix:{address}"
    return "valkey://" + ",".join(f"{each.address[0]}:{each.address[1]}" for each in servers)


def with_engine(settings: Settings, *servers: Server) -> Settings:
    """Return settings of a front end whose queues are in these servers."""
    return replace(settings, engine=engine_url(*servers))


def empty(*servers: Server) -> None:
    """Remove everything, except for the library."""
    for server in servers:
        connection = server.connect()
        connection.call("FLUSHALL")
        connection.close()


@asynccontextmanager
async def front_ends(settings: Settings, *servers: Server, number: int = 1) -> AsyncGenerator[list[str], None]:
    """Run so many front ends for the length of the block, and yield their URLs."""
    settings = with_engine(settings, *servers)
    if number == 1:
        async with serving(settings) as url:
            yield [url]
        return
    async with serving(settings) as url, front_ends(settings, *servers, number=number - 1) as others:
        yield [url, *others]


@contextmanager
def late_confirmations() -> Iterator[None]:
    """Let front ends wait for as long as a test takes until a replica, or a disk, has what was sent.

    On a busy machine either may need more than the second that is usual.
    """
    usual, long = (b"$%d\r\n%b\r\n" % (len(each), each) for each in (b"%d" % (REPLICAS_SECONDS * 1000), b"60000"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zapq.engine.valkey.master.ENGINE_ANSWER_SECONDS", 60.0)
        for durability, asked in WAITS.items():
            assert all(usual in each for each in asked)
            patch.setitem(WAITS, durability, [each.replace(usual, long) for each in asked])
        yield
