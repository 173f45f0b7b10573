"""What is due in queues that no client asks about, and how the engine is asked for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.engine.valkey.servers import Connection as Blocking
from tests.engine.valkey.servers import Server
from tests.engine.valkey.serving import empty, front_ends
from tests.support.waiting import eventually
from tests.support.wire import ask
from zapq.engine.valkey import keys, procedures
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.codec import Codec
from zapq.engine.valkey.connection import Connection, Login, open_connection
from zapq.engine.valkey.connection import Server as Address
from zapq.engine.valkey.resp import ReplyError, pack
from zapq.settings import Settings


@pytest.fixture(autouse=True)
def _empty(valkey: Server) -> None:
    empty(valkey)


@pytest.mark.parametrize("number", [1, 3])
async def test_what_is_due_is_done_although_no_client_asks(
    zapq_settings: Settings, valkey: Server, number: int
) -> None:
    names = [f"q{number}" for number in range(20)]
    async with front_ends(zapq_settings, valkey, number=number) as [url, *_]:
        for name in names:
            await ask(url, "POST", f"/queues/{name}/messages?ttl=0.1", b"x")
        await ask(url, "PUT", "/queues/fails", b'{"max_receives": 1, "dead_letter": "dead"}')
        await ask(url, "POST", "/queues/fails/messages", b"x")
        await ask(url, "POST", "/queues/fails/receive?visibility=0.1")
        with valkey.connect() as connection:
            await eventually(lambda: not any(held(connection, name) for name in names), "the messages to end")
            await eventually(lambda: held(connection, "dead") == 1, "the dead letter to be moved")


async def test_very_many_queues_are_done_some_at_a_time(
    zapq_settings: Settings, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.engine.valkey.sweep._MOST_DUE", 10)
    monkeypatch.setattr("zapq.engine.valkey.sweep._DONE_AT_ONCE", 3)
    names = [f"q{number}" for number in range(60)]
    async with front_ends(zapq_settings, valkey) as [url]:
        for name in names:
            await ask(url, "POST", f"/queues/{name}/messages?ttl=0.1", b"x")
        with valkey.connect() as connection:
            await eventually(lambda: not any(held(connection, name) for name in names), "the messages to end")


def held(connection: Blocking, name: str) -> int:
    """Return how many messages a queue has, without a function, which would do what is due."""
    fields = connection.call("HKEYS", keys.queue_keys(name)[0])
    return sum(field.isdigit() for field in fields)


async def test_nothing_is_asked_of_a_shard_before_something_is_due_there(
    zapq_settings: Settings, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    look = procedures.look_at_shard

    def note(codec: Codec, shard: int, most: int | None = None) -> Call:
        asked.append(shard)
        return look(codec, shard, most)

    monkeypatch.setattr(procedures, "look_at_shard", note)
    async with front_ends(zapq_settings, valkey) as [url]:
        await ask(url, "POST", "/queues/later/messages?delay=1000", b"x")
        await ask(url, "POST", "/queues/soon/messages?delay=0.1", b"x")
        with valkey.connect() as connection:
            await eventually(
                lambda: connection.call("ZCARD", keys.queue_keys("soon")[2]), "the message to be ready"
            )
    assert set(asked) == {keys.shard_of("soon")}


@pytest.fixture
async def connection(valkey: Server) -> AsyncGenerator[Connection, None]:
    assert isinstance(valkey.address, str)
    connection = await open_connection(Address(path=valkey.address), Login())
    yield connection
    connection.close()


async def test_replies_that_are_alike_are_compared_and_others_returned(connection: Connection) -> None:
    number = 5000
    commands = [pack("ZCOUNT", f"z{each}", 0, 10) for each in range(number)]
    assert await connection.call_alike(b"".join(commands), number, b":0\r\n", 0.0) is None
    await connection.call("ZADD", "z7", 1, "a", 2, "b")
    await connection.call("SET", "z4000", "x")
    replies = await connection.call_alike(b"".join(commands), number, b":0\r\n", 0.01)
    assert replies is not None
    assert (len(replies), replies[7]) == (number, 2)
    assert isinstance(replies[4000], ReplyError)
    assert {each for place, each in enumerate(replies) if place not in {7, 4000}} == {0}
    assert await connection.call_alike(commands[0], 1, b":0\r\n", 0.0) is None
    assert await connection.call("PING") == b"PONG"
