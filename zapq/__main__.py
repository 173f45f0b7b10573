"""The door: what runs when somebody types `zapq`, or `python -m zapq`."""

from __future__ import annotations

import sys

import click

from zapq.command.commands import COMMANDS, CONTEXT
from zapq.command.ending import leave, run


def main() -> None:
    """Run the command line and exit; `zapq.cli` is imported only if it is needed, for it takes a while."""
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        leave(run(click.Group(commands=COMMANDS, context_settings=CONTEXT), sys.argv[1:]))
    from zapq.cli import main as run_everything

    run_everything()


if __name__ == "__main__":
    main()
