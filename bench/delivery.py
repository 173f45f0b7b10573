"""What does delivery under a lease cost beside handing over, and what do leases and consumers cost that wait?

    scripts/bench delivery

Starts zapq on one core and loads it from the others with wrk, 32 connections: enqueue and dequeue of 128-byte
messages, then the same messages sent to a queue by name, received under a lease, and acknowledged. Then 100,000
leases and 10,000 long polls are left alone for a while: the CPU of the process, and its memory for each of them.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from urllib.request import Request, urlopen

import click
import msgspec

from bench import rig

CONNECTIONS = 32


def ask(url: str, method: str = "GET", body: bytes | None = None, **fields: str) -> tuple[dict[str, str], bytes]:
    """Send one request and return the answer's head and body."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    with urlopen(Request(url, body, headers, method=method)) as answer:
        return dict(answer.headers), answer.read()


def fill(url: str, messages: int) -> None:
    """Send so many messages, in batches."""
    batch = msgspec.msgpack.encode([b"x" * rig.MESSAGE] * 1000)
    for _ in range(messages // 1000):
        ask(f"{url}/queues/default/messages/batch", "POST", batch, Content_Type="application/msgpack")


def lease_and_acknowledge(
    pid: int, url: str, seconds: int, connections: int = CONNECTIONS, behind: int | None = None
) -> tuple[rig.Figures, rig.Figures]:
    """Receive for as long as that, and acknowledge for a little less; `behind` is as in `rig.wrk`."""
    head, _ = ask(f"{url}/queues/default/receive?visibility=3600", "POST")
    tag, _, serial = head["Zapq-Receipt"].rpartition("-")
    target = f"{url}/queues/default/receive?visibility=3600"
    receives = rig.wrk(pid, target, connections, seconds, post=True, body=False, behind=behind)
    # Receipts count up, so each request can name another one without having read it.
    acks = rig.wrk(
        pid,
        url,
        connections,
        seconds - 1,
        behind=behind,
        script=f"""
            local serial = {int(serial, 16) - 1}
            wrk.method = "DELETE"
            request = function()
                serial = serial + 1
                return wrk.format(nil, string.format("/queues/default/receipts/{tag}-%x", serial))
            end
        """,
    )
    return receives, acks


def park(port: int, waiters: int) -> list[socket.socket]:
    """Open so many long polls."""
    request = b"POST /queues/idle/receive?wait=60 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    parked = []
    for _ in range(waiters):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request)
        parked.append(client)
    return parked


def metric(url: str, name: str) -> int:
    """Return one of the server's metrics."""
    number: int = json.loads(ask(f"{url}/metrics")[1])[name]
    return number


@click.command(help=__doc__)
@click.option("--seconds", default=4, show_default=True, help="Length of each wrk run.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--leases", default=100_000, show_default=True, help="Leases that are left alone.")
@click.option("--waiters", default=10_000, show_default=True, help="Long polls that are left alone.")
def main(seconds: int, rounds: int, leases: int, waiters: int) -> None:
    """Measure and print."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(rig.machine(), flush=True)
    command = [sys.executable, "-m", "zapq", "--max-msgs", "100000000", "--max-bytes", "64G"]
    command += ["--max-connections", str(2 * waiters), "--max-connections-per-address", "0"]
    command += ["--max-waiters", str(2 * waiters), "--addr"]
    results: dict[str, list[rig.Figures]] = {}
    for _ in range(rounds):
        port = rig.free_port()
        url = f"http://127.0.0.1:{port}"
        with rig.running([*command, f"127.0.0.1:{port}"], port) as pid:
            runs = {
                "enqueue": rig.wrk(pid, f"{url}/enqueue", CONNECTIONS, seconds, post=True),
                "dequeue": rig.wrk(pid, f"{url}/dequeue", CONNECTIONS, seconds - 1, post=False),
                "messages": rig.wrk(pid, f"{url}/queues/default/messages", CONNECTIONS, seconds, post=True),
            }
            runs["receive"], runs["ack"] = lease_and_acknowledge(pid, url, seconds - 1)
        for name, figures in runs.items():
            results.setdefault(name, []).append(figures)
    medians = {name: rig.median(runs) for name, runs in results.items()}
    print(f"{'':12}{'req/s':>9}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for name, one in medians.items():
        print(f"{name:12}{one.per_second:9.0f}{one.cpu_us:9.1f}{one.p50_ms:9.2f}{one.p99_ms:9.2f}")
    ratios = [
        (receive.cpu_us + ack.cpu_us) / dequeue.cpu_us
        for receive, ack, dequeue in zip(results["receive"], results["ack"], results["dequeue"], strict=True)
    ]
    print(f"receive and ack are {sorted(ratios)[len(ratios) // 2]:.2f} times the CPU of a dequeue", flush=True)
    port = rig.free_port()
    url = f"http://127.0.0.1:{port}"
    with rig.running([*command, f"127.0.0.1:{port}"], port) as pid:
        ask(f"{url}/queues/idle", "PUT", b"{}")
        fill(url, leases)
        before = rig.resident_bytes(pid)
        for _ in range(leases // 1000):
            ask(f"{url}/queues/default/receive/batch?visibility=3600", "POST", Accept="application/msgpack")
        each = (rig.resident_bytes(pid) - before) / leases
        print(f"{metric(url, 'messages_leased')} leases: {idle_cpu(pid):.2f} % of a core, {each:.0f} bytes each")
        before = rig.resident_bytes(pid)
        parked = park(port, waiters)
        while metric(url, "waiting") < waiters:
            time.sleep(0.1)
        each = (rig.resident_bytes(pid) - before) / waiters
        print(f"{len(parked)} long polls beside them: {idle_cpu(pid):.2f} % of a core, {each / 1024:.1f} KiB each")


def idle_cpu(pid: int) -> float:
    """Return what part of a core the process uses while it is left alone, in percent."""
    time.sleep(1)
    used = rig.cpu_seconds(pid)
    time.sleep(10)
    return (rig.cpu_seconds(pid) - used) * 10


if __name__ == "__main__":
    main()
