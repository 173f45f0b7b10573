"""The command as people type it: one line for what is wrong, the documented exit code, never a traceback."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

import zapq
from tests.support.process import ENVIRON, assert_one_line, listening, messages, run, serving
from tests.support.waiting import PATIENCE
from zapq import cli
from zapq.__main__ import _serve
from zapq.command import exit
from zapq.command.commands import Commands
from zapq.settings import Option, Settings, options


def test_the_version_is_one_line() -> None:
    shown = run("--version")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"zapq {zapq.__version__}\n", "")


def test_the_version_is_shown_without_what_takes_long_to_import() -> None:
    code = (
        # What measures coverage is there before.
        "import sys; sys.argv = ['zapq', '--version']; before = set(sys.modules)\n"
        "from zapq.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(*set(sys.modules) - before)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRON, check=True)
    version, modules = shown.stdout.splitlines()
    assert version == f"zapq {zapq.__version__}"
    libraries = {name.partition(".")[0] for name in modules.split()}
    assert not libraries & {"trio", "quart", "hypercorn", "h11", "msgspec", "http", "ssl", "email", "tomllib"}
    assert {name for name in modules.split() if name.startswith("zapq.")} == {
        "zapq.__main__",
        "zapq.command",
        "zapq.command.commands",
        "zapq.command.exit",
        "zapq.version",
    }


def shown_default(option: Option) -> str:
    return {
        "addr": ":8080",
        "tls_cert": "none",
        "http2": "off",
        "max_bytes": "256M",
        "max_msgs": "50000",
        "max_message_bytes": "128K",
        "data_dir": ".",
        "grace": "10",
        "keep_alive": "75",
        "log_level": "info",
    }.get(option.name, "")


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("serve", "--help")])
def test_help_shows_every_flag_with_its_variable_and_default(arguments: tuple[str, ...]) -> None:
    shown = run(*arguments)
    assert (shown.returncode, shown.stderr) == (0, "")
    # One flag's part of the page begins with it and ends where the next one's begins.
    parts = re.split(r"^  (?=--)", shown.stdout, flags=re.MULTILINE)
    for option in options():
        [part] = [part for part in parts if re.match(rf"{option.flag}\b(?!-)", part)]
        about = f"[{option.env}; default: {shown_default(option)}"
        # Compared without blanks: where lines are broken is nobody's business.
        assert "".join(about.split()) in "".join(part.split()), option.flag
        assert "".join(option.help.split()) in "".join(part.split()), option.flag
    assert "[ZAPQ_CONFIG]" in shown.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["--max-msgs", "x"]])
def test_what_needs_no_server_imports_none(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['zapq', *{arguments!r}]\n"
        "from zapq.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'quart', 'hypercorn', 'h11'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRON, check=False)
    assert shown.returncode == 0, shown.stderr


def test_variables_that_contradict_each_other_are_one_line_and_exit_code_2() -> None:
    assert_one_line(run(QUEUE_MAX_MSGS="5", ZAPQ_MAX_MSGS="6"), 2, "contradict each other: set one of them.")


@pytest.mark.parametrize("durable", [[], ["--durable"]], ids=repr)
def test_a_file_declares_queues_that_are_there_from_the_start(tmp_path: Path, durable: list[str]) -> None:
    file = tmp_path / "zapq.toml"
    file.write_text('addr = "127.0.0.1:0"\n[queues.jobs]\nvisibility = "5m"\n')
    with serving(tmp_path, "--config", str(file), *durable) as (process, first):
        assert process.stdout is not None
        said = listening(chain([first], process.stdout))
        assert said is not None
        connection = http.client.HTTPConnection(said["addr"], timeout=PATIENCE)
        connection.request("GET", "/queues")
        shown = msgspec.json.decode(connection.getresponse().read())
        connection.close()
    assert [(queue["name"], queue["settings"]["visibility"]) for queue in shown] == [
        ("default", 30),
        ("jobs", 300),
    ]


@pytest.mark.parametrize("flags", [[], ["--durable"], ["--workers", "2"]], ids=repr)
def test_a_file_of_its_own_makes_queues_at_the_start(tmp_path: Path, flags: list[str]) -> None:
    file = tmp_path / "queues.toml"
    file.write_text('[queues."jobs.fifo"]\nfifo = true\nvisibility = "5m"\n')
    named = ("--queue", "emails", "--queue", "a,b")
    with serving(tmp_path, "--addr", "127.0.0.1:0", *flags, *named, ZAPQ_QUEUES=str(file)) as (process, first):
        assert process.stdout is not None
        said = listening(chain([first], process.stdout))
        assert said is not None
        connection = http.client.HTTPConnection(said["addr"], timeout=PATIENCE)
        connection.request("GET", "/queues")
        shown = msgspec.json.decode(connection.getresponse().read())
        connection.close()
    assert {queue["name"]: queue["settings"]["visibility"] for queue in shown} == {
        "default": 30, "a": 30, "b": 30, "emails": 30, "jobs.fifo": 300
    }  # fmt: skip


def test_a_file_of_queues_that_is_wrong_is_one_line_and_exit_code_2_and_changes_nothing(tmp_path: Path) -> None:
    file, data = tmp_path / "queues.toml", tmp_path / "data"
    for text, complaint in (
        ("[queues.good]\n[queues.jobs]\nvisibilty = 300", f"{file}: [queues.jobs]: 'visibilty' is not a setting"),
        ("[queues.jobs]\nvisibility == 5", "(at line 2, column 13)"),
    ):
        file.write_text(text)
        assert_one_line(run("--durable", "--data-dir", str(data), "--queues", str(file)), 2, complaint)
    assert not data.exists()


def test_a_queue_that_is_declared_wrong_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "zapq.toml"
    file.write_text("[queues.jobs]\nvisibilty = 300")
    assert_one_line(
        run("--config", str(file)), 2, f"{file}: [queues.jobs]: 'visibilty' is not a setting of a queue."
    )


def test_an_unknown_variable_is_a_warning_at_the_start(tmp_path: Path) -> None:
    with serving(tmp_path, "--addr", "127.0.0.1:0", ZAPQ_MAX_MSG="secret") as (_, line):
        [warning] = messages(line)
        assert (warning["level"], warning["msg"]) == ("WARNING", "unknown variable in the environment")
        assert (warning["variable"], warning["nearest"]) == ("ZAPQ_MAX_MSG", "ZAPQ_MAX_MSGS")
        assert "secret" not in line


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    one, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    one.private_key_and_cert_chain_pem.write_to_path(str(directory / "cert.pem"))
    one.private_key_pem.write_to_path(str(directory / "key.pem"))
    other.private_key_pem.write_to_path(str(directory / "other.pem"))
    (directory / "unreadable.pem").mkdir()
    return {name: str(directory / f"{name}.pem") for name in ("cert", "key", "other", "missing", "unreadable")}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--max-msgs many", "--max-msgs 'many': give a whole number, 1 to 1 000 000 000 000."),
        ("--max-message-bytes 17M", "--max-message-bytes '17M': give 1 to 16 777 216."),
        ("--addr nowhere", "--addr 'nowhere': give :8080"),
        ("--addr ''", "--addr '': give :8080"),
        ("--addr 'two\nlines:1'", r"--addr 'two\nlines:1': give :8080"),
        ("--grace 1y", "--grace '1y': give seconds"),
        ("--access-log 1%", "--access-log '1%': give on, off, or a share of the requests such as 0.01."),
        ("--snapshot-every 0.5", "--snapshot-every 0.5: give at least 1, or 0 for never."),
        ("--durable --load-on-start a.json", "--load-on-start would replace"),
        ("--snapshot-on-exit ../x.json", "--snapshot-on-exit '../x.json': give a bare name"),
        ("serve --admin-from nobody", "--admin-from 'nobody': give one of loopback, any."),
        ("--no-such-flag", "--no-such-flag"),
        ("--max-msgs", "--max-msgs"),
        ("--http2=yes", "--http2"),
        ("destroy", "destroy"),
        ("serve surplus", "surplus"),
        ("--url U push", "--url belongs behind the command: zapq push --url U\n"),
        ("--url=U push emails hello", "--url belongs behind the command: zapq push --url=U\n"),
        ("--wait 5 --ack pop emails", "--wait belongs behind the command: zapq pop --wait 5 --ack\n"),
        ("serve --watch stats", "--watch belongs behind the command: zapq stats --watch\n"),
        ("--key push push emails", "--key belongs behind the command: zapq push --key push\n"),
        ("--url U", "--url belongs behind the command: zapq health --url U\n"),
        ("--url U snapshot ls", "--url belongs behind the command: zapq snapshot ls --url U\n"),
        ("snapshot --url U ls", "--url belongs behind the command: zapq snapshot ls --url U\n"),
        ("token --roles admin new me", "--roles belongs behind the command: zapq token new --roles admin\n"),
        ("--durible push", "No such option '--durible'"),
        ("--max-msgs -1", "--max-msgs '-1': give a whole number, 1 to 1 000 000 000 000."),
        ("--addr :99999", "--addr ':99999': give a port of 0 to 65535, such as :8080."),
        ("--port 9000", "No such option '--port'. Use --addr HOST:PORT, such as --addr :9000.\n"),
        ("serve --port=9000", "No such option '--port'. Use --addr HOST:PORT, such as --addr :9000.\n"),
        ("--host 10.0.0.7 --durable", "Use --addr HOST:PORT, such as --addr 10.0.0.7:8080.\n"),
        ("--bind 10.0.0.7:80", "Use --addr HOST:PORT, such as --addr 10.0.0.7:80.\n"),
        ("--host --durable", "Use --addr HOST:PORT, such as --addr :8080.\n"),
        ("-p9000", "Use --addr HOST:PORT, such as --addr :8080.\n"),
        ("-p", "Use --addr HOST:PORT, such as --addr :8080.\n"),
        ("--config missing.toml", "--config 'missing.toml': No such file or directory."),
        ("--http2", "--http2 needs --tls-cert and --tls-key"),
        ("--tls-cert {cert}", "--tls-cert is given without --tls-key"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: str,
    complaint: str,
    certificates: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here, not in a process of its own: what a process makes of the code is the same for all of them."""

    def start() -> None:
        raise AssertionError("it would start")

    monkeypatch.setattr(cli, "_keep_signals_for_us", start)
    for name in os.environ.keys() - ENVIRON.keys():
        monkeypatch.delenv(name)
    words = shlex.split(arguments.format(**certificates))
    code = exit.run(Commands(_serve), words)
    assert_one_line(subprocess.CompletedProcess(words, code, *capsys.readouterr()), 2, complaint)


