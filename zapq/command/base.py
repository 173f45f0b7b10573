"""What every command has in common: how it ends, where its server is, and how it shows tables."""

from __future__ import annotations

import signal
import sys
from typing import Any
from urllib.parse import SplitResult

import click

from zapq.command.exit import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, fail
from zapq.command.http import Connection, Failed, parse_url
from zapq.command.misplaced import place_given
from zapq.command.summary import Summarised
from zapq.limits import DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE


class Local(Summarised):
    """A command for which everything that can go wrong is one line, or none."""

    def invoke(self, ctx: click.Context) -> int:
        """Run the command and return its exit code."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return EXIT_SIGNAL + signal.SIGINT
        except BrokenPipeError:
            return EXIT_SIGNAL + signal.SIGPIPE
        except (Failed, OSError) as error:
            # Not only the server can fail: a disk may be full.
            return fail(getattr(error, "strerror", None) or str(error), EXIT_FAILED)
        return EXIT_OK if code is None else int(code)


class Remote(Local):
    """A command with `--url`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault(
            "epilog", f"If the server needs a token, put it into the environment variable {TOKEN_VARIABLE}."
        )
        super().__init__(*arguments, **settings)
        self.params.append(
            click.Option(
                ["--url"],
                envvar=URL_VARIABLE,
                default=DEFAULT_URL,
                metavar="URL",
                show_default=True,
                show_envvar=True,
                callback=_parse_url,
                help="URL of the server: http://host:port, https://host:port or unix:/path.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; a queue's name that was taken for an option is told its place."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hints = [error.format_message()]
            if place_given(error, given) is not None:
                hints = [error.message, "Use --url http://HOST:PORT."]
            if any(each.name == "queue" for each in self.params):
                hints.append(f"If a queue is called so, write -- before it: {ctx.command_path} -- QUEUE.")
            raise click.UsageError(" ".join(hints), ctx) from None


def connect(url: SplitResult) -> Connection:
    """Return a connection for the command that runs; it is closed at the command's end."""
    return click.get_current_context().with_resource(Connection(url))


def _parse_url(ctx: click.Context, parameter: click.Parameter, text: str) -> SplitResult:
    try:
        return parse_url(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: give http://host:port, https://host:port or unix:/path.") from None
