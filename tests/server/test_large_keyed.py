"""Large batches with an Idempotency-Key from many clients at once, on both roads."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

import zapq
from tests.support.serving import serving, with_tls
from tests.support.wire import Answer, ask
from zapq.http import wire
from zapq.limits import FINGERPRINT_SLICE
from zapq.service.service import QueueService
from zapq.settings import Settings

CLIENTS = 4
BODIES = [b"%d" % number * 60_000 for number in range(10, 30)]
BATCHES = {
    "application/json": msgspec.json.encode([b64encode(body).decode() for body in BODIES]),
    "application/msgpack": msgspec.msgpack.encode(BODIES),
}


@pytest.mark.parametrize("media_type", BATCHES)
@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
@pytest.mark.parametrize("road", ["lobby", "quart", "tls"])
async def test_each_is_stored_once_and_decoded_when_its_turn_has_come(
    zapq_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    media_type: str,
    durable: bool,
    road: str,
) -> None:
    settings = replace(zapq_settings, hot_path=road != "quart", durable=durable, data_dir=str(tmp_path))
    context = None
    if road == "tls":
        settings, context = with_tls(settings, tmp_path)
    decoded = 0
    decode = wire.decode_batch

    def count(media_type: str, data: bytes) -> object:
        nonlocal decoded
        # The one before is stored: nothing is held for one that has its fingerprint made.
        assert service.stats().queue.messages == decoded * len(BODIES)
        decoded += 1
        return decode(media_type, data)

    monkeypatch.setattr(wire, "decode_batch", count)
    body = BATCHES[media_type]
    assert len(body) > FINGERPRINT_SLICE
    answers: list[Answer] = []

    async def send(key: str) -> None:
        headers = {"Content-Type": media_type, "Idempotency-Key": key}
        answers.append(await ask(url, "POST", "/queues/jobs/messages/batch", body, headers, context=context))

    async with zapq.open_service(settings) as service, serving(settings, service) as url:
        assert isinstance(service, QueueService)
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(send, f"key{number}")
        firsts = {answer.json["first_id"] for answer in answers}
        assert [answer.status for answer in answers] == [202] * CLIENTS
        assert firsts == {1 + number * len(BODIES) for number in range(CLIENTS)}
        await send("key0")
        assert (answers[-1].status, answers[-1].headers["idempotency-replayed"]) == (202, "true")
        stats = service.stats()
        assert (stats.bytes_reserved, stats.queue.messages) == (0, CLIENTS * len(BODIES))
