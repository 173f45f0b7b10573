"""How a command ends: its exit code, and one line for what is wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

# The codes of every command; docs/reference/command-line.md has them as a table.
EXIT_OK = 0
EXIT_FAILED = 1
"""The server could not start, refused, did not answer or is not ready; or what was looked at is damaged."""
EXIT_USAGE = 2
"""Wrong usage or configuration: the same command line fails again."""
EXIT_NOTHING = 3
"""Nothing went wrong, and there was no message."""
EXIT_SIGNAL = 128
"""Plus the signal's number."""


_TOO_MANY = "Got unexpected extra argument"
"""How Click begins what it says of a word that no argument takes."""
_ABOUT_COMMANDS = ("Missing command", "No such command", _TOO_MANY)
"""How Click begins what it says of words that are missing, wrong or too many."""


def run(group: click.Group, arguments: Sequence[str] | None) -> int:
    """Run a command of `group` and return its exit code; wrong usage is one line, and 2."""
    try:
        code: int = group.main(args=arguments, prog_name="zapq", standalone_mode=False)
    except click.UsageError as error:
        return fail(_sentence(error) + _see_help(error), EXIT_USAGE)
    except click.ClickException as error:
        return fail(error.format_message(), EXIT_USAGE)
    except click.Abort:
        return EXIT_SIGNAL + signal.SIGINT
    return code


def _sentence(error: click.UsageError) -> str:
    """Return what Click says, with a full stop; of a word too many, also where it may come from."""
    # A list of choices has a line each.
    said = " ".join(error.format_message().split())
    if said.startswith(_TOO_MANY):
        return f"{said}. If a value has spaces, put quotes around it."
    # Others may end in a command line, to be copied; so they have no full stop.
    incomplete = bool(_see_help(error)) and not said.endswith((".", "?", ")"))
    return f"{said}." if incomplete else said


def _see_help(error: click.UsageError) -> str:
    """Return where the words are that a command line lacks, or does not have right; empty if it has them."""
    alone = isinstance(error, click.NoSuchOption) and not error.possibilities
    about_words = alone or isinstance(error, click.MissingParameter) or error.message.startswith(_ABOUT_COMMANDS)
    return f" See `{error.ctx.command_path} --help`." if error.ctx and about_words else ""


def fail(sentence: str, code: int) -> int:
    """Say what is wrong, in one line on standard error, and return `code`."""
    print(f"zapq: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def exit_process(code: int) -> NoReturn:
    """End the process with `code`, also if the reader of its output is gone."""
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter must not fail over what is left of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
