"""Is anything lost that was acknowledged, if the process is killed a thousand times?

    scripts/bench crash --rounds 1000
    scripts/bench crash --sqs --rounds 1000
    scripts/bench crash --points
    scripts/bench crash --points --call fdatasync

Starts zapq with `--durable`, lets clients use it in every way there is, kills it with SIGKILL, starts it again on
the same directory and compares all there is with what the clients were told; and again. With `--sqs` the clients
speak SQS to FIFO queues, and send again, under the same deduplication id, what was not answered.

With `--points` it is killed instead at each single call that syncs, renames, cuts or removes a file of its own
while a fixed script of requests is played, and at every 53rd that writes, for there are thousands, most of them
alike; `--every 1` takes the better part of a day. Ends with one line of JSON, or with what is wrong, and the seed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click
import msgspec
from tqdm import tqdm

from tests.durable.crash import Crashes, Crashing
from tests.durable.fifo import FifoCrashes
from tests.durable.points import CALLS, Point, make

WRITES = "pwrite64"


def rounds(crashing: Crashing, number: int, seconds: float) -> dict[str, float]:
    """Crash so often, or for so long, and return how often that was and what was audited."""
    begun = time.monotonic()
    with crashing as crashes:
        for _ in tqdm(range(number), mininterval=10):
            crashes.crash()
            if time.monotonic() - begun > seconds:
                break
        elapsed = time.monotonic() - begun
        code = crashes.stop()
        return {
            "rounds": crashes.rounds,
            "rounds_an_hour": round(crashes.rounds / elapsed * 3600),
            "answered": crashes.answered,
            "messages": crashes.messages,
            "exit_code": code,
        }


def points(kinds: Sequence[str], every: int) -> dict[str, int]:
    """Kill at every point, at one of so many writes, and return how many that were of each kind."""
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as made:
        make(Path(made))
        for calls, fresh in product(kinds, (True, False)):
            number, tried, died = 1, 0, True
            begun = time.monotonic()
            while died:
                with tempfile.TemporaryDirectory() as directory:
                    died = Point(calls, number, fresh).run(Path(directory), Path(made))
                tried += died
                number += every if calls == WRITES else 1
            found[calls] = found.get(calls, 0) + tried
            seconds = time.monotonic() - begun
            of = " of a first start" * fresh
            print(f"{calls}: {tried} points{of} in {seconds:.0f} s, all recovered", flush=True)
    return found


@click.command(help=__doc__)
@click.option("--rounds", "number", default=1000, show_default=True)
@click.option("--seconds", default=3600.0, show_default=True, help="Stop after so long.")
@click.option("--seed", default="", help="Default: the time.")
@click.option("--sqs", is_flag=True, help="Through SQS, with FIFO queues.")
@click.option("--points", "at_points", is_flag=True, help="Kill at every call instead of at random moments.")
@click.option("--call", "calls", type=click.Choice(CALLS), multiple=True, help="With --points: only these.")
@click.option("--every", default=53, show_default=True, help="With --points: which of the writes.")
def main(
    number: int, seconds: float, seed: str, sqs: bool, at_points: bool, calls: tuple[str, ...], every: int
) -> None:
    """Crash and print."""
    if at_points:
        print(msgspec.json.encode(points(calls or CALLS, every)).decode())
        return
    seed = seed or f"{time.time():.0f}"
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(dir=".") as directory:
        crashing = (FifoCrashes if sqs else Crashes)(Path(directory), seed)
        print(msgspec.json.encode({"seed": seed, **rounds(crashing, number, seconds)}).decode())


if __name__ == "__main__":
    main()
