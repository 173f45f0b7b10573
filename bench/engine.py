"""What do front ends cost that are processes of their own, and how many can the process with the queues feed?

    scripts/bench engine
    scripts/bench engine --only http --connections 32
    scripts/bench engine --only feed

First over HTTP: one process, and `--workers` with one front end, in turn. All processes of a server are on one
core, the load comes from the other; a second front end is stopped, so that no client comes to it. Messages of 128
bytes are sent, received and acknowledged; printed are the microseconds of CPU a request of each process.

Then the process with the queues alone: front ends that only pretend send it frames made beforehand, with so many
requests in each, and one frame of each is under way. A figure is the median of the rounds.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import trio

from bench import rig
from bench.delivery import ask, lease_and_acknowledge
from zapq.allocator import settle_in
from zapq.engine import wire
from zapq.engine.channel import Channel
from zapq.engine.host import Host
from zapq.engine.hub import Hub
from zapq.engine.local import LocalEngine
from zapq.engine.wire import Ask, Tell
from zapq.http.metrics import there_now
from zapq.limits import CHANNEL_BYTES
from zapq.service.open import open_service
from zapq.settings import Settings

VERBS = ("enqueue", "receive", "ack")
BODY = b"x" * rig.MESSAGE
LEASE_SECONDS = 3600.0
FED = 160_000
"""Requests of each kind in a round ..."""
FRAMES = 2_000
"""... unless these are more frames than this."""


@contextmanager
def served(*, workers: bool) -> Iterator[tuple[str, int, int | None]]:
    """Run a server; yield its address, the process that serves clients, and the one behind it, if there is one."""
    port = rig.free_port()
    command = [sys.executable, "-m", "zapq", "--max-msgs", "100000000", "--max-bytes", "64G", "--addr"]
    command += [f"127.0.0.1:{port}", *["--workers", "2"] * workers]
    url = f"http://127.0.0.1:{port}"
    with rig.running(command, port) as pid:
        if not workers:
            yield url, pid, None
            return
        _wait_for_both(url)
        front, other = rig.children(pid)
        os.kill(other, signal.SIGSTOP)
        try:
            yield url, front, pid
        finally:
            os.kill(other, signal.SIGCONT)


def _wait_for_both(url: str) -> None:
    """Return once each of two front ends has answered a request: then the server has started."""
    answered: set[str] = set()
    for _ in range(1000):
        answered.add(ask(f"{url}/health")[0]["X-Trace-Id"].partition("-")[2])
        if len(answered) == 2:
            return
        time.sleep(0.01)
    raise RuntimeError("one of the front ends does not answer")


def measure_http(seconds: int, connections: int) -> dict[tuple[str, bool], rig.Figures]:
    """Load both kinds of server and return what each kind of request took, with and without workers."""
    figures: dict[tuple[str, bool], rig.Figures] = {}
    for workers in (False, True):
        with served(workers=workers) as (url, front, behind):
            target = f"{url}/queues/default/messages"
            enqueue = rig.wrk(front, target, connections, seconds, post=True, behind=behind)
            receive, ack = lease_and_acknowledge(front, url, seconds - 1, connections, behind)
        figures |= {(verb, workers): each for verb, each in zip(VERBS, (enqueue, receive, ack), strict=True)}
    return figures


def print_http(connections: int, rounds: list[dict[tuple[str, bool], rig.Figures]]) -> None:
    """Print the medians."""
    for verb in VERBS:
        alone = [each[verb, False].cpu_us for each in rounds]
        front = [each[verb, True].cpu_us for each in rounds]
        behind = [each[verb, True].behind_us for each in rounds]
        ratio = statistics.median(one / other for one, other in zip(front, alone, strict=True))
        values = [statistics.median(each) for each in (alone, front, behind)]
        each = " ".join(f"{one:.1f}/{other:.1f}" for one, other in zip(front, alone, strict=True))
        print(
            f"{verb:8}{connections:12}{values[0]:12.1f}{values[1]:11.1f}{ratio:7.2f}{values[2]:8.1f}   {each}",
            flush=True,
        )


class Feed:
    """Front ends that only pretend, each with a socket to the process with the queues."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = {each.fileno(): each for each in sockets}
        self._received = dict.fromkeys(self._sockets, b"")
        self._heard = dict.fromkeys(self._sockets, 0)

    def send(self, frames: Sequence[list[Any]], *, keep: bool = False) -> list[bytes]:
        """Send frames of these columns, one under way from each; return the replies if they are to be kept."""
        kept: list[bytes] = []
        left = iter([wire.encode(columns) for columns in frames])
        with select.epoll() as poll:
            for descriptor in self._sockets:
                poll.register(descriptor, select.EPOLLIN)
            under_way = sum(self._send_next(descriptor, left) for descriptor in self._sockets)
            while under_way:
                for descriptor, _ in poll.poll():
                    reply = self._receive(descriptor)
                    if reply:
                        if keep:
                            kept.append(reply)
                        under_way -= not self._send_next(descriptor, left)
        return kept

    def _send_next(self, descriptor: int, left: Iterator[bytes]) -> bool:
        columns = next(left, None)
        if columns is None:
            return False
        # A frame is an array of two: the last one heard of, and the columns.
        frame = b"\x92" + wire.encode(self._heard[descriptor]) + columns
        self._sockets[descriptor].sendall(len(frame).to_bytes(4, "big") + frame)
        return True

    def _receive(self, descriptor: int) -> bytes:
        data = self._received[descriptor] + self._sockets[descriptor].recv(CHANNEL_BYTES)
        if len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            self._received[descriptor] = data
            return b""
        self._received[descriptor] = b""
        self._heard[descriptor] += 1
        return data[4:]


