"""The commands that need neither Trio nor the server."""

from __future__ import annotations

import click

from zapq.command import messages
from zapq.command.check import check
from zapq.command.messages import CONTEXT as CONTEXT
from zapq.command.token import token

COMMANDS: dict[str, click.Command] = {**messages.COMMANDS, "check": check, "token": token}
