"""The KEDA examples: what they ask a server for is there, and is a number, before anybody has used the queue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.http.test_access import bearer, line
from tests.prometheus.programs import ROOT
from tests.support.waiting import eventually
from tests.support.wire import ask
from zapq.settings import Settings
from zapq.testing import ZapqServer

DIRECTORY = ROOT / "deploy" / "kubernetes"
TOKEN = "k" * 20
ALL = "a" * 20
KEYS = {"url", "valueLocation", "targetValue", "activationTargetValue", "authMode"}
"""What KEDA's metrics-api scaler may be told, of all it knows."""


@dataclass(frozen=True)
class Scaler:
    """What KEDA makes of a ScaledObject: how many consumers there are to be."""

    spec: Mapping[str, Any]

    async def wanted(self, server: str, headers: Mapping[str, str]) -> int:
        """Ask as KEDA does, but the server of a test, and return how many consumers it would have."""
        replicas, active = [], False
        for trigger in self.spec["triggers"]:
            about = trigger["metadata"]
            url = urlsplit(about["url"])
            answer = await ask(server, "GET", url.path, headers={"Host": url.netloc, **headers})
            assert answer.status == 200, answer
            value = answer.json
            for part in about["valueLocation"].split("."):
                value = value[part]
            assert isinstance(value, int | float)
            active |= value > float(about.get("activationTargetValue", 0))
            replicas.append(ceil(value / float(about["targetValue"])))
        least, most = int(self.spec["minReplicaCount"]), int(self.spec["maxReplicaCount"])
        return min(max(least, int(active), *replicas), most)


def documents(name: str) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((DIRECTORY / name).read_text())]


def scaler(name: str) -> Scaler:
    [spec] = [each["spec"] for each in documents(name) if each["kind"] == "ScaledObject"]
    return Scaler(spec)


@pytest.fixture
def zapq_settings(zapq_settings: Settings, tmp_path: Path) -> Settings:
    """Of a server that is started as the examples say."""
    tokens = tmp_path / "tokens"
    tokens.write_text(line("all", ALL, "admin") + line("keda", TOKEN, "metrics:emails"))
    tokens.chmod(0o600)
    return replace(zapq_settings, queue="emails", token_file=str(tokens))


async def send(server: ZapqServer, number: int) -> None:
    for _ in range(number):
        answer = await ask(server.url, "POST", "/queues/emails/messages", b"x", bearer(ALL))
        assert answer.status == 202


async def test_by_depth_there_are_as_many_consumers_as_the_queue_is_long(zapq_server: ZapqServer) -> None:
    keda = scaler("keda-depth.yaml")
    assert await keda.wanted(zapq_server.url, bearer(TOKEN)) == 0
    await send(zapq_server, 1)
    assert await keda.wanted(zapq_server.url, bearer(TOKEN)) == 1
    await send(zapq_server, 100)
    assert await keda.wanted(zapq_server.url, bearer(TOKEN)) == 3


@pytest.mark.parametrize("name", ["keda-depth.yaml", "keda-age.yaml"])
async def test_there_are_consumers_as_long_as_messages_are_leased(zapq_server: ZapqServer, name: str) -> None:
    await send(zapq_server, 5)
    for _ in range(5):
        assert (await ask(zapq_server.url, "POST", "/queues/emails/receive", headers=bearer(ALL))).status == 200
    assert await scaler(name).wanted(zapq_server.url, bearer(TOKEN)) == 2


async def test_by_age_the_first_consumer_comes_with_the_first_message(zapq_server: ZapqServer) -> None:
    keda = scaler("keda-age.yaml")
    assert await keda.wanted(zapq_server.url, bearer(TOKEN)) == 0
    await send(zapq_server, 1)

    async def wanted() -> bool:
        return await keda.wanted(zapq_server.url, bearer(TOKEN)) == 1

    # An age is told in milliseconds, and is 0 at first.
    await eventually(wanted, "the message to be a millisecond old")


@pytest.mark.parametrize("name", sorted(file.name for file in DIRECTORY.glob("keda-*.yaml")))
def test_an_example_is_written_as_keda_reads_it(name: str) -> None:
    for document in documents(name):
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        assert document["metadata"]["name"]
    spec = scaler(name).spec
    assert set(spec) == {
        "scaleTargetRef", "pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount", "triggers",
    }  # fmt: skip
    for trigger in spec["triggers"]:
        assert trigger["type"] == "metrics-api"
        assert {"url", "valueLocation", "targetValue"} <= set(trigger["metadata"]) <= KEYS
        # KEDA takes nothing but texts here, and refuses the number 50.
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert trigger["authenticationRef"] == {"name": "zapq"}
    [credentials] = [each for each in documents("keda-depth.yaml") if each["kind"] == "TriggerAuthentication"]
    assert credentials["metadata"]["name"] == "zapq"
    assert [each["parameter"] for each in credentials["spec"]["secretTargetRef"]] == ["token"]


def test_the_page_shows_what_the_examples_have() -> None:
    page = (ROOT / "docs/how-to/scale.md").read_text()
    shown = set(re.findall(r"^ +(url|valueLocation|targetValue): (.+)$", page, re.MULTILINE))
    there = {
        (key, f'"{value}"' if key == "targetValue" else value)
        for name in ("keda-depth.yaml", "keda-age.yaml")
        for key, value in scaler(name).spec["triggers"][0]["metadata"].items()
    }
    assert {key for key, _ in shown} == {"url", "valueLocation", "targetValue"}
    assert shown <= there
