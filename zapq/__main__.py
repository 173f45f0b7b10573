"""The door: what runs when a user types `zapq`, or `python -m zapq`."""

from __future__ import annotations

import signal
from typing import Any

from zapq.command.commands import Commands
from zapq.command.exit import EXIT_SIGNAL, exit_process, run


def main() -> None:
    """Run the command line and exit."""
    exit_process(run(Commands(_serve), None))


def _serve(**flags: Any) -> int:
    """Serve, and return the exit code. Only this imports Trio and the server, which take a while."""
    try:
        from zapq.cli import serve
    except KeyboardInterrupt:
        # Nothing has asked to be told of signals yet.
        return EXIT_SIGNAL + signal.SIGINT
    return serve(**flags)


if __name__ == "__main__":
    main()
