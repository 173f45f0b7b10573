"""zapq config: each value and its source, and what would keep a server from starting."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trustme

from tests.support.process import assert_one_line
from tests.support.typed import typed
from zapq.settings import options


def test_each_value_is_shown_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "zapq.toml"
    file.write_text('max_queues = 7\ngrace = "1m"\n[queues.jobs]\nttl = 5\n')
    environ = {
        "ZAPQ_CONFIG": str(file),
        "QUEUE_MAX_MSGS": "9",
        "ZAPQ_TOKEN": "a-secret-of-operators",
        "ZAPQ_ENGINE": "valkey://me:hidden@127.0.0.1:1",
    }
    done = typed("config", "show", "--max-bytes", "1M", "--no-sqs", "--access-log", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["max_bytes"] == ["1048576", "flag", "--max-bytes"]
    assert rows["max_msgs"] == ["9", "environment", "QUEUE_MAX_MSGS"]
    assert rows["max_queues"] == ["7", "file", str(file)]
    assert rows["grace"] == ["60", "file", str(file)]
    assert rows["access_log"] == ["1", "flag", "--access-log"]
    assert rows["sqs"] == ["off", "flag", "--no-sqs"]
    assert rows["tls_cert"] == ["-", "default"]
    assert rows["token"] == ["set", "environment", "ZAPQ_TOKEN"]
    assert rows["queues"] == ["jobs", "file", str(file)]
    assert not {"hidden", "a-secret-of-operators"} & set(done.stdout.replace(":", " ").replace("@", " ").split())
    assert rows.keys() == {option.name for option in options()} | {"setting", "token", "queues"}


def test_json_has_the_same() -> None:
    found = json.loads(typed("config", "show", "--durable", "--json").stdout)
    assert found["settings"]["durable"] == {"value": True, "from": "flag", "place": "--durable"}
    assert found["settings"]["grace"] == {"value": 10.0, "from": "default"}
    assert (found["token"], found["queues"]) == (False, [])


def test_what_is_wrong_is_said_behind_what_is_right() -> None:
    done = typed("config", "show", "--max-msgs", "many")
    assert done.returncode == 2
    assert "max_bytes" in done.stdout
    assert "max_msgs" not in done.stdout
    assert done.stderr == "zapq: --max-msgs 'many': give a whole number, 1 to 1 000 000 000 000.\n"
    assert_one_line(typed("config", "show", "--config", "missing.toml"), 2, "No such file or directory.")


def test_good_settings_are_ok(tmp_path: Path) -> None:
    done = typed("config", "check", "--data-dir", str(tmp_path / "new" / "directory"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    assert not (tmp_path / "new").exists()
    environ = {"ZAPQ_MAX_MSG": "5", "ZAPQ_X": "6"}
    done = typed("config", "check", environ=environ)
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert done.stderr.splitlines() == [
        "zapq: warning: ZAPQ_MAX_MSG is no variable of zapq. Did you mean ZAPQ_MAX_MSGS?",
        "zapq: warning: ZAPQ_X is no variable of zapq.",
    ]
    found = json.loads(typed("config", "check", "--json", environ=environ).stdout)
    assert (found["ok"], found["errors"], len(found["warnings"])) == (True, [], 2)


def test_credentials_that_let_no_client_in_are_warnings(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"shop:{'a' * 64}:producer:*:2020-01-31\nmailer:@DNS=mailer.internal:consumer\n")
    path.chmod(0o600)
    done = typed("config", "check", "--token-file", str(path), "--data-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert [line.partition("': ")[2] for line in done.stderr.splitlines()] == [
        "credentials have expired: shop (zapq token new makes a new line).",
        "certificates count for nothing without --tls-client-ca: mailer (--tls-client-ca FILE).",
    ]


def test_all_values_that_are_wrong_are_said_at_once() -> None:
    done = typed("config", "check", "--max-msgs", "many", environ={"ZAPQ_GRACE": "1y"})
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first == "zapq: --max-msgs 'many': give a whole number, 1 to 1 000 000 000 000."
    assert second.startswith("zapq: ZAPQ_GRACE='1y': give seconds")
    found = json.loads(typed("config", "check", "--http2", "--json").stdout)
    assert not found["ok"]
    assert found["errors"] == ["--http2 needs --tls-cert and --tls-key: zapq speaks HTTP/2 over TLS only."]


def test_files_that_settings_name_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("nonsense\n")
    (tmp_path / "file").touch()
    cert = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost")
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert"))
    missing = str(tmp_path / "missing")
    for flags, complaint in (
        (["--token-file", str(tmp_path / "tokens")], "line 1: give name:credential:roles"),
        (["--tls-cert", missing, "--tls-key", missing], "--tls-cert"),
        (["--data-dir", str(tmp_path / "file")], "file is not a directory."),
        (["--engine", "valkey://127.0.0.1:1", "--engine-ca", missing], "--engine-ca"),
        (["--queues", missing], "No such file or directory."),
    ):
        assert_one_line(typed("config", "check", *flags), 2, complaint)
    pair = ["--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "cert")]
    assert typed("config", "check", *pair, "--data-dir", str(tmp_path)).returncode == 0
    assert typed("config", "check", "--engine", "valkey://127.0.0.1:1").returncode == 0


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_one_line(typed("config", "check", "--data-dir", str(tmp_path)), 2, "is not writable for this user.")
