"""What the README, and the pages of reference, say is what the code does."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.support.curl import lines
from tests.support.wire import ask
from zapq.core.queue_settings import QueueSettings
from zapq.http.endpoints import ENDPOINTS
from zapq.http.metrics import ServerCounts, as_json
from zapq.http.problems import meanings
from zapq.service.service import QueueService
from zapq.settings import Option, Settings, options
from zapq.sources import load
from zapq.testing import ZapqServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
HTTP = (ROOT / "docs/reference/http.md").read_text()
SETTINGS = (ROOT / "docs/reference/settings.md").read_text()
SPEED = (ROOT / "docs/explanation/speed.md").read_text()
CALLING, EMBEDDING_SHORT, TESTING_SHORT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EMBEDDING, SERVING, TESTING = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs/how-to/embedding.md").read_text(), re.DOTALL
)


SAFE = HTTP[HTTP.index("## Send, receive, acknowledge") : HTTP.index("## The endpoints of the Go original")]


class TestLoseNoMessage:
    """The first thing the contract shows: a message that survives its consumer, and a crash."""

    @pytest.fixture
    def zapq_settings(self, tmp_path: Path) -> Settings:
        [start] = re.findall(r"```sh\n(.*?)```", README[README.index("## Five minutes") :], re.DOTALL)
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
        for document in (README, HTTP):
            assert document.index("/receive") < document.index("/dequeue")
        assert SAFE.count("\n") <= 45


async def test_the_endpoints_of_the_original_answer_as_it_is_shown(
    zapq_server: ZapqServer, zapq_settings: Settings
) -> None:
    [shown] = re.findall(
        r"```console\n(.*?)```", HTTP[HTTP.index("## The endpoints of the Go original") :], re.DOTALL
    )
    for line in lines(f"```console\n{shown}```"):
        answer = await ask(zapq_server.url, line.method, line.target, line.body, line.headers)
        head, _, body = line.shown.partition("\n\n")
        if head.startswith("HTTP/1.1 "):
            status, *fields = head.splitlines()
            assert answer.status == int(status.split()[1]), line.text
            assert {field.partition(": ")[0].lower() for field in fields} == answer.headers.keys(), line.text
            assert answer.body.decode() == body.strip(), line.text
        elif "%{http_code}" in line.text:
            assert line.shown.strip() == f"{answer.status}", line.text
        elif answer.headers["content-type"].endswith("json"):
            assert list(answer.json) == list(json.loads(line.shown)), line.text
        else:
            assert answer.body.decode().strip() == line.shown.strip(), line.text
    [file] = re.findall(r"^\$ cat (\S+)\n(.*)$", shown, re.MULTILINE)
    assert (Path(zapq_settings.data_dir) / file[0]).read_text().strip() == file[1]


class TestConsole:
    async def test_each_line_of_the_readme_does_what_it_shows(self, zapq_server: ZapqServer) -> None:
        receipts: dict[str, str] = {}
        done = []
        for line in lines(README):
            target = line.target
            for shown, actual in receipts.items():
                target = target.replace(shown, actual)
            answer = await ask(zapq_server.url, line.method, target, line.body, line.headers)
            assert answer.status < 300, (line.text, answer)
            done.append(target.rpartition("/")[2].partition("?")[0])
            fields, dots, body = line.shown.rpartition("...\n")
            if dots:
                status, *named = fields.splitlines()
                assert int(status.split()[1]) == answer.status
                for field in named:
                    name, _, value = field.partition(": ")
                    if name == "Zapq-Receipt":
                        receipts[value] = answer.headers["zapq-receipt"]
                    else:
                        assert answer.headers[name.lower()] == value, line.text
            if body.strip():
                assert answer.body.decode() == body.strip(), line.text
            if target.endswith("body=text"):
                assert [each["body"] for each in answer.json] == ["photo-8.jpg"]
        assert done[:2] == ["messages", "receive"]
        assert done[3:] == ["jobs", "messages", "receive", "release", "messages", "redrive"]

    def test_it_is_short(self) -> None:
        assert README.count("\n") <= 150

    def test_its_figures_are_those_of_the_page_about_speed(self) -> None:
        table = README[README.index("## How fast") : README.index("![CPU a message")]
        for server, *figures in re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE):
            flag = re.search(r"`(--[a-z-]+)`", server)
            measured = f"zapq {flag[1]}" if flag else server
            for verb, figure in zip(("enqueue", "dequeue"), figures, strict=True):
                row = rf"^\| {re.escape(measured)} \| {verb} \| [\d,]+ \| {figure} \|"
                assert re.search(row, SPEED, re.MULTILINE), (server, verb)

    def test_its_reasons_have_the_figures_that_were_measured_and_the_defaults(self) -> None:
        reasons = README[README.index("## Why") : README.index("## Install")]
        [(rate, cost)] = re.findall(r"accepts ([\d,]+) messages a second, at ([\d.]+) us", reasons)
        [(measured, each)] = re.findall(r"^\| zapq \| enqueue \| ([\d,]+) \| ([\d.]+) \|", SPEED, re.MULTILINE)
        assert int(rate.replace(",", "")) == round(int(measured.replace(",", "")), -3)
        assert cost == each
        [synced] = re.findall(r"With `--durable` it is ([\d,]+) with 128 connections", reasons)
        assert f"{synced} messages a second at 128 connections" in SPEED
        [deep] = re.findall(r"costs the same, ([\d.]+) us in process", reasons)
        [(least, most)] = re.findall(
            r"enqueue ([\d.]+) to ([\d.]+) us, .* at ten messages deep and at ten million", SPEED
        )
        assert f"{float(least):.1f}" == f"{float(most):.1f}" == deep
        [(messages, size)] = re.findall(r"it holds ([\d,]+) messages and (\d+) MiB", reasons)
        assert (int(messages.replace(",", "")), int(size) * 2**20) == (Settings().max_msgs, Settings().max_bytes)


def row(option: Option) -> str:
    shown = f"`{option.default_text}`" if option.default_text else "none"
    help = option.help.replace("*", r"\*")  # as Markdown has it, where two would be emphasis
    return f"| `{option.flag}` | `{option.env}` | {shown} | {help} |"


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_the_table_of_flags_is_complete(option: Option) -> None:
    assert row(option) in SETTINGS


def test_the_tables_of_endpoints_say_what_there_is() -> None:
    section = HTTP[HTTP.index("## Endpoints") : HTTP.index("## Rules for all requests")]
    shown = {}
    for row in re.findall(r"^\| `.*\|$", section, re.MULTILINE):
        requests, role = row.split(" | ")[:2]
        for method, path, query in re.findall(r"`([A-Z]+) (/[^`?]*)\??([^`]*)`", requests):
            shown[method, path] = (tuple(re.findall(r"(\w+)=", query)), role)
    assert shown == {
        (each.method, each.path.replace("{queue}", "{q}")): (each.takes, each.role or "none") for each in ENDPOINTS
    }


async def test_the_metrics_shown_are_those_there_are_in_order(zapq_service: QueueService) -> None:
    [shown] = re.findall(r"^\$ curl -s localhost:8080/metrics\n(\{.*\})$", HTTP, re.MULTILINE)
    assert list(json.loads(shown)) == list(as_json(zapq_service.stats(), ServerCounts(), 0.0))


def test_the_embedding_example_runs() -> None:
    shown = subprocess.run([sys.executable, "-c", EMBEDDING], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("b'hello'\n", "")


def test_the_short_embedding_example_runs() -> None:
    shown = subprocess.run([sys.executable, "-c", EMBEDDING_SHORT], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("b'hello'\n", "")


async def test_the_example_of_a_client_runs(zapq_server: ZapqServer) -> None:
    program = CALLING.replace("http://127.0.0.1:8080", zapq_server.url)
    shown = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert shown.stdout == b"b'hello'\n"
    assert zapq_server.service.find("emails").info().stats.acked == 1


def test_the_table_of_errors_says_what_each_means() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    shown = re.findall(r"^\| `([\w-]+)` \| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert shown == [(name, str(each.status), each.meaning) for name, each in meanings().items()]


def test_the_serving_example_runs() -> None:
    shown = subprocess.run([sys.executable, "-c", SERVING], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", shown.stdout), shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize("example", [TESTING, TESTING_SHORT], ids=["embedding", "readme"])
def test_the_testing_example_passes(example: str, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(example)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # as in a project that sets nothing
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 passed" in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.parametrize("document", ["docs/reference/settings.md", "docs/reference/queues.md"])
def test_the_files_that_declare_queues_are_taken(document: str, tmp_path: Path) -> None:
    example, *of_sqs = re.findall(r"```toml\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    (tmp_path / "zapq.toml").write_text(example)
    declared = load(flags={}, environ={}, config=str(tmp_path / "zapq.toml")).queues
    assert declared["emails"] == QueueSettings(visibility=300, max_receives=5, dead_letter="emails.dead")
    for example in of_sqs:
        (tmp_path / "queues.toml").write_text(example)
        declared = load(flags={}, environ={}, queues=str(tmp_path / "queues.toml")).queues
        assert declared["orders.fifo"].notes["sqs:tag:team"] == "shop"


EXPLAINED = (f"docs/explanation/{page}.md" for page in ("durability", "found", "speed"))
WITH_BENCHES = ["docs/contributing.md", *EXPLAINED]


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md", *WITH_BENCHES])
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


PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_named_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    files = re.findall(r"`((?:zapq|tests|scripts|bench|deploy|docs)/[\w./-]+)`", text)
    for name in links:
        assert ((ROOT / document).parent / name).exists(), name
    for name in files:
        assert (ROOT / name).exists(), name


def anchors(page: Path) -> set[str]:
    """Return what a link may name behind its `#`: the headings of a page, as GitHub writes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_heading_named_exists(document: str) -> None:
    page = ROOT / document
    for name, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]*)\)", page.read_text()):
        assert anchor in anchors(page.parent / name if name else page), f"{name}#{anchor}"
