"""All commands of zapq, each imported when it is needed: completion and `--version` wait for none of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import click

import zapq

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_HOMES = {
    "bench": "zapq.command.bench",
    "check": "zapq.command.check",
    "completion": "zapq.command.completion",
    "config": "zapq.command.config",
    "cron": "zapq.command.cron",
    "drain": "zapq.command.drain",
    "engine": "zapq.command.engine",
    "forward": "zapq.command.forward",
    "health": "zapq.command.messages",
    "message": "zapq.command.message",
    "pop": "zapq.command.messages",
    "push": "zapq.command.messages",
    "queue": "zapq.command.queue",
    "snapshot": "zapq.command.snapshot",
    "stats": "zapq.command.messages",
    "token": "zapq.command.token",
    "top": "zapq.command.top",
}
"""Where each command but `serve` lives, under its own name."""
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""How every command of zapq asks for help, and how wide it is shown."""


class Commands(click.Group):
    """The command `zapq`, in which `zapq --addr :8080` means `zapq serve --addr :8080`, as the original's did."""

    def __init__(self, serve: Callable[..., int]) -> None:
        """`serve` does the work of the command of that name, and returns the exit code."""
        super().__init__(
            "zapq",
            help="Message queues behind plain HTTP, in memory or on the disk.\n\nWithout a command, zapq serves.",
            context_settings=_CONTEXT,
        )
        click.version_option(zapq.__version__, message="%(prog)s %(version)s")(self)
        self._serve = serve

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*_HOMES, "serve"})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, imported by now; None if there is none."""
        if cmd_name == "serve" and cmd_name not in self.commands:
            from zapq.command.serve import serve_command

            self.add_command(serve_command(self._serve))
        elif cmd_name in _HOMES and cmd_name not in self.commands:
            self.add_command(getattr(import_module(_HOMES[cmd_name]), cmd_name))
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `serve` in front of arguments that name no command."""
        # With nothing typed yet, completion is asked for the commands.
        if not args and ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        if not args or (args[0].startswith("-") and args[0] not in {"--help", "-h", "--version"}):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with; for a name there is not, say which ones are like it."""
        # Click knows only those that have been imported.
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            from zapq.spelling import did_you_mean

            meant = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"No such command '{args[0]}'.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, and the options, those of `serve` included."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            serve = self._get_serve(ctx)
            more = serve.shell_complete(click.Context(serve, ctx, "serve"), incomplete)
            found += [each for each in more if each.value not in {item.value for item in found}]
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options of `serve` too: they are what people look for."""
        super().format_options(ctx, formatter)
        with formatter.section("Options of serve (a flag overrides the environment, which overrides --config)"):
            records = [parameter.get_help_record(ctx) for parameter in self._get_serve(ctx).params]
            formatter.write_dl([record for record in records if record is not None])

    def _get_serve(self, ctx: click.Context) -> click.Command:
        serve = self.get_command(ctx, "serve")
        assert serve is not None
        return serve
