"""zapq completion: what a shell reads to complete commands, options and names of queues."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from zapq.command.base import Local


@click.command(cls=Local)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes zapq in SHELL, for its start-up file.

    bash: eval "$(zapq completion bash)". zsh: eval "$(zapq completion zsh)", behind compinit.
    fish: zapq completion fish | source.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # bash's own `source` first runs bash, to look at its version.
    print(ShellComplete.source(kind(ctx.find_root().command, {}, "zapq", "_ZAPQ_COMPLETE")))
