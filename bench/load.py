"""Does every accepted message come out exactly once, in order, and how fast?

    scripts/bench load --url http://127.0.0.1:8080 --producers 200 --consumers 200 --messages 100000

Producers and consumers use keep-alive connections of their own. Every message names its producer and its
number there. The server's message ids tell the order of the queue: one producer's messages must have growing
ids, each must come out with the id it was accepted with, and each consumer must see growing ids. A message
lost, doubled, damaged or out of order makes the exit code 1, an option that cannot be used 2. An enqueue
without an answer is unknown: that message may come out or not. The latency of a dequeue includes waiting for a
message; the throughput is that from the start to the last message that moved. Start with an empty queue.
"""

from __future__ import annotations

import csv
import importlib.util
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
RECONNECT_AFTER = 0.2
"""Seconds a consumer pauses after a connection error, so that a server that is gone is not hammered."""

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
    last_error: str = ""
    without_id: int = 0
    wrong: list[str] = field(default_factory=list)
    produced: bool = False
    cut_off: bool = False
    moved_at: float = 0.0
    seconds: float = 0.0
    _matched: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything accepted has come out."""
        # Not a comparison of lengths: an unknown message that came out must not stand in for an accepted one.
        return self.produced and self._matched >= len(self.accepted)

    def accept(self, key: bytes, message_id: int) -> None:
        """Note a message the server took; it may have come out already."""
        self.accepted[key] = message_id
        self._moved(message_id, key in self.delivered)

    def deliver(self, key: bytes, message_id: int) -> None:
        """Note a message that came out; the answer to its enqueue may still be on its way."""
        self.delivered[key] = message_id
        self._moved(message_id, key in self.accepted)

    def broken(self, error: Exception) -> None:
        """Count a connection error and remember the latest."""
        self.connection_errors += 1
        self.last_error = str(error.__cause__ or error) or repr(error)

    def _moved(self, message_id: int, matched: bool) -> None:
        self.moved_at = time.perf_counter()
        self.without_id += not message_id
        self._matched += matched


class Connection:
    """A connection that is opened when needed and speaks just enough HTTP/1.1 to be no bottleneck."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._stream: Stream | None = None
        host = f"[{load.host}]" if ":" in load.host else load.host
        self._host = f"Host: {host}:{load.port}\r\n".encode()
        if not load.keep_alive:
            self._host += b"Connection: close\r\n"

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Closing forcefully does not wait; the scope keeps it so when the run is cut off.
        with trio.move_on_after(1, shield=True):
            await self.close()

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
        if not self._load.keep_alive or headers.get(b"connection", b"").lower() == b"close":
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


async def produce(load: Load, result: Result, producer: int, number: int) -> None:
    """Enqueue `number` messages, each again as often as the server says it is full."""
    last_id = 0
    async with Connection(load) as connection:
        for count in range(number):
            key = b"%d:%d:" % (producer, count)
            message_id = await enqueue(load, result, connection, key)
            if message_id and message_id <= last_id:
                result.wrong.append(f"out of order: {key!r} was accepted as {message_id} after {last_id}")
            last_id = message_id or last_id


async def enqueue(load: Load, result: Result, connection: Connection, key: bytes) -> int:
    """Enqueue a message until the server takes it or answers otherwise; return its id, 0 where there is none."""
    body = key.ljust(load.size, b".")
    while True:
        begun = time.perf_counter()
        # Unknown until answered, also when the run is cut off in between.
        result.unknown.add(key)
        try:
            status, headers, _ = await connection.exchange(b"POST /enqueue", body)
        except (OSError, trio.BrokenResourceError) as error:
            result.broken(error)
            await connection.close()
            return 0
        result.unknown.discard(key)
        if status == 202:
            result.enqueue_ms.append((time.perf_counter() - begun) * 1000)
            message_id = int(headers.get(b"zapq-message-id", b"0"))
            result.accept(key, message_id)
            return message_id
        if status not in {429, 503}:
            result.wrong.append(f"enqueue was answered {status}")
            return 0
        await come_back(result, headers)


async def come_back(result: Result, headers: dict[bytes, bytes]) -> None:
    """Wait as long as the server asked for, a little less so that those refused together come back apart."""
    result.refused += 1
    await trio.sleep(float(headers.get(b"retry-after", b"1")) * random.uniform(0.5, 1.0))


async def consume(load: Load, result: Result, tick: Callable[[], None]) -> None:
    """Dequeue until everything accepted has come out, or nothing has for a while."""
    last_id = 0
    idle_since = math.inf
    request = b"GET /dequeue"
    async with Connection(load) as connection:
        while not result.complete:
            begun = time.perf_counter()
            if result.produced and begun - idle_since > IDLE_ENDS:
                break
            try:
                status, headers, body = await connection.exchange(request)
            except (OSError, trio.BrokenResourceError) as error:
                result.broken(error)
                await connection.close()
                await trio.sleep(RECONNECT_AFTER)
                idle_since = min(idle_since, begun)
                continue
            # Only who found nothing waits.
            request = b"GET /dequeue?wait=1" if status == 204 else b"GET /dequeue"
            if status == 200:
                now = time.perf_counter()
                result.dequeue_ms.append((now - begun) * 1000)
                result.delivered_at.append(now)
                message_id = int(headers.get(b"zapq-message-id", b"0"))
                note(load, result, body, message_id, last_id)
                last_id = message_id or last_id
                idle_since = math.inf
                tick()
                continue
            idle_since = min(idle_since, begun)
            if status == 429:
                await come_back(result, headers)
            elif status != 204:
                result.wrong.append(f"dequeue was answered {status}")
                break


