"""deploy/grafana/zapq.json, and what its expressions become when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "zapq.json"


def read() -> dict[str, Any]:
    """Return the board."""
    board: dict[str, Any] = msgspec.json.decode(FILE.read_bytes())
    return board


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a board that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(board: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the title of a panel and an expression of it."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def filled_in(expression: str, **variables: str) -> str:
    """Return an expression as Grafana sends it."""
    for name, value in {"__rate_interval": "1m", "__range": "5m", **variables}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression
