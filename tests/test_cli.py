"""The command as people type it: one line for what is wrong, the documented exit code, never a traceback."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from zapq.settings import options


def zapq(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zapq", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environ, check=False)


@contextmanager
def serving(
    tmp_path: Path, *arguments: str, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "zapq", "--data-dir", str(tmp_path), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdout is not None
        try:
            yield process, msgspec.json.decode(process.stdout.readline())
        finally:
            process.kill()


def test_the_version_is_one_line() -> None:
    shown = zapq("--version")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.fullmatch(r"zapq \d+\.\d+\.\d+\n", shown.stdout)


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("serve", "--help")])
def test_help_shows_every_flag_with_its_variable_and_default(arguments: tuple[str, ...]) -> None:
    shown = zapq(*arguments)
    assert (shown.returncode, shown.stderr) == (0, "")
    text = " ".join(shown.stdout.split())
    for option in options():
        assert re.search(rf"{option.flag}\b.*\[{option.env}; default: ", text), option.flag


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_what_needs_no_server_imports_none(argument: str) -> None:
    code = (
        "import sys, zapq.cli\n"
        f"try: zapq.cli.main([{argument!r}])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'quart', 'hypercorn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    one, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    one.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    one.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    other.private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    (tmp_path / "unreadable.pem").mkdir()
    return {name: str(tmp_path / f"{name}.pem") for name in ("cert", "key", "other", "missing", "unreadable")}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--max-msgs many", "--max-msgs 'many': give a whole number."),
        ("--addr nowhere", "--addr 'nowhere': give :8080"),
        ("--grace 1h", "--grace '1h': give seconds"),
        ("--no-such-flag", "No such option '--no-such-flag'"),
        ("--max-msgs", "Option '--max-msgs' requires an argument."),
        ("destroy", "No such command 'destroy'."),
        ("serve surplus", "unexpected extra argument"),
        ("--config missing.toml", "--config 'missing.toml': No such file or directory."),
        ("--http2", "--http2 needs --tls-cert and --tls-key"),
        ("--tls-cert {cert}", "--tls-cert is given without --tls-key"),
        ("--tls-key {key}", "--tls-key is given without --tls-cert"),
        ("--tls-cert {missing} --tls-key {key}", "--tls-cert"),
        ("--tls-cert {cert} --tls-key {unreadable}", "--tls-key"),
        ("--tls-cert {cert} --tls-key {other}", "belong together"),
        ("--tls-cert {key} --tls-key {key}", "belong together"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: str, complaint: str, certificates: dict[str, str], tmp_path: Path
) -> None:
    words = arguments.format(**certificates).split()
    refused = zapq(*words, *(["--addr", "127.0.0.1:0"] if "--tls" in arguments else []))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert complaint in refused.stderr
    assert refused.stderr.startswith("zapq: ")
    assert refused.stderr.count("\n") == 1


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    refused = zapq(environ={"QUEUE_MAX_BYTES": "lots"})
    assert refused.returncode == 2
    assert refused.stderr.startswith("zapq: QUEUE_MAX_BYTES='lots': give bytes")


def test_what_cannot_start_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, complaint in (
            (("--addr", f"127.0.0.1:{port}"), f"--addr '127.0.0.1:{port}': Address already in use."),
            (("--addr", "127.0.0.1:0", "--data-dir", str(tmp_path / "file")), "--data-dir"),
            (("--addr", "no-such-host.invalid:0"), "--addr 'no-such-host.invalid:0'"),
            (("--addr", "fd://99"), "--addr 'fd://99': Bad file descriptor."),
        ):
            refused = zapq(*arguments)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert complaint in refused.stderr
            assert refused.stderr.count("\n") == 1


def test_without_a_command_it_serves_and_says_so_and_says_goodbye(tmp_path: Path) -> None:
    config = tmp_path / "zapq.toml"
    config.write_text('max_msgs = 7\nmax_bytes = "1M"\n')
    with serving(tmp_path, "--addr", "127.0.0.1:0", ZAPQ_CONFIG=str(config), QUEUE_MAX_MSGS="9") as (
        process,
        line,
    ):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line.pop("time"))
        host, port = line.pop("addr").split(":")
        assert line == {
            "level": "INFO",
            "msg": "queue listening",
            "tls": False,
            "max_bytes": 1 << 20,
            "max_msgs": 9,
        }
        socket.create_connection((host, int(port))).close()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
        said = [msgspec.json.decode(each)["msg"] for each in output.splitlines()]
        assert said == ["shutdown signal received", "bye"]


def test_text_logs_are_for_people(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zapq", "serve", "--addr", f"unix:{tmp_path}/s", "--log-format", "text"]
    with subprocess.Popen([*command, "--data-dir", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.match(r"\S+Z INFO +queue listening addr=\"unix:/", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert not (tmp_path / "s").exists()


def test_a_log_nobody_reads_any_more_does_no_harm(tmp_path: Path) -> None:
    with serving(tmp_path, "--addr", "127.0.0.1:0") as (process, _):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 0
