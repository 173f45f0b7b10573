"""zapq config: what a server would be told, and whether it could start with that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from zapq.command.base import Local
from zapq.command.exit import EXIT_OK, EXIT_USAGE, fail
from zapq.command.misplaced import Family
from zapq.command.options import json_option, print_json
from zapq.command.serve import server_flags
from zapq.command.table import table
from zapq.errors import InvalidSetting
from zapq.limits import TOKEN_VARIABLE
from zapq.sources import Found, Value, find, unknown_variables

if TYPE_CHECKING:
    from zapq.settings import Settings


@click.group(cls=Family, no_args_is_help=False)
def config() -> None:
    """Show or check the settings of a server. Flags, variables and files are those of zapq serve."""


@config.command(cls=Local, params=server_flags())
@json_option
def show(as_json: bool, **flags: Any) -> int:
    """Print the value of each setting, and where it comes from: flag, environment, file or default.

    If a setting is wrong, the exit code is 2.
    """
    try:
        found = _find(flags)
    except InvalidSetting as error:
        return fail(error.detail, EXIT_USAGE)
    if as_json:
        print_json({
            "settings": {each.option.name: _as_json(each) for each in found.values},
            "token": bool(found.token),
            "queues": sorted(found.queues),
        })
    else:
        rows = [["setting", "value", "from"]]
        rows += [[each.option.name, _text(each), _source(each)] for each in found.values]
        if found.token:
            # The token itself is a secret.
            rows.append(["token", "set", f"environment {TOKEN_VARIABLE}"])
        if found.queues:
            rows.append(["queues", ", ".join(sorted(found.queues)), f"file {', '.join(found.files)}"])
        print(table(rows, text_from=1))
    return _complain(found.errors)


@config.command(cls=Local, params=server_flags())
@json_option
def check(as_json: bool, **flags: Any) -> int:
    """Check settings, and the files they name, and print ok; nothing is started or changed.

    If something is wrong, each error is one line, and the exit code is 2. Variables that look like settings and
    are none are warnings, and so are credentials that let no client in.
    """
    errors: list[str] = []
    useless: list[str] = []
    try:
        found = _find(flags)
        errors = [error.detail for error in found.errors]
        if not errors:
            settings = found.settings()
            errors = list(_look_at_files(settings, useless))
    except InvalidSetting as error:
        errors = [error.detail]
    warnings = [
        f"{name} is no variable of zapq." + (f" Did you mean {nearest}?" if nearest else "")
        for name, nearest in unknown_variables(os.environ).items()
    ] + useless
    if as_json:
        print_json({"ok": not errors, "errors": errors, "warnings": warnings})
        return EXIT_USAGE if errors else EXIT_OK
    for warning in warnings:
        print(f"zapq: warning: {warning}", file=sys.stderr)
    for each in errors:
        fail(each, EXIT_USAGE)
    if errors:
        return EXIT_USAGE
    print("ok")
    return EXIT_OK


def _find(flags: dict[str, Any]) -> Found:
    config = flags.pop("config") or os.environ.get("ZAPQ_CONFIG")
    queues = flags.pop("queues") or os.environ.get("ZAPQ_QUEUES")
    return find(flags=flags, environ=os.environ, config=config, queues=queues)


def _look_at_files(settings: Settings, useless: list[str]) -> Iterator[str]:
    """Yield what is wrong with the files that settings name; put into `useless` what does no harm, and no good."""
    # Only here: `show` need not wait for it.
    from zapq.access.access import Access
    from zapq.server.certificates import Certificates

    try:
        for message, names, remedy in Access(settings).useless():
            useless.append(f"--token-file {settings.token_file!r}: {message}: {', '.join(names)} ({remedy}).")
    except InvalidSetting as error:
        yield error.detail
    if settings.tls:
        try:
            Certificates(settings)
        except InvalidSetting as error:
            yield error.detail
    if settings.engine:
        for name in ("engine_password_file", "engine_ca"):
            path = getattr(settings, name)
            if path and not os.access(path, os.R_OK):
                yield f"--{name.replace('_', '-')} {path!r}: it is not there, or you may not read it."
        return
    # As the server makes the directory, the nearest one there is must be writable.
    directory = os.path.abspath(settings.data_dir)
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory):
        yield f"--data-dir {settings.data_dir!r}: {directory} is not a directory."
    elif not os.access(directory, os.W_OK | os.X_OK):
        yield f"--data-dir {settings.data_dir!r}: {directory} is not writable for this user."


def _complain(errors: tuple[InvalidSetting, ...]) -> int:
    for error in errors:
        fail(error.detail, EXIT_USAGE)
    return EXIT_USAGE if errors else EXIT_OK


def _as_json(each: Value) -> dict[str, object]:
    shown: dict[str, object] = {"value": each.option.public(each.value), "from": each.source}
    return shown | ({"place": each.place} if each.place else {})


def _text(each: Value) -> str:
    value = each.option.public(each.value)
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case _:
            return str(value) if value != "" else "-"


def _source(each: Value) -> str:
    return f"{each.source} {each.place}".rstrip()
