"""Does every accepted message come out exactly once, in order, and how fast?

    scripts/bench load --url http://127.0.0.1:8080 --producers 200 --consumers 200 --messages 100000

Producers and consumers use keep-alive connections of their own. Every message names its producer and its
number there. The server's message ids tell the order of the queue: one producer's messages must have growing
ids, each must come out with the id it was accepted with, and each consumer must see growing ids. A message
lost, doubled, damaged or out of order makes the exit code 1. An enqueue without an answer is unknown: that
message may come out or not. The latency of a dequeue includes waiting for a message.
"""

from __future__ import annotations

import csv
import math
import random
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import click
import trio

BOUNDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, math.inf)
"""Upper bounds of the histogram's buckets, in milliseconds."""
IDLE_ENDS = 5.0
"""Seconds the queue must be empty, after the last enqueue, before what is missing counts as lost."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass(frozen=True)
class Load:
    """What to do."""

    host: str
    port: int
    context: ssl.SSLContext | None
    producers: int
    consumers: int
    messages: int
    size: int
    keep_alive: bool


@dataclass
class Result:
    """What happened."""

    accepted: dict[bytes, int] = field(default_factory=dict)
    unknown: set[bytes] = field(default_factory=set)
    delivered: dict[bytes, int] = field(default_factory=dict)
    enqueue_ms: list[float] = field(default_factory=list)
    dequeue_ms: list[float] = field(default_factory=list)
    delivered_at: list[float] = field(default_factory=list)
    refused: int = 0
    connection_errors: int = 0
    wrong: list[str] = field(default_factory=list)
    produced: bool = False
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether everything accepted has come out."""
        return self.produced and len(self.delivered) >= len(self.accepted)


class Connection:
    """A connection that is opened when needed and speaks just enough HTTP/1.1 to be no bottleneck."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._stream: Stream | None = None
        self._host = b"Host: %b\r\n" % load.host.encode()
        if not load.keep_alive:
            self._host += b"Connection: close\r\n"

    async def exchange(self, line: bytes, body: bytes | None = None) -> tuple[int, dict[bytes, bytes], bytes]:
        """Send a request; return status, headers with lower-case names, and body."""
        if self._stream is None:
            self._stream = await self._open()
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        await self._stream.send_all(line + b" HTTP/1.1\r\n" + self._host + length + b"\r\n" + (body or b""))
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += await self._receive()
        first, *lines = bytes(received[:end]).split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        whole = end + 4 + int(headers.get(b"content-length", b"0"))
        while len(received) < whole:
            received += await self._receive()
        if not self._load.keep_alive or headers.get(b"connection") == b"close":
            await self.close()
        return int(first.split(b" ")[1]), headers, bytes(received[end + 4 :])

    async def close(self) -> None:
        """Close the connection; the next exchange opens another."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)

    async def _open(self) -> Stream:
        if self._load.context is None:
            return await trio.open_tcp_stream(self._load.host, self._load.port)
        return await trio.open_ssl_over_tcp_stream(
            self._load.host, self._load.port, ssl_context=self._load.context, https_compatible=True
        )

    async def _receive(self) -> bytes | bytearray:
        assert self._stream is not None
        data = await self._stream.receive_some()
        if not data:
            raise trio.BrokenResourceError("closed in the answer")
        return data


async def produce(load: Load, result: Result, producer: int, number: int, tick: Callable[[], None]) -> None:
    """Enqueue `number` messages, each again as often as the server says it is full."""
    connection = Connection(load)
    last_id = 0
    for count in range(number):
        key = b"%d:%d:" % (producer, count)
        body = key.ljust(load.size, b".")
        while True:
            begun = time.perf_counter()
            try:
                status, headers, _ = await connection.exchange(b"POST /enqueue", body)
            except (OSError, trio.BrokenResourceError):
                result.connection_errors += 1
                result.unknown.add(key)
                await connection.close()
                break
            if status == 202:
                result.enqueue_ms.append((time.perf_counter() - begun) * 1000)
                message_id = int(headers.get(b"zapq-message-id", b"0"))
                if message_id and message_id <= last_id:
                    result.wrong.append(f"out of order: {key!r} was accepted as {message_id} after {last_id}")
                result.accepted[key], last_id = message_id, message_id
                tick()
                break
            if status not in {429, 503}:
                result.wrong.append(f"enqueue was answered {status}")
                break
            result.refused += 1
            # Jitter, so that those refused together do not come back together.
            await trio.sleep(float(headers.get(b"retry-after", b"1")) * random.uniform(0.5, 1.0))
    await connection.close()


