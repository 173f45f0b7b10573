"""Options that were given before their command, and options of other servers that zapq spells differently."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import click

from zapq.command.summary import Summarised


class Family(Summarised, click.Group):
    """A group of commands, such as `zapq snapshot`, whose options all belong to its commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse up to the command; an option of a command is told its place."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise explain(error, given, ctx) from None


_PLACES = {"--port", "-p", "--host", "--bind", "--listen", "--address", "--interface"}
"""How other servers and their clients spell where a server is."""


def place_given(error: click.NoSuchOption, arguments: Sequence[str]) -> str | None:
    """Return what was given to an option for a server's host or port, perhaps nothing; None for other options."""
    if error.option_name not in _PLACES:
        return None
    for number, each in enumerate(arguments):
        name, _, value = each.partition("=")
        if name == error.option_name:
            following = arguments[number + 1] if number + 1 < len(arguments) else ""
            return value or ("" if following.startswith("-") else following)
    return ""


def listening_there(error: click.NoSuchOption, given: str, ctx: click.Context) -> click.UsageError:
    """Return the error with the option that says where the server listens."""
    example = f":{given}" if given.isdecimal() else given if ":" in given else f"{given}:8080"
    return click.UsageError(f"{error.message} Use --addr HOST:PORT, such as --addr {example}.", ctx)


def explain(error: click.NoSuchOption, arguments: Sequence[str], ctx: click.Context) -> click.UsageError:
    """Return the error with the right command line, if a command of the group has the option; else `error`."""
    name = error.option_name
    start = next((n for n, each in enumerate(arguments) if each.partition("=")[0] == name), None)
    if start is None or not isinstance(ctx.command, click.Group):
        return error
    # Of the commands that it may be meant for, the most harmless one is the example.
    owners = dict(sorted(_owners(ctx, ctx.command, name), key=lambda owner: owner[0] != ("health",)))
    for end in range(start + 1, len(arguments)):
        for words, option in owners.items():
            if tuple(arguments[end : end + len(words)]) == words and end - start >= _width(
                option, arguments[start]
            ):
                return _moved(ctx, name, words, arguments[start:end])
    for words, option in owners.items():
        width = _width(option, arguments[start])
        return _moved(ctx, name, words, arguments[start : start + width])
    return error


def _owners(
    ctx: click.Context, group: click.Group, name: str, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    """Yield the words of each command of the group that has the option, and the option."""
    for word in group.list_commands(ctx):
        command = group.get_command(ctx, word)
        if isinstance(command, click.Group):
            yield from _owners(ctx, command, name, (*words, word))
        elif command is not None:
            for parameter in command.params:
                if isinstance(parameter, click.Option) and name in parameter.opts:
                    yield (*words, word), parameter


def _width(option: click.Option, written: str) -> int:
    """Return how many arguments the option and its value are."""
    return 1 if option.is_flag or "=" in written else 2


def _moved(ctx: click.Context, name: str, words: Sequence[str], arguments: Sequence[str]) -> click.UsageError:
    line = f"{ctx.command_path} {shlex.join([*words, *arguments])}"
    return click.UsageError(f"{name} belongs behind the command: {line}", ctx)
