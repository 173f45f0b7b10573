"""zapq queue: what an operator does with queues."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import SplitResult

import click

from zapq.command.base import Remote, connect
from zapq.command.exit import EXIT_NOTHING, EXIT_OK, fail
from zapq.command.http import STRANGE, Connection, Failed, MessageNotFound, NotFound, queue_path
from zapq.command.misplaced import Family
from zapq.command.options import Duration, Whole, json_option, print_json, queue_argument, yes_option
from zapq.command.table import table
from zapq.command.terminal import check_can_ask, confirm, duration, printable, shortened
from zapq.limits import MAX_BATCH, PEEK
from zapq.quantities import parse_size

COLUMNS = ("ready", "delayed", "leased", "bytes", "waiting")
"""What `ls` shows of a queue, beside its name and the age of its oldest message."""
BODY_WIDTH = 60
"""Characters of a body in the table of `peek`."""
_KINDS: dict[str, Callable[[str], Any]] = {
    "number": float,
    "whole": int,
    "size": parse_size,
    "name": str,
}
_WANTED = {"number": "give a number", "whole": "give a whole number", "size": "give bytes, such as 512M"}
SETTINGS = {
    "max_messages": ("whole", "Most messages the queue holds."),
    "max_bytes": ("size", "Most bytes the queue holds, such as 64M."),
    "visibility": ("duration", "How long a lease lasts if the consumer does not say."),
    "max_receives": ("whole", "Deliveries after which a message goes to --dead-letter."),
    "dead_letter": ("name", "Queue for messages that were delivered --max-receives times."),
    "ttl": ("duration", "How long a message is kept if the producer does not say."),
    "retention": ("duration", "How long a message is kept at most."),
    "rate": ("number", "Most messages delivered in a second."),
    "burst": ("whole", "How many of them at once, after a pause."),
    "max_leased": ("whole", "Most messages leased at once."),
    "fair": ("switch", "Let groups take turns."),
}
"""The settings of a queue but its notes: of which kind each is, and what it means."""


@click.group(cls=Family, no_args_is_help=False)
def queue() -> None:
    """List, set, pause and empty queues, and look into them."""


@queue.command(cls=Remote)
@click.argument("prefix", default="")
@json_option
def ls(url: SplitResult, prefix: str, as_json: bool) -> None:
    """List the queues, or those whose names begin with PREFIX."""
    found = [each for each in list_queues(connect(url)) if each["name"].startswith(prefix)]
    if as_json:
        print_json(found)
        return
    rows = [["queue", *COLUMNS, "oldest"]]
    for each in found:
        name = f"{each['name']} (paused)" if each["paused"] else each["name"]
        rows.append([name, *(str(each[column]) for column in COLUMNS), duration(oldest(each))])
    print(table(rows))


@queue.command(cls=Remote)
@queue_argument
@json_option
def show(url: SplitResult, queue: str, as_json: bool) -> None:
    """Print what is known of QUEUE: what it holds, what it has done, its settings."""
    found = _queue(connect(url), queue)
    if as_json:
        print_json(found)
        return
    settings = found.pop("settings")
    notes = settings.pop("notes", {})
    pairs = [("queue", found.pop("name")), *found.items(), *settings.items()]
    _print_pairs([*pairs, *((f"note {name}", note) for name, note in notes.items())])


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command an option for each setting of a queue."""
    for name, (kind, about) in reversed(SETTINGS.items()):
        flag = f"--{name.replace('_', '-')}"
        spelling = f"{flag}/--no-{name}" if kind == "switch" else flag
        value: dict[str, Any] = {}
        if kind == "duration":
            value = {"type": Duration(), "metavar": "DURATION"}
        elif kind != "switch":
            value = {"callback": partial(_parsed, kind), "metavar": "NUMBER" if kind == "whole" else kind.upper()}
        command = click.option(spelling, name, default=None, help=about, **value)(command)
    return command


