"""How people write sizes and durations."""

from __future__ import annotations

import re

from zapq.limits import KIB, MIB


def parse_size(text: str) -> int:
    """Return the bytes meant by `268435456`, `512M`, `2G` or `64k` (powers of 1024); ValueError otherwise."""
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError("give bytes as a whole number, or with K, M or G behind it, such as 512M")
    return int(match[1]) * {"": 1, "K": KIB, "M": MIB, "G": 1024 * MIB}[match[2].upper()]


def parse_seconds(text: str) -> float:
    """Return the seconds meant by `10` or `2.5`; ValueError otherwise, also for `nan`, `inf` and `1e3`.

    Up to 20 digits on each side of the point: programs write 0.1 + 0.2 with 17.
    """
    if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", text, re.ASCII):
        raise ValueError("give seconds as a decimal number, such as 10 or 2.5")
    return float(text)


def parse_duration(text: str) -> float:
    """Return the seconds meant by `10`, `2.5`, `30s`, `5m`, `1h` or `4d`; ValueError otherwise."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:].lower())
    try:
        return parse_seconds(text) if unit is None else parse_seconds(text[:-1]) * unit
    except ValueError:
        raise ValueError("give seconds, or a number with s, m, h or d behind it, such as 10, 2.5 or 5m") from None
