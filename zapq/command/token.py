"""The command that makes tokens. It knows no server: the operator hands on what it prints."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import click

from zapq.access.grant import ALL_QUEUES, ROLES, check_name, check_pattern, parse_expiry, parse_roles
from zapq.access.token import digest, new_token
from zapq.command.base import Local
from zapq.command.misplaced import Family
from zapq.command.options import json_option, print_json

_DAY = 86_400


@click.group(cls=Family, no_args_is_help=False)
def token() -> None:
    """Create tokens for a server that runs with --token-file."""


@token.command(cls=Local)
@click.argument("name")
@click.option(
    "--roles",
    required=True,
    metavar="ROLE,...",
    help=f"What the token allows: one or more of {', '.join(ROLES)}, separated by commas.",
)
@click.option(
    "--queues",
    default=ALL_QUEUES,
    metavar="PATTERN",
    show_default=True,
    help="Names of the queues the token is for, such as emails*.",
)
@click.option(
    "--expires",
    metavar="WHEN",
    help="When the token expires: 90d, a date, or a time such as 2027-01-31T12:00:00Z (UTC).",
)
@json_option
def new(name: str, roles: str, queues: str, expires: str | None, as_json: bool) -> None:
    """Create a token for NAME, and print it and its line for the token file.

    The token is printed only this once: the line contains only its SHA-256.
    """
    until = None if expires is None else _spelled(expires)
    try:
        check_name(name)
        parse_roles(roles)
        check_pattern(queues)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    if until is not None:
        _check_to_come(until)
    secret = new_token()
    fields = [name, digest(secret.encode()).hex(), roles]
    if queues != ALL_QUEUES or until is not None:
        fields.append(queues)
    if until is not None:
        fields.append(until)
    line = ":".join(fields)
    if as_json:
        print_json({"token": secret, "line": line})
        return
    print(f"token  {secret}")
    print(f"line   {line}")


def _check_to_come(until: str) -> None:
    """Raise `click.UsageError` unless `until` is a time, as the file has it, that is still to come."""
    try:
        past = parse_expiry(until) <= time.time()
    except ValueError as error:
        raise click.UsageError(f"--expires {until}: {error}, or 90d for so many days from now.") from None
    if past:
        raise click.UsageError(f"--expires {until}: this time is over. Give a later one, or 90d.")


def _spelled(expires: str) -> str:
    """Return when a token made now is to expire, as the file has it."""
    days = re.fullmatch(r"([1-9][0-9]{0,4})d", expires, re.ASCII)
    if days is None:
        return expires
    until = datetime.fromtimestamp(time.time() + int(days[1]) * _DAY, UTC)
    return until.strftime("%Y-%m-%dT%H:%M:%SZ")
