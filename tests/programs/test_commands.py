"""The commands of the programs: they run until they are stopped, and say in one line why they cannot.

They are run in this process, for Trio takes signals in its main thread only; the server has a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from tests.programs.receiving import Got, Web, web
from tests.programs.test_webhook import SECRET
from tests.support.process import assert_one_line
from tests.support.typed import typed
from tests.support.waiting import eventually_sync
from zapq.client.sync import Client, open_client
from zapq.command import program

pytestmark = pytest.mark.slow
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def client(zapq_url: str) -> Iterator[Client]:
    with open_client(zapq_url) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Web]:
    with web() as found:
        yield found


@contextmanager
def signals_once(*conditions: Callable[[], object]) -> Iterator[None]:
    """Send this process a signal each time the next one of these holds."""

    def send() -> None:
        for each in conditions:
            eventually_sync(each, "what the signal is to come after")
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_forward_delivers_until_it_is_told_to_stop(
    client: Client, zapq_url: str, receiver: Web, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    client.put("emails", b'"hello"')
    with signals_once(lambda: receiver.got):
        done = typed("forward", "emails", receiver.url, "--secret-file", str(secret), "--url", zapq_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Webhook(SECRET).verify(receiver.got[0].body, receiver.got[0].headers) == "hello"
    assert client.describe("emails")["messages"] == 0


def test_forward_is_ended_by_the_second_signal(
    client: Client, zapq_url: str, receiver: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "SIGNAL_ECHO_SECONDS", 0.0)
    receiver.answer = receiver.held
    client.put("emails", b"x")

    def is_fetching() -> bool:
        return bool(client.describe("emails")["waiting"])

    # It fetches, while its only message is under way, until the first signal.
    with signals_once(lambda: receiver.got and is_fetching(), lambda: not is_fetching()):
        done = typed("forward", "emails", receiver.url, "--url", zapq_url)
    assert done.returncode == 128 + signal.SIGTERM
    assert client.describe("emails")["messages"] == 1


def test_two_signals_at_once_let_a_delivery_end(client: Client, zapq_url: str, receiver: Web) -> None:
    client.put("emails", b"x")

    def answer(_: Got) -> tuple[int, dict[str, str]]:
        for each in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), each)
        return 200, {}

    receiver.answer = answer
    assert typed("forward", "emails", receiver.url, "--url", zapq_url).returncode == 0
    assert client.describe("emails")["messages"] == 0


def test_forward_ends_if_the_receiver_is_gone(client: Client, zapq_url: str, receiver: Web) -> None:
    receiver.answer = lambda got: (410, {})
    client.put("emails", b"x")
    done = typed("forward", "emails", receiver.url, "--url", zapq_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "zapq: 127.0.0.1 answered 410: it wants no more messages. The message stays in emails."
    )


def test_cron_sends_until_it_is_told_to_stop(client: Client, zapq_url: str, tmp_path: Path) -> None:
    file = tmp_path / "cron.toml"
    file.write_text('[cron.often]\ncron = "* * * * * *"\nqueue = "jobs"\n')
    with signals_once(lambda: any(each["name"] == "jobs" and each["ready"] for each in client.list())):
        done = typed("cron", str(file), "--url", zapq_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bench_removes_its_queue(client: Client, zapq_url: str) -> None:
    done = typed("bench", "--seconds", "0.1", "--url", zapq_url, "--json")
    assert json.loads(done.stdout)["sent"] > 0
    shown = typed("bench", "--seconds", "0.1", "--url", zapq_url, terminal=True)
    assert "This program: " in shown.stdout
    assert [each["name"] for each in client.list()] == ["default"]


def test_bench_can_be_stopped(client: Client, zapq_url: str) -> None:
    with signals_once(lambda: len(client.list()) > 1):
        done = typed("bench", "--seconds", "60", "--url", zapq_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert [each["name"] for each in client.list()] == ["default"]


def test_a_bench_that_is_refused_at_once_says_only_why(zapq_url: str) -> None:
    done = typed("bench", "--seconds", "0.1", "--size", "200000", "--url", zapq_url)
    assert_one_line(done, 1, "The message has 200000 bytes")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("way.gif", "give FILE a name that ends so"), ("none/way.svg", "there is no directory")],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_the_bench(
    name: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zapq.command.bench.check_extra", lambda *_: None)
    assert_one_line(typed("bench", "--plot", str(tmp_path / name), "--url", NOBODY), 2, complaint)


def test_a_server_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zapq.client.retry.CLIENT_BACKOFF", 0.001)
    done = typed("bench", "--seconds", "0.1", "--url", NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].endswith("could not be reached: Connection refused.")


def test_an_extra_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    done = typed("forward", "emails", "http://example.com")
    assert_one_line(done, 1, "zapq forward needs the extra client: pip install '.[client]' in a checkout of zapq")


def test_a_token_that_cannot_be_sent_is_one_line() -> None:
    done = typed("bench", "--url", NOBODY, environ={"ZAPQ_TOKEN": "\u00e9"})
    assert_one_line(done, 1, "token")
