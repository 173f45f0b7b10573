"""What Prometheus is answered: read by both parsers of its own client library."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

import zapq
from tests.http.test_access import bearer, line
from tests.support.wire import Answer, ask
from zapq.engine.local import LocalEngine
from zapq.errors import StorageUnavailable
from zapq.http.sharing import Shared
from zapq.service.operations import List, Operation
from zapq.settings import Settings
from zapq.testing import ZapqServer

PATH = "/metrics/prometheus"
ALL, SOME = "a" * 20, "s" * 20
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
}
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families(answer: Answer) -> dict[str, Metric]:
    """Return what an answer says, by the names of its families, which are all there once."""
    assert answer.status == 200
    text = answer.body.decode()
    kind = answer.headers["content-type"]
    read = read_openmetrics if kind.startswith("application/openmetrics-text") else read_text
    found = list(read(text))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def series(answer: Answer) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(answer).values()
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def total(shown: Series, name: str) -> float:
    return sum(value for (each, _), value in shown.items() if each == name)


async def work(server: ZapqServer, queue: str) -> None:
    """Leave one message ready, one delayed and one leased in a queue, and one acknowledged."""
    target = f"/queues/{queue}"
    for _ in range(3):
        assert (await ask(server.url, "POST", f"{target}/messages", b"1234")).status == 202
    assert (await ask(server.url, "POST", f"{target}/messages?delay=60", b"1234")).status == 202
    receipt = (await ask(server.url, "POST", f"{target}/receive")).headers["zapq-receipt"]
    assert (await ask(server.url, "DELETE", f"{target}/receipts/{receipt}")).status == 204
    assert (await ask(server.url, "POST", f"{target}/receive?visibility=60")).status == 200


@pytest.mark.parametrize("fields", [{}, OPENMETRICS], ids=["text", "openmetrics"])
async def test_each_queue_has_series_of_what_it_holds_and_has_done(
    zapq_server: ZapqServer, fields: dict[str, str]
) -> None:
    await work(zapq_server, "jobs")
    settings = b'{"max_messages": 9, "max_receives": 3, "dead_letter": "jobs.dead"}'
    assert (await ask(zapq_server.url, "PATCH", "/queues/jobs", settings)).status == 200
    shown = series(await ask(zapq_server.url, "GET", PATH, headers=fields))
    for state in ("ready", "delayed", "leased"):
        assert shown[of("zapq_queue_messages", queue="jobs", state=state)] == 1
        assert shown[of("zapq_queue_messages", queue="default", state=state)] == 0
    assert shown[of("zapq_queue_bytes", queue="jobs")] == 12
    assert shown[of("zapq_queue_messages_enqueued_total", queue="jobs")] == 4
    assert shown[of("zapq_queue_messages_received_total", queue="jobs")] == 2
    assert shown[of("zapq_queue_messages_acked_total", queue="jobs")] == 1
    assert shown[of("zapq_queue_limit_messages", queue="jobs")] == 9
    assert of("zapq_queue_limit_messages", queue="default") not in shown
    assert of("zapq_queue_limit_bytes", queue="jobs") not in shown
    assert shown[of("zapq_queue_takes_dead_letters", queue="jobs.dead")] == 1
    assert total(shown, "zapq_queue_takes_dead_letters") == 1
    assert shown[of("zapq_queues")] == 3
    assert total(shown, "zapq_build_info") == 1
    assert shown[of("process_resident_memory_bytes")] > 2**20
    assert 0 < shown[of("process_start_time_seconds")] < 2**33


async def test_the_path_of_the_original_answers_as_the_client_prefers(zapq_server: ZapqServer) -> None:
    kinds = {
        "": "application/json",
        "*/*": "application/json",
        "text/html,*/*;q=0.8": "application/json",
        "text/plain": "text/plain; version=0.0.4; charset=utf-8",
        "text/plain;version=0.0.4": "text/plain; version=0.0.4; charset=utf-8",
        PROMETHEUS["Accept"]: "application/openmetrics-text; version=1.0.0; charset=utf-8",
    }
    for accept, kind in kinds.items():
        for fields in ({}, {"TE": "trailers"}):
            answer = await ask(zapq_server.url, "GET", "/metrics", headers={"Accept": accept, **fields})
            assert (answer.status, answer.headers["content-type"]) == (200, kind), accept
    for accept, kind in kinds.items():
        answer = await ask(zapq_server.url, "GET", PATH, headers={"Accept": accept})
        assert answer.headers["content-type"] == (kind if "json" not in kind else kinds["text/plain"]), accept


async def test_a_sum_over_queues_does_not_fall_when_one_is_deleted(zapq_server: ZapqServer) -> None:
    await work(zapq_server, "jobs")
    before = series(await ask(zapq_server.url, "GET", PATH))
    assert (await ask(zapq_server.url, "DELETE", "/queues/jobs")).status == 204
    after = series(await ask(zapq_server.url, "GET", PATH))
    assert not any(("queue", "jobs") in labels for _, labels in after)
    for name in {name for (name, _) in before if name.startswith("zapq_queue_") and name.endswith("_total")}:
        assert total(after, name) >= total(before, name)
    assert after[of("zapq_queue_messages_enqueued_total", queue="(deleted)")] == 4


async def test_a_client_can_ask_for_some_queues(zapq_server: ZapqServer) -> None:
    for queue in ("emails.in", "emails.out", "jobs"):
        await work(zapq_server, queue)
    for path, fields in ((PATH, {}), ("/metrics", PROMETHEUS)):
        shown = series(await ask(zapq_server.url, "GET", f"{path}?queue=emails*", headers=fields))
        assert {dict(labels)["queue"] for _, labels in shown if labels and "queue" in dict(labels)} == {
            "emails.in",
            "emails.out",
        }
        assert of("zapq_queues") not in shown


async def test_where_dead_letters_go_is_told_without_the_queue_they_are_from(zapq_server: ZapqServer) -> None:
    settings = b'{"max_receives": 3, "dead_letter": "dead"}'
    assert (await ask(zapq_server.url, "PUT", "/queues/jobs", settings)).status in {200, 201}
    shown = series(await ask(zapq_server.url, "GET", f"{PATH}?queue=dead"))
    assert shown[of("zapq_queue_takes_dead_letters", queue="dead")] == 1


async def test_the_server_tells_of_itself_where_the_queues_cannot_be_asked(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = LocalEngine.perform

    def refuse_to_list(engine: LocalEngine, operation: Operation, now: float) -> Any:
        if isinstance(operation, List):
            raise StorageUnavailable
        return perform(engine, operation, now)

    monkeypatch.setattr(LocalEngine, "perform", refuse_to_list)
    shown = series(await ask(zapq_server.url, "GET", PATH))
    assert of("zapq_queues") in shown
    assert total(shown, "zapq_queue_messages") == 0
    assert (await ask(zapq_server.url, "GET", f"{PATH}?queue=jobs")).status == 503


async def test_clients_that_ask_at_the_same_time_share_an_answer(
    zapq_server: ZapqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform, shared, asked = LocalEngine.perform, Shared.get, trio.Event()
    lists = waiting = 0
    answers: list[bytes] = []

    def count(engine: LocalEngine, operation: Operation, now: float) -> Any:
        nonlocal lists
        lists += isinstance(operation, List)
        return perform(engine, operation, now)

    async def all_at_once(self: Shared, key: Any, make: Any) -> Any:
        nonlocal waiting
        waiting += 1
        if waiting == 10:
            asked.set()
        await asked.wait()
        return await shared(self, key, make)

    monkeypatch.setattr(LocalEngine, "perform", count)
    monkeypatch.setattr(Shared, "get", all_at_once)

    async def scrape(path: str) -> None:
        answers.append((await ask(zapq_server.url, "GET", path)).body)

    async with trio.open_nursery() as nursery:
        for path in [PATH] * 5 + [f"{PATH}?queue=default"] * 5:
            nursery.start_soon(scrape, path)
    assert lists == 2
    assert len(answers) == 10
    assert all(b'zapq_queue_messages{queue="default",state="ready"} 0' in answer for answer in answers)


async def test_a_client_may_ask_for_queues_that_are_not_there(zapq_server: ZapqServer) -> None:
    assert series(await ask(zapq_server.url, "GET", f"{PATH}?queue=none*", headers=OPENMETRICS)).keys() == {
        of("zapq_build_info", version=zapq.__version__, python=platform.python_version())
    }


class TestManyQueues:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, metrics_queues=2)

    async def test_those_made_first_keep_their_series(self, zapq_server: ZapqServer) -> None:
        for queue in ("m", "z", "a"):
            await work(zapq_server, queue)
        shown = series(await ask(zapq_server.url, "GET", PATH))
        named = {dict(labels).get("queue") for name, labels in shown if name == "zapq_queue_messages"}
        assert named == {"default", "m", "(other)"}
        assert shown[of("zapq_queue_messages", queue="(other)", state="ready")] == 2
        assert shown[of("zapq_queue_messages_enqueued_total", queue="(other)")] == 8
        assert total(shown, "zapq_queue_messages_enqueued_total") == 12


class TestTokens:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings, tmp_path: Path) -> Settings:
        tokens = tmp_path / "tokens"
        tokens.write_text(line("all", ALL, "metrics") + line("some", SOME, "metrics:emails*"))
        tokens.chmod(0o600)
        return replace(zapq_settings, token_file=str(tokens))

    async def test_a_client_sees_the_queues_of_its_token(self, zapq_server: ZapqServer) -> None:
        for queue in ("emails", "jobs"):
            zapq_server.service.queue(queue).enqueue_nowait(b"x")
        some = bearer(SOME)
        shown = series(await ask(zapq_server.url, "GET", PATH, headers=some))
        assert {dict(labels).get("queue", "emails") for _, labels in shown} == {"emails"}
        assert of("zapq_queues") not in shown
        assert of("process_open_fds") not in shown
        assert (await ask(zapq_server.url, "GET", "/metrics", headers={**some, **PROMETHEUS})).status == 403
        assert (await ask(zapq_server.url, "GET", PATH)).status == 401
        assert of("zapq_queues") in series(await ask(zapq_server.url, "GET", PATH, headers=bearer(ALL)))


class TestDurable:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, durable=True)

    async def test_commits_are_told(self, zapq_server: ZapqServer) -> None:
        await work(zapq_server, "jobs")
        shown = series(await ask(zapq_server.url, "GET", PATH, headers=OPENMETRICS))
        assert shown[of("zapq_storage_available")] == 1
        assert shown[of("zapq_journal_commits_total")] >= 4
        commits = shown[of("zapq_journal_commits_total")]
        assert shown[of("zapq_journal_commit_seconds_bucket", le="+Inf")] == commits
        assert shown[of("zapq_journal_commit_seconds_count")] == commits
        assert shown[of("zapq_journal_commit_seconds_sum")] > 0
