"""Mistakes of the first hour: text for bytes, a duration as text, an extra that is not installed."""

from __future__ import annotations

import asyncio
import re
from array import array
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio

import zapq
import zapq.client.client
from tests.client.shells import SHELLS, with_client
from zapq.client import open_client
from zapq.client.batching import message_of
from zapq.core.message import OCTETS, owned_bodies
from zapq.errors import InvalidParameter
from zapq.service.operations import Offer, terms
from zapq.testing import ZapqServer

TEXT = re.escape("A body is bytes, not str: of text, send text.encode().")
NOWHERE = "http://127.0.0.1:1"
WRONG: dict[str, tuple[str, Callable[[Any], Awaitable[object]]]] = {
    "text": (TEXT, lambda client: client.put("emails", "text")),
    "text of a unique message": (TEXT, lambda client: client.enqueue_unique("emails", "text", "report-7")),
    "a delay in words": ("seconds, not '5m'", lambda client: client.put("emails", b"x", delay="5m")),
    "a ttl in words": ("seconds, not '1d'", lambda client: client.enqueue("emails", b"x", ttl="1d")),
    "a wait in words": ("seconds, not '20s'", lambda client: client.receive("emails", wait="20s")),
    "a visibility in words": ("seconds, not '1m'", lambda client: client.receive("emails", visibility="1m")),
}


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_client_says_what_it_wants_in_place_of_text(shell: str) -> None:
    async def ask(client: Any) -> None:
        for says, mistake in WRONG.values():
            with pytest.raises(TypeError, match=says):
                await mistake(client)

    await with_client(shell, NOWHERE, ask)


async def test_a_batch_of_text_is_refused_by_the_server(zapq_server: ZapqServer) -> None:
    async with open_client(zapq_server.url) as client:
        with pytest.raises(InvalidParameter, match="body or an object, not text"):
            await client.put_many("emails", ["text"])  # type: ignore[list-item]  # the mistake


def test_a_producer_says_so_at_once() -> None:
    with pytest.raises(TypeError, match=TEXT):
        message_of("text", 0, 0.0, None, OCTETS, None, "", "", "keep")  # type: ignore[arg-type]  # the mistake


async def test_queues_inside_a_program_say_the_same() -> None:
    text: Any = "text"
    async with zapq.open_service() as service, zapq.open_queues() as queues:
        for queue in (service.queue("emails"), queues.queue("emails")):
            with pytest.raises(TypeError, match=TEXT):
                await queue.enqueue(text)
            batches: list[Any] = [text, [b"fine", text], [zapq.Draft(body=text)]]
            for batch in batches:
                with pytest.raises(TypeError, match=TEXT):
                    await queue.enqueue_many(batch)
            with pytest.raises(TypeError, match=TEXT):
                await queue.put(Offer(text, terms()))
            with pytest.raises(TypeError, match="delay is a number, not '5m'"):
                await queue.enqueue(b"x", delay="5m")  # type: ignore[arg-type]  # the mistake
            with pytest.raises(TypeError, match="wait is a number, not '20s'"):
                await queue.dequeue(wait="20s")  # type: ignore[arg-type]  # the mistake
        with pytest.raises(TypeError, match=TEXT):
            service.queue("emails").put_nowait(Offer(text, terms()))


WIDE = memoryview(array("H", [0x6261, 0x6463]))
CLOTHES: list[tuple[Any, object]] = [
    (b"x", b"x"),
    (bytearray(b"x"), b"x"),
    (memoryview(b"x"), b"x"),
    (WIDE, WIDE.tobytes()),
    ([], []),
    ([b"x"], [b"x"]),
    ([bytearray(b"x"), WIDE], [b"x", WIDE.tobytes()]),
    ((zapq.Draft(body=b"x"), b"y"), [zapq.Draft(body=b"x"), b"y"]),
    ([zapq.Draft(body=WIDE, priority=3)], [zapq.Draft(body=WIDE.tobytes(), priority=3)]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("content", "owned"), CLOTHES)
def test_bytes_in_other_clothes_are_taken(content: Any, owned: object) -> None:
    assert owned_bodies(content) == owned


async def test_what_a_program_does_with_its_buffer_later_changes_no_message(zapq_server: ZapqServer) -> None:
    wide, whole = cast("bytes", WIDE), WIDE.tobytes()
    own: Any = bytearray(b"own")
    queue = zapq_server.service.queue("emails")
    async with open_client(zapq_server.url) as client:
        await client.put("emails", wide)
        await client.put_many("emails", [wide, zapq.Draft(body=wide)])
        async with client.producer("emails") as producer:
            sent = producer.send_nowait(own)
            await producer.send(wide, priority=1)
            own[:] = b"two"
            await sent.wait()
    own[:] = b"own"
    await queue.enqueue(own)
    await queue.enqueue_many([own, zapq.Draft(body=own)])
    own[:] = b"two"
    bodies = [message.body for message in await queue.dequeue_many(9)]
    assert bodies == [*[whole] * 4, *[b"own"] * 4]


@pytest.mark.parametrize("library", [asyncio.run, trio.run])
def test_without_anyio_it_is_said_what_to_install(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zapq.client.client, "find_spec", lambda name: None)

    async def handle(lease: object) -> None: ...

    async def main() -> None:
        async with open_client(NOWHERE) as client:
            with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'zapq[client]'")):
                client.consume("emails")
            with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'zapq[client]'")):
                client.producer("emails")
            with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'zapq[client]'")):
                await client.consume_with("emails", handle)

    library(main if library is trio.run else main())