def _parsed(kind: str, ctx: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    try:
        return None if text is None else _KINDS[kind](text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: {_WANTED[kind]}.", ctx, parameter) from None


@queue.command("set", cls=Remote)
@queue_argument
@_setting_options
@click.option(
    "--reset",
    multiple=True,
    type=click.Choice([*SETTINGS]),
    metavar="SETTING",
    help="Put this setting back to its default. Can be given several times.",
)
@json_option
def set_(url: SplitResult, queue: str, reset: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Change settings of QUEUE, and make it if there is none.

    Settings that are not given stay as they are.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    for name in reset:
        if name in changes:
            raise click.UsageError(f"{name} is set and put back to its default. Give one of them.")
        changes[name] = None
    connection, done = connect(url), "changed" if changes else "is there, and nothing was given to change"
    try:
        answer = _send(connection, "PATCH", queue, changes)
    except NotFound:
        wanted = {name: value for name, value in changes.items() if value is not None}
        answer, done = _send(connection, "PUT", queue, wanted), "made"
    if as_json:
        print_json(answer)
    else:
        print(f"{queue}: {done}")


@queue.command(cls=Remote)
@queue_argument
@yes_option
@json_option
def rm(url: SplitResult, queue: str, yes: bool, as_json: bool) -> None:
    """Remove QUEUE with its messages and settings."""
    check_can_ask(yes=yes)
    connection = connect(url)
    if not yes:
        confirm(f"Remove {queue} with its {_messages(_held(connection, queue))}?", yes=yes)
    connection.request("DELETE", queue_path(queue))
    _say(queue, "removed", {"removed": True}, as_json)


@queue.command(cls=Remote)
@queue_argument
@yes_option
@json_option
def purge(url: SplitResult, queue: str, yes: bool, as_json: bool) -> None:
    """Remove all messages of QUEUE, those that consumers hold as well."""
    check_can_ask(yes=yes)
    connection = connect(url)
    if not yes:
        confirm(f"Remove {_messages(_held(connection, queue))} of {queue}?", yes=yes)
    answer = connection.request("POST", queue_path(queue, "purge")).json
    _say(queue, f"{_messages(_whole(answer, 'purged'))} removed", answer, as_json)


@queue.command(cls=Remote)
@queue_argument
@json_option
def pause(url: SplitResult, queue: str, as_json: bool) -> None:
    """Give no more messages of QUEUE to consumers. Producers can go on."""
    _say(queue, "paused", connect(url).request("POST", queue_path(queue, "pause")).json, as_json)


@queue.command(cls=Remote)
@queue_argument
@json_option
def resume(url: SplitResult, queue: str, as_json: bool) -> None:
    """Give messages of QUEUE to consumers again."""
    _say(queue, "resumed", connect(url).request("POST", queue_path(queue, "resume")).json, as_json)


@queue.command(cls=Remote)
@queue_argument
@click.option("--limit", type=Whole(1), metavar="NUMBER", help="Most messages to send back; all if not given.")
@click.option("--id", "id", type=Whole(1), metavar="ID", help="Send back only the message with this id.")
@json_option
def redrive(url: SplitResult, queue: str, limit: int | None, id: int | None, as_json: bool) -> int:
    """Send the messages of the dead-letter QUEUE back to the queues they failed in.

    If there is no message with the id, the exit code is 3.
    """
    if limit is not None and id is not None:
        raise click.UsageError("--id is about one message. Give no --limit.")
    connection = connect(url)
    if id is not None:
        try:
            answer = _redrive(connection, queue, {"id": str(id)})
        except MessageNotFound as missing:
            return fail(str(missing), EXIT_NOTHING)
    else:
        answer = {"moved": 0, "left": 0}
        while limit is None or answer["moved"] < limit:
            part = min(MAX_BATCH, MAX_BATCH if limit is None else limit - answer["moved"])
            step = _redrive(connection, queue, {"limit": str(part)})
            moved = _whole(step, "moved")
            answer = {"moved": answer["moved"] + moved, "left": _whole(step, "left")}
            # What is left may not be movable: then another round would change nothing.
            if not moved or not answer["left"]:
                break
    moved, left = _whole(answer, "moved"), _whole(answer, "left")
    _say(queue, f"{_messages(moved)} moved, {left} left", answer, as_json)
    if left and not moved:
        why = "The messages that are left are no dead letters, or the queue where they failed has no room."
        print(why, file=sys.stderr)
    return EXIT_OK


@queue.command(cls=Remote)
@queue_argument
@click.option(
    "--state",
    type=click.Choice(["ready", "delayed", "leased"]),
    default="ready",
    show_default=True,
    help="Which messages to show.",
)
@click.option(
    "--limit",
    type=Whole(1, MAX_BATCH),
    default=PEEK,
    show_default=True,
    metavar="NUMBER",
    help="Most messages to show.",
)
@json_option
def peek(url: SplitResult, queue: str, state: str, limit: int, as_json: bool) -> None:
    """Print the first messages of QUEUE. Nothing is taken."""
    values = {"state": state, "limit": str(limit), "body": "text"}
    found = connect(url).request("GET", queue_path(queue, "messages"), values=values).json
    if as_json:
        print_json(found)
        return
    rows = [["id", "priority", "received", "type", "body"]]
    try:
        for each in found:
            counts = (str(each["id"]), str(each["priority"]), str(each["receive_count"]))
            rows.append([*counts, printable(each["content_type"]), shortened(body_text(each), BODY_WIDTH)])
    except (LookupError, TypeError):
        raise Failed(STRANGE) from None
    print(table(rows, text_from=3))


def oldest(queue: dict[str, Any]) -> float | None:
    """Return how long the oldest ready message of a queue has been there; None if there is none, or no answer."""
    age: float | None = queue.get("oldest_ready_age_seconds")
    return age if queue["ready"] else None


def body_text(message: dict[str, Any]) -> str:
    """Return the body of a message as one line that is safe to print."""
    text = printable(message["body"])
    return f"base64: {text}" if message.get("body_encoding") == "base64" else text


def _send(connection: Connection, method: str, queue: str, settings: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    return connection.request(method, queue_path(queue), body=json.dumps(settings).encode(), headers=headers).json


def _redrive(connection: Connection, queue: str, values: dict[str, str]) -> Any:
    return connection.request("POST", queue_path(queue, "redrive"), values=values).json


def list_queues(connection: Connection) -> list[dict[str, Any]]:
    """Return what the server tells of all queues; raises `Failed` if that is not what zapq tells."""
    found = connection.request("GET", "/queues").json
    if not isinstance(found, list) or not all(map(_is_queue, found)):
        raise Failed(STRANGE)
    return found


def _queue(connection: Connection, queue: str) -> dict[str, Any]:
    found = connection.request("GET", queue_path(queue)).json
    if not _is_queue(found):
        raise Failed(STRANGE)
    known: dict[str, Any] = found
    return known


def _is_queue(found: object) -> bool:
    return isinstance(found, dict) and found.keys() >= {"name", "paused", "messages", "settings", *COLUMNS}


def _held(connection: Connection, queue: str) -> int:
    return int(_queue(connection, queue)["messages"])


def _whole(answer: object, name: str) -> int:
    if not isinstance(answer, dict) or not isinstance(answer.get(name), int):
        raise Failed(STRANGE)
    return int(answer[name])


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _say(queue: str, sentence: str, answer: object, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(f"{queue}: {sentence}")


def _print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    shown = [(name, _value(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    for name, text in shown:
        print(f"{name:{width}}  {text}")


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else printable(str(value))
