"""How long does a command take before it does anything?

    scripts/bench startup

Runs Python alone, an import of click, and commands that need no server, in turn, and prints the CPU of each: the
least of the rounds, as times of the import of click. CPU, since other programs make the wall clock meaningless.
"""

from __future__ import annotations

import os
import subprocess
import sys

import click

ROWS = {
    "python -c pass": ("-c", "pass"),
    "import click": ("-c", "import click"),
    "zapq --version": ("-m", "zapq", "--version"),
    "zapq --help": ("-m", "zapq", "--help"),
    "zapq push --help": ("-m", "zapq", "push", "--help"),
    "import zapq.cli": ("-c", "import zapq.cli"),
}


@click.command(help=__doc__)
@click.option("--rounds", default=20, show_default=True, help="How often each is run; the fastest run counts.")
def main(rounds: int) -> None:
    """Measure and print."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, arguments in ROWS.items():
            best[name] = min(best.get(name, 1e9), cpu([sys.executable, *arguments]))
    for name, seconds in best.items():
        print(f"{name:20}{seconds * 1000:8.1f} ms{seconds / best['import click']:8.2f} x")


def cpu(command: list[str]) -> float:
    """Run the command, and return the seconds of CPU it took."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)} failed.")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
