"""The load test's verdict can be trusted: it is quiet about a good queue and loud about a broken one."""

from __future__ import annotations

from urllib.parse import urlsplit

import click
import pytest

from bench.load import Load, Result, buckets, endpoint, note, run, summary, verify
from zapq.testing import ZapqServer

LOAD = Load("127.0.0.1", 0, None, 1, 1, 1, 24, True)


def body(key: bytes) -> bytes:
    return key.ljust(24, b".")


async def test_a_good_queue_passes(zapq_server: ZapqServer) -> None:
    port = urlsplit(zapq_server.url).port
    assert port is not None
    load = Load("127.0.0.1", port, None, 5, 5, 200, 64, True)
    result = await run(load, 60, False)
    assert verify(result) == []
    assert (len(result.accepted), len(result.delivered)) == (200, 200)


def test_a_loss_a_double_damage_and_disorder_are_told() -> None:
    result = Result(accepted={b"0:0:": 1, b"0:1:": 2, b"0:2:": 3})
    note(LOAD, result, body(b"0:1:"), 2, 0)
    note(LOAD, result, body(b"0:1:"), 2, 0)
    note(LOAD, result, body(b"0:0:"), 1, 2)
    note(LOAD, result, b"0:2:damaged", 3, 2)
    note(LOAD, result, body(b"9:9:"), 9, 3)
    assert sorted(line.split(":")[0] for line in verify(result)) == [
        "damaged",
        "delivered twice",
        "lost",
        "never accepted",
        "out of order",
    ]


def test_a_changed_id_is_told_and_an_unknown_enqueue_may_come_out() -> None:
    result = Result(accepted={b"0:0:": 1}, unknown={b"0:1:"}, delivered={b"0:0:": 5, b"0:1:": 6})
    assert [line.split(":")[0] for line in verify(result)] == ["id changed"]


def test_an_unknown_message_that_came_out_does_not_stand_in_for_an_accepted_one() -> None:
    result = Result(unknown={b"0:1:"}, produced=True)
    result.deliver(b"0:1:", 2)
    result.accept(b"0:2:", 3)
    assert not result.complete
    result.deliver(b"0:2:", 3)
    assert result.complete


def test_ids_are_judged_only_where_there_are_any() -> None:
    result = Result()
    result.accept(b"0:0:", 0)
    result.deliver(b"0:0:", 7)
    assert (verify(result), result.without_id) == ([], 1)


def test_what_time_ran_out_on_is_not_called_lost_and_nothing_accepted_is_no_success() -> None:
    assert verify(Result(accepted={b"0:0:": 1}, cut_off=True)) == [
        "time ran out: 1 accepted messages had not come out"
    ]
    assert verify(Result()) == ["nothing was accepted"]


@pytest.mark.parametrize("url", ["ftp://x", "http://x:99999", "http://", "http://x/path", "http://[x"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(click.BadParameter):
        endpoint(url)


def test_the_port_of_a_url_may_be_left_out() -> None:
    assert endpoint("https://[::1]") == (True, "::1", 443)
    assert endpoint("http://localhost") == (False, "localhost", 80)


def test_figures() -> None:
    figures = summary([float(n) for n in range(1, 101)])
    assert figures == {"avg": 50.5, "p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert summary([]) == {}
    assert dict(buckets([0.4, 0.5, 0.6, 5000.0]))[0.5] == 2
    assert sum(count for _, count in buckets([0.4, 0.5, 0.6, 5000.0])) == pytest.approx(4)
