"""Each alert is caused in a running server that a real Prometheus scrapes, and promtool agrees with the files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.valkey.servers import running, valkey_program
from tests.engine.valkey.serving import with_engine
from tests.prometheus import board
from tests.prometheus.programs import ROOT, Programs, Prometheus
from tests.support.disk import Disk
from tests.support.ports import free_ports
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.wire import ask, open_client
from zapq.core.queue_settings import QueueSettings
from zapq.server.protocols import HTTP1
from zapq.settings import Settings

DEPLOY = ROOT / "deploy" / "prometheus"
ALERTS = DEPLOY / "alerts.yml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES if "alert" in rule]
DOC = (ROOT / "docs/how-to/watch.md").read_text()

QUEUES = {
    "jobs": QueueSettings(max_receives=1, dead_letter="jobs.dead"),
    "later": QueueSettings(),
    "paused": QueueSettings(),
    "small": QueueSettings(max_messages=10),
    "stuck": QueueSettings(),
}


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(name: str) -> None:
    [rule] = [each for each in RULES if each.get("alert") == name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "action"}
    assert all(text.endswith(".") for text in rule["annotations"].values())
    assert "job=" not in rule["expr"]
    assert f"| `{name}` |" in DOC


def test_the_page_names_no_alert_that_is_not_there() -> None:
    assert re.findall(r"^\| `(Zapq\w+)` \|", DOC, re.MULTILINE) == NAMES


@pytest.mark.slow
def test_promtool_finds_nothing_wrong(programs: Programs) -> None:
    programs.promtool("check", "config", DEPLOY / "prometheus.yml")
    programs.promtool("check", "rules", "--lint-fatal", ALERTS)
    programs.promtool("test", "rules", Path(__file__).with_name("alerts.test.yml"))


def configuration(directory: Path, *ports: int) -> Path:
    """Write what is in deploy/prometheus for these targets and for somebody who cannot wait."""
    targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    for name, changes in {
        "prometheus.yml": {r"interval: 15s": "interval: 1s", r'"localhost:8080"': targets},
        "alerts.yml": {r"for: \d+[sm]": "for: 0s", r"age_seconds > 600": "age_seconds > 1"},
    }.items():
        text = (DEPLOY / name).read_text()
        for pattern, new in changes.items():
            text, number = re.subn(pattern, new, text)
            assert number
        (directory / name).write_text(text)
    return directory / "prometheus.yml"


def about(alert: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of an alert, and the queue or else the server it is about."""
    # What Prometheus writes where it cannot fill in a text.
    assert not re.search(r"<no value>|<error", " ".join(alert["annotations"].values())), alert
    labels = alert["labels"]
    return labels["alertname"], labels.get("queue") or labels["instance"]


async def only(prometheus: Prometheus, expected: set[tuple[str, str]]) -> None:
    """Return once these alerts fire and no others."""
    seen: set[tuple[str, str]] = set()

    async def as_expected() -> bool:
        nonlocal seen
        seen = {about(alert) for alert in await prometheus.firing()}
        return seen == expected

    try:
        await eventually(as_expected, "the alerts")
    except AssertionError:
        raise AssertionError(f"missing {expected - seen}, not expected {seen - expected}") from None


async def cause_trouble(url: str) -> None:
    """Do what everybody fears, except to the disk."""

    async def send(target: str, number: int) -> None:
        for _ in range(number):
            assert (await ask(url, "POST", f"/queues/{target}", b"x")).status == 202

    async def receive(queue: str, number: int, visibility: float) -> None:
        for _ in range(number):
            answer = await ask(url, "POST", f"/queues/{queue}/receive?visibility={visibility}")
            assert answer.status == 200

    await send("stuck/messages", 3)
    assert (await ask(url, "POST", "/queues/paused/pause")).status == 200
    await send("paused/messages", 1)
    await send("jobs/messages", 5)
    await receive("jobs", 5, 0.1)
    await send("small/messages", 10)
    assert (await ask(url, "POST", "/queues/small/messages", b"x")).status == 429
    await receive("small", 10, 600)
    await send("later/messages?delay=600", 75)
    async with open_client(url) as unlucky:
        await unlucky.send("GET", "/break")
        assert await unlucky.reads_eof()


