"""What a shell is told when the user presses tab."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys

import pytest

from tests.support.process import ENVIRON, assert_one_line
from tests.support.typed import TypeIn, typed
from zapq.command import options as command_options
from zapq.command.commands import _HOMES
from zapq.core.queue_settings import QueueSettings
from zapq.settings import options
from zapq.testing import ZapqServer

COMMANDS = sorted({*_HOMES, "serve"})


def complete(shell: str, line: str) -> list[str]:
    """Return what is printed for `line`, whose last word is the one to be completed."""
    words = line.split(" ")
    number = words[-1] if shell == "fish" else str(len(words) - 1)
    environ = {"COMP_WORDS": line, "COMP_CWORD": number, "_ZAPQ_COMPLETE": f"{shell}_complete"}
    command = [sys.executable, "-c", "from zapq.__main__ import main; main()"]
    shown = subprocess.run(command, capture_output=True, text=True, env=ENVIRON | environ, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout.splitlines()


def completed(line: str) -> list[str]:
    return [each.removeprefix("plain,") for each in complete("bash", line)]


def test_commands_are_completed() -> None:
    assert complete("bash", "zapq p") == ["plain,pop", "plain,push"]
    assert completed("zapq ") == COMMANDS


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_also_show_what_a_command_does(shell: str) -> None:
    shown = "\n".join(complete(shell, "zapq pu"))
    # What stands between the name and the sentence is another in each version of click.
    assert "push" in shown
    assert "Send a message to QUEUE" in shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "zapq push --",
            "--lines --file --priority --group --unique --on --delay --ttl --content-type --header --key --json"
            " --url --help",
        ),
        ("zapq push --pri", "--priority"),
        ("zapq snapshot ", "load ls save show"),
        ("zapq snapshot load --", "--yes --url --help"),
        ("zapq token new --r", "--roles"),
        ("zapq --addr :1 --dur", "--durable"),
        ("zapq serve --log-level ", "debug info warning error"),
        ("zapq --admin-from l", "loopback"),
    ],
)
def test_options_and_their_values_are_completed(line: str, expected: str) -> None:
    assert completed(line) == expected.split()


@pytest.mark.parametrize("line", ["zapq --", "zapq serve --"])
def test_every_flag_of_the_server_is_completed_also_without_its_command(line: str) -> None:
    shown = completed(line)
    assert len(shown) == len(set(shown))
    assert set(shown) >= {"--config", "--help", *(option.flag for option in options())}


def test_a_name_is_completed_without_trio() -> None:
    environ = ENVIRON | {"COMP_WORDS": "zapq s", "COMP_CWORD": "1", "_ZAPQ_COMPLETE": "bash_complete"}
    code = (
        "import sys\n"
        "from zapq.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*{'trio', 'quart', 'hypercorn'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert shown.stdout.split() == ["plain,serve", "plain,snapshot", "plain,stats"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    done = typed("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_ZAPQ_COMPLETE={shell}_complete" in done.stdout
    assert_one_line(typed("completion", "tcsh"), 2, "'tcsh' is not one of")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_can_read_its_script() -> None:
    script = typed("completion", "bash").stdout + "complete -p zapq\n"
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert "_zapq_completion" in shown.stdout


class TestQueues:
    """Names of queues come from the server, if it answers in time."""

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("zapq queue show e", ["emails", "errors"]),
            ("zapq pop em", ["emails"]),
            ("zapq stats --watch ", ["default", "emails", "errors"]),
            ("zapq message show er", ["errors"]),
            ("zapq top emails e", ["errors"]),
        ],
    )
    async def test_they_are_completed(
        self, line: str, expected: list[str], type_in: TypeIn, zapq_server: ZapqServer
    ) -> None:
        for name in ("emails", "errors"):
            await zapq_server.service.configure(name, QueueSettings())
        assert await self.completed(type_in, line) == expected

    async def test_the_server_that_was_typed_is_asked(self, type_in: TypeIn, zapq_url: str) -> None:
        line = f"zapq queue show --url {zapq_url} d"
        assert await self.completed(type_in, line, ZAPQ_URL="http://127.0.0.1:1") == ["default"]

    async def test_a_server_that_refuses_is_no_error(
        self, type_in: TypeIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = "zapq queue show "
        assert await self.completed(type_in, line, ZAPQ_URL="http://127.0.0.1:1") == []
        assert await self.completed(type_in, line, ZAPQ_URL="nonsense") == []
        # One that takes connections and says nothing.
        monkeypatch.setattr(command_options, "COMPLETION_TIMEOUT", 0.05)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            assert await self.completed(type_in, line, ZAPQ_URL=url) == []

    async def completed(self, type_in: TypeIn, line: str, **environ: str) -> list[str]:
        words = line.split(" ")
        environ |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_ZAPQ_COMPLETE": "bash_complete"}
        done = await type_in(environ=environ)
        assert (done.returncode, done.stderr) == (0, "")
        # With nothing to offer, it is one empty line.
        return [each.removeprefix("plain,") for each in done.stdout.split()]
