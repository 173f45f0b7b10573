"""Every line that the documentation has its reader type is one that zapq takes.

Tests of single pages run most of them. Lines that need root, a cluster or a second machine cannot be run here, but
their flags, paths and names can be looked at.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import ssl
import subprocess
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen

import click
import pytest
import trio

import zapq
from zapq.command.commands import Commands
from zapq.http.routing import find_route
from zapq.settings import Settings
from zapq.sources import load
from zapq.testing import ZapqServer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def typed(page: str) -> Iterator[str]:
    """Yield each command that a reader types: of a pipe each part, and without what is set before it."""
    for language, text in BLOCK.findall((ROOT / page).read_text()):
        if language not in {"sh", "console"}:
            continue
        lines = text.replace("\\\n", " ").splitlines()
        for line in lines if language == "sh" else [each[2:] for each in lines if each.startswith("$ ")]:
            words = shlex.shlex(line, posix=True, punctuation_chars="|&")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, "&"]:
                if re.fullmatch(r"[|&]+", word):
                    if command:
                        yield shlex.join(command)
                    command = []
                elif command or not re.match(r"\w+=", word):
                    command.append(word)


LINES = [(page, line) for page in NAMES for line in typed(page)]


@pytest.mark.parametrize(("page", "line"), [each for each in LINES if re.match(r"(\S*/)?(zapq|serve) ", each[1])])
def test_each_command_is_one_of_zapq(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crontab.toml").touch()  # its command takes only files that are there
    parsed: list[click.Context] = []
    monkeypatch.setattr(click.Command, "invoke", lambda command, context: parsed.append(context))
    words = [word for word in shlex.split(line)[1:] if word not in {"<", ">"} and not word.endswith(".txt")]
    Commands(lambda **flags: 0).main(words, "zapq", standalone_mode=False)
    flags = parsed[-1].params
    if parsed[-1].command.name == "serve":
        load(flags={name: flags[name] for name in flags.keys() - {"config", "queues"}}, environ={})


CURL = ArgumentParser()
CURL.add_argument("urls", nargs="*")
CURL.add_argument("-X", dest="method")
CURL.add_argument("-d", "--data-binary", dest="body")
for flag in ("-H", "-o", "-w", "--cacert", "--cert", "--key"):
    CURL.add_argument(flag)
for flag in ("-i", "-s"):
    CURL.add_argument(flag, action="store_true")
ELSEWHERE = {"localhost:8000"}
"""The app of the tutorial."""


@pytest.mark.parametrize(("page", "line"), [each for each in LINES if each[1].startswith("curl ")])
def test_each_request_is_for_an_endpoint(page: str, line: str) -> None:
    options = CURL.parse_args(shlex.split(line)[1:])
    method = options.method or ("POST" if options.body else "GET")
    for url in options.urls:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.netloc in ELSEWHERE:
            continue
        route = find_route(method, parts.path)
        assert route is not None, url
        unknown = {name for name, _ in parse_qsl(parts.query)} - {*route.endpoint.takes}
        # One line shows what becomes of a misspelt parameter.
        assert unknown <= {"waits"}, url


OF_OTHERS = {
    # They are run by tests of single pages, or are the shell's.
    ".", "aws", "cat", "cd", "grep", "jq", "openssl", "printf", "python", "python3", "export",
    # They need root, a daemon, a cluster or another machine. tests/image, tests/test_systemd.py and
    # tests/test_deploy.py run and read the files that they name.
    "cp", "docker", "kubectl", "pip", "scp", "systemctl", "valkey-server",
}  # fmt: skip


def test_lines_for_other_programs_name_files_that_are_there() -> None:
    for page, line in LINES:
        words = shlex.split(line)
        program = words[0].rpartition("/")[2]
        if program in {"curl", "zapq", "serve", "test"} or page == "docs/how-to/scale.md":
            continue
        assert program in OF_OTHERS, (page, line)
        assert all((ROOT / word).exists() for word in words if word.startswith(("deploy/", "Containerfile"))), line


@pytest.mark.parametrize("page", NAMES)
def test_each_program_is_one_and_what_it_has_of_zapq_is_there(page: str) -> None:
    for language, text in BLOCK.findall((ROOT / page).read_text()):
        if language == "python":
            tree = compile(text, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "zapq"
                ):
                    assert hasattr(zapq, node.attr), node.attr


def test_the_program_that_keeps_messages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/explanation/durability.md").read_text()
    [program] = [text for language, text in BLOCK.findall(page) if language == "python"]
    names: dict[str, object] = {"zapq": zapq}
    exec("async def main():\n" + "".join(f"    {line}\n" for line in program.splitlines()), names)
    monkeypatch.chdir(tmp_path)
    trio.run(names["main"])  # type: ignore[arg-type]
    assert (tmp_path / "queues" / "zapq.db").exists()


class TestTls:
    """The certificate of the guide is one that the server takes, and that the guide's client trusts."""

    @pytest.fixture
    def zapq_settings(self, tmp_path: Path) -> Settings:
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl")
        lines = [line for page, line in LINES if page == "docs/how-to/deploy.md"]
        [recipe] = [line for line in lines if line.startswith("openssl ")]
        subprocess.run(shlex.split(recipe), cwd=tmp_path, capture_output=True, check=True)
        files = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
        return load(flags=files | {"addr": "127.0.0.1:0", "http2": "true"}, environ={})

    async def test_the_recipe_works(self, zapq_server: ZapqServer, tmp_path: Path) -> None:
        trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        ask = partial(urlopen, f"{zapq_server.url}/health", context=trusting)
        answer = await trio.to_thread.run_sync(ask)
        assert answer.status == 200
        answer.close()
