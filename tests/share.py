"""What is searched twice by a gate that tests on two Pythons is shared between them: each takes every other one.

The gate says so (`.ci/run`); by hand, all of them are tried.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

SHARED = os.environ.get("TESTS_SHARED") == "yes"
_FIRST = sys.version_info.minor // 2 % 2
"""0 or 1, and not the same on Python 3.11 and on 3.13."""


def share(items: Iterable[T]) -> list[T]:
    """Return those of `items` that are to be tried on this Python."""
    return list(items)[_FIRST::2] if SHARED else list(items)


def fewest(number: int) -> int:
    """Return how many there are at least among a share, if there are more than `number` in all."""
    return number // 2 if SHARED else number
