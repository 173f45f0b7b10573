"""What a shell is told when the user presses tab."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.process import ENVIRON
from zapq.settings import options

COMMANDS = ["check", "engine", "health", "pop", "push", "serve", "snapshot", "stats", "token"]


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
            "--lines --priority --group --unique --on --delay --ttl --content-type --header --key --url --help",
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