def measure_feed(front_ends: int, sizes: Sequence[int]) -> dict[tuple[str, int], tuple[float, float]]:
    """Return microseconds of CPU and requests a second, by the kind of request and how many are in a frame."""
    figures = {}
    with fed(front_ends) as (pid, feed), rig.on_the_other_core():
        for size in sizes:
            number = min(FED // size, FRAMES)
            frames: dict[str, list[list[Any]]] = {
                "enqueue": [[(Ask.ENQUEUE, "default", None, [BODY] * size)]] * number,
                "receive": [[(Ask.TAKE, "default", (1, True, LEASE_SECONDS, 0.0), [size])]] * number,
            }
            for verb in VERBS:
                begun, before = time.perf_counter(), rig.cpu_seconds(pid)
                replies = feed.send(frames[verb], keep=verb == "receive")
                used, lasted = rig.cpu_seconds(pid) - before, time.perf_counter() - begun
                figures[verb, size] = used / number / size * 1e6, number * size / lasted
                if verb == "receive":
                    frames["ack"] = [[(Ask.ACK, "default", None, _receipts(reply))] for reply in replies]
    return figures


def _receipts(reply: bytes) -> list[str]:
    receipts = []
    for kind, _, common, elements in wire.Outcomes.decode(reply)[3]:
        if kind != Tell.LEASE:
            raise RuntimeError(f"a receive was answered {elements[:3]}")
        receipts += [wire.unpack_lease(each, common).receipt for each in elements]
    return receipts


@contextmanager
def fed(front_ends: int) -> Iterator[tuple[int, Feed]]:
    """Run a process with queues, and so many sockets to it."""
    pairs = [socket.socketpair() for _ in range(front_ends)]
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    for each in ours:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * CHANNEL_BYTES)
    descriptors = [each.fileno() for each in theirs]
    command = [*rig.cores()[0], sys.executable, "-m", "bench.engine", "--queues", ",".join(map(str, descriptors))]
    with subprocess.Popen(command, pass_fds=descriptors) as process:
        for each in theirs:
            each.close()
        feed = Feed(ours)
        feed.send([[(Ask.ENQUEUE, "default", None, [BODY])]] * front_ends)  # once it is answered, it has started
        try:
            yield process.pid, feed
        finally:
            for each in ours:
                each.close()


async def keep_queues(descriptors: Sequence[int]) -> None:
    """Have queues for the front ends with these sockets, until all of them close."""
    async with open_service(Settings(max_msgs=10**8, max_bytes=64 << 30)) as service:
        engine = LocalEngine(service)
        hub = Hub(engine, there_now)
        async with trio.open_nursery() as hearing:
            hearing.start_soon(hub.run)
            async with trio.open_nursery() as nursery:
                for descriptor in descriptors:
                    host = Host(Channel(socket.socket(fileno=descriptor)), engine, service, hub)
                    nursery.start_soon(host.run)
                settle_in()
            hearing.cancel_scope.cancel()


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(["http", "feed"]), help="Only this half.")
@click.option("--seconds", default=4, show_default=True, help="Length of each wrk run.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--connections", default=(32, 128), show_default=True, multiple=True)
@click.option("--front-ends", default=8, show_default=True, help="How many pretend.")
@click.option("--queues", hidden=True, help="Be the process with the queues.")
def main(
    only: str | None, seconds: int, rounds: int, connections: tuple[int, ...], front_ends: int, queues: str | None
) -> None:
    """Measure and print."""
    if queues is not None:
        trio.run(keep_queues, [int(each) for each in queues.split(",")])
        return
    print(rig.machine(), flush=True)
    if only != "feed":
        print(f"{'':8}{'connections':>12}{'one process':>12}{'front end':>11}{'ratio':>7}{'queues':>8}   CPU us")
        for number in connections:
            print_http(number, [measure_http(seconds, number) for _ in range(rounds)])
    if only != "http":
        fed_rounds = [measure_feed(front_ends, (1, 8, 32, 128)) for _ in range(rounds)]
        print(f"{'':8}{'in a frame':>12}{'queues, CPU us':>16}{'requests/s':>12}, {front_ends} front ends")
        for verb, size in fed_rounds[0]:
            cost, rate = (statistics.median(each[verb, size][at] for each in fed_rounds) for at in (0, 1))
            print(f"{verb:8}{size:12}{cost:16.2f}{rate:12,.0f}", flush=True)


if __name__ == "__main__":
    main()
