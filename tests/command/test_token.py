"""Tokens as people meet them: made on the command line, kept in a file, shown by commands and clients."""

from __future__ import annotations

import os
import pty
import signal
import time
from pathlib import Path

import pytest

from tests.support.process import assert_one_line, messages, run, serving
from tests.support.waiting import PATIENCE
from zapq.access.token import digest
from zapq.access.token_file import parse_line
from zapq.command.http import Connection, Failed, parse_url


def made(*arguments: str) -> tuple[str, str]:
    """Return a new token and its line."""
    shown = run("token", "new", *arguments)
    assert (shown.returncode, shown.stderr) == (0, "")
    token, line = shown.stdout.splitlines()
    return token.removeprefix("token  "), line.removeprefix("line   ")


def test_a_new_token_is_shown_once_beside_the_line_that_does_not_have_it() -> None:
    token, line = made("billing", "--roles", "producer,metrics")
    assert token.startswith("zapq_")
    assert line == f"billing:{digest(token.encode()).hex()}:producer,metrics"
    assert made("billing", "--roles", "producer")[0] != token


def test_a_line_says_which_queues_and_until_when() -> None:
    _, line = made("m", "--roles", "consumer", "--queues", "emails*", "--expires", "2027-01-31")
    assert line.endswith(":consumer:emails*:2027-01-31")
    _, line = made("m", "--roles", "consumer", "--expires", "30d")
    assert parse_line(line).grant.expires == pytest.approx(time.time() + 30 * 86_400, abs=60)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("x",), "--roles"),
        (("a:b", "--roles", "admin"), "a name must be"),
        (("x", "--roles", "root"), "one or more of the roles producer"),
        (("x", "--roles", "admin", "--queues", "a:b"), "queues must be"),
        (("x", "--roles", "admin", "--expires", "0d"), "give a date"),
        (("x", "--roles", "admin", "--expires", "soon"), "give a date"),
        (("x", "--roles", "admin", "--expires", "soon"), "or 90d for so many days from now"),
        (("x", "--roles", "admin", "--expires", "2020-01-01"), "--expires 2020-01-01: this time is over"),
    ],
)
def test_what_cannot_be_a_token_is_one_line(arguments: tuple[str, ...], complaint: str) -> None:
    assert_one_line(run("token", "new", *arguments), 2, complaint)


def test_a_token_file_that_cannot_be_used_is_one_line_and_nothing_is_bound(tmp_path: Path) -> None:
    assert_one_line(run("--token-file", str(tmp_path / "none"), "--addr", "127.0.0.1:0"), 2, "No such file")
    assert_one_line(run("--addr", "127.0.0.1:0", ZAPQ_TOKEN="short"), 2, "ZAPQ_TOKEN: give at least 16")
    assert_one_line(run("--token", "x" * 20), 2, "No such option")
    assert "short" not in run("--addr", "127.0.0.1:0", ZAPQ_TOKEN="short").stderr


@pytest.mark.parametrize("token", ["of-operators\n", "of-operators\r\nX: y", "of-operat\xf6rs", " of-operators "])
def test_a_token_that_cannot_be_sent_is_not_told(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZAPQ_TOKEN", token)
    with Connection(parse_url("http://127.0.0.1:1")) as connection, pytest.raises(Failed) as raised:
        connection.request("GET", "/readyz")
    assert "of-op" not in str(raised.value)
    assert str(raised.value).startswith("ZAPQ_TOKEN must be")


def test_commands_show_the_token_of_the_environment_and_sighup_reads_the_file_again(tmp_path: Path) -> None:
    token, line = made("billing", "--roles", "producer")
    other, other_line = made("mailer", "--roles", "consumer")
    file = tmp_path / "tokens"
    file.write_text(f"{line}\n")
    file.chmod(0o600)
    with serving(tmp_path, "--addr", "127.0.0.1:0", "--token-file", str(file)) as (process, first):
        url = f"http://{messages(first)[0]['addr']}"
        assert_one_line(run("push", "q", "hello", ZAPQ_URL=url), 1, "from the environment variable ZAPQ_TOKEN.")
        assert run("push", "q", "hello", ZAPQ_URL=url, ZAPQ_TOKEN=token).returncode == 0
        assert_one_line(run("pop", "q", ZAPQ_URL=url, ZAPQ_TOKEN=token), 1, "needs the role consumer")
        assert run("health", ZAPQ_URL=url).returncode == 0
        assert process.stdout is not None
        file.write_text(f"{other_line}\n")
        process.send_signal(signal.SIGHUP)
        log = ""
        while '"reloaded"' not in log:
            log += process.stdout.readline()
        assert run("pop", "q", ZAPQ_URL=url, ZAPQ_TOKEN=other).stdout == "hello"
        assert_one_line(run("push", "q", "hello", ZAPQ_URL=url, ZAPQ_TOKEN=token), 1, "does not know this token")
        process.send_signal(signal.SIGTERM)
        log += process.stdout.read()
        assert process.wait(PATIENCE) == 0
    for secret in (token, other):
        assert secret not in log


def test_a_terminal_that_is_closed_stops_a_server_that_has_nothing_to_read_again(tmp_path: Path) -> None:
    terminal, stdin = pty.openpty()
    try:
        with serving(tmp_path, "--addr", "127.0.0.1:0", stdin=stdin) as (process, _):
            os.close(terminal)  # from now on it is none: the kernel says so only to processes that it controls
            terminal = -1
            process.send_signal(signal.SIGHUP)
            assert process.wait(PATIENCE) == 0
    finally:
        if terminal >= 0:
            os.close(terminal)
        os.close(stdin)


def test_a_service_that_has_nothing_to_read_again_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--addr", "127.0.0.1:0") as (process, _):
        assert process.stdout is not None
        process.send_signal(signal.SIGHUP)
        assert messages(process.stdout.readline())[0]["msg"] == "reloaded"
        assert process.poll() is None
