"""zapq drain: the last thing an operator tells a server."""

from __future__ import annotations

from urllib.parse import SplitResult

import click

from zapq.command.base import Remote, connect
from zapq.command.options import json_option, print_json, yes_option
from zapq.command.terminal import confirm


@click.command(cls=Remote)
@yes_option
@json_option
def drain(url: SplitResult, yes: bool, as_json: bool) -> None:
    """Let the server take no new messages, until it is started again. Consumers can go on."""
    confirm("Refuse new messages until the server is started again?", yes=yes)
    answer = connect(url).request("POST", "/drain").json
    if as_json:
        print_json(answer)
    else:
        print("draining")
