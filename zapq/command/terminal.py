"""What people see on a terminal, and programs do not: questions, colours; and text that cannot act on it."""

from __future__ import annotations

import os
import sys

import click

from zapq.command.http import Failed

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def has_colours() -> bool:
    """Whether to print colours: on a terminal, unless the variable NO_COLOR is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: str) -> str:
    """Return the text in a colour, for a terminal."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost, unless `yes`; raises `Failed` if the answer is no.

    Where there is no terminal to ask on, raises `click.UsageError`.
    """
    if yes:
        return
    check_can_ask(yes=yes)
    if not click.confirm(question, err=True):
        raise Failed("Nothing was changed.")


def check_can_ask(*, yes: bool) -> None:
    """Raise `click.UsageError` if there is no terminal to ask on, and no `yes`."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("This command asks first, and standard input is no terminal. Give --yes.")


def printable(text: str) -> str:
    """Return the text with escapes for what would move the cursor, hide something or do worse."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in text
    )


def shortened(text: str, width: int) -> str:
    """Return at most `width` characters of the text, with a mark where it goes on."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def duration(seconds: float | None) -> str:
    """Return a duration in at most five characters, such as 4s, 3m20s, 5h or 12d; a dash for none."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes}m{rest:02}s" if minutes < 10 else f"{minutes}m"
    return f"{whole // 3600}h" if whole < 172_800 else f"{whole // 86_400}d"