def test_a_process_ends_with_the_code_and_the_line_of_wrong_usage() -> None:
    assert_one_line(
        run("--max-msgs", "many"), 2, "--max-msgs 'many': give a whole number, 1 to 1 000 000 000 000."
    )


@pytest.mark.parametrize(
    ("cert", "key", "complaint"),
    [
        ("missing", "key", "--tls-cert '{missing}': No such file or directory."),
        ("cert", "unreadable", "--tls-key '{unreadable}': Is a directory."),
        ("cert", "other", "does not belong to --tls-cert"),
        ("key", "key", "has no certificate in PEM. It has a private key: give that to --tls-key."),
    ],
)
def test_certificates_that_cannot_be_used_are_one_line_and_exit_code_2(
    cert: str, key: str, complaint: str, certificates: dict[str, str], tmp_path: Path
) -> None:
    refused = run(
        *("--tls-cert", certificates[cert], "--tls-key", certificates[key]),
        *("--addr", f"unix:{tmp_path}/s", "--data-dir", str(tmp_path)),
    )
    assert_one_line(refused, 2, complaint.format(**certificates))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_value_is_named_by_where_it_came_from(tmp_path: Path) -> None:
    config = tmp_path / "zapq.toml"
    config.write_text("grace = 'x'\n")
    assert_one_line(run(QUEUE_MAX_BYTES="lots"), 2, "zapq: QUEUE_MAX_BYTES='lots': give bytes")
    assert_one_line(run(ZAPQ_ADDR="8080"), 2, "zapq: ZAPQ_ADDR='8080': give :8080")
    assert_one_line(run(ZAPQ_CONFIG=str(config)), 2, f"zapq: {config}: grace = 'x': give seconds")
    assert_one_line(run("--config", str(config)), 2, f"zapq: {config}: grace = 'x': give seconds")


