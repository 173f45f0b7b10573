"""What msgspec says of a value that does not fit, in plain English."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zapq.spelling import nearest

_PLACE = re.compile(r" - at `\$(.*)`\Z", re.DOTALL)
_STEP = re.compile(r"\[([0-9]+)\]|\.([A-Za-z_]+)")
_TYPES = {
    "int": ("a whole number", "a whole number"),
    "float": ("a number", "a number with a fraction"),
    "str": ("text", "text"),
    "bytes": ("a message's body", "binary data"),
    "bool": ("true or false", "true or false"),
    "array": ("a list", "a list"),
    "object": ("an object", "an object"),
    "null": ("null", "null"),
}
"""What is expected, and what came instead."""
_DURATIONS = {"delay", "retention", "seconds", "ttl", "visibility", "wait"}
"""Values whose numbers are seconds."""
_CHOICES = {"action": "ack, release or extend", "on": "keep or replace"}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_PATTERNS = {
    "dead_letter": "a queue's name: 1 to 80 letters, digits, dots, dashes and underscores; the first is no dot",
    "content_type": "1 to 255 visible ASCII characters and spaces",
    "group": "1 to 128 visible ASCII characters",
}


def written(number: float) -> str:
    """Return a number as people write it: without an exponent, and without a fraction of zero."""
    if not abs(number) <= 1e15:  # also what is not a number
        return str(number)
    return f"{number:.10f}".rstrip("0").rstrip(".")


def unit_of(name: str) -> str:
    """Return the unit to put behind a number of the value `name`; empty if it has none."""
    return " seconds" if name in _DURATIONS else ""


def plainly(complaint: str, known: Sequence[str] = ()) -> str:
    """Return what is wrong in words for people, without a full stop; unknown complaints come back as they are.

    `complaint` is the text of a `msgspec.ValidationError`. Places in it become names (`delay of entry 3`, counted
    from 1). `known` are the names there are: the nearest one is named beside an unknown one.
    """
    place = _PLACE.search(complaint)
    said = complaint[: place.start()] if place else complaint
    path = place[1].replace(".headers[...]", ".headers.value") if place else ""
    steps = _STEP.findall(path)
    if "".join(f"[{number}]" if number else f".{name}" for number, name in steps) != path:
        return complaint
    where = " of ".join(f"entry {int(number) + 1}" if number else name for number, name in reversed(steps))
    name = steps[-1][1] if steps else ""
    if match := re.fullmatch(r"Expected `([a-z |]+)`, got `([a-z]+)`", said):
        expected = " or ".join(_TYPES.get(each, (each, each))[0] for each in match[1].split(" | "))
        expected = expected.replace("a number", f"a number of{unit_of(name)}") if unit_of(name) else expected
        return f"{where or 'it'} must be {expected}, not {_TYPES.get(match[2], ('', match[2]))[1]}"
    if match := re.fullmatch(r"Expected `array` of length (>=|<=) ([0-9]+)", said):
        return (
            f"{where or 'it'} must have {_BOUNDS[match[1]]} {match[2]} {'entry' if match[2] == '1' else 'entries'}"
        )
    if match := re.fullmatch(r"Expected `(?:int|float)` (>=|<=|>|<) ([0-9.e+-]+)", said):
        return f"{where or 'it'} must be {_BOUNDS[match[1]]} {written(float(match[2]))}{unit_of(name)}"
    if name in _PATTERNS and said.startswith("Expected `str` matching regex"):
        return f"{where} must be {_PATTERNS[name]}"
    if match := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", said, re.DOTALL):
        what = "is missing" if match[1] == "missing required" else "is not known"
        near = nearest(match[2], known)
        meant = f"; perhaps you mean `{near}`" if near else ""
        return f"`{match[2]}` {what}" + (f" in {where}" if where else "") + meant
    if said == "Invalid base64 encoded string":
        return f"{where} must be base64"
    if match := re.fullmatch(r"Invalid enum value '(.*)'", said, re.DOTALL):
        choices = f"; give {_CHOICES[name]}" if name in _CHOICES else ""
        return f"{where} cannot be {match[1]!r}{choices}"
    return complaint
