"""Arguments and options that several commands have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import inf
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult

import click
from click.shell_completion import CompletionItem

from zapq.command.http import Connection, Failed
from zapq.limits import COMPLETION_TIMEOUT
from zapq.quantities import parse_duration

Command = TypeVar("Command", bound=Callable[..., Any])


if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
    _Integer = click.ParamType[int]
else:
    _Seconds = _Integer = click.ParamType  # which newer versions alone make generic


class Duration(_Seconds):
    """A number of seconds from `low` to `high`, written as the server's flags and HTTP take it: 10, 2.5 or 5m."""

    name = "duration"

    def __init__(self, low: float = 0, high: float = inf) -> None:
        self._low = low
        self._high = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; raises `click.BadParameter` for what is no duration, or is out of range."""
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}.", param, ctx)
        if not self._low <= seconds <= self._high:
            self.fail(f"{value!r}: give {self._low:g} to {self._high:g} seconds.", param, ctx)
        return seconds


class Whole(_Integer):
    """A whole number from `low` to `high`; None: of any size."""

    name = "number"

    def __init__(self, low: int, high: int | None = None) -> None:
        self._low = low
        self._high = high

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """Return the range, if there is one; newer versions of Click alone give the context."""
        return None if self._high is None else f"{self._low}..{self._high}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; raises `click.BadParameter` for what is none, or is out of range."""
        text = str(value)
        if not re.fullmatch("[0-9]{1,18}", text, re.ASCII) or not self._low <= int(text) <= (self._high or inf):
            wanted = f"{self._low} to {self._high}" if self._high is not None else f"{self._low} or more"
            self.fail(f"{text!r}: give a whole number, {wanted}.", param, ctx)
        return int(text)


def json_option(command: Command) -> Command:
    """Give the command `--json`, in its parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def yes_option(command: Command) -> Command:
    """Give the command `--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(command)


def queue_argument(command: Command) -> Command:
    """Give the command the argument QUEUE, which a shell completes by the names that the server knows."""
    return click.argument("queue", shell_complete=complete_queues)(command)


def complete_queues(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the queues whose names begin so; none if the server does not answer in time."""
    url = ctx.params.get("url")
    if not isinstance(url, SplitResult):
        return []  # It is malformed: another server's queues would mislead.
    found: list[str] = []
    # A daemon, left behind when the time is up: a timeout of the socket holds for each step, and not for all.
    asker = Thread(target=_ask, args=(url, found), daemon=True)
    asker.start()
    asker.join(COMPLETION_TIMEOUT)
    given = set(ctx.params.get(parameter.name or "") or ()) if parameter.nargs == -1 else set()
    return [CompletionItem(name) for name in list(found) if name.startswith(incomplete) and name not in given]


def _ask(url: SplitResult, found: list[str]) -> None:
    try:
        with Connection(url) as connection:
            answer = connection.request("GET", "/queues", timeout=COMPLETION_TIMEOUT).json
        found.extend(str(each["name"]) for each in answer)
    except (Failed, OSError, LookupError, TypeError):
        # A shell would print what is wrong in the middle of the line that is being typed.
        return


def print_json(value: object) -> None:
    """Print the value as one line of JSON."""
    # In ASCII: whatever is in a message, no terminal or locale can stumble over it.
    print(json.dumps(value, separators=(",", ":")), flush=True)