def test_what_cannot_start_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, complaint in (
            (
                ("--addr", f"127.0.0.1:{port}"),
                f"--addr '127.0.0.1:{port}': Address already in use. A server may run already",
            ),
            (
                ("--addr", "127.0.0.1:0", "--data-dir", str(tmp_path / "file")),
                f"--data-dir '{tmp_path}/file' is not a directory, or lies below a file. Give a directory",
            ),
            (
                ("--addr", "127.0.0.1:0", "--data-dir", str(tmp_path / "file" / "below")),
                f"--data-dir '{tmp_path}/file/below' is not a directory, or lies below a file.",
            ),
            (("--addr", "..:0"), "--addr '..:0': "),
            (("--addr", "fd://99"), "--addr 'fd://99': Bad file descriptor. The program that started zapq gave"),
            (
                ("--addr", "192.0.2.1:0"),
                "This machine does not have that address; --addr :8080",
            ),
            (("--addr", "unix:/none/here"), "No such file or directory. Make the directory of this path first."),
        ):
            assert_one_line(run(*arguments), 1, complaint)


def test_without_a_command_it_serves_and_says_so_and_says_goodbye(tmp_path: Path) -> None:
    config, ignored = tmp_path / "zapq.toml", tmp_path / "ignored.toml"
    config.write_text('max_msgs = 7\nmax_bytes = "1M"\naddr = "127.0.0.1:0"\ngrace = 5\n')
    ignored.write_text("max_bytes = 1")
    with serving(
        tmp_path,
        *("--config", str(config), "--grace", "7.5"),
        ZAPQ_CONFIG=str(ignored),
        QUEUE_MAX_MSGS="9",
        ZAPQ_GRACE="6",
        ZAPQ_LOG_LEVEL="",
    ) as (process, first):
        [line] = messages(first)
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
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
        shutdown, bye = messages(output)
        assert shutdown["msg"] == "shutdown signal received"
        assert (shutdown["signal"], shutdown["grace"]) == ("SIGTERM", 7.5)
        assert bye["msg"] == "bye"


