"""How does zapq compare with what one would pick instead?

    scripts/bench compare --json compare.json --svg compare.svg

Starts each in turn, from its ordinary package, on one core, and loads it from the others with the same number
of connections and messages of 128 bytes: zapq, zapq without its hot path, a raw ASGI queue on uvicorn with
uvloop and httptools, Redis (RPUSH and LPOP, by redis-benchmark), beanstalkd (put; reserve and delete, by a
client in Python, which is slower than the server, so that its requests a second say little), and, where `go`
is installed, a queue on Go's net/http; with `--tls` also zapq and that queue over TLS. Several rounds, taking
turns; the round with the median CPU counts. The ratio is CPU a message relative to zapq's: above 1 is dearer. wrk
loads the HTTP servers.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench import rig

Measure = Callable[[int, int, int, str, int], rig.Figures]
"""From pid, port, connections, what (enqueue or dequeue) and seconds."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, how it is started (`{port}` stands for its port), and how it is loaded."""

    name: str
    command: list[str]
    measure: Measure


def over_http(pid: int, port: int, connections: int, what: str, seconds: int) -> rig.Figures:
    """Load an HTTP queue with wrk."""
    return rig.wrk(pid, f"http://127.0.0.1:{port}/{what}", connections, seconds, post=what == "enqueue")


def over_https(pid: int, port: int, connections: int, what: str, seconds: int) -> rig.Figures:
    """Load an HTTP queue with wrk, over TLS."""
    return rig.wrk(pid, f"https://127.0.0.1:{port}/{what}", connections, seconds, post=what == "enqueue")


def over_redis(pid: int, port: int, connections: int, what: str, seconds: int) -> rig.Figures:
    """Load Redis with redis-benchmark, a command a round trip."""
    command = ["RPUSH", "queue", "x" * rig.MESSAGE] if what == "enqueue" else ["LPOP", "queue"]
    # It takes a number and not a time; this many take about as long.
    requests = 80_000 * seconds if connections > 1 else 12_000 * seconds
    benchmark = ["redis-benchmark", "-p", str(port), "-c", str(connections), "-n", str(requests), "--csv"]
    before = rig.cpu_seconds(pid)
    out = subprocess.run(
        [*rig.cores()[1], *benchmark, *command], check=True, capture_output=True, text=True
    ).stdout
    used = rig.cpu_seconds(pid) - before
    row = list(csv.DictReader(out.splitlines()))[-1]
    return rig.Figures(
        requests=requests,
        per_second=float(row["rps"]),
        cpu_us=used / requests * 1e6,
        p50_ms=float(row["p50_latency_ms"]),
        p99_ms=float(row["p99_latency_ms"]),
    )


def over_beanstalk(pid: int, port: int, connections: int, what: str, seconds: int) -> rig.Figures:
    """Load beanstalkd with our own client, in a process on the load's core."""
    client = [sys.executable, "-m", "bench.rivals.beanstalk_client"]
    before = rig.cpu_seconds(pid)
    out = subprocess.run(
        [*rig.cores()[1], *client, str(port), str(connections), what, str(seconds)],
        check=True,
        capture_output=True,
    ).stdout
    used = rig.cpu_seconds(pid) - before
    result = msgspec.json.decode(out)
    messages = result["messages"]
    return rig.Figures(messages, messages / result["seconds"], used / messages * 1e6, result["p50"], result["p99"])


@contextmanager
def contenders(tls: bool) -> Iterator[list[Contender]]:
    """Yield all there are, for the length of the block; those over TLS as well, if `tls`."""
    zapq = [sys.executable, "-m", "zapq", "--addr", "127.0.0.1:{port}", "--max-msgs", "100000000"]
    zapq += ["--max-bytes", "64G"]
    uvicorn = [sys.executable, "-m", "uvicorn", "bench.rivals.asgi_queue:app", "--port", "{port}"]
    uvicorn += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    rig.install("redis-server", "redis-server")
    rig.install("beanstalkd", "beanstalkd")
    redis = ["redis-server", "--port", "{port}", "--save", "", "--appendonly", "no"]
    beanstalkd = [shutil.which("beanstalkd", path="/usr/bin:/usr/sbin") or "beanstalkd"]
    found = [
        Contender("zapq", zapq, over_http),
        Contender("zapq --no-hot-path", [*zapq, "--no-hot-path"], over_http),
        Contender("uvicorn, uvloop, httptools", uvicorn, over_http),
        Contender("Redis", redis, over_redis),
        Contender("beanstalkd", [*beanstalkd, "-l", "127.0.0.1", "-p", "{port}"], over_beanstalk),
    ]
    with tempfile.TemporaryDirectory() as directory:
        go = rig.go_queue(directory)
        if go is not None:
            found.append(Contender("Go net/http", go, over_http))
        if tls:
            cert, key = rig.certificate(directory)
            found.append(Contender("zapq, TLS", [*zapq, "--tls-cert", cert, "--tls-key", key], over_https))
            if go is not None:
                found.append(Contender("Go net/http, TLS", [*go, cert, key], over_https))
        yield found


