"""The commands for messages: push, pop, stats and health."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import SplitResult

import click

from zapq.command.base import Remote, connect
from zapq.command.exit import EXIT_NOTHING, EXIT_OK, fail
from zapq.command.http import STRANGE, Answer, Connection, Failed, NotFound, queue_path
from zapq.command.lines import Sender, send_each, send_file
from zapq.command.options import Duration, Whole, complete_queues, json_option, print_json, queue_argument
from zapq.command.queue import oldest
from zapq.command.table import table
from zapq.command.terminal import duration
from zapq.limits import (
    CLIENT_TIMEOUT,
    FOLLOW_WAIT,
    HEALTH_TIMEOUT,
    MAX_PRIORITY,
    MAX_WAIT,
    NO_QUEUE_PAUSE,
    WATCH_PAUSE,
)

COLUMNS = {
    "ready": "ready",
    "delayed": "delayed",
    "leased": "leased",
    "bytes": "bytes",
    "waiting": "waiting",
    "enqueued": "enqueued",
    "dequeued": "dequeued",
    "acked": "acked",
    "dead_lettered": "dead",
    "refused": "refused",
}
"""What `stats` shows of a queue, and what stands above it."""


@click.command(cls=Remote)
@queue_argument
@click.argument("body", required=False)
@click.option(
    "--lines",
    is_flag=True,
    help="Send each line of standard input as a message of its own, as soon as it is there.",
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Send each line of FILE as a message of its own, and print how many there were.",
)
@click.option(
    "--priority",
    type=Whole(0, MAX_PRIORITY),
    help="Priority of the message, 0 if not given; 9 is delivered first.",
)
@click.option(
    "--group",
    metavar="KEY",
    help="Group of the message: it is delivered after the earlier ones of its group are done with.",
)
@click.option(
    "--unique",
    metavar="KEY",
    help="Key of the message: while the queue holds a message with this key, no other is stored.",
)
@click.option(
    "--on",
    type=click.Choice(["keep", "replace"]),
    help="What to do with a message held with the key of --unique: keep it (the default) or replace its body.",
)
@click.option(
    "--delay",
    type=Duration(),
    metavar="DURATION",
    help="Time until consumers can receive the message, such as 5m.",
)
@click.option(
    "--ttl",
    type=Duration(),
    metavar="DURATION",
    help="Time until the message expires, unless a consumer holds it then.",
)
@click.option(
    "--content-type",
    metavar="TYPE",
    default="application/octet-stream",
    show_default=True,
    help="Content-Type to store with the message.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Header to store with the message, which consumers get back. Can be given several times.",
)
@click.option(
    "--key", metavar="KEY", help="Idempotency key: a message sent again with the same key is stored only once."
)
@json_option
def push(
    url: SplitResult,
    queue: str,
    body: str | None,
    lines: bool,
    file: str | None,
    priority: int | None,
    group: str | None,
    unique: str | None,
    on: str | None,
    delay: float | None,
    ttl: float | None,
    content_type: str,
    headers: tuple[str, ...],
    key: str | None,
    as_json: bool,
) -> None:
    """Send a message to QUEUE and print its id.

    The message is BODY. Without BODY, or if it is -, the message is read from standard input.
    """
    if lines and body not in {None, "-"}:
        raise click.UsageError("--lines reads standard input. Give no BODY.")
    if file is not None and (lines or body is not None):
        raise click.UsageError("--file has the messages. Give no BODY and no --lines.")
    if (lines or file is not None) and key is not None:
        raise click.UsageError("--key is for one message, --lines and --file send many. Give only one of them.")
    if on is not None and unique is None:
        raise click.UsageError("--on is about the message held with a key. Give the key with --unique.")
    given = _fields(headers)
    connection = connect(url)
    texts = {name: text for name, text in (("group", group), ("unique", unique), ("on", on)) if text is not None}
    if lines or file is not None:
        numbers = {"priority": priority, "delay": delay, "ttl": ttl}
        properties = texts | {name: value for name, value in numbers.items() if value is not None}
        sender = Sender(connection, queue, {"content_type": content_type, **properties}, given)
        if file is None:
            send_each(sender, sys.stdin.buffer, as_json=as_json)
        else:
            send_file(sender, file, as_json=as_json)
        return
    values = _given(priority=priority, delay=delay, ttl=ttl) | texts
    if body is None and sys.stdin.isatty():
        # Else it would look as if it hung.
        print("Type the message, and end it with Ctrl-D.", file=sys.stderr)
    message = sys.stdin.buffer.read() if body is None or body == "-" else os.fsencode(body)
    # A key of its own makes it safe to send a message again if the connection breaks.
    fields = {
        "Content-Type": content_type,
        "Idempotency-Key": os.urandom(16).hex() if key is None else key,
        **given,
    }
    answer = connection.request("POST", queue_path(queue, "messages"), values=values, body=message, headers=fields)
    if as_json:
        _print_accepted(answer)
        return
    print(answer.field("Zapq-Message-Id"))
    if answer.headers.get("Zapq-Unique") == "kept":
        print(f"{queue} holds this message with the key {unique}. Nothing was stored.", file=sys.stderr)


@click.command(cls=Remote)
@queue_argument
@click.option(
    "--wait",
    type=Duration(high=MAX_WAIT),
    metavar="DURATION",
    default="0",
    help="How long to wait for a message if there is none.",
)
@click.option("--follow", is_flag=True, help="Print messages until interrupted, each followed by a newline.")
@click.option("--ack", is_flag=True, help="Remove a message only after it is printed.")
@json_option
def pop(url: SplitResult, queue: str, wait: float, follow: bool, ack: bool, as_json: bool) -> int:
    """Print the first message of QUEUE and remove it.

    If there is none, the exit code is 3. Without --ack, a message that cannot be printed is lost. With --json, all
    that is known of the message is one line; a body that is not UTF-8 is in base64, as body_encoding says.
    """
    if follow and wait:
        raise click.UsageError("--follow waits by itself. Give no --wait.")
    connection, take = connect(url), partial(_take_leased if ack else _take, as_json=as_json)
    if not follow:
        # Exactly the message, except on a terminal: there the prompt would run into it.
        end = b"\n" if as_json or sys.stdout.isatty() else b""
        try:
            # A queue that is not there is waited for too. Asked without waiting, the server says that it is not.
            found = take(connection, queue, wait, end) or (wait > 0 and take(connection, queue, 0.0, end))
            return EXIT_OK if found else EXIT_NOTHING
        except NotFound as missing:
            # Queues in memory are there from their first message on; said, since the name may be misspelt.
            return fail(str(missing), EXIT_NOTHING)
    while True:
        _check_reader()
        try:
            take(connection, queue, FOLLOW_WAIT, b"\n")
        except NotFound:
            # It was deleted while we waited.
            time.sleep(NO_QUEUE_PAUSE)


@click.command(cls=Remote)
@click.argument("queue", required=False, shell_complete=complete_queues)
@click.option("--watch", is_flag=True, help="Print them again every 2 s until interrupted.")
@json_option
def stats(url: SplitResult, queue: str | None, watch: bool, as_json: bool) -> None:
    """Print the statistics of QUEUE, or of all queues."""
    connection = connect(url)
    while True:
        found = connection.request("GET", "/queues" if queue is None else queue_path(queue)).json
        try:
            table = _table(found if isinstance(found, list) else [found])
        except (LookupError, TypeError):
            raise Failed(STRANGE) from None
        if as_json:
            print_json(found)
        else:
            print(table, flush=True)
        if not watch:
            return
        time.sleep(WATCH_PAUSE)
        if not as_json:
            print()


@click.command(cls=Remote)
@json_option
def health(url: SplitResult, as_json: bool) -> None:
    """Print ok if the server accepts messages.

    If it is draining, shutting down or unreachable, the exit code is 1.
    """
    connect(url).request("GET", "/readyz", timeout=HEALTH_TIMEOUT)
    if as_json:
        print_json({"ok": True})
    else:
        print("ok")


def _fields(headers: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a request that carry these headers of a message."""
    fields: dict[str, str] = {}
    for header in headers:
        name, separator, value = header.partition("=")
        field = f"Zapq-Header-{name}".title()
        if not name or not separator or not header.isascii() or not header.isprintable():
            raise click.UsageError(
                f"--header {header!r} is not NAME=VALUE in visible ASCII. Give --header NAME=VALUE."
            )
        if field in fields:
            raise click.UsageError(f"--header gives {name} twice. Give it once.")
        fields[field] = value
    return fields