def test_with_a_certificate_it_speaks_tls(tmp_path: Path, certificates: dict[str, str]) -> None:
    config = tmp_path / "zapq.toml"
    config.write_text("http2 = true\n")
    with serving(
        tmp_path,
        *("serve", "--addr", "127.0.0.1:0", "--tls-cert", certificates["cert"]),
        ZAPQ_CONFIG=str(config),
        ZAPQ_TLS_KEY=certificates["key"],
    ) as (process, first):
        [line] = messages(first)
        assert line["tls"] is True
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0


def test_a_unix_socket_is_removed_at_the_end_replaced_when_stale_and_kept_while_alive(tmp_path: Path) -> None:
    # Not UTF-8, which must not keep the line that says so from being logged.
    path = tmp_path / "s\udcff"
    with serving(tmp_path, "--addr", f"unix:{path}") as (process, first):
        [line] = messages(first)
        assert line["addr"] == f"unix:{tmp_path}/s\\udcff"
        assert_one_line(run("--addr", f"unix:{path}"), 1, "Address already in use.")
        process.kill()
    assert path.is_socket()
    with serving(tmp_path, "--addr", f"unix:{path}") as (process, first):
        [line] = messages(first)
        assert line["msg"] == "queue listening"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
    assert not path.exists()


def test_text_logs_are_for_people(tmp_path: Path) -> None:
    with serving(tmp_path, "serve", "--addr", f"unix:{tmp_path}/s", "--log-format", "text") as (process, first):
        assert re.match(r"\S+Z INFO +queue listening addr=\"unix:/", first)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0
    assert not (tmp_path / "s").exists()


