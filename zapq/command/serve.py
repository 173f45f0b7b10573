"""The command that serves. Its flags are the settings; its work is given to it, so that help needs no server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from zapq.command.misplaced import explain, listening_there, place_given
from zapq.settings import Option, options


class Serve(click.Command):
    """The command that `zapq` runs when none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the flags; an option of another command is told its place."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            place = place_given(error, given)
            if place is not None:
                raise listening_there(error, place, ctx) from None
            if ctx.parent is None:
                raise
            raise explain(error, given, ctx.parent) from None


def serve_command(work: Callable[..., int]) -> Serve:
    """Return the command that calls `work` with its flags as they were typed; None for each that was not given."""
    return Serve(
        "serve",
        callback=work,
        help="Serve queues until SIGINT or SIGTERM.",
        params=server_flags(),
    )


def server_flags() -> list[click.Parameter]:
    """Return the flags of the server."""
    return [
        *map(_click_option, options()),
        click.Option(
            ["--config"],
            type=click.Path(readable=False),
            metavar="FILE",
            help="TOML file to read settings and queues from.  [ZAPQ_CONFIG]",
        ),
        click.Option(
            ["--queues"],
            type=click.Path(readable=False),
            metavar="FILE",
            help="TOML file with queues to make, or to set, at the start.  [ZAPQ_QUEUES]",
        ),
    ]


_METAVARS = {"switch": None, "text": "PATH", "whole": "NUMBER", "cores": "NUMBER", "seconds": "DURATION"}
"""What stands for a value in the help, where it is not the kind's name."""


def _click_option(option: Option) -> click.Option:
    metavar = "|".join(option.choices) or _METAVARS.get(option.kind, option.kind.upper())
    about = f"{option.help}  [{option.env}; default: {option.default_text or 'none'}]"
    if option.kind == "switch":
        switched = "false" if option.default else "true"
        return click.Option(
            [option.flag, option.name], help=about, is_flag=True, flag_value=switched, default=None
        )
    if option.kind in {"hosts", "names"}:
        # Given twice, both are meant: with one of them forgotten, clients would be refused.
        return click.Option(
            [option.flag, option.name],
            help=about,
            metavar=metavar,
            multiple=True,
            callback=lambda context, parameter, values: ",".join(values) if values else None,
        )

    if option.kind == "share":
        # Alone, it means all of them.
        return click.Option(
            [option.flag, option.name], help=about, metavar="[SHARE]", is_flag=False, flag_value="on"
        )

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(each) for each in option.choices if each.startswith(incomplete)]

    completion: dict[str, Any] = {"shell_complete": complete} if option.choices else {}
    return click.Option([option.flag, option.name], help=about, metavar=metavar, **completion)
