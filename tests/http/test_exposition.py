"""The text for Prometheus, without a socket."""

from __future__ import annotations

import re
from math import inf
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from zapq.core.ages import Oldest, Spread
from zapq.core.queue_settings import QueueSettings
from zapq.core.stats import QueueStats
from zapq.http.exposition import Server, write
from zapq.http.families import SERVER
from zapq.http.series import ROWS_AT_ONCE, ROWS_IN_A_BLOCK, Series, share
from zapq.service.queue_state import QueueInfo


def info(name: str, number: int, **stats: int) -> QueueInfo:
    return QueueInfo(name, QueueSettings(), QueueStats(**stats), False, 0, number)


def test_each_figure_of_the_json_has_a_family() -> None:
    """Those of all queues together are sums of the queues' series, or the greatest of them."""
    contract = (Path(__file__).parents[2] / "docs/reference/http.md").read_text()
    [shown] = re.findall(r"^\$ curl -s localhost:8080/metrics\n\{(.*)\}$", contract, re.MULTILINE)
    names = set(re.findall(r'"(\w+)":', shown))
    of_queues = {
        "enqueues", "dequeues_ok", "queue_length", "queue_bytes", "messages_ready", "messages_delayed",
        "messages_leased", "receives", "acks", "releases", "leases_expired", "messages_expired",
        "messages_dead_lettered", "messages_redriven", "enqueues_refused", "dequeues_returned", "messages_cleared",
        "oldest_ready_age_seconds", "oldest_lease_age_seconds",
    }  # fmt: skip
    of_requests = {"requests", "hot_requests", "cold_requests"}
    of_process = {"open_fds", "max_fds", "goroutines", "uptime_sec"}
    assert names - of_queues - of_requests - of_process <= SERVER.keys()


SERVER_KNOWN = Server({"uptime_sec": 1.0, "hot_requests": 1, "cold_requests": 1}, {}, None, None, {})


def written(
    series: Series, infos: list[QueueInfo], *, every: bool = True, now: float = 5.0, openmetrics: bool = False
) -> tuple[bytes, int]:
    """Return what is written of queues, and how many turns others have meanwhile."""
    server = SERVER_KNOWN if every else None
    steps = write(series, share(infos, series.limit, None), server, now, openmetrics=openmetrics)
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return b"".join(end.value), turns
        turns += 1


def test_others_have_a_turn_after_some_queues() -> None:
    many = [info(f"q{number}", number) for number in range(4 * ROWS_AT_ONCE)]
    series = Series(len(many))
    text, turns = written(series, many, openmetrics=True)
    assert turns > 50
    # Less is done for those that have stayed the same.
    again, fewer = written(series, many, openmetrics=True)
    assert again == text
    assert 10 < fewer < turns / 2
    assert text.endswith(b"# EOF\n")
    first = next(read_openmetrics(text.decode()))  # type: ignore[no-untyped-call]  # the library's
    assert first.name == "zapq_queue_messages"


def test_queues_keep_their_series_whatever_is_made_later() -> None:
    infos = [info("z", 1), info("b", 2), info("c", 3)]
    assert [each.name for each in share(infos, 2, None).own] == ["z", "b"]
    later = [info("a", 4), *infos]
    assert [each.name for each in share(later, 2, None).own] == ["z", "b"]
    assert [each.name for each in share(later, 2, None).others] == ["c", "a"]


def test_what_is_kept_of_queues_is_what_is_shown() -> None:
    def text(infos: list[QueueInfo], series: Series) -> bytes:
        return written(series, infos, every=False)[0]

    series = Series(3)
    for held in (1, 2, 2):
        infos = [info("a", 1, ready=held), info("b", 2), info("c", 3), info("d", 4, ready=held), info("e", 5)]
        infos[1] = replace(infos[1], oldest=Oldest(1.0, inf), waits=Spread((held, *[0] * 8), 0.5))
        shown = text(infos, series)
        assert shown == text(infos, Series(3))
        assert b'zapq_queue_messages{queue="a",state="ready"} %d\n' % held in shown
        assert b'zapq_queue_messages{queue="(other)",state="ready"} %d\n' % held in shown
        assert b'zapq_queue_oldest_ready_age_seconds{queue="b"} 4.000\n' in shown
        assert b'zapq_queue_oldest_lease_age_seconds{queue="b"} 0.000\n' in shown
        assert b'zapq_queue_oldest_ready_age_seconds{queue="a"}' not in shown
        assert b'zapq_queue_wait_seconds_bucket{queue="b",le="0.1"} %d\n' % held in shown
    # A queue of the same name may be another one.
    assert b'wait_seconds_bucket{queue="b"' not in text([info("b", 6)], series)
    # Of those that are gone nothing is kept.
    for name in "fghijk":
        text([info(name, 1)], series)
    assert len(series._lines) <= 6


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 3 * ROWS_IN_A_BLOCK), st.sampled_from(["count", "wait", "pause", "limit", "remove", "some"])
    ),
    max_size=12,
)


@given(changes=CHANGES)
def test_what_is_kept_of_many_queues_is_what_is_shown(changes: list[tuple[int, str]]) -> None:
    infos = [info(f"q{number}", number, ready=number) for number in range(2 * ROWS_IN_A_BLOCK + 10)]
    series = Series(2 * ROWS_IN_A_BLOCK + 5)
    made = len(infos)
    for place, what in changes:
        at = place % len(infos)
        one = infos[at]
        match what:
            case "count":
                infos[at] = replace(one, stats=replace(one.stats, ready=one.stats.ready + 1, acked=7))
            case "wait":
                infos[at] = replace(one, waits=Spread((1, *[0] * 8), 0.5), oldest=Oldest(1.0, 2.0))
            case "pause":
                infos[at] = replace(one, paused=not one.paused, waiting=one.waiting + 1)
            case "limit":
                limit = None if one.settings.max_messages else 9
                infos[at] = replace(one, settings=QueueSettings(max_messages=limit))
            case "remove":
                # One is made anew, under the same name.
                made += 1
                infos = [*infos[:at], *infos[at + 1 :], info(one.name, made)]
            case _:
                some = infos[at : at + 5]
                shown = written(series, some, every=False)[0]
                assert shown == written(Series(series.limit), some, every=False)[0]
                continue
        assert written(series, infos)[0] == written(Series(series.limit), infos)[0]
