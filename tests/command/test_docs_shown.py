"""What pages show that no test of their own runs: watch, access, programs, snapshots, testing, sqs."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from standardwebhooks.webhooks import Webhook
from trio.testing import MockClock

from tests.programs.test_bench import measured
from tests.support.curl import lines
from tests.support.typed import TypeIn, typed
from tests.support.wire import ask
from zapq.access.token_file import parse_line, read
from zapq.command.bench import _shown
from zapq.command.commands import Commands
from zapq.http.access_log import AccessLog
from zapq.programs.crontab import parse_crontab
from zapq.programs.webhook import parse_secrets, signatures
from zapq.settings import Settings
from zapq.sources import load
from zapq.testing import ZapqServer

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs/how-to" / f"{name}.md").read_text()


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)


def test_watch_the_scrape_is_that_of_deploy() -> None:
    [shown] = blocks("watch", "yaml")
    there = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert yaml.safe_load(shown)["scrape_configs"] == there["scrape_configs"]


async def test_watch_the_last_refusals_are_told_with_these_members(zapq_server: ZapqServer) -> None:
    await zapq_server.service.queue("jobs").enqueue(b"x")
    await ask(zapq_server.url, "DELETE", "/queues/jobs/receipts/9c52a3-1-1")
    await ask(zapq_server.url, "POST", "/queues/jobs/messages?delay=never")
    [line] = lines(page("watch"))
    told = (await ask(zapq_server.url, line.method, line.target)).json
    assert [list(each) for each in told] == [list(each) for each in json.loads(line.shown)]
    settled = json.loads(line.shown)[1]
    assert [told[1][name] for name in ("method", "path", "queue")] == [
        settled[name] for name in ("method", "path", "queue")
    ]


def test_watch_a_line_of_the_access_log_has_these_members(monkeypatch: pytest.MonkeyPatch) -> None:
    [shown] = blocks("watch", "json")
    time, level, message, *names = json.loads(shown)
    noted: list[dict[str, object]] = []
    monkeypatch.setattr("zapq.http.access_log.logs.say_request", noted.append)
    AccessLog(1.0).note("7-9c52a3", "POST", "/queues/jobs/messages", 202, 0, 3.1e-5, {"peer": "10.0.0.7"})
    assert [time, level, message] == ["time", "level", "msg"]
    assert noted == [{name: json.loads(shown)[name] for name in names}]
    assert [*noted[0]] == names


def test_access_a_new_token_is_shown_so(tmp_path: Path) -> None:
    [shown] = blocks("access", "console")
    command, *rows = shown.splitlines()
    made = typed(*shlex.split(command)[2:])
    assert (made.returncode, made.stderr) == (0, "")
    assert [row.split()[0] for row in made.stdout.splitlines()] == [row.split()[0] for row in rows]
    line = made.stdout.splitlines()[1].removeprefix("line").strip()
    # What is cut in the page is the digest.
    assert re.sub(r":[0-9a-f]+:", ":", line) == re.sub(
        r":[0-9a-f]+\.\.\.:", ":", rows[1].removeprefix("line").strip()
    )
    (tmp_path / "tokens").write_text(line)
    (tmp_path / "tokens").chmod(0o600)
    [credential] = read(str(tmp_path / "tokens"))
    assert credential.grant.name == "shop"


def test_access_lines_for_certificates_are_taken() -> None:
    [shown] = blocks("access", "text")
    assert [parse_line(line).identity for line in shown.splitlines()] == [
        "DNS=mailer.internal",
        "URI=spiffe://prod/mesh",
        "CN=ops",
    ]


def test_programs_a_receiver_verifies_what_was_signed() -> None:
    [program] = blocks("programs", "python")
    [secret] = set(re.findall(r"whsec_\w{20,}", page("programs")))
    now = int(time.time())
    headers = {
        "webhook-id": "id",
        "webhook-timestamp": f"{now}",
        "webhook-signature": signatures(parse_secrets(secret), "id", now, b"{}"),
    }
    exec(program, {"body": b"{}", "headers": headers, "Webhook": Webhook})


def test_programs_the_crontab_is_taken() -> None:
    [shown] = blocks("programs", "toml")
    assert [entry.name for entry in parse_crontab(shown)] == ["nightly-report", "heartbeat"]


def test_programs_a_measurement_is_shown_so() -> None:
    [shown] = blocks("programs", "console")
    command, *rows = shown.splitlines()
    assert command == "$ zapq bench --seconds 4"
    words = [re.findall(r"[a-z]\S*", re.sub(r"\d[\d.]*%? ", "", row)) for row in rows]
    assert words == [
        re.findall(r"[a-z]\S*", re.sub(r"\d[\d.]*%? ", "", row)) for row in _shown(measured(0.5)).splitlines()
    ]


async def test_snapshots_each_line_does_what_it_shows(
    zapq_server: ZapqServer, type_in: TypeIn, tmp_path: Path
) -> None:
    """What a file holds in the page is what is put here."""
    await zapq_server.service.default.enqueue(b"hello")
    emails = zapq_server.service.queue("emails")
    await emails.enqueue(b"hello")
    await emails.enqueue(b"later", delay=1000)
    by_curl, by_command, damaged = blocks("snapshots", "console")
    [file] = set(re.findall(r"[\w/]+/tonight\.msgpack", by_command))
    for line in lines(f"```console\n{by_curl}```"):
        answer = await ask(zapq_server.url, line.method, line.target)
        assert answer.status == 200, line.text
        if line.shown:
            [(there, shown)] = zip(answer.json, json.loads(line.shown), strict=True)
            assert list(there) == list(shown)
            for name in ("name", "format", "queues", "messages"):
                assert there[name] == shown[name], name
    for part in by_command.removeprefix("$ ").split("\n$ "):
        command, _, shown = part.partition("\n")
        here = command.replace(file, str(tmp_path / "tonight.msgpack"))
        asks = "Replace" in shown
        done = await type_in(*shlex.split(here)[1:], stdin="y\n" if asks else "", terminal=asks)
        assert done.returncode == 0, (command, done.stderr)
        if asks:
            assert shown.split("?")[0] in done.stderr
        else:
            assert names_of(done.stdout) == names_of(shown), command
    await check_damaged(zapq_server, tmp_path / "tonight.msgpack", damaged)


def names_of(text: str) -> list[list[str]]:
    """Return the words of each line of a table that are no sizes and no times."""
    return [
        re.findall(r"(?<![\w.])(?:[a-z]\w*(?:\.msgpack)?|[0-9])(?!\w)[,]?", line) for line in text.splitlines()
    ]


async def check_damaged(server: ZapqServer, file: Path, shown: str) -> None:
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    [line] = lines(f"```console\n{shown}```")
    answer = await ask(server.url, line.method, line.target)
    there, shown_there = answer.json, json.loads(line.shown)
    assert list(there) == list(shown_there)
    for name in ("type", "title", "status"):
        assert there[name] == shown_there[name]
    numbers = re.compile(r"\d+")
    assert numbers.sub("N", there["detail"]) == numbers.sub("N", shown_there["detail"])


class TestClock:
    @pytest.fixture
    def zapq_settings(self, zapq_settings: Settings) -> Settings:
        return replace(zapq_settings, test_clock=True)

    async def test_testing_the_line_of_curl_moves_the_time(
        self, zapq_server: ZapqServer, mock_clock: MockClock
    ) -> None:
        [line] = lines(page("testing"))
        answer = await ask(zapq_server.url, line.method, line.target)
        assert answer.body.decode() == line.shown.strip()


def test_sqs_the_command_in_place_of_an_emulator_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    [shown] = blocks("sqs", "yaml")
    told = yaml.safe_load(shown)
    [service] = told["services"].values()
    assert {each.split(":")[0] for each in service["volumes"]} == {"./queues.toml", *told["volumes"]}
    assert {each.split(":")[1] for each in service["volumes"]} == {"/etc/queues.toml", "/data"}
    queues = tmp_path / "queues.toml"
    queues.write_text("[queues.jobs]\n")
    command = [str(queues) if word == "/etc/queues.toml" else word for word in service["command"]]
    parsed: list[click.Context] = []
    monkeypatch.setattr(click.Command, "invoke", lambda command, context: parsed.append(context))
    Commands(lambda **flags: 0).main(command, "zapq", standalone_mode=False)
    flags: dict[str, Any] = dict(parsed[-1].params)
    declared = load(
        flags={name: flags[name] for name in flags.keys() - {"config", "queues"}}, environ={}, queues=str(queues)
    )
    assert (declared.addr, declared.durable, [*declared.queues]) == (":4566", True, ["jobs"])
    assert declared.admin_from == "any"
    # The image's health check is `zapq health`, and asks there.
    [(name, url)] = service["environment"].items()
    monkeypatch.setenv(name, url)
    Commands(lambda **flags: 0).main(["health"], "zapq", standalone_mode=False)
    assert parsed[-1].params["url"].port == 4566