def note(load: Load, result: Result, body: bytes, message_id: int, last_id: int) -> None:
    """Check one delivered message on its own."""
    key = b":".join(body.split(b":", 2)[:2]) + b":"
    if body != key.ljust(load.size, b"."):
        result.wrong.append(f"damaged: {body[:40]!r}")
    elif key in result.delivered:
        result.wrong.append(f"delivered twice: {key!r}")
    else:
        result.deliver(key, message_id)
        if message_id and message_id <= last_id:
            result.wrong.append(f"out of order: {message_id} came out after {last_id} on one connection")


def verify(result: Result) -> list[str]:
    """Return what is wrong with the whole: losses, strangers and changed ids besides what was noted on the way."""
    wrong = list(result.wrong)
    missing = result.accepted.keys() - result.delivered.keys()
    if not result.accepted:
        wrong.append("nothing was accepted")
    if result.cut_off:
        wrong.append(f"time ran out: {len(missing)} accepted messages had not come out")
    else:
        wrong += [f"lost: {key!r}" for key in missing]
    strangers = result.delivered.keys() - result.accepted.keys() - result.unknown
    wrong += [f"never accepted: {key!r}" for key in strangers]
    wrong += [
        f"id changed: {key!r} was accepted as {message_id} and delivered as {result.delivered[key]}"
        for key, message_id in result.accepted.items()
        if message_id and result.delivered.get(key, 0) not in {0, message_id}
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
                        producers.start_soon(produce, load, result, producer, share)
                result.produced = True
        # Up to the last message that moved: the consumers' last, empty waits are not the server's slowness.
        result.seconds = (result.moved_at or time.perf_counter()) - begun
    result.cut_off = limit.cancelled_caught
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


def rates(result: Result) -> dict[str, float]:
    """Return the requests a second that moved a message."""
    accepted, delivered = len(result.accepted), len(result.delivered)
    counts = {"enqueue": accepted, "dequeue": delivered, "together": accepted + delivered}
    return {name: count / result.seconds for name, count in counts.items()}


def report(result: Result) -> None:
    """Print the figures."""
    accepted, delivered = len(result.accepted), len(result.delivered)
    print(f"accepted {accepted}, delivered {delivered}, unknown {len(result.unknown)}")
    last = f", the last: {result.last_error}" if result.last_error else ""
    print(f"told to come back {result.refused}, connection errors {result.connection_errors}{last}")
    if result.without_id:
        print(f"{result.without_id} answers had no Zapq-Message-Id: order and ids were not checked there")
    print(f"{result.seconds:.2f} s" + "".join(f", {name} {rate:.0f}/s" for name, rate in rates(result).items()))
    print("dequeue latency includes waiting for a message")
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
        rows.writerows(("per_second", name, f"{rate:.1f}") for name, rate in rates(result).items())
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
    span = result.seconds
    right.hist(seconds, bins=50, range=(0, span), weights=[50 / span] * len(seconds))
    right.set(xlabel="time, s", ylabel="messages/s", title="Throughput")
    figure.tight_layout()
    figure.savefig(path)


def endpoint(url: str) -> tuple[bool, str, int]:
    """Return whether it is https, the host and the port."""
    wanted = click.BadParameter("give http://host:port or https://host:port", param_hint="--url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wanted from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise wanted
    secure = parts.scheme == "https"
    return secure, parts.hostname, port or (443 if secure else 80)


def tls_context(ca: str | None, insecure: bool) -> ssl.SSLContext:
    """Return how to check the server's certificate."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise click.BadParameter(f"holds no certificates: {error.strerror}", param_hint="--ca") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


SECONDS = click.FloatRange(0, 1e6, min_open=True)
FILE = click.Path(dir_okay=False, path_type=Path)


def check_outputs(csv_file: Path | None, plot_file: Path | None) -> None:
    """Refuse, before the run, what could not be written after it."""
    for path in filter(None, (csv_file, plot_file)):
        if not path.parent.is_dir():
            raise click.UsageError(f"{path.parent} is not a directory")
    if plot_file and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib")


@click.command(help=__doc__)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True)
@click.option("--producers", default=200, show_default=True, type=click.IntRange(1))
@click.option("--consumers", default=200, show_default=True, type=click.IntRange(1))
@click.option("--messages", default=100_000, show_default=True, type=click.IntRange(1))
@click.option("--size", default=128, show_default=True, type=click.IntRange(24), help="Bytes of each message.")
@click.option("--timeout", default=300.0, type=SECONDS, show_default=True, help="Seconds the run may take.")
@click.option("--keep-alive/--no-keep-alive", default=True, help="Or a connection for each request.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust for https.")
@click.option("--insecure", is_flag=True, help="Do not check the server's certificate.")
@click.option("--csv", "csv_file", type=FILE, help="Write the figures here.")
@click.option("--plot", "plot_file", type=FILE, help="Draw the figures here (PNG).")
@click.option("--progress/--no-progress", default=None, help="Show a bar; the default is: on a terminal.")
def command(
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
    secure, host, port = endpoint(url)
    check_outputs(csv_file, plot_file)
    context = tls_context(ca, insecure) if secure else None
    load = Load(host, port, context, producers, consumers, messages, size, keep_alive)
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
        print("\nevery accepted message came out exactly once" + (", in order" if not result.without_id else ""))
    sys.exit(1 if wrong else 0)


def main() -> None:
    """Run the command line; an option that cannot be used is one line and exit code 2."""
    try:
        command.main(prog_name="bench.load", standalone_mode=False)
    except click.ClickException as error:
        print(f"bench.load: {' '.join(error.format_message().split())}", file=sys.stderr)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)


if __name__ == "__main__":
    main()
