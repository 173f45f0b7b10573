"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, text_from: int | None = None) -> str:
    """Return the rows as a table, a line for each: names on the left, numbers on the right.

    The columns from `text_from` on are text, which begins on the left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text_from = len(widths) if text_from is None else text_from
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 or number >= text_from else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
