"""Does zapq hold under attack?

    scripts/bench torture NAME

Runs one scenario against servers it starts itself, on loopback only, and prints the seed, then one line of JSON
with the figures. Exit code 1 if something happened that should not have.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import secrets
import sys
import time

import click
import trio

import bench.torture
from bench import rig
from bench.torture import server
from bench.torture.report import Report

HELPERS = {"__main__", "beside", "flood", "probe", "report", "server", "siege"}
SCENARIOS = sorted(
    module.name for module in pkgutil.iter_modules(bench.torture.__path__) if module.name not in HELPERS
)

WITH_ENGINE = {"auth", "input", "disconnect", "sigterm", "overload", "exhaust", "soak"}


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(SCENARIOS))
@click.option("--seed", type=int, help="Do the same again.")
@click.option("--scale", default=1.0, show_default=True, help="How much of it: 0.1 is a tenth.")
@click.option("--workers", default=1, show_default=True, help="Have each server serve with so many workers.")
@click.option("--engine", is_flag=True, help="Give each server a Valkey that has its queues.")
def main(name: str, seed: int | None, scale: float, workers: int, engine: bool) -> None:
    """Run one scenario and print what it found."""
    if engine and workers > 1:
        raise click.UsageError("--engine is for one process. Leave out --workers.")
    if engine and name not in WITH_ENGINE:
        raise click.UsageError(f"{name} is about what zapq keeps itself. Leave out --engine.")
    server.KIND.workers, server.KIND.engine = workers, engine
    seed = secrets.randbits(32) if seed is None else seed
    print(f"seed {seed}, scale {scale:g}, {rig.machine()}", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    # Each has `async def run(seed: int, scale: float) -> Report`.
    report: Report = trio.run(importlib.import_module(f"bench.torture.{name}").run, seed, scale)
    failures = report.failures + report.missed
    line = {
        "run": name,
        "seed": seed,
        "scale": scale,
        "workers": workers,
        "engine": engine,
        "seconds": round(time.perf_counter() - begun, 1),
        "passed": not failures,
        **report.figures,
        "failures": failures,
    }
    print(json.dumps(line))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main(prog_name="scripts/bench torture")
