"""What `/metrics` says to Prometheus: its text format 0.0.4, and OpenMetrics 1.0.

Written here and not by prometheus_client: for 1,024 queues that holds everybody up for a sixth of a second. All
families are made one after the other, so that others have their turns in between.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Mapping, Sequence
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
from zapq.http.series import AGES, STEADY, Queues, Series, histogram
from zapq.limits import KIB
from zapq.version import __version__

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
PIECE_BYTES = 256 * KIB
"""Bytes of text that are put together, and sent by themselves, which costs 0.1 ms in Hypercorn."""
BLOCKS_AT_ONCE = 20
"""Blocks of queues whose ages are written in one go, in some 0.6 ms."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Exposition:
    """Text in one of the two formats, family by family."""

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._lines: list[bytes] = []
        self._size = 0
        self._pieces: list[bytes] = []

    def add(self, family: Family, lines: Sequence[bytes]) -> bool:
        """Write a family that has these lines, unless there are none; return whether a piece is complete."""
        if not any(lines):
            return False
        name, kind = family.name, str(family.kind)
        if not self._openmetrics:
            name, kind = family.series, _KINDS.get(kind, kind)
        self._lines.append(f"# HELP {name} {family.help}\n# TYPE {name} {kind}\n".encode())
        self._lines += lines
        self._size += sum(map(len, lines))
        if self._size < PIECE_BYTES:
            return False
        self._end_piece()
        return True

    def add_values(self, family: Family, values: Mapping[str, Value]) -> None:
        """Write a family with these values, by their labels with braces."""
        series = family.series
        self.add(family, [f"{series}{labels} {value}\n".encode() for labels, value in values.items()])

    def add_spread(self, family: Family, bounds: Sequence[float], spread: Spread | None) -> None:
        """Write a family of one histogram, if there is one."""
        if spread is not None:
            counts = (*accumulate(spread.counts), spread.seconds, spread.number)
            self.add(family, [(histogram(family, "", bounds) % counts).encode()])

    def finish(self) -> list[bytes]:
        """Return the whole text, in pieces."""
        if self._openmetrics:
            self._lines.append(b"# EOF\n")
        self._end_piece()
        return self._pieces

    def _end_piece(self) -> None:
        self._pieces.append(b"".join(self._lines))
        self._lines.clear()
        self._size = 0


_KINDS = {"info": "gauge"}
"""What the older format calls kinds it does not have."""


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
) -> Generator[None, Any, list[bytes]]:
    """Return in pieces the text about `shown` and, if it is to be told of, the server.

    All is as of `now` of Trio's clock. Yields now and then, so that others can have a turn.
    """
    text = Exposition(openmetrics=openmetrics)
    blocks = yield from series.update(shown, every=server is not None)
    yield
    if blocks:
        ages: list[tuple[bytes, ...]] = []
        for at in range(0, len(blocks), BLOCKS_AT_ONCE):
            ages += [block.ages(now) for block in blocks[at : at + BLOCKS_AT_ONCE]]
            yield
        for families, texts in ((AGES, ages), (STEADY, [block.texts for block in blocks])):
            for family, pieces in zip(families, zip(*texts, strict=True), strict=True):
                if text.add(family, pieces):
                    yield
    of_dead_letters = [info.name for info in shown.own if info.name in shown.of_dead_letters]
    text.add_values(TAKES_DEAD_LETTERS, {f'{{queue="{name}"}}': 1 for name in of_dead_letters})
    if server is not None:
        _write_server(text, server)
    text.add_values(BUILD, {f'{{version="{__version__}",python="{platform.python_version()}"}}': 1})
    return text.finish()


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
