"""zapq top: how fast messages come and go, queue by queue, while it happens.

Rates are made from two polls and the time between them; the server keeps none.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import SplitResult

import click

from zapq.command.base import Remote, connect
from zapq.command.http import Connection, Failed
from zapq.command.options import Duration, Whole, complete_queues, json_option, print_json
from zapq.command.queue import list_queues, oldest
from zapq.command.table import table
from zapq.command.terminal import duration, has_colours, painted, shortened
from zapq.limits import TOP_PAUSE

BAR_WIDTH = 12
FIRST_NOTE = "The rates come with the second poll."
_CLEAR_BELOW, _HOME, _CLEAR_LINE = "\x1b[J", "\x1b[H", "\x1b[K"


@dataclass(frozen=True, slots=True)
class Row:
    """One queue, as it is shown."""

    queue: str
    paused: bool
    ready: int
    delayed: int
    leased: int
    waiting: int
    oldest: float | None
    """Seconds the oldest message that is ready has been there; None if there is none, or no answer."""
    in_rate: float | None
    """Messages stored in a second; None for a queue that was not there at the poll before."""
    out_rate: float | None
    """Messages that left for good in a second: dequeued, or acknowledged."""


ORDERS: dict[str, Callable[[Row], Any]] = {
    "rate": lambda row: (-(row.in_rate or 0) - (row.out_rate or 0), -row.ready, row.queue),
    "ready": lambda row: (-row.ready, row.queue),
    "oldest": lambda row: (-(row.oldest or 0), row.queue),
    "name": lambda row: row.queue,
}
"""How the queues can be sorted."""


@click.command(cls=Remote)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...", shell_complete=complete_queues)
@click.option(
    "--every",
    type=Duration(0.1, 3600),
    default=f"{TOP_PAUSE:g}s",
    show_default=True,
    metavar="DURATION",
    help="Time between two tables.",
)
@click.option("--count", type=Whole(1), metavar="NUMBER", help="How many tables to print.")
@click.option(
    "--sort", type=click.Choice([*ORDERS]), default="rate", show_default=True, help="Which queues come first."
)
@json_option
def top(
    url: SplitResult, queues: tuple[str, ...], every: float, count: int | None, sort: str, as_json: bool
) -> None:
    """Show how many messages come to queues and leave them in a second, until interrupted.

    QUEUE is a name or a pattern such as 'emails*'; without one, all queues are shown. On a terminal the table is
    renewed in place. Elsewhere one table follows the other.
    """
    connection = connect(url)
    live = sys.stdout.isatty() and not as_json
    before = _poll(connection, queues)
    if live:
        with _screen() as show:
            rows, note = _compared(before, before), FIRST_NOTE
            shown = 0
            while True:
                show(_page(url.geturl(), _sorted(rows, sort), note))
                shown += 1
                if shown == count:
                    return
                time.sleep(every)
                try:
                    after = _poll(connection, queues)
                except Failed as error:
                    # A server that is started again comes back, and its operator is watching for that.
                    note = str(error)
                    continue
                rows, note, before = _compared(before, after), "", after
    for number in range(count or sys.maxsize):
        time.sleep(every)
        after = _poll(connection, queues)
        rows = _sorted(_compared(before, after), sort)
        before = after
        if as_json:
            print_json([asdict(row) for row in rows])
        else:
            print(*([""] if number else ()), *_lines(rows, bars=False), sep="\n", flush=True)


@dataclass(frozen=True, slots=True)
class _Poll:
    time: float
    queues: dict[str, dict[str, Any]]


def _poll(connection: Connection, patterns: Sequence[str]) -> _Poll:
    found = list_queues(connection)
    kept = {
        each["name"]: each
        for each in found
        if not patterns or any(fnmatchcase(each["name"], pattern) for pattern in patterns)
    }
    return _Poll(time.monotonic(), kept)


def _compared(before: _Poll, after: _Poll) -> list[Row]:
    seconds = after.time - before.time
    return [compare(before.queues.get(name), queue, seconds) for name, queue in after.queues.items()]


def compare(before: dict[str, Any] | None, after: dict[str, Any], seconds: float) -> Row:
    """Return what is to be shown of a queue as it was found, `seconds` after it was as `before`."""
    return Row(
        after["name"],
        after["paused"],
        after["ready"],
        after["delayed"],
        after["leased"],
        after["waiting"],
        oldest(after),
        _rate(before, after, seconds, "enqueued"),
        _rate(before, after, seconds, "dequeued", "acked"),
    )


def _rate(before: dict[str, Any] | None, after: dict[str, Any], seconds: float, *names: str) -> float | None:
    if before is None or seconds <= 0:
        return None
    change = sum(after.get(name, 0) - before.get(name, 0) for name in names)
    # Counters that have fallen are those of another queue of this name, or of a server that was started again.
    return round(change / seconds, 1) if change >= 0 else None


def _sorted(rows: Sequence[Row], sort: str) -> list[Row]:
    return sorted(rows, key=ORDERS[sort])


def _page(url: str, rows: list[Row], note: str) -> list[str]:
    """Return the lines that fill a terminal."""
    size = shutil.get_terminal_size()
    arriving, leaving = (
        _rate_text(sum(rates) if (rates := [each for each in column if each is not None]) else None)
        for column in ([row.in_rate for row in rows], [row.out_rate for row in rows])
    )
    head = f"{url}  {len(rows)} queues  {sum(row.ready for row in rows)} ready  {arriving} in/s  {leaving} out/s"
    lines = _lines(rows, bars=True)
    room = max(size.lines - 3, 1)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"and {len(lines) - room + 1} more"]
    head, *lines = (shortened(line, size.columns) for line in [head, note, *lines])
    if not has_colours():
        return [head, *lines]
    note, names, *rest = lines
    paused = {row.queue for row in rows if row.paused}
    return [
        painted(head, "bold"),
        painted(note, "dim" if note == FIRST_NOTE else "red") if note else note,
        painted(names, "cyan"),
        *(painted(line, "yellow") if line.partition(" ")[0] in paused else line for line in rest),
    ]


def _lines(rows: Sequence[Row], *, bars: bool) -> list[str]:
    """Return the rows as a table, with bars of their ready messages if wanted."""
    most = max((row.ready for row in rows), default=0)
    shown = [["queue", "ready", "delayed", "leased", "waiting", "oldest", "in/s", "out/s"]]
    for row in rows:
        counts = map(str, (row.ready, row.delayed, row.leased, row.waiting))
        name = f"{row.queue} (paused)" if row.paused else row.queue
        shown.append([name, *counts, duration(row.oldest), _rate_text(row.in_rate), _rate_text(row.out_rate)])
    if bars:
        shown = [
            [*shown[0], ""],
            *([*cells, bar(row.ready, most)] for cells, row in zip(shown[1:], rows, strict=True)),
        ]
    return table(shown, text_from=8).splitlines()


def bar(value: int, most: int) -> str:
    """Return a bar that is `BAR_WIDTH` characters wide where `value` is `most`; at least one where it is not 0."""
    if not value:
        return ""
    mark = "\u2588" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    return mark * max(round(BAR_WIDTH * value / most), 1)


def _rate_text(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


@contextmanager
def _screen() -> Iterator[Callable[[list[str]], None]]:
    """Use the terminal's second screen for the length of the block; what was on it before comes back."""

    def show(lines: list[str]) -> None:
        text = f"{_CLEAR_LINE}\n".join(lines)
        sys.stdout.write(f"{_HOME}{text}{_CLEAR_LINE}{_CLEAR_BELOW}")
        sys.stdout.flush()

    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        yield show
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
