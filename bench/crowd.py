"""What do very many connections cost: a storm of them at once, and a crowd that stays and says nothing?

    scripts/bench crowd

Starts zapq on one core. First 5,000 clients connect at the same moment and send a request each; every one must
be answered, and the kernel's counters tell if connections were dropped on the way. Then 10,000 keep-alive
connections stay idle: resident memory for each, and the latency of one active client before and with them.
"""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import sys
import time
from pathlib import Path

import click

from bench import rig

REQUEST = b"GET /dequeue HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 30.0
"""Seconds after which a client that is not answered counts as lost."""


def drops() -> int:
    """Return how many connections the kernel has dropped at full listen queues, since boot."""
    names, values = Path("/proc/net/netstat").read_text().splitlines()[:2]
    counters = dict(zip(names.split(), values.split(), strict=True))
    return int(counters["ListenDrops"])


def storm(port: int, clients: int) -> tuple[list[socket.socket], list[float]]:
    """Connect so many clients at once, send a request on each, and return those answered and after how long."""
    selector = selectors.DefaultSelector()
    begun = time.perf_counter()
    for _ in range(clients):
        client = socket.socket()
        client.setblocking(False)
        if client.connect_ex(("127.0.0.1", port)) not in {0, errno.EINPROGRESS}:
            raise RuntimeError("cannot connect")
        selector.register(client, selectors.EVENT_WRITE)
    answered: list[socket.socket] = []
    seconds: list[float] = []
    while len(answered) < clients and time.perf_counter() - begun < PATIENCE:
        for key, events in selector.select(1):
            client = key.fileobj  # type: ignore[assignment]
            try:
                if events & selectors.EVENT_WRITE:
                    client.send(REQUEST)
                    selector.modify(client, selectors.EVENT_READ)
                elif client.recv(4096).startswith(b"HTTP/1.1 20"):
                    answered.append(client)
                    seconds.append(time.perf_counter() - begun)
                    selector.unregister(client)
            except OSError:
                selector.unregister(client)
    selector.close()
    return answered, seconds


def latency(port: int) -> tuple[float, float]:
    """Return the p50 and p99 of one client's requests, in milliseconds."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(10_000):
            begun = time.perf_counter()
            client.sendall(REQUEST)
            client.recv(4096)
            times.append((time.perf_counter() - begun) * 1000)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


@click.command(help=__doc__)
@click.option("--clients", default=5_000, show_default=True, help="Clients that connect at once.")
@click.option("--idle", default=10_000, show_default=True, help="Connections that stay.")
@click.option("--zapq-flag", "flags", multiple=True, help="Further flags for zapq, such as --no-hot-path.")
def main(clients: int, idle: int, flags: tuple[str, ...]) -> None:
    """Measure and print; exit 1 if a client was lost."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < idle + 100:
        raise click.UsageError(f"{hard} descriptors are too few; --idle {hard - 100} is the most")
    print(rig.machine())
    port = rig.free_port()
    command = [sys.executable, "-m", "zapq", "--addr", f"127.0.0.1:{port}", "--max-connections", str(2 * idle)]
    command += ["--max-connections-per-address", "0", *flags]
    with rig.running(command, port):
        before = drops()
        answered, seconds = storm(port, clients)
        print(
            f"storm: {len(answered)} of {clients} answered, the last after {max(seconds):.2f} s;"
            f" {drops() - before} dropped by the kernel"
        )
        lost = clients - len(answered)
        for client in answered:
            client.close()
    with rig.running(command, port) as pid:
        p50, p99 = latency(port)
        print(f"one active client: p50 {p50:.3f} ms, p99 {p99:.3f} ms")
        before = rig.resident_bytes(pid)
        crowd: list[socket.socket] = []
        while len(crowd) < idle:
            crowd += storm(port, min(500, idle - len(crowd)))[0]
        each = (rig.resident_bytes(pid) - before) / len(crowd)
        used = rig.cpu_seconds(pid)
        time.sleep(5)
        used = (rig.cpu_seconds(pid) - used) / 5
        p50, p99 = latency(port)
        print(f"the same beside {len(crowd)} idle ones: p50 {p50:.3f} ms, p99 {p99:.3f} ms")
        print(f"each idle connection: {each:.0f} resident bytes; all together {used * 100:.1f} % of a core")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
