"""What a queue can be called."""

from __future__ import annotations

import re

from zapq.errors import InvalidParameter
from zapq.limits import QUEUE_NAME

_NAME = re.compile(QUEUE_NAME, re.ASCII)


def check_name(name: str, parameter: str = "queue") -> str:
    """Return `name` if a queue can have it, else raise `InvalidParameter`."""
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"{parameter} must be 1 to 80 letters, digits, dots, dashes and underscores, and must not begin with a"
            " dot.",
            parameter=parameter,
        )
    return name