def _print_accepted(answer: Answer) -> None:
    said: dict[str, Any] = {"id": int(answer.field("Zapq-Message-Id"))}
    unique = answer.headers.get("Zapq-Unique")
    print_json(said | ({"unique": unique} if unique else {}))


def _take(connection: Connection, queue: str, wait: float, end: bytes, *, as_json: bool) -> bool:
    """Print a message that is given for good, and return whether there was one."""
    values = _given(wait=wait) | {"ack": "auto"}
    answer = _receive(connection, queue, values, wait, as_json)
    if answer.status == 204:
        return False
    _write(answer.body + end)
    return True


def _take_leased(connection: Connection, queue: str, wait: float, end: bytes, *, as_json: bool) -> bool:
    """Print a message that is leased, acknowledge it, and return whether there was one."""
    values = _given(wait=wait)
    answer = _receive(connection, queue, values, wait, as_json)
    if answer.status == 204:
        return False
    receipt = queue_path(queue, "receipts", _receipt(answer, as_json))
    try:
        _write(answer.body + end)
    except BaseException:
        with suppress(Failed):
            connection.request("POST", f"{receipt}/release")
        raise
    connection.request("DELETE", receipt)
    return True


def _receive(connection: Connection, queue: str, values: dict[str, str], wait: float, as_json: bool) -> Answer:
    headers = {"Accept": "application/json"} if as_json else {}
    if as_json:
        values["body"] = "text"
    path = queue_path(queue, "receive")
    return connection.request("POST", path, values=values, headers=headers, timeout=CLIENT_TIMEOUT + wait)


def _receipt(answer: Answer, as_json: bool) -> str:
    if not as_json:
        return answer.field("Zapq-Receipt")
    found = answer.json
    if not isinstance(found, dict) or not isinstance(found.get("receipt"), str):
        raise Failed(STRANGE)
    return str(found["receipt"])


def _check_reader() -> None:
    """Raise BrokenPipeError if the reader of our output is gone, before a message is taken in vain."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        raise BrokenPipeError


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _given(**values: float | None) -> dict[str, str]:
    """Return the parameters that are given, numbers as the server reads them."""
    return {
        name: str(value) if isinstance(value, int) else f"{value:.3f}"
        for name, value in values.items()
        if value is not None
    }


def _table(queues: list[dict[str, Any]]) -> str:
    """Return the queues as a table, a line for each."""
    rows = [["queue", *COLUMNS.values(), "oldest"]]
    for queue in queues:
        name = f"{queue['name']} (paused)" if queue["paused"] else str(queue["name"])
        rows.append([name, *(str(queue[column]) for column in COLUMNS), duration(oldest(queue))])
    return table(rows)
