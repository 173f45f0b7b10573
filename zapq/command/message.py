"""zapq message: one message of a queue."""

from __future__ import annotations

import base64
import sys
from typing import Any
from urllib.parse import SplitResult

import click

from zapq.command.base import Remote, connect
from zapq.command.exit import EXIT_NOTHING, EXIT_OK, fail
from zapq.command.http import STRANGE, Failed, MessageNotFound, queue_path
from zapq.command.misplaced import Family
from zapq.command.options import Whole, json_option, print_json, queue_argument, yes_option
from zapq.command.queue import body_text
from zapq.command.terminal import confirm, printable


@click.group(cls=Family, no_args_is_help=False)
def message() -> None:
    """Look at one message of a queue, or remove it."""


@message.command(cls=Remote)
@queue_argument
@click.argument("id", type=Whole(1))
@click.option("--raw", is_flag=True, help="Print the body alone, byte by byte.")
@json_option
def show(url: SplitResult, queue: str, id: int, raw: bool, as_json: bool) -> int:
    """Print the message ID of QUEUE. It is not taken.

    If there is no such message, the exit code is 3.
    """
    if raw and as_json:
        raise click.UsageError("--raw prints the body alone. Give no --json.")
    values = {"body": "base64" if raw else "text"}
    try:
        found = connect(url).request("GET", queue_path(queue, "messages", str(id)), values=values).json
    except MessageNotFound as missing:
        return fail(str(missing), EXIT_NOTHING)
    try:
        if as_json:
            print_json(found)
        elif raw:
            sys.stdout.buffer.write(base64.b64decode(found["body"]))
            sys.stdout.buffer.flush()
        else:
            _print(found)
    except (LookupError, TypeError, ValueError):
        raise Failed(STRANGE) from None
    return EXIT_OK


@message.command(cls=Remote)
@queue_argument
@click.argument("id", type=Whole(1))
@yes_option
@json_option
def rm(url: SplitResult, queue: str, id: int, yes: bool, as_json: bool) -> int:
    """Remove the message ID of QUEUE, unless a consumer holds it.

    If there is no such message, the exit code is 3.
    """
    confirm(f"Remove message {id} of {queue}?", yes=yes)
    try:
        connect(url).request("DELETE", queue_path(queue, "messages", str(id)))
    except MessageNotFound as missing:
        return fail(str(missing), EXIT_NOTHING)
    if as_json:
        print_json({"removed": True})
    else:
        print(f"{queue}: message {id} removed")
    return EXIT_OK


def _print(found: dict[str, Any]) -> None:
    headers = found.get("headers", {})
    pairs = [(name, value) for name, value in found.items() if name not in {"body", "body_encoding", "headers"}]
    pairs += [(f"header {name}", value) for name, value in headers.items()]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name:{width}}  {printable(str(value))}")
    print()
    lines = [body_text(found)] if "body_encoding" in found else map(printable, found["body"].splitlines())
    print(*lines, sep="\n")