async def work(url: str) -> None:
    """Do what is nobody's trouble: send a message, take it, and acknowledge it."""
    assert (await ask(url, "POST", "/enqueue", b"x")).status == 202
    lease = await ask(url, "POST", "/queues/default/receive")
    assert (await ask(url, "DELETE", f"/queues/default/receipts/{lease.headers['zapq-receipt']}")).status == 204


async def without_series(prometheus: Prometheus) -> list[str]:
    """Return the expressions of the board that give nothing."""
    shown = [*board.expressions(board.read())]
    filled = [board.filled_in(each, job="zapq", instance=".*", queue="jobs") for _, each in shown]
    return [each for each in filled if not await prometheus.query(each)]


@pytest.mark.slow
@pytest.mark.timeout(180)  # it takes 12 s, and waits for what another process does at its own pace
async def test_each_alert_fires_for_its_cause_and_the_board_shows_everything(
    programs: Programs, zapq_settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create_stream = HTTP1._create_stream

    async def break_on_demand(self: HTTP1, request: Any) -> None:
        if b"/break" in request.target:
            raise RuntimeError("a mistake")
        await create_stream(self, request)

    monkeypatch.setattr(HTTP1, "_create_stream", break_on_demand)
    valkey = valkey_program()
    assert valkey is not None
    ports = free_ports(2)
    first, front_end = (f"127.0.0.1:{port}" for port in ports)
    settings = replace(zapq_settings, addr=first, durable=True, max_msgs=100, queues=QUEUES)
    with running(valkey, tmp_path / "valkey") as engine:
        in_engine = replace(with_engine(zapq_settings, engine), addr=front_end)
        async with programs.running(tmp_path, configuration(tmp_path, *ports)) as prometheus:
            async with serving(settings) as url, serving(in_engine) as other:

                async def scraped() -> bool:
                    """Whether each server has been scraped before, so that there is something to increase."""
                    counts = await prometheus.query("count_over_time(zapq_uptime_seconds[1m])")
                    return len(counts) == 2 and min(count for _, count in counts) >= 2

                for each in (url, other):
                    await work(each)
                await eventually(scraped, "both servers to be scraped")
                await only(prometheus, set())

                await cause_trouble(url)
                trouble = {
                    ("ZapqConnectionErrors", first),
                    ("ZapqDeadLetters", "jobs"),
                    ("ZapqLeaseExpiries", "jobs"),
                    ("ZapqNearlyFull", first),
                    ("ZapqNoConsumers", "stuck"),
                    ("ZapqOldestAge", "paused"),
                    ("ZapqOldestAge", "stuck"),
                    ("ZapqQueueNearlyFull", "small"),
                }
                await only(prometheus, trouble)

                async def shown() -> bool:
                    return not await without_series(prometheus)

                await eventually(shown, "every expression of the board to give a series")

                disk.failing = True
                assert (await ask(url, "POST", "/enqueue", b"x")).status == 503
                engine.process.kill()
                more = {("ZapqStorageUnavailable", first), ("ZapqEngineUnreachable", front_end)}
                await only(prometheus, trouble | more)
                disk.failing = False
                await only(prometheus, trouble | {("ZapqEngineUnreachable", front_end)})
            down = {("ZapqDown", first), ("ZapqDown", front_end)}

            async def are_down() -> bool:
                return down <= {about(alert) for alert in await prometheus.firing()}

            await eventually(are_down, "the end of the servers to be noticed")
    assert {name for name, _ in trouble | more | down} == set(NAMES), "an alert that nothing has caused"


@pytest.mark.slow
async def test_promtool_reads_what_a_server_tells_of_itself(programs: Programs, zapq_settings: Settings) -> None:
    async with serving(replace(zapq_settings, durable=True, queues=QUEUES)) as url:
        await work(url)
        told = (await ask(url, "GET", "/metrics/prometheus")).body
    programs.promtool("check", "metrics", read=told)
