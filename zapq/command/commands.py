"""The commands that need neither Trio nor the server."""

from __future__ import annotations

import click

from zapq.command import remote
from zapq.command.check import check
from zapq.command.remote import CONTEXT as CONTEXT
from zapq.command.token import token

COMMANDS: dict[str, click.Command] = {**remote.COMMANDS, "check": check, "token": token}
