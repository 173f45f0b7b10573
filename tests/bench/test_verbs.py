"""`scripts/bench verbs` asks for each operation, knows a wrong answer, and prints the ratios it promises."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import rig
from bench.prepared import Load, is_complete, request, run
from bench.verbs import BASE, VERBS, Options, Started, contenders, measure, medians, table

pytestmark = pytest.mark.slow  # it starts servers, and the gate runs it

TINY = Options(connections=2, seconds=0, rounds=1, many=20, wrk=False)
"""Each connection sends one request."""


@pytest.fixture
def no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the rival out, which takes a while to build."""
    monkeypatch.setattr(rig, "go_queue", lambda directory: None)


@pytest.mark.usefixtures("no_go")
def test_each_operation_is_answered_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    with contenders(tls=False, against=None) as found:
        results = measure(found, VERBS, TINY)
    assert capsys.readouterr().err == "round 1 done\n"  # no word of a wrong answer
    assert [name for name in VERBS if len(results[name]["zapq"]) != 1] == []


@pytest.mark.usefixtures("no_go")
def test_two_checkouts_take_turns_plain_and_over_tls() -> None:
    verbs = {name: VERBS[name] for name in (BASE, "dequeue", "ack", "refused: describe, 404")}
    with contenders(tls=True, against=str(Path(__file__).parents[2])) as found:
        results = measure(found, verbs, TINY)
    assert [each.name for each in found] == ["zapq", "zapq, TLS", "other", "other, TLS"]
    assert {name: set(runs) for name, runs in results.items()} == {
        name: {each.name for each in found} for name in verbs
    }


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="no go here")
def test_the_rival_on_net_http_is_measured_plain_and_over_tls() -> None:
    with contenders(tls=True, against=None) as found, ExitStack() as stack:
        rivals = [each for each in found if not each.zapq]
        assert [each.name for each in rivals] == ["Go", "Go, TLS"]
        for rival in rivals:
            server = Started(rival, stack, Options(connections=2, seconds=0, rounds=1, many=200, wrk=False))
            assert server.measure(BASE, VERBS[BASE])


@pytest.mark.usefixtures("no_go")
@pytest.mark.parametrize("wrk", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_load_ends_at_its_limit_and_a_wrong_answer_is_told(wrk: bool) -> None:
    if wrk and shutil.which("wrk") is None:
        pytest.skip("no wrk here")
    with contenders(tls=False, against=None) as [zapq], ExitStack() as stack:
        site = Started(zapq, stack, TINY).site(durable=False)
        put = request("POST", "/queues/q/messages", b"x")
        # wrk takes all of its time, also when it has nothing more to send.
        answered, used = run(site, Load([put], 202, limit=100), 2, 5 if wrk else 60, wrk=wrk)
        assert 90 <= answered <= 100
        assert used > 0
        with pytest.raises(RuntimeError, match="answered 202 and not 400"):
            run(site, Load([put], 400), 2, 1, wrk=wrk)
        with pytest.raises(RuntimeError):
            run(site, Load([request("GET", "/nothing"), put], 202), 2, 1, wrk=wrk)


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", False),
    ],
)
def test_an_answer_is_complete_with_its_body(answer: bytes, whole: bool) -> None:
    assert is_complete(bytearray(answer)) is whole


def test_the_table_has_ratios_and_a_row_for_a_receive_and_its_ack() -> None:
    rows = medians({
        BASE: {"zapq": [10.0, 30.0, 20.0], "zapq, TLS": [40.0], "Go": [30.0]},
        "receive": {"zapq": [30.0], "zapq, TLS": [50.0]},
        "ack": {"zapq": [20.0]},
    })
    assert table(rows, ["zapq", "zapq, TLS", "Go"]).splitlines() == [
        f"| request | zapq | zapq, TLS | Go | zapq / {BASE} | zapq, TLS / zapq | Go / zapq |",
        "| --- | --: | --: | --: | --: | --: | --: |",
        f"| {BASE} | 20.0 | 40.0 | 30.0 | 1.00 | 2.00 | 1.50 |",
        "| receive | 30.0 | 50.0 |  | 1.50 | 1.67 |  |",
        "| ack | 20.0 |  |  | 1.00 |  |  |",
        "| receive + ack | 50.0 |  |  | 2.50 |  |  |",
    ]
