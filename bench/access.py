"""What does it cost to be asked who one is?

    scripts/bench access

Two servers, each on the same core in turn: one without credentials, one with a token file of a thousand lines. The
same requests, with a token, go to both, in rounds that alternate. Prints the CPU a request of each round and the
difference of the medians; then the same in process, where the machine's noise is smaller: `HotPath.respond` for
one enqueue, and one with its head seen for the first time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import click
import trio

from bench import rig
from zapq.access.access import Access
from zapq.access.token import digest, new_token
from zapq.engine.local import LocalEngine
from zapq.http.guard import Guard
from zapq.http.hosts import Hosts
from zapq.http.metrics import ServerCounts
from zapq.http.tracing import TraceIds
from zapq.logs import Throttle
from zapq.server.hotpath import HotPath
from zapq.service.open import open_service
from zapq.settings import Settings

LINES = 1000


def write_tokens(path: Path) -> str:
    """Write a full token file, and return the token of its last line."""
    tokens = [new_token() for _ in range(LINES)]
    path.write_text("\n".join(f"n{n}:{digest(each.encode()).hex()}:producer" for n, each in enumerate(tokens)))
    path.chmod(0o600)
    return tokens[-1]


def over_sockets(tokens: Path, token: str, rounds: int, seconds: int) -> None:
    """Load both servers by turns and print what a request costs each."""
    script = f'wrk.headers["Authorization"] = "Bearer {token}"\n'
    costs: dict[str, list[float]] = {"without": [], "with": []}
    with ExitStack() as stack:
        servers = {}
        for name, flags in (("without", []), ("with", ["--token-file", str(tokens)])):
            port = rig.free_port()
            command = [sys.executable, "-m", "zapq", "--addr", f"127.0.0.1:{port}", "--max-msgs", "100000000"]
            servers[name] = (
                stack.enter_context(rig.running([*command, "--max-bytes", "64G", *flags], port)),
                port,
            )
        for _ in range(rounds):
            for name, (pid, port) in servers.items():
                url = f"http://127.0.0.1:{port}/enqueue"
                costs[name].append(rig.wrk(pid, url, 32, seconds, post=True, script=script).cpu_us)
    for name, each in costs.items():
        print(f"{name:8} {median(each):6.2f} us CPU a request; rounds: {' '.join(f'{one:.2f}' for one in each)}")
    print(f"the difference of the medians: {median(costs['with']) - median(costs['without']):+.2f} us")


async def in_process(tokens: Path, token: str, number: int) -> None:
    """Time the hot path alone."""
    head = f"POST /enqueue HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    data = f"{head}Content-Length: 3\r\n\r\nabc".encode()
    times: dict[str, list[float]] = {}
    async with open_service(Settings(max_msgs=10**9, data_dir=tempfile.mkdtemp())) as service:
        for _ in range(7):
            for name, settings in (("without", Settings()), ("with", Settings(token_file=str(tokens)))):
                guard = Guard(settings, Hosts(settings, "127.0.0.1"), Access(settings))
                hot = HotPath(LocalEngine(service), settings, ServerCounts(), TraceIds(), Throttle(), guard)
                hot.set_time(time.time(), trio.current_time())
                begun = time.process_time()
                assert hot.respond(data).requests == 1
                times.setdefault(f"{name}, first", []).append(time.process_time() - begun)
                begun = time.process_time()
                for _ in range(number):
                    hot.respond(data)
                times.setdefault(name, []).append((time.process_time() - begun) / number)
                await service.clear()
    for name, each in sorted(times.items()):
        print(f"in process, {name:16} {median(each) * 1e6:8.3f} us a request")


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="Rounds over sockets; the median counts.")
@click.option("--seconds", default=3, show_default=True, help="Length of each.")
@click.option("--number", default=100_000, show_default=True, help="Requests in process.")
def main(rounds: int, seconds: int, number: int) -> None:
    """Measure and print."""
    print(rig.machine(), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        tokens = Path(directory) / "tokens"
        token = write_tokens(tokens)
        trio.run(in_process, tokens, token, number)
        if rounds:
            over_sockets(tokens, token, rounds, seconds)


if __name__ == "__main__":
    main()