async def consume(load: Load, result: Result, tick: Callable[[], None]) -> None:
    """Dequeue until everything accepted has come out, or nothing has for a while."""
    connection = Connection(load)
    last_id = 0
    idle_since = math.inf
    while not result.complete:
        begun = time.perf_counter()
        try:
            status, headers, body = await connection.exchange(b"GET /dequeue?wait=1")
        except (OSError, trio.BrokenResourceError):
            result.connection_errors += 1
            await connection.close()
            continue
        now = time.perf_counter()
        if status == 200:
            result.dequeue_ms.append((now - begun) * 1000)
            result.delivered_at.append(now)
            message_id = int(headers.get(b"zapq-message-id", b"0"))
            note(load, result, body, message_id, last_id)
            last_id = message_id
            idle_since = math.inf
            tick()
        elif status == 204:
            idle_since = min(idle_since, begun)
            if result.produced and now - idle_since > IDLE_ENDS:
                break
        else:
            result.wrong.append(f"dequeue was answered {status}")
            break
    await connection.close()


def note(load: Load, result: Result, body: bytes, message_id: int, last_id: int) -> None:
    """Check one delivered message on its own."""
    key = b":".join(body.split(b":", 2)[:2]) + b":"
    if body != key.ljust(load.size, b"."):
        result.wrong.append(f"damaged: {body[:40]!r}")
    elif key in result.delivered:
        result.wrong.append(f"delivered twice: {key!r}")
    elif message_id and message_id <= last_id:
        result.wrong.append(f"out of order: {message_id} came out after {last_id} on one connection")
    else:
        result.delivered[key] = message_id


def verify(result: Result) -> list[str]:
    """Return what is wrong with the whole: losses, strangers and changed ids besides what was noted on the way."""
    wrong = list(result.wrong)
    wrong += [f"lost: {key!r}" for key in result.accepted.keys() - result.delivered.keys()]
    strangers = result.delivered.keys() - result.accepted.keys() - result.unknown
    wrong += [f"never accepted: {key!r}" for key in strangers]
    wrong += [
        f"id changed: {key!r} was accepted as {message_id} and delivered as {result.delivered[key]}"
        for key, message_id in result.accepted.items()
        if key in result.delivered and result.delivered[key] != message_id
    ]
    return wrong


async def run(load: Load, patience: float, progress: bool) -> Result:
    """Carry the load out and return what happened."""
    result = Result()
    async with AsyncExitStack() as stack:
        tick = stack.enter_context(_progress_bar(load.messages)) if progress else lambda: None
        begun = time.perf_counter()
        with trio.move_on_after(patience) as limit:
            async with trio.open_nursery() as consumers:
                for _ in range(load.consumers):
                    consumers.start_soon(consume, load, result, tick)
                async with trio.open_nursery() as producers:
                    for producer in range(load.producers):
                        share = load.messages // load.producers + (producer < load.messages % load.producers)
                        producers.start_soon(produce, load, result, producer, share, lambda: None)
                result.produced = True
        result.seconds = time.perf_counter() - begun
    if limit.cancelled_caught:
        result.wrong.append(f"not done after {patience:g} s")
    return result


class _progress_bar:
    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit="msg", file=sys.stderr)

    def __enter__(self) -> Callable[[], None]:
        return self._tick

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _tick(self) -> None:
        self._bar.update()


def summary(latencies: list[float]) -> dict[str, float]:
    """Return average, percentiles and maximum, in milliseconds."""
    if not latencies:
        return {}
    ordered = sorted(latencies)
    picked = {f"p{p}": ordered[math.ceil(len(ordered) * p / 100) - 1] for p in (50, 95, 99)}
    return {"avg": sum(ordered) / len(ordered), **picked, "max": ordered[-1]}


def buckets(latencies: list[float]) -> list[tuple[float, int]]:
    """Return how many latencies lie at or below each bound and above the one before."""
    counts = dict.fromkeys(BOUNDS, 0)
    for latency in latencies:
        counts[next(bound for bound in BOUNDS if latency <= bound)] += 1
    return list(counts.items())