def measure(
    found: list[Contender], connections: int, seconds: int, rounds: int
) -> dict[str, dict[str, list[rig.Figures]]]:
    """Let them take turns, and return the figures of every round by name and by what was done."""
    results: dict[str, dict[str, list[rig.Figures]]] = {each.name: {} for each in found}
    for number in range(rounds):
        for contender in found:
            port = rig.free_port()
            with rig.running([word.replace("{port}", str(port)) for word in contender.command], port) as pid:
                for what, length in (("enqueue", seconds), ("dequeue", max(1, seconds - 1))):
                    figures = contender.measure(pid, port, connections, what, length)
                    results[contender.name].setdefault(what, []).append(figures)
            print(f"round {number + 1}: {contender.name} done", file=sys.stderr, flush=True)
    return results


def table(results: dict[str, dict[str, rig.Figures]]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| server | what | messages/s | CPU us each | ratio | p50 ms | p99 ms |"]
    lines.append("| --- | --- | --: | --: | --: | --: | --: |")
    for name, figures in results.items():
        for what, one in figures.items():
            ratio = one.cpu_us / results["zapq"][what].cpu_us
            cost = f"{one.per_second:,.0f} | {one.cpu_us:.1f} | {ratio:.2f}"
            lines.append(f"| {name} | {what} | {cost} | {one.p50_ms:.2f} | {one.p99_ms:.2f} |")
    return "\n".join(lines)


def draw(results: dict[str, dict[str, rig.Figures]], title: str, path: str) -> None:
    """Write the CPU a message of each as a bar chart, on a logarithmic scale."""
    import matplotlib as mpl  # here, because it takes a second to import

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "zapq"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.6 * len(results) + 1.4))
    names = list(results)
    for offset, what in ((-0.2, "enqueue"), (0.2, "dequeue")):
        values = [results[name][what].cpu_us for name in names]
        bars = axes.barh([row + offset for row in range(len(names))], values, height=0.38, label=what)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1, 3 * max(one.cpu_us for figures in results.values() for one in figures.values()))
    axes.set_xlabel("CPU microseconds a message, logarithmic; shorter is better")
    axes.set_title(title, fontsize=9)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


@click.command(help=__doc__)
@click.option("--connections", default=32, show_default=True)
@click.option("--seconds", default=4, show_default=True, help="Length of each enqueue run.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--tls", is_flag=True, help="Measure zapq and Go's net/http over TLS as well.")
@click.option("--json", "json_file", metavar="FILE", help="Write the figures here.")
@click.option("--svg", "svg_file", metavar="FILE", help="Draw the figures here.")
def main(
    connections: int, seconds: int, rounds: int, tls: bool, json_file: str | None, svg_file: str | None
) -> None:
    """Measure, print, write."""
    with contenders(tls) as found:
        rounds_ = measure(found, connections, seconds, rounds)
    results = {
        name: {what: rig.median(runs) for what, runs in figures.items()} for name, figures in rounds_.items()
    }
    title = f"{datetime.now(UTC):%Y-%m-%d}, {connections} connections, {rig.machine()}"
    print(f"{title}\n\n{table(results)}")
    if json_file:
        runs = {
            name: {what: [asdict(run) for run in runs] for what, runs in figures.items()}
            for name, figures in rounds_.items()
        }
        document = {"title": title, "connections": connections, "rounds": runs}
        Path(json_file).write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    if svg_file:
        draw(results, title, svg_file)


if __name__ == "__main__":
    main()
