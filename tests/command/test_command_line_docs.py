"""docs/reference/command-line.md says what the commands do."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.command.test_json import commands
from tests.support.typed import TypeIn, typed
from zapq.command import exit

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs/reference/command-line.md").read_text()
FIRST, SETTINGS = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)


async def test_each_line_prints_what_it_says(type_in: TypeIn) -> None:
    for part in FIRST.removeprefix("$ ").split("\n$ "):
        line, _, shown = part.partition("\n")
        piped, _, command = line.rpartition(" | ")
        stdin = shlex.split(piped)[1].replace("\\n", "\n") if piped else ""
        done = await type_in(*shlex.split(command)[1:], stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), line
        assert words(done.stdout) == words(shown), line


def words(text: str) -> list[list[str]]:
    """Return the words of each line, without ages."""
    return [re.sub(r" (0s|-)$", "", line).split() for line in text.splitlines()]


def test_the_settings_shown_are_those_there_would_be() -> None:
    _, *shown = SETTINGS.splitlines()
    done = typed("config", "show", "--durable", environ={"ZAPQ_GRACE": "30s"})
    kept = [line for line in done.stdout.splitlines() if "default" not in line]
    assert [line.split() for line in kept] == [line.split() for line in shown]


def test_every_command_is_in_the_table() -> None:
    table = DOCUMENT[DOCUMENT.index("## Commands") :]
    named = {match.group(1) for match in re.finditer(r"`zapq ((?:[a-z]+ )?[a-z]+)(?: [A-Z\[][^`]*)?`", table)}
    assert named >= commands().keys() - {"serve"}


def test_the_table_of_exit_codes_is_complete() -> None:
    _, _, table = DOCUMENT.partition("## Exit codes\n")
    rows = re.findall(r"^\| ([0-9, ]+) \|", table.partition("\n#")[0], re.MULTILINE)
    codes = {exit.EXIT_OK, exit.EXIT_FAILED, exit.EXIT_USAGE, exit.EXIT_NOTHING}
    codes |= {exit.EXIT_SIGNAL + number for number in (2, 15, 13)}
    assert {int(code) for row in rows for code in row.split(",")} == codes
