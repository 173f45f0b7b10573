"""The door: what runs when somebody types `zapq`, or `python -m zapq`."""

from __future__ import annotations

import signal
import sys

import click

from zapq.command.commands import COMMANDS, CONTEXT
from zapq.command.exit import EXIT_SIGNAL, exit_process, run


def main() -> None:
    """Run the command line and exit; `zapq.cli` is imported only if it is needed, for it takes a while."""
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        exit_process(run(click.Group(commands=COMMANDS, context_settings=CONTEXT), sys.argv[1:]))
    try:
        from zapq.cli import main as run_everything
    except KeyboardInterrupt:
        # Importing takes a while, in which nobody has asked to be told of signals yet.
        exit_process(EXIT_SIGNAL + signal.SIGINT)
    run_everything()


if __name__ == "__main__":
    main()
