"""Snapshots over HTTP: listed, saved and loaded, and refused with the place of the damage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from tests.http.test_contract import assert_problem
from tests.support.serving import until_waiting
from tests.support.wire import Answer, ask
from zapq.testing import ZapqServer


async def test_what_is_saved_is_listed_and_comes_back(zapq_server: ZapqServer, tmp_path: Path) -> None:
    assert (await ask(zapq_server.url, "GET", "/snapshots")).json == []
    for path in ("/enqueue", "/queues/jobs/messages?priority=5", "/queues/jobs/messages?delay=1000"):
        assert (await ask(zapq_server.url, "POST", path, b"hello")).status == 202
    for name in ("b.json", "a.msgpack"):
        answer = await ask(zapq_server.url, "POST", f"/persist?file={name}")
        assert (answer.status, answer.body) == (200, b"")
    (tmp_path / "c.msgpack").write_bytes(b"zapq")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "link.msgpack").symlink_to("a.msgpack")
    listed = (await ask(zapq_server.url, "GET", "/snapshots")).json
    modified = [each.pop("modified") for each in listed]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each) for each in modified)
    assert listed == [
        {
            "name": "a.msgpack",
            "format": "msgpack",
            "bytes": (tmp_path / "a.msgpack").stat().st_size,
            "queues": 2,
            "messages": 3,
        },
        {
            "name": "b.json",
            "format": "json",
            "bytes": 12,
        },
        {"name": "c.msgpack", "format": "msgpack", "bytes": 4},
    ]
    assert (await ask(zapq_server.url, "DELETE", "/queues/jobs")).status == 204
    assert (await ask(zapq_server.url, "PUT", "/queues/new", b"{}")).status == 201
    assert (await ask(zapq_server.url, "POST", "/load?file=a.msgpack")).status == 200
    queues = (await ask(zapq_server.url, "GET", "/queues")).json
    assert [(each["name"], each["ready"], each["delayed"]) for each in queues] == [
        ("default", 1, 0),
        ("jobs", 1, 1),
    ]


async def queues(server: ZapqServer) -> list[dict[str, object]]:
    """Return what there is to know of all queues, but for what changes with the time."""
    shown = (await ask(server.url, "GET", "/queues")).json
    return [{name: value for name, value in each.items() if not name.endswith("_age_seconds")} for each in shown]


@pytest.mark.parametrize("place", [0, 40, -1])
async def test_a_damaged_file_is_refused_with_the_place_and_changes_nothing(
    zapq_server: ZapqServer, tmp_path: Path, place: int
) -> None:
    await ask(zapq_server.url, "POST", "/queues/jobs/messages", b"kept")
    await ask(zapq_server.url, "POST", "/persist?file=a.msgpack")
    damaged = bytearray((tmp_path / "a.msgpack").read_bytes())
    damaged[place] ^= 1
    (tmp_path / "a.msgpack").write_bytes(damaged)
    before = await queues(zapq_server)
    answer = await ask(zapq_server.url, "POST", "/load?file=a.msgpack")
    assert answer.status == 500
    assert_problem(answer, "snapshot-failed")
    assert answer.json["detail"].startswith(f"a.msgpack: damaged at byte {answer.json['byte']}: ")
    assert await queues(zapq_server) == before


async def test_long_polls_are_served_or_told_that_their_queue_is_gone(zapq_server: ZapqServer) -> None:
    await ask(zapq_server.url, "POST", "/queues/kept/messages", b"saved")
    await ask(zapq_server.url, "POST", "/persist?file=a.msgpack")
    await ask(zapq_server.url, "POST", "/queues/kept/purge")
    await ask(zapq_server.url, "PUT", "/queues/gone", b"{}")
    answers: dict[str, Answer] = {}

    async def poll(name: str) -> None:
        answers[name] = await ask(zapq_server.url, "POST", f"/queues/{name}/receive?wait=60")

    async with trio.open_nursery() as nursery:
        for name in ("kept", "gone"):
            nursery.start_soon(poll, name)
        await until_waiting(zapq_server.service, 2)
        assert (await ask(zapq_server.url, "POST", "/load?file=a.msgpack")).status == 200
    assert (answers["kept"].status, answers["kept"].body) == (200, b"saved")
    assert_problem(answers["gone"], "queue-not-found")
