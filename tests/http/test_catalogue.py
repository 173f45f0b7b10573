"""The `type` of every refusal leads to what it means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.http.test_contract import assert_problem
from tests.support.wire import ask
from zapq.errors import BY_PROBLEM, BatchTooLarge, SnapshotNotFound
from zapq.http.problems import PHRASES, meanings
from zapq.settings import Settings
from zapq.testing import ZapqServer

STATUSES = (400, 404, 405, 413, 414, 431, 500, 501, 505)
NEVER_SENT = {"cannot-start", "invalid-setting", "no-answer", "server-error", "unreachable"}
NAMES = sorted({*BY_PROBLEM, *(PHRASES[status].lower().replace(" ", "-") for status in STATUSES)} - NEVER_SENT)


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, token="t" * 20)


def test_classes_below_others_have_names_too() -> None:
    assert BY_PROBLEM["batch-too-large"] is BatchTooLarge
    assert BY_PROBLEM["snapshot-not-found"] is SnapshotNotFound


def test_every_problem_the_server_answers_with_has_a_meaning() -> None:
    assert sorted(meanings()) == NAMES
    for each in meanings().values():
        assert each.meaning.endswith((".", "?"))
        assert each.title


@pytest.mark.parametrize("name", NAMES)
async def test_every_type_answers_what_it_means_without_a_token(zapq_server: ZapqServer, name: str) -> None:
    answer = await ask(zapq_server.url, "GET", f"/problems/{name}")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert meanings()[name].meaning in answer.body.decode()
    if name in BY_PROBLEM:
        assert " ".join((BY_PROBLEM[name].__doc__ or "").split()) in answer.body.decode()


async def test_the_accept_field_chooses_between_text_json_and_html(zapq_server: ZapqServer) -> None:
    for target in ("/problems", "/problems/queue-full"):
        kinds = {}
        for accept in ("application/json", "text/html,application/xhtml+xml,*/*;q=0.8", "*/*", "image/png"):
            answer = await ask(zapq_server.url, "GET", target, headers={"Accept": accept})
            assert (answer.status, answer.headers["vary"]) == (200, "Accept")
            kinds[accept[:9]] = answer
        assert [each.headers["content-type"].partition(";")[0] for each in kinds.values()] == [
            "application/json",
            "text/html",
            "text/plain",
            "text/plain",
        ]
        told = kinds["applicati"].json
        [one] = [
            each for each in (told if isinstance(told, list) else [told]) if each["type"].endswith("/queue-full")
        ]
        assert one["status"] == 429
        assert "Retry-After" in one["meaning"]


async def test_the_list_has_all_of_them(zapq_server: ZapqServer) -> None:
    listed = (await ask(zapq_server.url, "GET", "/problems", headers={"Accept": "application/json"})).json
    assert [each["type"] for each in listed] == [f"/problems/{name}" for name in NAMES]


async def test_an_unknown_name_is_404_and_the_host_still_counts(zapq_server: ZapqServer) -> None:
    unknown = await ask(zapq_server.url, "GET", "/problems/nothing")
    assert unknown.status == 404
    assert_problem(unknown, "problem-not-found")
    assert (await ask(zapq_server.url, "GET", "/problems", headers={"Host": "a.example"})).status == 421
