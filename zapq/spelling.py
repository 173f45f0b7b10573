"""Which known word a misspelt one is most like."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` is most like; None if it is like none."""
    return next(iter(get_close_matches(word, list(known), 1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the question to put behind a complaint about an unknown word; empty if it is like no known one."""
    near = nearest(word, known)
    return f" Did you mean '{near}'?" if near else ""
