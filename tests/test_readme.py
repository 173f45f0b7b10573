"""What the README says is what the code does."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.curl import lines
from tests.support.wire import ask
from zapq.command import exit
from zapq.core.queue_settings import QueueSettings
from zapq.http.endpoints import ENDPOINTS
from zapq.http.metrics import ServerCounts, as_json
from zapq.service.service import QueueService
from zapq.settings import Option, Settings, options
from zapq.sources import load
from zapq.testing import ZapqServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EMBEDDING, SERVING, TESTING = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


SAFE = README[README.index("## Lose no message") : README.index("## Use")]


class TestLoseNoMessage:
    """The first thing the README shows after the start: a message that survives its consumer, and a crash."""

    @pytest.fixture
    def zapq_settings(self, tmp_path: Path) -> Settings:
        [start] = re.findall(r"```sh\n(.*?)```", SAFE, re.DOTALL)
        program, switch, flag, directory = shlex.split(start)
        assert (program, switch, flag) == ("./scripts/serve", "--durable", "--data-dir")
        flags = {"durable": "true", "data_dir": str(tmp_path / directory), "addr": "127.0.0.1:0"}
        return load(flags=flags, environ={})

    async def test_each_answer_is_as_it_is_shown(self, zapq_server: ZapqServer) -> None:
        given, shown = list(lines(SAFE)), []
        receipt = re.findall(r"^Zapq-Receipt: (.*)$", SAFE, re.MULTILINE)[0]
        actual = receipt
        for line in given:
            target = line.target.replace(receipt, actual)
            answer = await ask(zapq_server.url, line.method, target, line.body, line.headers)
            actual = answer.headers.get("zapq-receipt", actual)
            head, _, body = line.shown.partition("\n\n")
            status, *fields = head.splitlines()
            assert answer.status == int(status.split()[1]), line.text
            named = {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}
            assert named.keys() == answer.headers.keys(), line.text
            for name in named.keys() - {"date", "x-trace-id", "zapq-receipt", "zapq-visible-until"}:
                assert named[name] == answer.headers[name], line.text
            assert answer.body.decode() == body.strip(), line.text
            shown.append(line.method)
        assert shown == ["POST", "POST", "DELETE"]
        assert zapq_server.service.stats().queue.messages == 0

    def test_it_comes_before_what_can_lose_one(self) -> None:
        assert README.index("/receive") < README.index("/dequeue")
        assert SAFE.count("\n") <= 45


def row(option: Option) -> str:
    shown = f"`{option.default_text}`" if option.default_text else "none"
    return f"| `{option.flag}` | `{option.env}` | {shown} | {option.help} |"


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_the_table_of_flags_is_complete(option: Option) -> None:
    assert row(option) in README


def test_the_tables_of_endpoints_say_what_there_is() -> None:
    section = README[README.index("### Endpoints") : README.index("## Trust")]
    shown = {}
    for row in re.findall(r"^\| `.*\|$", section, re.MULTILINE):
        requests, role = row.split(" | ")[:2]
        for method, path, query in re.findall(r"`([A-Z]+) (/[^`?]*)\??([^`]*)`", requests):
            shown[method, path] = (tuple(re.findall(r"(\w+)=", query)), role)
    assert shown == {
        (each.method, each.path.replace("{queue}", "{q}")): (each.takes, each.role or "none") for each in ENDPOINTS
    }


async def test_the_table_of_metrics_is_complete(zapq_service: QueueService) -> None:
    for name in as_json(zapq_service.stats(), ServerCounts(), 0.0):
        assert f"`{name}`" in README, name


async def test_the_metrics_shown_are_those_there_are_in_order(zapq_service: QueueService) -> None:
    [shown] = re.findall(r"^\$ curl -s localhost:8080/metrics\n(\{.*\})$", README, re.MULTILINE)
    assert list(json.loads(shown)) == list(as_json(zapq_service.stats(), ServerCounts(), 0.0))


def test_the_table_of_exit_codes_is_complete() -> None:
    codes = {exit.EXIT_OK, exit.EXIT_FAILED, exit.EXIT_USAGE, exit.EXIT_NOTHING}
    codes |= {exit.EXIT_SIGNAL + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)}
    _, _, table = README.partition("### Exit codes\n")
    rows = re.findall(r"^\| ([0-9, ]+) \|", table.partition("\n#")[0], re.MULTILINE)
    assert {int(code) for row in rows for code in row.split(",")} == codes


def test_the_embedding_example_runs() -> None:
    shown = subprocess.run([sys.executable, "-c", EMBEDDING], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("b'hello'\n", "")


def test_the_serving_example_runs() -> None:
    shown = subprocess.run([sys.executable, "-c", SERVING], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", shown.stdout), shown.stdout
    assert shown.stderr == ""


def test_the_testing_example_passes(tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(TESTING)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 passed" in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.parametrize("document", ["README.md", "docs/queues.md"])
def test_the_files_that_declare_queues_are_taken(document: str, tmp_path: Path) -> None:
    example, *of_sqs = re.findall(r"```toml\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (tmp_path / "zapq.toml").write_text(example)
    declared = load(flags={}, environ={}, config=str(tmp_path / "zapq.toml")).queues
    assert declared["emails"] == QueueSettings(visibility=300, max_receives=5, dead_letter="emails.dead")
    for example in of_sqs:
        (tmp_path / "queues.toml").write_text(example)
        declared = load(flags={}, environ={}, queues=str(tmp_path / "queues.toml")).queues
        assert declared["orders.fifo"].notes["sqs:tag:team"] == "shop"


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md", "docs/durability.md", "docs/found.md"])
def test_every_bench_and_test_that_is_named_can_be_run(document: str) -> None:
    text = " ".join((ROOT / document).read_text().split())
    # Alone, a module of bench/ finds its libraries only where they are installed; the script installs them.
    assert "python -m bench" not in text
    for name, more in re.findall(r"scripts/bench (\w+)(?: ([a-z]+))?", text):
        assert name == "NAME" or (ROOT / "bench" / f"{name}.py").exists() or (ROOT / "bench" / name).is_dir(), name
        assert name != "torture" or not more or (ROOT / f"bench/torture/{more}.py").exists(), more
    if document == "SECURITY.md":
        for attack in re.findall(r"\(`(\w+)`\)", text.partition("scripts/bench torture NAME")[2]):
            assert (ROOT / f"bench/torture/{attack}.py").exists(), attack
    for path, part in re.findall(r"scripts/test (tests/[\w/.]+)(?: -k (\w+))?", text):
        assert f"{part}" in (ROOT / path).read_text(), part


PAGES = (
    "access",
    "client",
    "command-line",
    "deploy",
    "durability",
    "found",
    "inside",
    "order",
    "queues",
    "snapshots",
    "sqs",
)
DOCUMENTS = ["README.md", "SECURITY.md", *(f"docs/{page}.md" for page in PAGES)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_named_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    files = re.findall(r"`((?:zapq|tests|scripts|bench|deploy|docs)/[\w./-]+)`", text)
    for name in links:
        assert ((ROOT / document).parent / name).exists(), name
    for name in files:
        assert (ROOT / name).exists(), name
