"""What does a request cost, on connections that stay and on new ones?

    scripts/bench http

Starts zapq on one core and loads it from the others: wrk at 1, 32 and 128 keep-alive connections, enqueue and
then dequeue of 128-byte messages, and hey with a connection for each request. Prints requests a second, the
server's CPU for each, and latencies; each figure is the median of the rounds. Machines are noisy: compare
within one run (`scripts/bench compare` does, with other servers), and mind the CPU column.
"""

from __future__ import annotations

import sys

import click

from bench import rig


@click.command(help=__doc__)
@click.option("--seconds", default=4, show_default=True, help="Length of each wrk run.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--zapq-flag", "flags", multiple=True, help="Further flags for zapq, such as --no-hot-path.")
def main(seconds: int, rounds: int, flags: tuple[str, ...]) -> None:
    """Measure and print."""
    print(rig.machine(), flush=True)
    port = rig.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "zapq", "--addr", f"127.0.0.1:{port}", "--max-msgs", "100000000"]
    results: dict[str, list[rig.Figures]] = {}
    with rig.running([*command, "--max-bytes", "64G", *flags], port) as pid:
        for _ in range(rounds):
            for connections in (1, 32, 128):
                for name, post in (("enqueue", True), ("dequeue", False)):
                    # A little shorter, so that there is always something to take.
                    length = seconds if post else seconds - 1
                    row = f"{name}, {connections} connections"
                    figures = rig.wrk(pid, f"{url}/{name}", connections, length, post=post)
                    results.setdefault(row, []).append(figures)
            row = "enqueue, each on a new connection"
            results.setdefault(row, []).append(rig.hey(pid, f"{url}/enqueue", 32, 20_000))
    print(f"{'':36}{'req/s':>9}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}   CPU us of each round")
    for row, runs in results.items():
        one = rig.median(runs)
        each = " ".join(f"{run.cpu_us:.1f}" for run in runs)
        print(f"{row:36}{one.per_second:9.0f}{one.cpu_us:9.1f}{one.p50_ms:9.2f}{one.p99_ms:9.2f}   {each}")


if __name__ == "__main__":
    main()
