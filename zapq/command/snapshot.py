"""zapq snapshot: the files a server saves its queues to."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any
from urllib.parse import SplitResult

import click

from zapq.command.base import Local, Remote, connect
from zapq.command.http import STRANGE, Failed
from zapq.command.misplaced import Family
from zapq.command.options import json_option, print_json, yes_option
from zapq.command.table import table
from zapq.command.terminal import confirm
from zapq.limits import SNAPSHOT_TIMEOUT

COLUMNS = ("queues", "messages", "bytes", "modified")
"""What `ls` shows of a file besides its name."""


@click.group(cls=Family, no_args_is_help=False)
def snapshot() -> None:
    """Save, load and inspect snapshots of the queues."""


@snapshot.command(cls=Remote)
@json_option
def ls(url: SplitResult, as_json: bool) -> None:
    """List the snapshots in the server's data directory."""
    found = connect(url).request("GET", "/snapshots").json
    try:
        rows = [["file", *COLUMNS], *([each["name"], *_cells(each)] for each in found)]
    except (LookupError, TypeError, AttributeError):
        raise Failed(STRANGE) from None
    if as_json:
        print_json(found)
    else:
        print(table(rows))


@snapshot.command(cls=Remote)
@click.argument("name")
def save(url: SplitResult, name: str) -> None:
    """Save a snapshot as NAME in the server's data directory.

    A .msgpack file holds all queues, a .json file only the bodies of the messages in the default queue.
    """
    connect(url).request("POST", "/persist", values={"file": name}, timeout=SNAPSHOT_TIMEOUT)


@snapshot.command(cls=Remote)
@click.argument("name")
@yes_option
def load(url: SplitResult, name: str, yes: bool) -> None:
    """Load the snapshot NAME from the server's data directory.

    A .msgpack file replaces all queues, a .json file only the messages in the default queue.
    """
    replaced = "the messages in the default queue" if name.endswith(".json") else "all queues"
    confirm(f"Replace {replaced} with {name}?", yes=yes)
    connect(url).request("POST", "/load", values={"file": name}, timeout=SNAPSHOT_TIMEOUT)


@snapshot.command(cls=Local)
@click.argument("file")
@json_option
def show(file: str, as_json: bool) -> None:
    """Check the snapshot FILE and print what it holds.

    FILE is a path on this machine; no server is needed. If the file is damaged, the exit code is 1.
    """
    # Here and not above: what decodes takes a while to import, and the other commands do not need it.
    from zapq.errors import SnapshotFailed
    from zapq.store.summary import summarise

    try:
        summary = summarise(file)
    except SnapshotFailed as error:
        raise Failed(error.detail) from None
    except OSError as error:
        raise Failed(f"{file}: {error.strerror}.") from None
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(summary.written))
    if as_json:
        print_json(asdict(summary) | {"written": written})
        return
    print(f"format    {summary.format}")
    print(f"written   {written}")
    print(f"bytes     {summary.bytes}, none of them damaged")
    print(f"keys      {summary.keys}")
    print()
    rows = [["queue", "messages", "bytes", "delayed", "received"]]
    for name, held in sorted(summary.queues.items()):
        counts = map(str, (held.messages, held.bytes, held.delayed, held.received))
        rows.append([f"{name} (paused)" if held.paused else name, *counts])
    print(table(rows))


def _cells(file: dict[str, Any]) -> list[str]:
    return [str(file.get(column, "-")) for column in COLUMNS]
