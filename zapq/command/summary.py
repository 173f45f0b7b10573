"""What a list of commands says of each one: the first sentence of its help, all of it."""

from __future__ import annotations

import inspect
import re

import click


class Summarised(click.Command):
    """A command that lists show by a whole sentence; Click alone would cut it off."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence of the help, however long it is."""
        first = " ".join(inspect.cleandoc(self.help or "").split("\n\n")[0].split())
        return re.sub(r"(?<=\.) .*", "", first)
