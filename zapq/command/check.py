"""The command that looks at a database while no server uses it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from zapq.command.base import Local
from zapq.command.exit import EXIT_FAILED, EXIT_OK, fail
from zapq.command.options import json_option, print_json
from zapq.command.table import table

if TYPE_CHECKING:
    from zapq.store.check import Report

COLUMNS = ("queue", "ready", "delayed", "received", "expired", "bytes", "oldest id")


@click.command(cls=Local)
@click.argument("directory", metavar="DIR")
@json_option
def check(directory: str, as_json: bool) -> int:
    """Check the durable queues in DIR and print what they hold.

    DIR must not be in use by a server. Nothing in it is changed: the command reads a copy in TMPDIR, which needs
    as much space as the files have. If a server would not start with all of it, the exit code is 1.
    """
    # Only here: the other commands need not wait for it.
    from zapq.errors import CannotStart
    from zapq.store.check import check as look

    try:
        report = look(directory)
        if as_json:
            print_json(report._asdict() | {"queues": [each._asdict() for each in report.queues]})
        else:
            print(_text(report))
        sys.stdout.flush()
    except CannotStart as refusal:
        return fail(refusal.detail, EXIT_FAILED)
    except OSError as error:
        return fail(error.strerror or str(error), EXIT_FAILED)
    return EXIT_OK


def _text(report: Report) -> str:
    log = "no log" if report.log is None else f"a log of {report.log} bytes"
    rows = [
        [
            f"{queue.name} (paused)" if queue.paused else queue.name,
            *map(str, queue[2:-1]),
            "-" if queue.oldest is None else str(queue.oldest),
        ]
        for queue in report.queues
    ]
    lines = [
        f"format {report.format}, {report.size} bytes, {log}",
        f"{len(report.queues)} queues, {report.keys} idempotency keys, {report.garbage} rows of garbage",
        *([table([list(COLUMNS), *rows])] if rows else ()),
        *([f"warning: {report.warning}"] if report.warning else ()),
        "ok",
    ]
    return "\n".join(lines)
