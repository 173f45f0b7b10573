"""The command line in this process: what a process makes of its streams and its exit code never differs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest.mock import patch

from tests.support.process import ENVIRON
from zapq.__main__ import _serve
from zapq.command.commands import Commands
from zapq.command.exit import run

TypeIn = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]
"""What types a command for the server of a test: the fixture `type_in` in tests/command."""


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def typed(
    *words: str, stdin: str = "", terminal: bool = False, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; with `terminal`, its input and output are one. Only one at a time."""
    kind = Terminal if terminal else io.TextIOWrapper
    given: Any = kind(io.BytesIO(stdin.encode()), "utf-8")
    output, errors = io.BytesIO(), io.BytesIO()
    shown, complained = kind(output, "utf-8", write_through=True), io.TextIOWrapper(errors, "utf-8")
    with (
        patch.dict(os.environ, {**ENVIRON, "TERM": "xterm", **(environ or {})}, clear=True),
        patch.object(sys, "stdin", given),
        redirect_stdout(shown),
        redirect_stderr(complained),
    ):
        try:
            code = run(Commands(_serve), words)
        except SystemExit as end:  # so completion ends
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    return subprocess.CompletedProcess(words, code, output.getvalue().decode(), errors.getvalue().decode())