def test_a_log_nobody_reads_any_more_does_no_harm(tmp_path: Path) -> None:
    with serving(tmp_path, "--addr", "127.0.0.1:0") as (process, _):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == ""
        assert process.wait(timeout=PATIENCE) == 0


def test_every_allowed_host_counts_wherever_it_was_given(tmp_path: Path) -> None:
    flags = ("--addr", "127.0.0.1:0", "--allowed-host", "a.example,b.example", "--allowed-host", "*.c.example")
    with serving(tmp_path, *flags, ZAPQ_ALLOWED_HOST="never.example") as (_, line):
        connection = http.client.HTTPConnection(msgspec.json.decode(line)["addr"])
        for host, status in (
            ("a.example", 200),
            ("b.example", 200),
            ("x.c.example", 200),
            ("c.example", 421),
            ("never.example", 421),
        ):
            connection.request("GET", "/health", headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, host
        connection.close()


def run_without_privileges(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command; root may write everywhere, so root runs it without that."""
    command = [sys.executable, "-m", "zapq", *arguments]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=ENVIRON, check=False)


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv")
def test_a_data_directory_zapq_cannot_write_is_named_with_the_remedy(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    flags = ("--durable", "--addr", "127.0.0.1:0", "--data-dir")
    remedy = f"Let zapq (user {os.geteuid()}) read and write '{place}', or give another --data-dir."
    place.chmod(0o500)
    refused = run_without_privileges(*flags, str(place))
    assert_one_line(refused, 1, f"zapq: {place}/zapq.db cannot be created: Permission denied. {remedy}\n")
    refused = run_without_privileges(*flags, f"{place}/below")
    assert_one_line(refused, 1, f"--data-dir '{place}/below': Permission denied. Let zapq (user {os.geteuid()})")
    place.chmod(0o700)
    with serving(place, "--durable", "--addr", "127.0.0.1:0"):
        pass
    (place / "zapq.db").chmod(0o000)
    refused = run_without_privileges(*flags, str(place))
    assert_one_line(refused, 1, f"zapq: {place}/zapq.db cannot be opened: ")
    assert refused.stderr.endswith(f" {remedy}\n")


def test_a_data_directory_that_was_not_there_is_said_to_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for durable in ([], ["--durable"]):
        place = Path("made", *durable)
        database = {"database": f"{tmp_path}/{place}/zapq.db"} if durable else {}
        for expected in ([{}, database] if durable else [{}], []):
            with serving(place, "--addr", "127.0.0.1:0", *durable) as (process, first):
                process.send_signal(signal.SIGTERM)
                output, _ = process.communicate(timeout=PATIENCE)
            said = [line for line in messages(first + output) if line["msg"] == "created"]
            for line in said:
                assert (line.pop("level"), line.pop("data_dir")) == ("INFO", f"{tmp_path}/{place}")
            assert [{key: line[key] for key in line if key not in {"time", "msg"}} for line in said] == expected


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, True),
        ({"addr": "0.0.0.0:80"}, True),
        ({"addr": "[::]:80"}, True),
        ({"addr": "127.0.0.1:80"}, False),
        ({"addr": "unix:/run/zapq"}, False),
        ({"addr": "fd://3"}, False),
        ({"token": "t" * 20}, False),
        ({"token_file": "tokens"}, False),
        ({"tls_cert": "c", "tls_key": "k"}, True),
        ({"tls_cert": "c", "tls_key": "k", "tls_client_ca": "ca"}, False),
    ],
    ids=repr,
)
def test_a_server_for_all_addresses_without_credentials_says_so(
    settings: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cli.warn_if_open(Settings(**settings))
    said = [(each.levelname, each.message) for each in caplog.records]
    assert said == [("WARNING", "every client that reaches the port may send and take messages")] * warned
