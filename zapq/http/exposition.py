"""What `/metrics` says to Prometheus: its text format 0.0.4, and OpenMetrics 1.0.

Written here and not by prometheus_client: for 1,024 queues that holds everybody up for a sixth of a second. All
families are made one after the other, so that others have their turns in between.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Generator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

from zapq.core.ages import BOUNDS, COMMIT_BOUNDS, Spread
from zapq.http.families import (
    BUILD,
    COMMITS,
    LEASES,
    REFUSALS,
    REQUESTS,
    SERVER,
    TAKES_DEAD_LETTERS,
    UPTIME,
    Family,
    Value,
)
from zapq.http.series import AGES, ROWS_AT_ONCE, STEADY, Queues, Series, histogram

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Exposition:
    """Text in one of the two formats, family by family."""

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._pieces: list[bytes] = []

    def add(self, family: Family, lines: Sequence[bytes]) -> None:
        """Write a family that has these lines, unless there are none."""
        if not any(lines):
            return
        name, kind = family.name, str(family.kind)
        if not self._openmetrics:
            name, kind = _series(family), _KINDS.get(kind, kind)
        self._pieces.append(f"# HELP {name} {family.help}\n# TYPE {name} {kind}\n".encode())
        self._pieces += lines

    def add_values(self, family: Family, values: Mapping[str, Value]) -> None:
        """Write a family with these values, by their labels with braces."""
        series = _series(family)
        self.add(family, [f"{series}{labels} {value}\n".encode() for labels, value in values.items()])

    def add_spread(self, family: Family, bounds: Sequence[float], spread: Spread | None) -> None:
        """Write a family of one histogram, if there is one."""
        if spread is not None:
            counts = (*accumulate(spread.counts), spread.seconds, spread.number)
            self.add(family, [(histogram(family, "", bounds) % counts).encode()])

    def finish(self) -> bytes:
        """Return the whole text."""
        if self._openmetrics:
            self._pieces.append(b"# EOF\n")
        return b"".join(self._pieces)


_SUFFIXES = {"counter": "_total", "info": "_info"}
_KINDS = {"info": "gauge"}
"""What the older format calls kinds it does not have."""


def _series(family: Family) -> str:
    """Return the name of a family's series, if it is no histogram."""
    return family.name + _SUFFIXES.get(family.kind, "")


class Server(NamedTuple):
    """What there is to know of the server."""

    figures: Mapping[str, Any]
    """As the JSON has them."""
    refusals: Mapping[str, int]
    """By the names of the problems."""
    leases: Spread | None
    commits: Spread | None
    process: Mapping[Family, Value]


def write(
    series: Series, shown: Queues, server: Server | None, now: float, *, openmetrics: bool
) -> Generator[None, Any, bytes]:
    """Return the text about `shown` and, if it is to be told of, the server, as of `now` of Trio's clock.

    Yields between families, so that others can have a turn.
    """
    text = Exposition(openmetrics=openmetrics)
    rows = yield from series.update(shown, every=server is not None)
    yield
    if rows:
        ages: list[tuple[bytes, ...]] = []
        for at in range(0, len(rows), ROWS_AT_ONCE):
            ages += [row.ages(now) for row in rows[at : at + ROWS_AT_ONCE]]
            yield
        for families, pieces in ((AGES, ages), (STEADY, [row.pieces for row in rows])):
            for family, lines in zip(families, zip(*pieces, strict=True), strict=True):
                text.add(family, lines)
            yield
    of_dead_letters = [info.name for info in shown.own if info.name in shown.of_dead_letters]
    text.add_values(TAKES_DEAD_LETTERS, {f'{{queue="{name}"}}': 1 for name in of_dead_letters})
    if server is not None:
        _write_server(text, server)
    text.add_values(BUILD, {f'{{version="{_version()}",python="{platform.python_version()}"}}': 1})
    return text.finish()


@cache
def _version() -> str:
    return importlib.metadata.version("zapq")


def _write_server(text: Exposition, server: Server) -> None:
    figures = server.figures
    text.add_values(UPTIME, {"": figures["uptime_sec"]})
    text.add_values(REQUESTS, {f'{{path="{road}"}}': figures[f"{road}_requests"] for road in ("hot", "cold")})
    text.add_values(REFUSALS, {f'{{problem="{name}"}}': number for name, number in server.refusals.items()})
    for name, family in SERVER.items():
        if name in figures:
            text.add_values(family, {"": figures[name]})
    text.add_spread(LEASES, BOUNDS, server.leases)
    text.add_spread(COMMITS, COMMIT_BOUNDS, server.commits)
    for family, number in server.process.items():
        text.add_values(family, {"": number})