def report(result: Result) -> None:
    """Print the figures."""
    accepted, delivered = len(result.accepted), len(result.delivered)
    print(f"accepted {accepted}, delivered {delivered}, unknown {len(result.unknown)}")
    print(f"told to come back {result.refused}, connection errors {result.connection_errors}")
    rate = (accepted + delivered) / result.seconds
    print(
        f"{result.seconds:.2f} s, {accepted / result.seconds:.0f} messages/s, {rate:.0f} requests/s that moved one"
    )
    for name, latencies in (("enqueue", result.enqueue_ms), ("dequeue", result.dequeue_ms)):
        figures = "  ".join(f"{key} {value:.2f}" for key, value in summary(latencies).items())
        print(f"\n{name} latency, ms: {figures}")
        for bound, count in buckets(latencies):
            if count:
                bar = "#" * math.ceil(40 * count / len(latencies))
                print(f"  <= {bound:>6g}  {count:>8}  {bar}")


def write_csv(path: Path, result: Result) -> None:
    """Write the figures as rows of kind, name, value."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("kind", "name", "value"))
        rows.writerow(("total", "seconds", f"{result.seconds:.3f}"))
        rows.writerow(("total", "accepted", len(result.accepted)))
        rows.writerow(("total", "delivered", len(result.delivered)))
        for kind, latencies in (("enqueue", result.enqueue_ms), ("dequeue", result.dequeue_ms)):
            rows.writerows((f"{kind}_ms", name, f"{value:.3f}") for name, value in summary(latencies).items())
            rows.writerows((f"{kind}_bucket", f"{bound:g}", count) for bound, count in buckets(latencies))


def write_plot(path: Path, result: Result) -> None:
    """Draw the latency distributions and the throughput over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name, latencies in (("enqueue", result.enqueue_ms), ("dequeue", result.dequeue_ms)):
        ordered = sorted(latencies)
        left.plot(ordered, [100 * (n + 1) / len(ordered) for n in range(len(ordered))], label=name)
    left.set(xscale="log", xlabel="latency, ms", ylabel="% of requests", title="Latency")
    left.legend()
    begun = min(result.delivered_at, default=0.0)
    seconds = [moment - begun for moment in result.delivered_at]
    right.hist(seconds, bins=50, weights=[50 / max(seconds, default=1)] * len(seconds))
    right.set(xlabel="time, s", ylabel="messages/s", title="Throughput")
    figure.tight_layout()
    figure.savefig(path)


def tls_context(ca: str | None, insecure: bool) -> ssl.SSLContext:
    """Return how to check the server's certificate."""
    context = ssl.create_default_context(cafile=ca)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@click.command(help=__doc__)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True)
@click.option("--producers", default=200, show_default=True, type=click.IntRange(1))
@click.option("--consumers", default=200, show_default=True, type=click.IntRange(1))
@click.option("--messages", default=100_000, show_default=True, type=click.IntRange(1))
@click.option("--size", default=128, show_default=True, type=click.IntRange(24), help="Bytes of each message.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds after which the run has failed.")
@click.option("--keep-alive/--no-keep-alive", default=True, help="Or a connection for each request.")
@click.option("--ca", type=click.Path(exists=True), help="Certificates to trust for https.")
@click.option("--insecure", is_flag=True, help="Do not check the server's certificate.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw the figures here (PNG).")
@click.option("--progress/--no-progress", default=None, help="Show a bar; the default is: on a terminal.")
def main(
    url: str,
    producers: int,
    consumers: int,
    messages: int,
    size: int,
    timeout: float,
    keep_alive: bool,
    ca: str | None,
    insecure: bool,
    csv_file: Path | None,
    plot_file: Path | None,
    progress: bool | None,
) -> None:
    """Run the load and judge it."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise click.BadParameter("give http://host:port or https://host:port", param_hint="--url")
    context = tls_context(ca, insecure) if parts.scheme == "https" else None
    port = parts.port or (443 if context else 80)
    load = Load(parts.hostname, port, context, producers, consumers, messages, size, keep_alive)
    shown = sys.stderr.isatty() if progress is None else progress
    result = trio.run(run, load, timeout, shown)
    report(result)
    if csv_file:
        write_csv(csv_file, result)
    if plot_file:
        write_plot(plot_file, result)
    wrong = verify(result)
    for line in wrong[:20]:
        print(f"WRONG: {line}", file=sys.stderr)
    if len(wrong) > 20:
        print(f"WRONG: and {len(wrong) - 20} more", file=sys.stderr)
    if not wrong:
        print("\nevery accepted message came out exactly once, in order")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
