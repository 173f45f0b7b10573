"""zapq cron: sends messages at the times a file says."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

import click

from zapq.command.base import Remote
from zapq.command.exit import EXIT_OK
from zapq.command.options import Whole, json_option, print_json
from zapq.command.program import OnStop, check_extra, client_of, run_program
from zapq.command.table import table

if TYPE_CHECKING:
    from zapq.programs.crontab import Entry


@click.command(cls=Remote)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--next",
    "number",
    type=Whole(1, 1000),
    help="Print when each entry is due, so many times, and end. Nothing is sent.",
)
@json_option
def cron(url: SplitResult, file: str, number: int | None, as_json: bool) -> int:
    """Send messages at the times that FILE says, until stopped.

    FILE has a table [cron.NAME] for each message. A table has cron and queue, and may have body, timezone and
    more. Any number of these programs can run at once with the same FILE: each message is stored once.
    """
    if as_json and number is None:
        raise click.UsageError("--json is for --next, which prints something.")
    check_extra("cron", "cron", "cronsim")
    from zapq.programs.crontab import parse_crontab

    try:
        entries = parse_crontab(Path(file).read_text("utf-8"))
    except ValueError as error:
        raise click.UsageError(f"{file}: {error}.") from None
    if number is not None:
        _show(entries, number, time.time(), as_json)
        return EXIT_OK

    async def main(on_stop: OnStop) -> None:
        from zapq.programs.cron import Cron

        async with client_of(url) as client:
            program = Cron(client, entries)
            on_stop(program.stop)
            await program.run()

    return run_program(main)


def _show(entries: list[Entry], number: int, now: float, as_json: bool) -> None:
    due = [(tick, each) for each in entries for tick in islice(each.ticks(now), number)]
    due.sort(key=lambda pair: pair[0])
    if as_json:
        print_json([
            {"name": each.name, "queue": each.queue, "due": datetime.fromtimestamp(tick, UTC).isoformat()}
            for tick, each in due
        ])
        return
    rows = [
        [f"{datetime.fromtimestamp(tick, each.zone):%Y-%m-%d %H:%M:%S %Z}", each.name, each.queue]
        for tick, each in due
    ]
    print(table([["due", "entry", "queue"], *rows]))
